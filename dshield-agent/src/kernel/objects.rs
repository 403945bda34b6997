//! The kernel programs' bytes, as embedded and as given to the kernel.

/// The programs attached at the agent's cgroup.
pub static CGROUP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dshield-cgroup"));

/// The programs attached to the kernel's security hooks for the agent's cgroup, where the kernel takes them.
pub static LSM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dshield-lsm"));

/// The program attached to each sealed network namespace.
pub static NETNS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dshield-netns"));

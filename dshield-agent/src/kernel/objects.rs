//! The kernel programs' bytes, as embedded and as given to the kernel.

/// The programs attached at the agent's cgroup.
pub static CGROUP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dshield-cgroup"));

/// The program attached to each sealed network namespace.
pub static NETNS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dshield-netns"));

//! The escape catalogue: every technique that the `attacker` program tries from inside an instance, and the walls
//! that must hold it, each by itself.
//!
//! A technique gets out when its packet is seen outside the machine ([`Witness::Packet`]), or when the attacker
//! has what it wanted ([`Witness::Attacker`]).

/// Who says that a technique got out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A packet arrived outside; what the attacker's calls returned does not matter.
    Packet,
    /// The attacker itself: it can read, reach or change what it should not.
    Attacker,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Technique {
    /// Its name, also in the attacker.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Who says that it got out.
    pub witness: Witness,
    /// The walls (`Wall::name` of the agent) that hold it alone.
    pub alone: &'static [&'static str],
    /// Not every kernel or machine has what it needs.
    pub optional: bool,
}

const fn packet(name: &'static str, what: &'static str, alone: &'static [&'static str]) -> Technique {
    Technique { name, what, witness: Witness::Packet, alone, optional: false }
}

const fn effect(name: &'static str, what: &'static str, alone: &'static [&'static str]) -> Technique {
    Technique { name, what, witness: Witness::Attacker, alone, optional: false }
}

const fn optional(technique: Technique) -> Technique {
    Technique { optional: true, ..technique }
}

/// All of them. The last one may end the instance.
pub const TECHNIQUES: &[Technique] = &[
    packet("tcp4", "connect to an IPv4 address", &["netns", "connect", "egress"]),
    packet("tcp6", "connect to an IPv6 address", &["netns", "connect", "egress"]),
    packet("tcp_mapped", "connect to an IPv4-mapped IPv6 address", &["netns", "connect", "egress"]),
    packet("tcp_fastopen", "data with the SYN: sendto(MSG_FASTOPEN)", &["netns", "connect", "egress"]),
    packet("tcp_fastopen_connect", "data with the SYN: TCP_FASTOPEN_CONNECT", &["netns", "connect", "egress"]),
    packet("tcp_reconnect", "connect(AF_UNSPEC), then connect again", &["netns", "connect", "egress"]),
    packet("udp4", "an IPv4 datagram", &["netns", "sendmsg", "egress"]),
    packet("udp6", "an IPv6 datagram", &["netns", "sendmsg", "egress"]),
    packet("udp_mapped", "a datagram to an IPv4-mapped IPv6 address", &["netns", "sendmsg", "egress"]),
    packet("udp_unspec", "a datagram to an address of family AF_UNSPEC", &["netns", "sendmsg", "egress"]),
    packet("udp_connected", "a connected UDP socket", &["netns", "connect", "egress"]),
    packet("udp_sendmmsg", "sendmmsg(2)", &["netns", "sendmsg", "egress"]),
    packet("udp_broadcast", "a datagram to 255.255.255.255", &["netns", "sendmsg", "egress"]),
    packet("udp_multicast4", "a datagram to 224.0.0.251", &["netns", "sendmsg", "egress"]),
    packet("udp_multicast6", "a datagram to ff02::fb", &["netns", "sendmsg", "egress"]),
    packet("udp_options", "a datagram with a source route (IP_OPTIONS)", &["netns", "sendmsg", "egress"]),
    packet("so_mark", "SO_MARK, then connect", &["netns", "connect", "egress"]),
    packet("so_bindtodevice", "SO_BINDTODEVICE, then connect", &["netns", "connect", "egress"]),
    packet("ip_transparent", "a foreign source address: IP_TRANSPARENT, IP_FREEBIND", &["netns", "sendmsg", "egress"]),
    packet("raw4", "a raw IPv4 packet", &["netns", "sock_create", "egress", "seccomp", "privileges"]),
    packet("raw6", "a raw IPv6 packet", &["netns", "sock_create", "egress", "seccomp", "privileges"]),
    packet("ping", "an ICMP datagram socket", &["netns", "sock_create", "egress", "seccomp"]),
    packet("af_packet", "an Ethernet frame", &["netns", "seccomp", "privileges", "lsm"]),
    optional(packet("udplite", "a UDP-Lite datagram", &["netns", "sock_create", "sendmsg", "egress", "seccomp"])),
    optional(packet(
        "udplite_connected",
        "a connected UDP-Lite socket",
        &["netns", "sock_create", "egress", "seccomp"],
    )),
    optional(packet("sctp", "an SCTP association", &["netns", "sock_create", "seccomp"])),
    optional(packet("mptcp", "multipath TCP", &["netns", "sock_create", "connect", "egress", "seccomp"])),
    optional(packet("io_uring_connect", "connect by io_uring", &["netns", "connect", "egress", "seccomp"])),
    effect("inet_protocols", "any other IPv4 or IPv6 socket", &["sock_create", "seccomp"]),
    effect("families", "a socket of any other family", &["seccomp", "lsm"]),
    optional(effect("vsock", "AF_VSOCK, which ends at the untrusted host", &["seccomp", "lsm"])),
    optional(effect("io_uring_vsock", "AF_VSOCK by io_uring, which no seccomp filter sees", &["seccomp", "lsm"])),
    optional(effect("af_alg", "the kernel's crypto sockets", &["seccomp", "lsm"])),
    optional(effect("af_xdp", "AF_XDP", &["seccomp", "privileges", "lsm"])),
    optional(effect("sock_diag", "seeing the machine's sockets (NETLINK_SOCK_DIAG)", &["netns", "seccomp", "lsm"])),
    effect("new_address", "changing addresses and routes (NETLINK_ROUTE)", &["privileges"]),
    packet("setns", "entering another network namespace", &["connect", "egress", "seccomp", "privileges", "processes"]),
    packet("cgroup_move", "leaving the cgroup, then connect", &["netns", "privileges", "files", "landlock"]),
    packet(
        "cgroup_clone",
        "a child in another cgroup (CLONE_INTO_CGROUP)",
        &["netns", "seccomp", "privileges", "files"],
    ),
    effect("user_namespace", "capabilities in a new user namespace", &["seccomp"]),
    effect("clone_user_namespace", "the same with clone(2)", &["seccomp"]),
    effect("net_namespace", "a network namespace without walls", &["seccomp", "privileges"]),
    effect("unix_abstract", "an abstract socket of a daemon", &["netns", "landlock"]),
    effect("unix_path", "a socket file of a daemon", &["files"]),
    effect("unix_pair", "a datagram pair, one end connected to a daemon's socket file", &["files"]),
    packet("scm_rights", "a daemon's network socket, received over a socket file", &["files"]),
    effect("agent_ptrace", "ptrace the agent", &["seccomp", "privileges", "processes", "landlock", "lsm"]),
    effect(
        "agent_vm_read",
        "read the agent's memory (process_vm_readv)",
        &["seccomp", "privileges", "processes", "landlock", "lsm"],
    ),
    effect("agent_mem", "open the agent's /proc/PID/mem", &["privileges", "processes", "landlock", "lsm"]),
    effect("agent_fds", "look at the agent's descriptors", &["privileges", "processes"]),
    effect(
        "agent_getfd",
        "take a descriptor of the agent (pidfd_getfd)",
        &["seccomp", "privileges", "processes", "landlock", "lsm"],
    ),
    effect("agent_signal", "signal the agent", &["privileges", "processes", "landlock"]),
    effect("other_ptrace", "ptrace another function", &["seccomp", "privileges", "processes", "landlock", "lsm"]),
    effect(
        "other_vm_read",
        "read another function's memory",
        &["seccomp", "privileges", "processes", "landlock", "lsm"],
    ),
    effect("other_mem", "open another function's /proc/PID/mem", &["privileges", "processes", "landlock", "lsm"]),
    effect(
        "other_getfd",
        "take a descriptor of another function",
        &["seccomp", "privileges", "processes", "landlock", "lsm"],
    ),
    effect("other_signal", "signal another function", &["privileges", "processes", "landlock"]),
    effect("other_files", "write into another function's /tmp", &["privileges", "processes", "landlock"]),
    effect("mount", "mount a file system", &["seccomp", "privileges", "landlock"]),
    effect("mount_new_api", "fsopen, open_tree", &["seccomp", "privileges"]),
    effect("mount_over_trust", "bind a file over /etc/resolv.conf", &["seccomp", "privileges", "landlock"]),
    effect("pivot_root", "pivot_root, chroot", &["seccomp", "privileges"]),
    effect("proc_sys", "open a kernel setting for writing", &["privileges", "files", "landlock"]),
    effect("sysfs", "open a file of /sys for writing", &["privileges", "files", "landlock"]),
    effect("host_file", "write a file of the machine", &["privileges", "files", "landlock"]),
    effect("mknod", "make a device", &["seccomp", "privileges", "landlock"]),
    optional(effect("tun", "a network interface of its own (/dev/net/tun)", &["privileges", "files", "landlock"])),
    effect("bpf", "bpf(2): make a map", &["seccomp", "privileges", "lsm"]),
    effect("kernel_calls", "perf, keyctl, userfaultfd, fanotify and other ways into the kernel", &["seccomp"]),
    optional(effect("terminal", "type into a terminal (TIOCSTI)", &["seccomp", "files"])),
    optional(effect("x32", "system calls of the x32 table", &["seccomp"])),
    optional(effect("ia32", "system calls of the 32-bit table (int 0x80)", &["seccomp"])),
    optional(effect("core_dump", "its memory in a file, by crashing", &["limits"])),
    effect("descriptors", "5,000 open files", &["limits"]),
    effect("tmp_full", "100 MiB in /tmp, with 128 MiB of memory", &["limits"]),
    effect("many_tasks", "700 processes or threads", &["limits", "controllers"]),
    effect("memory_bomb", "200 MiB of memory, with 128 MiB allowed", &["controllers"]),
];

/// The number of a technique: its packets go to addresses that end in it.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    let index = TECHNIQUES.iter().position(|technique| technique.name == name)?;
    u8::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_technique_has_a_name_a_number_and_a_wall() {
        for (index, technique) in TECHNIQUES.iter().enumerate() {
            assert_eq!(number(technique.name).map(usize::from), Some(index + 1), "{} stands twice", technique.name);
            assert!(!technique.alone.is_empty(), "{}", technique.name);
        }
    }
}

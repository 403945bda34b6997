//! The types that the kernel programs and the agent exchange through maps and the ring buffer.
//!
//! Every struct is `repr(C)`, has no padding, and is filled completely, so that a map key compares
//! equal byte by byte and no kernel memory leaks. Addresses are in network byte order, an IPv4
//! address in the first four bytes of its field; ports are in host byte order.

/// The UDP and TCP port that is steered to the agent's DNS sockets.
pub const DNS_PORT: u16 = 53;

/// `AF_INET`.
pub const AF_INET: u8 = 2;
/// `AF_INET6`.
pub const AF_INET6: u8 = 10;
/// `AF_UNIX`.
pub const AF_UNIX: u8 = 1;
/// `AF_NETLINK`.
pub const AF_NETLINK: u8 = 16;

/// Slots of an instance's `DS_SOCKETS` map, where `ds_sklookup` finds the sockets to steer to.
pub mod slot {
    /// The proxy's dual-stack TCP listener.
    pub const PROXY_TCP: u32 = 0;
    /// The dual-stack TCP listener for DNS.
    pub const DNS_TCP: u32 = 1;
    /// The UDP socket for DNS over IPv4.
    pub const DNS_UDP4: u32 = 2;
    /// The UDP socket for DNS over IPv6.
    pub const DNS_UDP6: u32 = 3;
    /// How many slots there are.
    pub const COUNT: u32 = 4;
}

/// What identifies a process in the log: for the reader, never for a decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// The thread group id in the initial pid namespace.
    pub pid: u32,
    /// The user id in the initial user namespace.
    pub uid: u32,
    /// The thread's name, NUL-padded. Chosen by the function.
    pub comm: [u8; 16],
}

impl Asker {
    /// From the map's bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 24]) -> Self {
        let [p0, p1, p2, p3, u0, u1, u2, u3, comm @ ..] = bytes;
        Self { pid: u32::from_ne_bytes([p0, p1, p2, p3]), uid: u32::from_ne_bytes([u0, u1, u2, u3]), comm }
    }
}

/// One TCP connection as `ds_sockops` sees it before the SYN: key of `DS_ASKERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// Source address.
    pub addr: [u8; 16],
    /// Source port.
    pub port: u16,
    /// [`AF_INET`] or [`AF_INET6`].
    pub family: u16,
    /// Always zero.
    pub zero: u32,
}

impl FlowKey {
    /// The bytes that the kernel compares.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.netns.to_ne_bytes());
        bytes[8..24].copy_from_slice(&self.addr);
        bytes[24..26].copy_from_slice(&self.port.to_ne_bytes());
        bytes[26..28].copy_from_slice(&self.family.to_ne_bytes());
        bytes[28..].copy_from_slice(&self.zero.to_ne_bytes());
        bytes
    }
}

/// Why a kernel program refused: one byte in [`Refusal`], one word in the log.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `ds_sock_create`: not TCP or UDP over IPv4 or IPv6.
    SocketType = 1,
    /// The socket is not in a sealed network namespace.
    NotSealed = 2,
    /// UDP to a port other than DNS.
    UdpPort = 3,
    /// `ds_egress`: the packet would have left through an interface other than `lo`.
    LeavesLo = 4,
    /// `ds_lsm_socket`: a family that no function needs.
    SocketFamily = 5,
    /// `ds_lsm_bpf`: the system call itself.
    Bpf = 6,
    /// `ds_lsm_ptrace`: one process reaches into another.
    Ptrace = 7,
}

impl Reason {
    /// The reason for its byte, or `None` when the kernel side is newer than this build.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::SocketType),
            2 => Some(Self::NotSealed),
            3 => Some(Self::UdpPort),
            4 => Some(Self::LeavesLo),
            5 => Some(Self::SocketFamily),
            6 => Some(Self::Bpf),
            7 => Some(Self::Ptrace),
            _ => None,
        }
    }
}

impl Reason {
    /// The stable word for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SocketType => "socket_type",
            Self::NotSealed => "not_sealed",
            Self::UdpPort => "udp_port",
            Self::LeavesLo => "leaves_lo",
            Self::SocketFamily => "socket_family",
            Self::Bpf => "bpf",
            Self::Ptrace => "ptrace",
        }
    }
}

/// Which program refused.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `ds_sock_create`
    SockCreate = 1,
    /// `ds_connect4`
    Connect4 = 2,
    /// `ds_connect6`
    Connect6 = 3,
    /// `ds_sendmsg4`
    Sendmsg4 = 4,
    /// `ds_sendmsg6`
    Sendmsg6 = 5,
    /// `ds_egress`
    Egress = 6,
    /// `ds_lsm_socket`
    LsmSocket = 7,
    /// `ds_lsm_bpf`
    LsmBpf = 8,
    /// `ds_lsm_ptrace`
    LsmPtrace = 9,
}

impl Hook {
    /// The program's name as bpftool shows it, or `None` for an unknown byte.
    #[must_use]
    pub const fn program(byte: u8) -> Option<&'static str> {
        match byte {
            1 => Some("ds_sock_create"),
            2 => Some("ds_connect4"),
            3 => Some("ds_connect6"),
            4 => Some("ds_sendmsg4"),
            5 => Some("ds_sendmsg6"),
            6 => Some("ds_egress"),
            7 => Some("ds_lsm_socket"),
            8 => Some("ds_lsm_bpf"),
            9 => Some("ds_lsm_ptrace"),
            _ => None,
        }
    }
}

/// A refusal, as sent through the `DS_EVENTS` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// Id of the cgroup of the process that asked (`stat(2)` inode of its folder).
    pub cgroup: u64,
    /// Who asked.
    pub asker: Asker,
    /// Destination, all zero when the hook knows none.
    pub addr: [u8; 16],
    /// Socket family (`AF_*`), type (`SOCK_*`) and protocol (`IPPROTO_*`).
    pub family: u32,
    /// See `family`.
    pub kind: u32,
    /// See `family`.
    pub protocol: u32,
    /// Destination port, 0 when the hook knows none.
    pub port: u16,
    /// [`Hook`].
    pub hook: u8,
    /// [`Reason`].
    pub reason: u8,
}

impl Refusal {
    /// From the ring buffer's bytes, or `None` when they have another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes[at..at + 8].try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes[at..at + 4].try_into().ok()?));
        Some(Self {
            netns: u64_at(0)?,
            cgroup: u64_at(8)?,
            asker: Asker::from_bytes(bytes[16..40].try_into().ok()?),
            addr: bytes[40..56].try_into().ok()?,
            family: u32_at(56)?,
            kind: u32_at(60)?,
            protocol: u32_at(64)?,
            port: u16::from_ne_bytes([bytes[68], bytes[69]]),
            hook: bytes[70],
            reason: bytes[71],
        })
    }
}

const _: () = assert!(size_of::<FlowKey>() == 32 && size_of::<Refusal>() == 72);

//! A hostile first process of our own: behind every wall of an instance, it tries what no instance may do.
//!
//! In: the [`Attempt`]s, with the addresses where the agent listens outside. Out: the kernel's answer to each, one
//! line of text on the status descriptor. Whether something got out is for the outside to say: a connection may
//! succeed in here and still end at the agent's own proxy.
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::mount::{MsFlags, mount};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, setuid};
use serde::{Deserialize, Serialize};

/// Within one machine a connection takes microseconds; so long only where packets are dropped on the way.
const CONNECT: Duration = Duration::from_millis(500);

/// Something that an instance must not be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Attempt {
    /// Connects, and sends a few bytes.
    Tcp(SocketAddr),
    /// Sends a datagram.
    Udp(SocketAddr),
    /// A socket that hands frames to an interface (packet(7)).
    Packet,
    /// A socket that writes its own IP headers (raw(7)).
    Raw,
    /// A socket to the hypervisor, which no network namespace holds back (vsock(7)).
    Vsock,
    /// Asks for sockets and connections without a system call that a filter could see (`io_uring_setup`(2)).
    IoUring,
    /// Makes a map (bpf(2)).
    Bpf,
    /// Opens a file of the host.
    Open(PathBuf),
    /// Mounts a file system (mount(2)).
    Mount,
    /// Sees an interface besides `lo` that is up.
    Interface,
    /// Becomes root again.
    Root,
    /// Becomes root in a user namespace of its own (user_namespaces(7)).
    UserNamespace,
}

/// What to try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// What tries to leave: nobody else can send it.
    pub secret: String,
    /// In this order; what changes the process itself belongs last.
    pub attempts: Vec<Attempt>,
}

impl Attempt {
    /// A name that does not change between versions and machines.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Packet => "packet_socket",
            Self::Raw => "raw_socket",
            Self::Vsock => "vsock",
            Self::IoUring => "io_uring",
            Self::Bpf => "bpf",
            Self::Open(_) => "host_file",
            Self::Mount => "mount",
            Self::Interface => "interface",
            Self::Root => "root",
            Self::UserNamespace => "user_namespace",
        }
    }

    fn run(&self, secret: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(to) => TcpStream::connect_timeout(to, CONNECT)?.write_all(secret),
            Self::Udp(to) => {
                let any: SocketAddr =
                    if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
                UdpSocket::bind(any)?.send_to(secret, to).map(drop)
            }
            // SOCK_DGRAM: the kernel writes the frame's header.
            Self::Packet => open_socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0),
            Self::Raw => open_socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
            Self::Vsock => open_socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            Self::IoUring => io_uring(),
            Self::Bpf => bpf_map(),
            Self::Open(path) => File::open(path).map(drop),
            Self::Mount => Ok(mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>)?),
            Self::Interface => interface(),
            Self::Root => Ok(setuid(Uid::from_raw(0))?),
            Self::UserNamespace => Ok(unshare(CloneFlags::CLONE_NEWUSER)?),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(to) => write!(f, "TCP to {to}"),
            Self::Udp(to) => write!(f, "UDP to {to}"),
            Self::Packet => f.write_str("a packet socket"),
            Self::Raw => f.write_str("a raw IP socket"),
            Self::Vsock => f.write_str("a socket to the hypervisor (vsock)"),
            Self::IoUring => f.write_str("io_uring"),
            Self::Bpf => f.write_str("an eBPF map"),
            Self::Open(path) => write!(f, "the host's {}", path.file_name().unwrap_or(path.as_os_str()).display()),
            Self::Mount => f.write_str("mount a file system"),
            Self::Interface => f.write_str("an interface besides lo"),
            Self::Root => f.write_str("root's user id"),
            Self::UserNamespace => f.write_str("a user namespace"),
        }
    }
}

impl Probe {
    /// Tries everything, and writes each answer (0, or the error number) as soon as it is there: an attempt that
    /// kills the process is then the one whose line is missing.
    pub(super) fn run(&self, mut report: impl Write) -> io::Result<()> {
        self.attempts.iter().try_for_each(|attempt| {
            let answer = match attempt.run(self.secret.as_bytes()) {
                Ok(()) => 0,
                Err(error) => errno(&error),
            };
            report.write_all(format!("{answer}\n").as_bytes())
        })
    }

    /// Reads what [`Self::run`] wrote: one answer for each attempt.
    ///
    /// # Errors
    /// The attempt at which the answers end.
    pub(super) fn parse(&self, report: &str) -> Result<Vec<i32>, &Attempt> {
        let mut lines = report.lines();
        self.attempts.iter().map(|attempt| lines.next().and_then(|line| line.parse().ok()).ok_or(attempt)).collect()
    }
}

/// The standard library has errors of its own, such as a connect that took too long.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(if error.kind() == io::ErrorKind::TimedOut { libc::ETIMEDOUT } else { libc::EIO })
}

fn open_socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    // SAFETY: plain integers.
    close(unsafe { libc::socket(family, kind, protocol) }.into())
}

/// One that is down leads nowhere; some kernels put tunnels that are down into every namespace.
fn interface() -> io::Result<()> {
    let up = |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP);
    let found = getifaddrs()?.any(|one| one.interface_name != "lo" && up(one.flags));
    if found { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENODEV)) }
}

fn io_uring() -> io::Result<()> {
    /// `struct io_uring_params`, include/uapi/linux/io_uring.h.
    const PARAMS: usize = 120;
    let mut params = [0u8; PARAMS];
    // SAFETY: the kernel writes at most the structure's size, and the array outlives the call.
    close(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) })
}

fn bpf_map() -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    // union bpf_attr of BPF_MAP_CREATE: an array (type 2) of one value of 4 bytes.
    let attributes: [u32; 4] = [2, 4, 4, 1];
    // SAFETY: the pointer and the size describe the array, which outlives the call.
    close(unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes)) })
}

/// Closes the descriptor that a call returned, or says why there is none.
fn close(result: libc::c_long) -> io::Result<()> {
    let Ok(descriptor @ 0..) = libc::c_int::try_from(result) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the call has just returned it, and nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_end_early_name_the_attempt() {
        let probe = Probe { secret: String::new(), attempts: vec![Attempt::Packet, Attempt::Mount] };
        assert_eq!(probe.parse("1\n0\n"), Ok(vec![1, 0]));
        assert_eq!(probe.parse("1\n"), Err(&Attempt::Mount));
        assert_eq!(probe.parse("bind /usr: No such file"), Err(&Attempt::Packet));
    }

    /// Outside the walls they must succeed, or their failure inside would mean nothing.
    #[test]
    fn what_is_tried_works_where_there_is_no_wall() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: not root: unprivileged, these calls fail for other reasons");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let attempts = vec![
            Attempt::Tcp(listener.local_addr().unwrap()),
            Attempt::Udp(datagrams.local_addr().unwrap()),
            Attempt::Packet,
            Attempt::Raw,
            Attempt::Bpf,
            Attempt::Open("/proc/self/status".into()),
        ];
        let probe = Probe { secret: "a secret".to_owned(), attempts };
        let mut report = Vec::new();
        probe.run(&mut report).unwrap();
        assert_eq!(String::from_utf8(report).unwrap(), "0\n".repeat(probe.attempts.len()));
        let mut buffer = [0; 64];
        let length = datagrams.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"a secret");
    }
}

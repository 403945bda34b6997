//! A sealed network namespace: only `lo`, every address local, the agent's listeners inside.
//!
//! Nothing flows in but the wish for one; out come its descriptor, its cookie and the sockets that were
//! opened inside it. It lives as long as a process, a socket or the descriptor keeps it.
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use dshield_common::abi::{DNS_PORT, slot};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::sockopt::{IpFreebind, Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket};

use super::namespace::Namespace;
use super::{KernelError, netlink};

/// Where a function finds the Lambda Runtime API: `127.0.0.1:9001`.
pub const RUNTIME_API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);

/// Where a function finds the explicit proxy: `127.0.0.1:3128`.
pub const EXPLICIT_PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// A network namespace from which nothing can leave.
#[derive(Debug)]
pub struct SealedNetns {
    /// The namespace, for `setns` and for attaching `ds_sklookup`.
    pub fd: Arc<OwnedFd>,
    /// Its cookie (`SO_NETNS_COOKIE`): unique while the machine runs.
    pub cookie: u64,
    /// The sockets opened inside.
    pub sockets: Sockets,
    /// Its interfaces, routes and rules as they were made.
    pub(super) network: Arc<Namespace>,
}

/// The agent's sockets inside one namespace, all non-blocking.
#[derive(Debug)]
pub struct Sockets {
    /// Dual-stack; every TCP connection ends here.
    pub proxy: TcpListener,
    /// Dual-stack; DNS over TCP.
    pub dns_tcp: TcpListener,
    /// DNS over IPv4 UDP, with `IP_PKTINFO`.
    pub dns_udp4: UdpSocket,
    /// DNS over IPv6 UDP, with `IPV6_RECVPKTINFO`; absent where the kernel has no IPv6.
    pub dns_udp6: Option<UdpSocket>,
    /// [`RUNTIME_API`].
    pub runtime_api: TcpListener,
    /// [`EXPLICIT_PROXY`].
    pub explicit_proxy: TcpListener,
}

impl SealedNetns {
    /// Makes one. Blocks for about a millisecond.
    ///
    /// # Errors
    /// The step that failed.
    pub fn create() -> Result<Self, KernelError> {
        // A thread of its own: it enters the namespace and ends, so that no other work ever runs there.
        thread::Builder::new()
            .name("netns".into())
            .spawn(create_here)
            .map_err(|source| KernelError::Netns { step: "start a thread", source })?
            .join()
            .unwrap_or_else(|_| Err(step("set up")(io::Error::other("the thread panicked"))))
    }
}

fn create_here() -> Result<SealedNetns, KernelError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).map_err(step("unshare"))?;
    // Defence in depth; the files are absent where the feature is.
    for (file, value) in [("ipv4/tcp_fastopen", "0"), ("ipv4/ping_group_range", "1 0")] {
        match fs::write(format!("/proc/sys/net/{file}"), value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::debug!("net/{file}: {error}"),
            _ => {}
        }
    }
    netlink::bring_up_loopback().map_err(step("bring up lo"))?;
    netlink::make_every_address_local(AddressFamily::Inet).map_err(step("route 0.0.0.0/0"))?;
    let ipv6 = match netlink::make_every_address_local(AddressFamily::Inet6) {
        Ok(()) => true,
        // Without IPv6 in the kernel or in new namespaces there is nothing to steer.
        Err(error) => {
            tracing::debug!("no IPv6 in the sealed namespace: {error}");
            false
        }
    };
    let sockets = open_sockets(ipv6).map_err(step("open the listeners"))?;
    let fd = File::open("/proc/thread-self/ns/net").map_err(step("open its descriptor"))?;
    let cookie = netns_cookie(&sockets.proxy).map_err(step("read its cookie (Linux 5.14 or newer)"))?;
    let network = Arc::new(Namespace::take().map_err(step("list its routes"))?);
    Ok(SealedNetns { fd: Arc::new(fd.into()), cookie, sockets, network })
}

fn open_sockets(ipv6: bool) -> io::Result<Sockets> {
    let v4 = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let v6 = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any = |port| if ipv6 { v6(port) } else { v4(port) };
    Ok(Sockets {
        proxy: tcp(any(0))?,
        dns_tcp: tcp(any(DNS_PORT))?,
        dns_udp4: udp(v4(DNS_PORT))?,
        dns_udp6: if ipv6 { Some(udp(v6(DNS_PORT))?) } else { None },
        runtime_api: tcp(RUNTIME_API)?,
        explicit_proxy: tcp(EXPLICIT_PROXY)?,
    })
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, SockType::Stream)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &false)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(1024)?)?;
    Ok(TcpListener::from(socket))
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address, SockType::Datagram)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        // An answer comes from the address that was asked. The route makes it local, but for IPv6 the kernel
        // looks at the interface's own addresses only, unless told otherwise.
        setsockopt(&socket, IpFreebind, &true)?;
    } else {
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(socket))
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

/// An instance's sockets by the slot in which the program finds them; a slot may be empty.
type Slots<'a> = [(u32, Option<BorrowedFd<'a>>); slot::COUNT as usize];

/// The sockets in the order of `ds_sklookup`'s map.
pub(super) fn slots(sockets: &Sockets) -> Slots<'_> {
    [
        (slot::PROXY_TCP, Some(sockets.proxy.as_fd())),
        (slot::DNS_TCP, Some(sockets.dns_tcp.as_fd())),
        (slot::DNS_UDP4, Some(sockets.dns_udp4.as_fd())),
        (slot::DNS_UDP6, sockets.dns_udp6.as_ref().map(AsFd::as_fd)),
    ]
}

/// socket(7): `SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h.
fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `cookie`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::Netns { step, source }
}

//! Ports that stay what they are: one that `bind` chose and that was closed again is anybody's a moment later.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpSocket;

/// A free port of 127.0.0.1 for a server that is told where to listen. The kernel gives none of these to whoever does not
/// ask for it (`ip_local_port_range`), this process gives none twice, and another one begins elsewhere.
///
/// # Panics
/// When ten thousand ports are taken.
#[must_use]
pub fn free() -> SocketAddr {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97);
    let mut all = (0..COUNT).map(|_| {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(FIRST + number).expect("it is below 30000")))
    });
    all.find(|at| TcpListener::bind(at).is_ok()).expect("one of ten thousand ports is free")
}

/// A port of 127.0.0.1 where nobody listens: as long as the socket lives it is taken.
///
/// # Panics
/// When there is no free port.
#[must_use]
pub fn closed() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    let at = socket.local_addr().expect("it is bound");
    (socket, at)
}

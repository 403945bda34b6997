//! Listeners that nothing may reach: they stand where refused traffic would arrive if it got out.
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;

use crate::background::Background;

type Arrivals = Arc<Mutex<Vec<Arrival>>>;

/// Something that got out.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// Who sent it.
    pub from: SocketAddr,
    /// The first bytes of it; of a connection, none until they come.
    pub bytes: Vec<u8>,
}

/// A TCP and a UDP listener on every address of this machine; whatever arrives is kept.
#[derive(Debug)]
pub struct Tripwire {
    tcp: SocketAddr,
    udp: SocketAddr,
    arrivals: Arrivals,
    _servers: Vec<Background>,
}

impl Tripwire {
    /// Listens on free ports.
    #[must_use]
    pub fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let tcp = TcpListener::bind(any).expect("a free TCP port");
        let udp = UdpSocket::bind(any).expect("a free UDP port");
        let host = host_address();
        let at = |bound: SocketAddr| SocketAddr::new(host, bound.port());
        let (tcp_at, udp_at) = (
            at(tcp.local_addr().expect("a bound socket has an address")),
            at(udp.local_addr().expect("a bound socket has an address")),
        );
        let arrivals = Arrivals::default();
        let servers = vec![watch_tcp(tcp, Arc::clone(&arrivals)), watch_udp(udp, Arc::clone(&arrivals))];
        Self { tcp: tcp_at, udp: udp_at, arrivals, _servers: servers }
    }

    /// A name server at `address` that answers nothing, for agents whose resolv.conf points to it.
    #[must_use]
    pub fn name_server(address: Ipv4Addr) -> Self {
        let at = SocketAddr::from((address, 53));
        let udp = UdpSocket::bind(at).expect("port 53 of an own loopback address is free for root");
        let tcp = TcpListener::bind(at).expect("port 53 of an own loopback address is free for root");
        let arrivals = Arrivals::default();
        let servers = vec![watch_tcp(tcp, Arc::clone(&arrivals)), watch_udp(udp, Arc::clone(&arrivals))];
        Self { tcp: at, udp: at, arrivals, _servers: servers }
    }

    /// Where TCP would arrive: an address of this machine that is not loopback, where there is one.
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Where UDP would arrive.
    #[must_use]
    pub fn udp(&self) -> SocketAddr {
        self.udp
    }

    /// Everything that arrived so far.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The address that this machine would send from: in a sealed network namespace it is as foreign as any.
#[must_use]
pub fn host_address() -> IpAddr {
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // Sends nothing: connecting a UDP socket only looks up the route. 198.51.100.1 is for documentation.
        socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
        socket.local_addr().ok()
    };
    route().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.ip())
}

/// Says at which place it is kept.
fn keep(arrivals: &Arrivals, arrival: Arrival) -> usize {
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    arrivals.push(arrival);
    arrivals.len() - 1
}

fn watch_tcp(listener: TcpListener, arrivals: Arrivals) -> Background {
    Background::spawn("tripwire-tcp", move || async move {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this process");
        while let Ok((mut stream, from)) = listener.accept().await {
            let arrivals = Arc::clone(&arrivals);
            // A connection without a byte has got out, too.
            let place = keep(&arrivals, Arrival { transport: "tcp", from, bytes: Vec::new() });
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                let length = stream.read(&mut bytes).await.unwrap_or(0);
                bytes.truncate(length);
                arrivals.lock().unwrap_or_else(PoisonError::into_inner)[place].bytes = bytes;
            });
        }
    })
}

fn watch_udp(socket: UdpSocket, arrivals: Arrivals) -> Background {
    Background::spawn("tripwire-udp", move || async move {
        socket.set_nonblocking(true).expect("a socket can be made non-blocking");
        let socket = tokio::net::UdpSocket::from_std(socket).expect("a socket of this process");
        let mut bytes = vec![0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            keep(&arrivals, Arrival { transport: "udp", from, bytes: bytes[..length].to_vec() });
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;
    use crate::wait;

    #[test]
    fn whatever_arrives_is_kept() {
        let tripwire = Tripwire::start();
        assert!(tripwire.arrivals().is_empty());
        TcpStream::connect(tripwire.tcp()).expect("it listens").write_all(b"over tcp").expect("it reads");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        socket.send_to(b"over udp", tripwire.udp()).expect("it listens");
        let whole = |arrivals: Vec<Arrival>| arrivals.len() == 2 && arrivals.iter().all(|a| !a.bytes.is_empty());
        wait::until("both arrivals", || whole(tripwire.arrivals()).then_some(()));
        let mut seen: Vec<_> = tripwire.arrivals().into_iter().map(|a| (a.transport, a.bytes)).collect();
        seen.sort();
        assert_eq!(seen, [("tcp", b"over tcp".to_vec()), ("udp", b"over udp".to_vec())]);
    }
}

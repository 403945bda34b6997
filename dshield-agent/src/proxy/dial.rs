//! A decided route to an open connection: find the addresses, judge each, then try them.
//!
//! The only place in D-Shield that opens a connection for a function. No address is dialled that is not [`Judged`].
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dshield_common::address::special_purpose;
use dshield_common::destination::Destination;
use dshield_common::policy::Route;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Resolver;
use super::upstream::UpstreamError;

/// All attempts together.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long an attempt is alone before the next address is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How many addresses of one name are tried: whoever answers for a name makes no list of strangers to knock at.
const MOST_ADDRESSES: usize = 16;

/// An address that the policy or the public internet vouches for. Made by [`judge`] and [`addresses`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Judged(SocketAddr);

/// Connects to `route`: every address judged, the first that answers taken (RFC 8305).
///
/// # Errors
/// No address, one that is not for functions, or none that answers.
pub(super) async fn dial(resolver: &Resolver, route: &Route) -> Result<TcpStream, UpstreamError> {
    let stream = race(addresses(resolver, route).await?, DEADLINE).await?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Where to dial, in this order: the rule's pins, the address itself, or what the name resolves to.
async fn addresses(resolver: &Resolver, route: &Route) -> Result<Vec<Judged>, UpstreamError> {
    if !route.resolve().is_empty() {
        let pins = route.resolve().iter();
        return Ok(pins.map(|pin| Judged(SocketAddr::new(pin.ip, pin.port.unwrap_or(route.port)))).collect());
    }
    match &route.to {
        // Judged when the route was decided on.
        Destination::Address(address) => Ok(vec![Judged(SocketAddr::new(*address, route.port))]),
        Destination::Name(name) => {
            let found = resolver.addresses(name).await;
            let found = found.map_err(|source| UpstreamError::Resolve { name: name.to_string(), source })?;
            judge(name.as_str(), interleaved(found), route.port)
        }
    }
}

/// Vouches for all addresses of a name, or for none: one special address among public ones is an attack on the
/// resolver, not a choice to pick from.
fn judge(name: &str, found: Vec<IpAddr>, port: u16) -> Result<Vec<Judged>, UpstreamError> {
    let judged = found.into_iter().map(|address| match special_purpose(address.to_canonical()) {
        Some(why) => Err(UpstreamError::SpecialPurpose { name: name.to_owned(), address, why }),
        None => Ok(Judged(SocketAddr::new(address, port))),
    });
    let mut judged: Vec<Judged> = judged.collect::<Result<_, _>>()?;
    judged.truncate(MOST_ADDRESSES);
    Ok(judged)
}

/// IPv6 and IPv4 in turn, IPv6 first (RFC 8305, section 4); otherwise in the order found.
fn interleaved(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// The first connection that opens before the deadline; the other attempts end with it.
async fn race(addresses: Vec<Judged>, deadline: Duration) -> Result<TcpStream, UpstreamError> {
    let mut waiting = addresses.into_iter();
    let Some(first) = waiting.next() else { return Err(UpstreamError::NoAddress) };
    // Aborts what it holds when it is dropped.
    let mut attempts = JoinSet::new();
    let attempt = |Judged(address): Judged| async move { (address, TcpStream::connect(address).await) };
    attempts.spawn(attempt(first));
    let mut failed = None;
    let race = async {
        loop {
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok((_, Ok(stream)))) => return Some(stream),
                    Some(Ok((address, Err(source)))) => failed = Some((address, source)),
                    // An attempt does not panic.
                    Some(Err(_)) => {}
                    None => return None,
                },
                () = tokio::time::sleep(HEAD_START), if waiting.len() > 0 => {}
            }
            if let Some(next) = waiting.next() {
                attempts.spawn(attempt(next));
            }
        }
    };
    match tokio::time::timeout(deadline, race).await {
        Ok(Some(stream)) => Ok(stream),
        ended => {
            let (address, source) = failed.unwrap_or((first.0, io::ErrorKind::TimedOut.into()));
            let source = if ended.is_err() { io::ErrorKind::TimedOut.into() } else { source };
            Err(UpstreamError::Connect { address, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    async fn listener() -> (TcpListener, Judged) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Judged(address))
    }

    /// Nobody listens there, and while the socket lives nobody else will: its port is taken.
    fn dead() -> (TcpSocket, Judged) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, Judged(address))
    }

    /// A listener whose queue is full: the kernel drops further SYNs, as a firewall would.
    async fn silent() -> (std::net::TcpListener, Vec<TcpStream>, Judged) {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&socket, Backlog::new(0).unwrap()).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            held.push(stream);
        }
        (listener, held, Judged(address))
    }

    #[test]
    fn families_take_turns_and_each_keeps_its_order() {
        let found = ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]);
        let ordered = ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(interleaved(found), ordered);
        assert!(interleaved(Vec::new()).is_empty());
    }

    #[test]
    fn one_special_address_among_public_ones_spoils_all() {
        let public = ips(&["9.9.9.9", "2606:4700::1111"]);
        assert_eq!(judge("a.example", public.clone(), 443).unwrap().len(), 2);
        for special in ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "fd00::1"] {
            let found = [public.clone(), ips(&[special])].concat();
            let error = judge("a.example", found, 443).unwrap_err();
            assert_eq!(error.refusal(), Some("special_purpose_address"), "{special}");
        }
    }

    #[test]
    fn of_a_long_answer_all_is_judged_and_its_beginning_tried() {
        let mut found: Vec<IpAddr> = (1..=40).map(|i| IpAddr::from([9, 9, 9, i])).collect();
        let judged = judge("a.example", found.clone(), 443).unwrap();
        assert_eq!((judged.len(), judged[0].0.ip()), (MOST_ADDRESSES, found[0]));
        found.push("127.0.0.1".parse().unwrap());
        assert!(judge("a.example", found, 443).is_err());
    }

    #[tokio::test]
    async fn a_refused_address_gives_way_to_the_next_at_once() {
        // As many as there can be, so that what they would be waited for is much longer than what a busy machine takes.
        const DEAD: u32 = MOST_ADDRESSES as u32 - 1;
        let (_closed, dead) = dead();
        let (_open, alive) = listener().await;
        let addresses = [vec![dead; DEAD as usize], vec![alive]].concat();
        let since = Instant::now();
        let stream = race(addresses, DEADLINE).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive.0);
        assert!(since.elapsed() < HEAD_START * DEAD, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn a_silent_address_does_not_hold_the_next_up() {
        let (_listener, _held, silent) = silent().await;
        let (_open, alive) = listener().await;
        let since = Instant::now();
        let stream = race(vec![silent, alive], DEADLINE).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive.0);
        let took = since.elapsed();
        assert!(took >= HEAD_START && took < DEADLINE / 2, "{took:?}");
    }

    #[tokio::test]
    async fn where_nobody_answers_the_last_failure_is_told() {
        let (_closed, dead) = dead();
        let error = race(vec![dead], DEADLINE).await.unwrap_err();
        assert!(error.to_string().starts_with(&dead.0.to_string()), "{error}");
        assert!(
            matches!(error, UpstreamError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
        );
    }

    #[tokio::test]
    async fn the_deadline_holds_for_all_attempts_together() {
        let (_listener, _held, silent) = silent().await;
        let error = race(vec![silent; 3], HEAD_START * 2).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Connect { source, .. } if source.kind() == io::ErrorKind::TimedOut));
    }
}

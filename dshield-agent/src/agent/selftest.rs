//! The self-test: a throw-away instance tries to get out, and the outside says whether it did.
//!
//! In: the kernel side, the spawner and the filters of the real instances. Out: a [`Verdict`] for each attempt. The
//! instance is made by the same code as every other, so what holds it holds them. That a connection was refused is
//! not taken for proof: sockets of the agent's own listen where it would arrive, and the agent reaches them itself
//! in the end, so that their silence before means something.
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::ground::Ground;
use super::launch::uids;
use crate::kernel::{Events, Kernel, KernelError, Limits};
use crate::runtime::request_id;
use crate::sandbox::{Attempt, Filter, Probe, SandboxError, Spawner, Spec};
use crate::walls::Walls;

/// How long the agent's own connection may take to arrive.
const CONTROL: Duration = Duration::from_secs(2);

/// The name of the instance: no function's, because theirs have a number behind the last `-`.
const INSTANCE: &str = "self-test";

/// Enough for a program that executes nothing.
const LIMITS: Limits = Limits { memory_bytes: 64 << 20, pids: 16 };

/// What was tried, and whether the walls held.
#[derive(Debug)]
pub struct SelfTest {
    /// In the order of the attempts.
    pub verdicts: Vec<Verdict>,
    /// From making the instance until it was gone.
    pub took: Duration,
}

/// One attempt's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The kind of attempt; see [`Attempt::name`].
    pub name: &'static str,
    /// What was tried, for people.
    pub what: String,
    /// Whether nothing of it got through.
    pub held: bool,
    /// What came of it.
    pub detail: String,
}

/// Why an agent must not serve here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfTestError {
    /// The agent's own connection did not arrive, so silence proves nothing.
    #[error(
        "self-test: what the agent itself sends to {address} does not arrive ({cause}), so that nothing from an instance arrives proves nothing; allow local traffic to that address"
    )]
    Control {
        /// Where it was sent.
        address: SocketAddr,
        /// What failed.
        cause: io::Error,
    },
    /// A file of the run-time folder, or a socket.
    #[error("self-test: {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The throw-away instance could not be made or removed.
    #[error("self-test: {0}")]
    Kernel(#[from] KernelError),
    /// The throw-away instance's process failed.
    #[error("self-test: {0}")]
    Sandbox(#[from] SandboxError),
    /// A wall does not hold.
    #[error("self-test: a throw-away instance could do what none may: {}; dshield does not serve on this machine, `dshield doctor` says more", got_out.join("; "))]
    Unfit {
        /// Each attempt that was not held.
        got_out: Vec<String>,
    },
}

impl SelfTest {
    /// Makes the instance, lets it try, and removes it. Blocks for some ten milliseconds. No other instance may be
    /// there yet: what the kernel programs refused until then is forgotten.
    ///
    /// # Errors
    /// It could not be carried out, which says as little for the machine as an attempt that got out.
    pub fn run(
        kernel: &Kernel,
        events: &mut Events,
        spawner: &Spawner,
        filters: &[Filter],
    ) -> Result<Self, SelfTestError> {
        let begun = Instant::now();
        let folder = Folder::make(kernel.run_dir())?;
        let uid = uids(kernel).take().map_err(|none| io_error("choose a user id")(io::Error::other(none)))?;
        let mut outside = vec![Outside::open(Ipv4Addr::LOCALHOST.into()).map_err(io_error("listen on 127.0.0.1"))?];
        let foreign = foreign_addresses().map_err(io_error("list the machine's addresses"))?;
        outside.extend(open_all(foreign).map_err(io_error("listen on the machine's own address"))?);
        let ground = Ground::prepare(kernel, INSTANCE, LIMITS)?;
        let mut attempts: Vec<_> = outside.iter().flat_map(Outside::attempts).collect();
        attempts.extend([
            Attempt::Interface,
            Attempt::Packet,
            Attempt::Raw,
            Attempt::Vsock,
            Attempt::IoUring,
            Attempt::Bpf,
            Attempt::Open(ground.leaf.path().join("cgroup.procs")),
            Attempt::Mount,
            Attempt::Root,
            Attempt::UserNamespace,
        ]);
        let probe = Probe { secret: request_id(), attempts };
        let spec = folder.spec(uid.number(), filters);
        let answers = ground
            .leaf
            .open()
            .map_err(SelfTestError::from)
            .and_then(|cgroup| Ok(spawner.probe(&spec, &probe, &cgroup, &ground.netns.fd)?));
        let removed = ground.remove(kernel);
        let answers = answers?;
        removed?;
        events.forget().map_err(io_error("read the kernel's refusals"))?;
        let arrived = outside.iter().map(|outside| outside.arrivals(&probe.secret));
        let arrived = arrived.collect::<Result<Vec<_>, _>>()?.concat();
        let verdicts = probe.attempts.iter().zip(answers);
        let verdicts = verdicts.map(|(attempt, answer)| judge(attempt, answer, &arrived)).collect();
        Ok(Self { verdicts, took: begun.elapsed() })
    }

    /// Whether every wall held.
    ///
    /// # Errors
    /// What got through.
    pub fn verdict(&self) -> Result<(), SelfTestError> {
        let failed = self.verdicts.iter().filter(|verdict| !verdict.held);
        let got_out: Vec<_> = failed.map(|verdict| format!("{} ({})", verdict.what, verdict.detail)).collect();
        if got_out.is_empty() { Ok(()) } else { Err(SelfTestError::Unfit { got_out }) }
    }
}

fn judge(attempt: &Attempt, answer: i32, arrived: &[Arrival]) -> Verdict {
    let errno = Errno::from_raw(answer);
    let refused = format!("{errno:?}: {}", errno.desc());
    let network = matches!(attempt, Attempt::Tcp(_) | Attempt::Udp(_));
    let arrival = arrived.iter().find(|arrival| arrival.attempt == *attempt);
    // Whoever cannot list the interfaces has not seen that there is none.
    let unknown = *attempt == Attempt::Interface && answer != 0 && errno != Errno::ENODEV;
    let (held, detail) = match (arrival, answer) {
        (None, _) if unknown => (false, format!("it cannot be told: {refused}")),
        (Some(Arrival { from, .. }), _) => (false, format!("it arrived outside, from {from}")),
        // The agent's own listener in the namespace takes every connection.
        (None, 0) if network => (true, "it ended inside, nothing arrived outside".to_owned()),
        (None, 0) => (false, "the kernel allowed it".to_owned()),
        (None, _) => (true, refused),
    };
    Verdict { name: attempt.name(), what: attempt.to_string(), held, detail }
}

/// Something that got out.
#[derive(Clone, Debug)]
struct Arrival {
    attempt: Attempt,
    from: SocketAddr,
}

/// Sockets at one address of this machine, where what gets out would arrive.
struct Outside {
    tcp: TcpListener,
    tcp_at: SocketAddr,
    udp: UdpSocket,
    udp_at: SocketAddr,
}

impl Outside {
    fn open(ip: IpAddr) -> io::Result<Self> {
        let (tcp, udp) = (TcpListener::bind((ip, 0))?, UdpSocket::bind((ip, 0))?);
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self { tcp_at: tcp.local_addr()?, udp_at: udp.local_addr()?, tcp, udp })
    }

    fn attempts(&self) -> [Attempt; 2] {
        [Attempt::Tcp(self.tcp_at), Attempt::Udp(self.udp_at)]
    }

    /// Whatever arrived here with the secret: others on this machine, and those who scan its ports, cannot make it look
    /// unfit. What the agent sends now queues up behind it, so nothing is on its way any more when that is there.
    fn arrivals(&self, secret: &str) -> Result<Vec<Arrival>, SelfTestError> {
        let (tcp, udp) = (self.tcp_at, self.udp_at);
        let control = |address| move |cause| SelfTestError::Control { address, cause };
        let over_tcp =
            self.tcp_arrivals(secret).map_err(control(tcp))?.into_iter().map(|from| (Attempt::Tcp(tcp), from));
        let over_udp =
            self.udp_arrivals(secret).map_err(control(udp))?.into_iter().map(|from| (Attempt::Udp(udp), from));
        Ok(over_tcp.chain(over_udp).map(|(attempt, from)| Arrival { attempt, from }).collect())
    }

    /// The process that made such a connection wrote at once, and has ended: there is nothing to wait for.
    fn tcp_arrivals(&self, secret: &str) -> io::Result<Vec<SocketAddr>> {
        let own = TcpStream::connect_timeout(&self.tcp_at, CONTROL)?;
        until(own.local_addr()?, &self.tcp, || {
            let (mut stream, from) = self.tcp.accept()?;
            stream.set_nonblocking(true)?;
            let mut said = [0; 64];
            let length = stream.read(&mut said).unwrap_or(0);
            Ok((from, said[..length] == *secret.as_bytes()))
        })
    }

    fn udp_arrivals(&self, secret: &str) -> io::Result<Vec<SocketAddr>> {
        let own = UdpSocket::bind((self.udp_at.ip(), 0))?;
        let send = || own.send_to(b"from the agent itself", self.udp_at);
        send()?;
        until(own.local_addr()?, &self.udp, || {
            let mut said = [0; 64];
            let (length, from) = self.udp.recv_from(&mut said)?;
            let escaped = said[..length] == *secret.as_bytes();
            if !escaped {
                // Among many others' the first one may have found the queue full.
                send()?;
            }
            Ok((from, escaped))
        })
    }
}

/// Where everything with the secret comes from that arrives at `socket` before what comes from `own`.
fn until(
    own: SocketAddr,
    socket: &impl AsFd,
    next: impl Fn() -> io::Result<(SocketAddr, bool)>,
) -> io::Result<Vec<SocketAddr>> {
    let deadline = Instant::now() + CONTROL;
    let mut ours = Vec::new();
    loop {
        match next() {
            Ok((from, _)) if from == own => return Ok(ours),
            Ok((from, true)) => ours.push(from),
            // Others' may go on for ever.
            Ok(_) if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(socket, deadline)?,
            Err(error) => return Err(error),
        }
    }
}

fn wait(socket: &impl AsFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// An IPv6 address that is still being checked cannot be listened on, and not be reached either. Whatever else is in the
/// way would leave an address unwatched.
fn open_all(addresses: Vec<IpAddr>) -> io::Result<Vec<Outside>> {
    addresses.into_iter().filter_map(|ip| open_or_unreachable(ip, Outside::open(ip)).transpose()).collect()
}

fn open_or_unreachable<T>(ip: IpAddr, opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if ip.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        opened => opened.map(Some),
    }
}

/// Of each family the first address by which others would find this machine.
fn foreign_addresses() -> io::Result<Vec<IpAddr>> {
    let up = InterfaceFlags::IFF_UP;
    let interfaces = getifaddrs()?.filter(|interface| interface.flags.contains(up));
    let addresses: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
        })
        .collect();
    let v4 = addresses.iter().find(|ip| ip.is_ipv4() && !ip.is_loopback());
    // A link-local address means nothing without its interface.
    let foreign = |ip: &Ipv6Addr| !ip.is_loopback() && !ip.is_unicast_link_local();
    let v6 = addresses.iter().find(|ip| matches!(ip, IpAddr::V6(v6) if foreign(v6)));
    Ok(v4.into_iter().chain(v6).copied().collect())
}

/// What the instance's file system is made of: an empty code folder and an empty trust bundle.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(run_dir: &Path) -> Result<Self, SelfTestError> {
        let folder = Self { path: run_dir.join(INSTANCE) };
        let make = || {
            // It is there when an agent of this name was killed in the middle.
            fs::create_dir_all(folder.path.join("root"))?;
            fs::create_dir_all(folder.path.join("code"))?;
            fs::write(folder.path.join("ca-bundle.pem"), "")
        };
        make().map_err(io_error("make its folder in the run-time folder"))?;
        Ok(folder)
    }

    fn spec(&self, uid: u32, filters: &[Filter]) -> Spec {
        Spec {
            hostname: INSTANCE.to_owned(),
            uid,
            root: self.path.join("root"),
            code: self.path.join("code"),
            ca_bundle: self.path.join("ca-bundle.pem"),
            runtime_files: BTreeMap::new(),
            tmp_bytes: 1 << 20,
            argv: Vec::new(),
            env: Vec::new(),
            seccomp: filters.to_vec(),
            walls: Walls::standing(),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> SelfTestError {
    move |source| SelfTestError::Io { action, source }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_arrives_counts_whatever_the_kernel_said_inside() {
        let outside = Outside::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        assert!(outside.arrivals("secret").unwrap().is_empty(), "the agent's own are not arrivals");

        let mut escaped = TcpStream::connect(outside.tcp_at).unwrap();
        escaped.write_all(b"secret").unwrap();
        let arrived = outside.arrivals("secret").unwrap();
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].from, escaped.local_addr().unwrap());
        let [tcp, udp] = outside.attempts();
        for answer in [0, libc::EPERM] {
            assert!(!judge(&tcp, answer, &arrived).held);
            assert!(judge(&udp, answer, &arrived).held);
        }
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(b"secret", outside.udp_at).unwrap();
        assert!(!judge(&udp, libc::EPERM, &outside.arrivals("secret").unwrap()).held);
    }

    /// Any user of the machine saw in `/proc/net` where the agent listened, sent something there, and the agent
    /// refused to serve.
    #[test]
    fn what_strangers_send_does_not_make_a_machine_unfit() {
        let outside = Outside::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut silent_and_not = [(); 2].map(|()| TcpStream::connect(outside.tcp_at).unwrap());
        silent_and_not[0].write_all(b"guess").unwrap();
        for guess in [&b"guess"[..], b"", b"secret and more"] {
            stranger.send_to(guess, outside.udp_at).unwrap();
        }
        assert!(outside.arrivals("secret").unwrap().is_empty());
    }

    #[test]
    fn what_the_kernel_allows_inside_is_not_held() {
        assert!(!judge(&Attempt::Vsock, 0, &[]).held);
        let verdict = judge(&Attempt::Vsock, libc::EPERM, &[]);
        assert!(verdict.held && verdict.detail == "EPERM: Operation not permitted", "{verdict:?}");
    }

    /// Each was passed over, and the machine called fit.
    #[test]
    fn what_cannot_be_looked_at_is_not_held() {
        assert!(judge(&Attempt::Interface, libc::ENODEV, &[]).held, "the list is there, and has none");
        assert!(!judge(&Attempt::Interface, libc::EPERM, &[]).held, "there is no list");
        let opened =
            |ip: &str, kind: io::ErrorKind| open_or_unreachable(ip.parse().unwrap(), Err::<(), _>(kind.into()));
        let checked = opened("2001:db8::1", io::ErrorKind::AddrNotAvailable);
        assert!(matches!(checked, Ok(None)), "an address that is still being checked answers so");
        assert!(opened("192.0.2.77", io::ErrorKind::AddrNotAvailable).is_err());
        assert!(opened("2001:db8::1", io::ErrorKind::PermissionDenied).is_err());
    }

    /// The agent that comes after one that was killed in its self-test finds the folder there.
    #[test]
    fn what_a_killed_self_test_left_is_in_nobodys_way() {
        let run_dir = tempfile::tempdir().unwrap();
        std::mem::forget(Folder::make(run_dir.path()).unwrap());
        drop(Folder::make(run_dir.path()).unwrap());
        assert_eq!(fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_address_that_swallows_the_agents_own_datagram_proves_nothing() {
        let outside = Outside::open(Ipv4Addr::LOCALHOST.into()).unwrap();
        let elsewhere = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let deaf = Outside { udp_at: elsewhere.local_addr().unwrap(), ..outside };
        assert!(matches!(deaf.arrivals("secret"), Err(SelfTestError::Control { .. })));
    }
}

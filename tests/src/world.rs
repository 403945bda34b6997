//! A machine with a world outside, for attackers: two network namespaces with a cable between them.
//!
//! The agent runs in the first, whose only way out is the cable. At the other end somebody looks at every frame
//! ([`World::arrived`]), so nothing has to be answered to be noticed. Daemons that an attacker would like to reach
//! run in the first one. Nothing of the real machine's network is touched, and all of it ends with the value.
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::IoSlice;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendmsg, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use tempfile::TempDir;

use crate::catalogue::number;
use crate::namespace::Namespace;
use crate::wait;

/// The machine's end of the cable.
const INTERFACE: &str = "out0";

/// The last address that no technique has: the test's own packets go there.
const END: u8 = 254;

type Arrivals = Arc<Mutex<BTreeSet<u8>>>;

/// The two namespaces, the watcher and the daemons.
#[derive(Debug)]
pub struct World {
    machine: Namespace,
    folder: TempDir,
    abstract_name: String,
    port: u16,
    arrivals: Arrivals,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl World {
    /// Makes it. Needs root, and `ip` and `nsenter`.
    #[must_use]
    pub fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (machine, outside) = (Namespace::make(), Namespace::make());
        let (near, far) = (&machine, outside.path());
        let steps = [
            (near, format!("ip link add {INTERFACE} type veth peer name in0")),
            (near, format!("ip link set in0 netns {far}")),
            (near, "ip link set lo up".to_owned()),
            (near, format!("ip address add 192.0.2.2/24 dev {INTERFACE}")),
            (near, format!("ip address add 2001:db8::2/64 dev {INTERFACE} nodad")),
            (near, format!("ip link set {INTERFACE} up")),
            (&outside, "ip address add 192.0.2.1/24 dev in0".to_owned()),
            (&outside, "ip address add 2001:db8::1/64 dev in0 nodad".to_owned()),
            (&outside, "ip link set in0 up".to_owned()),
            (near, "ip route add default via 192.0.2.1".to_owned()),
            (near, "ip -6 route add default via 2001:db8::1".to_owned()),
        ];
        for (namespace, step) in steps {
            namespace.run(&step);
        }
        let folder = tempfile::Builder::new().prefix("dshield-world-").tempdir().expect("a temporary folder");
        // What is in it is everybody's to see; only the machine's root may write.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("the folder is ours");
        let arrivals = Arrivals::default();
        let stop = Arc::new(AtomicBool::new(false));
        let abstract_name = format!("dshield-world-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut world = Self { machine, folder, abstract_name, port: 0, arrivals, stop, threads: Vec::new() };
        let (seen, stop) = (Arc::clone(&world.arrivals), Arc::clone(&world.stop));
        let frames = outside.inside(open_frames);
        world.threads.push(std::thread::spawn(move || watch(&frames, &seen, &stop)));
        world.start_daemons();
        world
    }

    fn start_daemons(&mut self) {
        let name = SocketAddr::from_abstract_name(&self.abstract_name).expect("a short name");
        let (hidden, listener, gift) = self.machine.inside(move || {
            // Anyone in the namespace may open an ICMP socket, as on most distributions.
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("the namespace is ours");
            let gift = UdpSocket::bind("0.0.0.0:0").expect("a free port");
            let receiver = number("scm_rights").expect("it is in the catalogue");
            gift.connect(format!("198.51.100.{receiver}:443")).expect("there is a route");
            let hidden = UnixListener::bind_addr(&name).expect("nobody else has the name");
            (hidden, TcpListener::bind("0.0.0.0:0").expect("a free port"), gift)
        });
        self.port = listener.local_addr().expect("it is bound").port();
        let file = self.socket();
        let daemon = UnixListener::bind(&file).expect("the folder is ours");
        let datagrams = UnixDatagram::bind(file.with_extension("sock.dgram")).expect("the folder is ours");
        for file in [file.clone(), file.with_extension("sock.dgram")] {
            fs::set_permissions(file, Permissions::from_mode(0o777)).expect("the file is ours");
        }
        daemon.set_nonblocking(true).expect("a socket can be made non-blocking");
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let _open = (hidden, listener, datagrams);
            while !stop.load(Ordering::Relaxed) {
                match daemon.accept() {
                    Ok((stream, _)) => {
                        let rights = [gift.as_raw_fd()];
                        let message = [ControlMessage::ScmRights(&rights)];
                        // An attacker that has gone already wants nothing any more.
                        let flags = MsgFlags::MSG_NOSIGNAL;
                        let _ = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"h")], &message, flags, None);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }));
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("daemon.sock")
    }

    /// A command that runs the rest of its line on this machine; for [`crate::agent::Launch::wrapper`].
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.machine.path())]
    }

    /// Where everything is, as environment variables for the attacker.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let cgroup = crate::agent::cgroup2().unwrap_or_default();
        vec![
            ("ATTACK_INTERFACE", INTERFACE.to_owned()),
            ("ATTACK_CGROUP", cgroup.to_string_lossy().into_owned()),
            ("ATTACK_ABSTRACT", self.abstract_name.clone()),
            ("ATTACK_SOCKET", self.socket().to_string_lossy().into_owned()),
            ("ATTACK_FOLDER", self.folder.path().to_string_lossy().into_owned()),
            ("ATTACK_PORT", self.port.to_string()),
        ]
    }

    /// Runs `work` in a thread on this machine.
    pub fn on<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.machine.inside(work)
    }

    /// The numbers of the techniques of which something arrived outside, once everything that was on its way is there.
    #[must_use]
    #[track_caller]
    pub fn arrived(&self) -> BTreeSet<u8> {
        let seen = || self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The cable keeps the order: when this one has arrived, so has all that was sent before.
        wait::until("the test's own packet", || {
            self.on(|| {
                let own = UdpSocket::bind("0.0.0.0:0").expect("a free port");
                own.send_to(b"end", format!("198.51.100.{END}:9")).expect("there is a route");
            });
            seen().contains(&END).then_some(())
        });
        let mut all = seen();
        all.remove(&END);
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

/// packet(7): every frame of the namespace.
fn open_frames() -> OwnedFd {
    let frames = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .expect("root opens packet sockets");
    setsockopt(&frames, ReceiveTimeout, &TimeVal::new(0, 20_000)).expect("a valid time");
    frames
}

fn watch(frames: &OwnedFd, arrivals: &Arrivals, stop: &AtomicBool) {
    let mut frame = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok(length) = recv(frames.as_raw_fd(), &mut frame, MsgFlags::empty())
            && let Some(number) = technique(&frame[..length])
        {
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        }
    }
}

/// Whose frame it is: by its destination, 198.51.100.N or 2001:db8:1::N, or by the marker in it.
fn technique(frame: &[u8]) -> Option<u8> {
    const MARKER: &[u8] = b"dshield-attack-";
    match (frame.get(12..14)?, frame.get(30..34), frame.get(38..54)) {
        ([8, 0], Some([198, 51, 100, number]), _) => return Some(*number),
        ([0x86, 0xdd], _, Some([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, number])) => return Some(*number),
        _ => {}
    }
    let at = frame.windows(MARKER.len()).position(|bytes| bytes == MARKER)? + MARKER.len();
    let digits: Vec<u8> = frame[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requires::{require_root, requires, requires_veth};

    #[test]
    fn what_is_sent_arrives_outside_and_is_told_apart() {
        if !require_root() || !requires("ip") || !requires("nsenter") || !requires_veth() {
            return;
        }
        let world = World::make();
        assert_eq!(world.arrived(), BTreeSet::new());
        world.on(|| {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "198.51.100.7:443").unwrap();
            UdpSocket::bind("[::]:0").unwrap().send_to(b"x", "[2001:db8:1::8]:443").unwrap();
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"dshield-attack-9;", "192.0.2.1:443").unwrap();
        });
        wait::until("all three", || (world.arrived() == BTreeSet::from([7, 8, 9])).then_some(()));
    }
}

//! Netlink, Unix sockets, and rare ways into the kernel.
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::Got;
use crate::calls::{Socket, check, marker, option, send, socket};

/// The message with its header (netlink(7)).
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | 1).to_ne_bytes()); // NLM_F_REQUEST
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn netlink(protocol: i32, message: &[u8]) -> Result<Socket, String> {
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    let second = libc::timeval { tv_sec: 1, tv_usec: 0 };
    option(&netlink, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &second)?;
    // SAFETY: all zeros but the family: the kernel's address.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    crate::calls::send_to(&netlink, message, 0, &address)?;
    Ok(netlink)
}

fn receive(socket: &Socket) -> Vec<u8> {
    let mut answer = vec![0; 1 << 16];
    // SAFETY: the pointer and the length describe the buffer.
    let length = unsafe { libc::recv(socket.0, answer.as_mut_ptr().cast(), answer.len(), 0) };
    answer.truncate(usize::try_from(length).unwrap_or(0));
    answer
}

/// Looks for the machine's own listener among all TCP sockets (sock_diag(7)).
pub fn sock_diag() -> Got {
    let port: u16 = std::env::var("ATTACK_PORT").ok().and_then(|port| port.parse().ok()).ok_or("no ATTACK_PORT")?;
    // struct inet_diag_req_v2: family, protocol, extensions, pad, states, then an empty socket id.
    let mut body = vec![libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 48]);
    let diag = netlink(libc::NETLINK_SOCK_DIAG, &message(20, 0x300, &body))?; // SOCK_DIAG_BY_FAMILY, NLM_F_DUMP
    loop {
        let answer = receive(&diag);
        let mut rest = &answer[..];
        while rest.len() >= 24 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if kind <= 3 {
                return Err("it is not among them".to_owned());
            }
            // struct inet_diag_msg: four bytes, then the source port.
            if u16::from_be_bytes([rest[20], rest[21]]) == port {
                return Ok("saw the machine's listener".to_owned());
            }
            rest = rest.get((length + 3) & !3..).unwrap_or_default();
        }
        if answer.is_empty() {
            return Err("no answer".to_owned());
        }
    }
}

/// `ip address add 203.0.113.9/32 dev lo`.
pub fn new_address() -> Got {
    // struct ifaddrmsg: family, prefix length, flags, scope, index; then IFA_LOCAL.
    let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0];
    body.extend([203, 0, 113, 9]);
    let route = netlink(libc::NETLINK_ROUTE, &message(20, 0x404, &body))?; // RTM_NEWADDR, NLM_F_CREATE | NLM_F_ACK
    let answer = receive(&route);
    let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_ne_bytes);
    match -errno {
        0 | libc::EEXIST => Ok("added".to_owned()),
        errno => Err(std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

fn word(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set"))
}

pub fn unix_abstract() -> Got {
    let address = SocketAddr::from_abstract_name(word("ATTACK_ABSTRACT")?).map_err(|error| error.to_string())?;
    UnixStream::connect_addr(&address).map_err(|error| format!("connect: {error}"))?;
    Ok("connected".to_owned())
}

/// The daemon's socket file, as it is and below the machine's root.
fn daemon() -> Result<UnixStream, String> {
    let path = word("ATTACK_SOCKET")?;
    let inside = UnixStream::connect(format!("/host{path}"));
    inside.or_else(|_| UnixStream::connect(&path)).map_err(|error| format!("{path}: {error}"))
}

pub fn unix_path() -> Got {
    let mut hello = [0; 1];
    daemon()?.read_exact(&mut hello).map_err(|error| format!("read: {error}"))?;
    Ok("talked to it".to_owned())
}

pub fn unix_pair() -> Got {
    let path = format!("{}.dgram", word("ATTACK_SOCKET")?);
    let (end, _other) = UnixDatagram::pair().map_err(|error| format!("socketpair: {error}"))?;
    end.connect(format!("/host{path}")).or_else(|_| end.connect(&path)).map_err(|error| format!("{path}: {error}"))?;
    end.send(b"x").map_err(|error| format!("send: {error}"))?;
    Ok("sent".to_owned())
}

/// The daemon gives away a socket that it made outside.
pub fn received_socket(number: u8) -> Got {
    let daemon = daemon()?;
    let mut hello = [0; 1];
    let mut parts = [IoSliceMut::new(&mut hello)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let received = recvmsg::<()>(daemon.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
        .map_err(|error| format!("recvmsg: {error}"))?;
    let rights = received.cmsgs().map_err(|error| error.to_string())?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    let socket = Socket(rights.ok_or("no descriptor came")?);
    send(&socket, &marker(number))?;
    Ok("sent".to_owned())
}

pub fn bpf() -> Got {
    // union bpf_attr of BPF_MAP_CREATE: an array of one four-byte value.
    let attributes: [u32; 32] = std::array::from_fn(|index| [2, 4, 4, 1].get(index).copied().unwrap_or(0));
    // SAFETY: the attributes have the length given and outlive the call.
    check("bpf", unsafe { libc::syscall(libc::SYS_bpf, 0, attributes.as_ptr(), size_of_val(&attributes)) })?;
    Ok("made a map".to_owned())
}

/// System calls that no function needs, with arguments that do no harm.
pub fn kernel_calls() -> Got {
    let mut perf = [0u8; 112];
    perf[0] = 1; // PERF_TYPE_SOFTWARE
    perf[4] = 112;
    let own = std::process::id();
    let mut handle = [0u8; 256];
    handle[0] = 128;
    let mut mount_id = 0i32;
    // SAFETY: every pointer is to a value that outlives its call; the rest are plain integers.
    let tried = unsafe {
        [
            ("perf_event_open", libc::syscall(libc::SYS_perf_event_open, perf.as_mut_ptr(), 0, -1, -1, 0)),
            ("keyctl", libc::syscall(libc::SYS_keyctl, 0, -3, 1)),
            ("add_key", libc::syscall(libc::SYS_add_key, c"user".as_ptr(), c"a".as_ptr(), c"b".as_ptr(), 1, -1)),
            ("userfaultfd", libc::syscall(libc::SYS_userfaultfd, 1)),
            ("fanotify_init", libc::syscall(libc::SYS_fanotify_init, 0, 0)),
            ("syslog", libc::syscall(libc::SYS_syslog, 10, 0, 0)),
            ("kcmp", libc::syscall(libc::SYS_kcmp, own, own, 0, 0, 0)),
            ("memfd_secret", libc::syscall(libc::SYS_memfd_secret, 0)),
            (
                "name_to_handle_at",
                libc::syscall(
                    libc::SYS_name_to_handle_at,
                    libc::AT_FDCWD,
                    c"/tmp".as_ptr(),
                    handle.as_mut_ptr(),
                    &raw mut mount_id,
                    0,
                ),
            ),
            ("personality", libc::syscall(libc::SYS_personality, 0x004_0000)),
            #[cfg(target_arch = "x86_64")]
            ("ioperm", libc::syscall(libc::SYS_ioperm, 0x80, 1, 1)),
            #[cfg(target_arch = "x86_64")]
            ("modify_ldt", libc::syscall(libc::SYS_modify_ldt, 0, handle.as_mut_ptr(), 16)),
        ]
    };
    let done: Vec<_> = tried.iter().filter(|(_, result)| *result >= 0).map(|(name, _)| *name).collect();
    if done.is_empty() { Err("none".to_owned()) } else { Ok(done.join(" ")) }
}

/// Types into a terminal of its own, as if into one that it shares with the agent.
pub fn terminal() -> Got {
    let opened = ["/host/dev/ptmx", "/dev/ptmx"]
        .iter()
        .find_map(|path| std::fs::OpenOptions::new().read(true).write(true).open(path).ok());
    let controller = opened.ok_or("no terminal")?;
    let mut locked = 0;
    // SAFETY: the argument outlives the call. TIOCSPTLCK.
    check("unlock", unsafe { libc::ioctl(controller.as_raw_fd(), libc::TIOCSPTLCK, &raw mut locked) }.into())?;
    // SAFETY: plain integers. TIOCGPTPEER.
    let peer = unsafe { libc::ioctl(controller.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
    check("open the other end", peer.into())?;
    // SAFETY: the descriptor was just opened and is owned here.
    let peer = unsafe { std::fs::File::from_raw_fd(peer) };
    // SAFETY: the character outlives the call.
    check("TIOCSTI", unsafe { libc::ioctl(peer.as_raw_fd(), libc::TIOCSTI, c"x".as_ptr()) }.into())?;
    Ok("typed".to_owned())
}

/// getpid of the x32 table (arch/x86/include/uapi/asm/unistd.h: `__X32_SYSCALL_BIT`).
pub fn x32() -> Got {
    if !cfg!(target_arch = "x86_64") {
        return Err("not on this architecture".to_owned());
    }
    // SAFETY: no arguments.
    check("getpid", unsafe { libc::syscall(0x4000_0000 + 39) })?;
    Ok("was answered".to_owned())
}

/// getpid of the 32-bit table.
pub fn ia32() -> Got {
    #[cfg(target_arch = "x86_64")]
    {
        let mut result: i32 = 20;
        // SAFETY: getpid takes no arguments; the kernel keeps all registers but eax and r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inout("eax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        if result > 0 { Ok("was answered".to_owned()) } else { Err(format!("errno {}", -result)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Err("not on this architecture".to_owned())
}

//! The two route messages and one interface flag that seal a network namespace (rtnetlink(7)).
//!
//! Written out, because it is the first wall: thirty lines of message that a reader can check against
//! the kernel's headers, instead of an asynchronous stack that wants its own runtime in a thread that
//! must not have one.
use std::io;

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::os::fd::AsRawFd;

/// `lo` is the first interface of every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

/// Brings `lo` up in the calling thread's network namespace.
///
/// # Errors
/// The kernel's answer.
pub fn bring_up_loopback() -> io::Result<()> {
    // struct ifinfomsg: family, pad, type, index, flags, change.
    let mut body = vec![0, 0, 0, 0];
    body.extend(LOOPBACK.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, &body)
}

/// `ip route add local 0.0.0.0/0 dev lo` (or `::/0`) in the calling thread's network namespace: every
/// address of the family is local from then on ("AnyIP").
///
/// # Errors
/// The kernel's answer; `EAFNOSUPPORT` or `EOPNOTSUPP` where the family is switched off.
pub fn make_every_address_local(family: AddressFamily) -> io::Result<()> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags (4 bytes).
    let mut body = vec![family as u8, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
    // struct rtattr: len, type, value.
    body.extend(8u16.to_ne_bytes());
    body.extend(RTA_OIF.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    request(RTM_NEWROUTE, NLM_F_CREATE, &body)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    // struct nlmsghdr: len, type, flags, seq, pid.
    let length = 16 + body.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse_ack(&answer[..length])
}

/// An acknowledgement is an error message (type at byte 4, errno negated at byte 16) with errno 0.
fn parse_ack(answer: &[u8]) -> io::Result<()> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "short answer from rtnetlink");
    let kind = u16::from_ne_bytes(answer.get(4..6).and_then(|b| b.try_into().ok()).ok_or_else(short)?);
    let errno = i32::from_ne_bytes(answer.get(16..20).and_then(|b| b.try_into().ok()).ok_or_else(short)?);
    match (kind, errno) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, errno) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer from rtnetlink")),
    }
}

//! rtnetlink(7): the three messages that seal a network namespace, and the lists of what is in one.
//!
//! Written out, because it is the first wall: a few messages that a reader can check against the kernel's
//! headers, instead of an asynchronous stack that wants its own runtime in a thread that must not have one.
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::TimeVal;

/// `lo` is the first interface of every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// An interface: `struct ifinfomsg` and attributes `IFLA_*`.
pub const RTM_NEWLINK: u16 = 16;
/// A route: `struct rtmsg` and attributes `RTA_*`.
pub const RTM_NEWROUTE: u16 = 24;
/// A routing rule: `struct fib_rule_hdr` and attributes `FRA_*`.
pub const RTM_NEWRULE: u16 = 32;
/// Flag of an interface.
pub const IFF_UP: u32 = 1;
/// The interface that a route leads to.
pub const RTA_OIF: u16 = 4;
/// The table in which the kernel looks first.
pub const RT_TABLE_LOCAL: u8 = 255;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const HEADER: usize = 16;
/// What the kernel puts at most into one answer.
const ANSWER: usize = 32 * 1024;
/// Answers come at once; a socket that stays silent must not hold up who asks.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

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
    body.extend(attribute(RTA_OIF, LOOPBACK));
    request(RTM_NEWROUTE, NLM_F_CREATE, &body)
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = open()?;
    send(&socket, kind, NLM_F_ACK | flags, 0, body)?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse_ack(&answer[..length])
}

/// Lists what is in the network namespace in which it was opened, from any thread.
#[derive(Debug)]
pub struct Lister {
    socket: OwnedFd,
    number: u32,
}

impl Lister {
    /// For the calling thread's network namespace, which lives at least as long.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: open()?, number: 0 })
    }

    /// Gives every interface, every route of every table and family, and every routing rule: kind, header and
    /// attributes as the kernel sends them. Blocks for about a tenth of a millisecond.
    ///
    /// # Errors
    /// The kernel's answer; `Interrupted` when something changed meanwhile, so that the list may be wrong.
    pub fn list(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER];
        // struct ifinfomsg, and that counters are not wanted.
        let mut link = vec![0; 16];
        link.extend(attribute(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS));
        // struct rtmsg and struct fib_rule_hdr, both of 12 bytes: family 0 is every family.
        for (get, new, body) in [
            (RTM_GETLINK, RTM_NEWLINK, &link[..]),
            (RTM_GETROUTE, RTM_NEWROUTE, &[0; 12]),
            (RTM_GETRULE, RTM_NEWRULE, &[0; 12]),
        ] {
            self.number = self.number.wrapping_add(1);
            send(&self.socket, get, NLM_F_DUMP, self.number, body)?;
            let mut changed = false;
            loop {
                let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
                let answer = buffer.get(..length).ok_or_else(|| invalid("an answer that is too long"))?;
                match parse_list(answer, self.number, new, &mut changed, &mut each) {
                    Ok(false) => {}
                    Ok(true) => break,
                    // A kernel without routing rules has none.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => break,
                    Err(error) => return Err(error),
                }
            }
            if changed {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(())
    }
}

/// The attributes after a header of `skip` bytes: type and value. Ends at the first that is malformed.
pub fn attributes(message: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    // The upper two bits are flags.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut rest = message.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number in a message.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// struct rtattr: len, type, value.
fn attribute(kind: u16, value: u32) -> Vec<u8> {
    [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&socket, ReceiveTimeout, &PATIENCE)?;
    Ok(socket)
}

fn send(socket: &OwnedFd, kind: u16, flags: u16, number: u32, body: &[u8]) -> io::Result<()> {
    let message = message(kind, NLM_F_REQUEST | flags, number, body)?;
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// struct nlmsghdr: len, type, flags, seq, pid; then the body.
fn message(kind: u16, flags: u16, number: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = HEADER + body.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    Ok(message)
}

/// An acknowledgement is an error message (errno negated after the header) with errno 0.
fn parse_ack(answer: &[u8]) -> io::Result<()> {
    let short = || invalid("short answer from rtnetlink");
    let kind = u16_at(answer, 4).ok_or_else(short)?;
    let errno = u32_at(answer, HEADER).ok_or_else(short)?.cast_signed();
    match (kind, errno) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        _ => Err(invalid("unexpected answer from rtnetlink")),
    }
}

/// Gives the messages of one part of a list; true after its last part.
fn parse_list(
    mut answer: &[u8],
    number: u32,
    wanted: u16,
    changed: &mut bool,
    each: &mut impl FnMut(u16, &[u8]),
) -> io::Result<bool> {
    let short = || invalid("short answer from rtnetlink");
    while !answer.is_empty() {
        let length = u32_at(answer, 0).ok_or_else(short)? as usize;
        let (kind, flags) = (u16_at(answer, 4).ok_or_else(short)?, u16_at(answer, 6).ok_or_else(short)?);
        let body = answer.get(HEADER..length).ok_or_else(short)?;
        // What belongs to an earlier question, whose answer was not waited for, is passed over.
        if u32_at(answer, 8) == Some(number) {
            *changed |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                // The end says what went wrong on the way, if something did.
                NLMSG_DONE | NLMSG_ERROR => {
                    let errno = u32_at(body, 0).unwrap_or(0).cast_signed();
                    return if errno < 0 { Err(io::Error::from_raw_os_error(errno.wrapping_neg())) } else { Ok(true) };
                }
                kind if kind == wanted => each(kind, body),
                _ => {}
            }
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(answer: &[u8]) -> (io::Result<bool>, bool, Vec<Vec<u8>>) {
        let (mut changed, mut seen) = (false, Vec::new());
        let end = parse_list(answer, 7, RTM_NEWROUTE, &mut changed, &mut |_, body| seen.push(body.to_vec()));
        (end, changed, seen)
    }

    #[test]
    fn a_list_ends_with_its_last_message_and_skips_another_questions() {
        let part = |kind, flags, number, body: &[u8]| message(kind, flags, number, body).unwrap();
        let mut answer = part(RTM_NEWROUTE, 2, 7, b"one!");
        answer.extend(part(RTM_NEWROUTE, 2, 6, b"old!"));
        let (end, changed, seen) = parsed(&answer);
        assert_eq!((end.unwrap(), changed, seen), (false, false, vec![b"one!".to_vec()]));

        answer.extend(part(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, 7, &[0; 4]));
        let (end, changed, _) = parsed(&answer);
        assert_eq!((end.unwrap(), changed), (true, true));

        let failed = part(NLMSG_ERROR, 0, 7, &(-libc::ENOBUFS).to_ne_bytes());
        assert_eq!(parsed(&failed).0.unwrap_err().raw_os_error(), Some(libc::ENOBUFS));
        assert_eq!(parse_ack(&failed).unwrap_err().raw_os_error(), Some(libc::ENOBUFS));
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let bytes = [&[0; 4][..], &[5, 0, 3, 0, b'x', 0, 0, 0], &[8, 0, 4, 0, 1, 0, 0, 0], &[9, 0]].concat();
        let found: Vec<_> = attributes(&bytes, 4).collect();
        assert_eq!(found, [(3, &b"x"[..]), (4, &[1, 0, 0, 0][..])]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parsed(&bytes);
            let _ = parse_ack(&bytes);
            prop_assert!(attributes(&bytes, 0).count() <= bytes.len());
        }
    }
}

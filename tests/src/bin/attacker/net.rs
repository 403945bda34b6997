//! Sockets: every family, type and way of sending.
use std::ffi::CString;

use libc::{AF_INET, AF_INET6, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, c_int};

use crate::Got;
use crate::calls::{Socket, connect, ipv4, ipv6, mapped, marker, option, outside4, outside6, send, send_to, socket};

fn sent() -> Got {
    Ok("sent".to_owned())
}

pub fn tcp4(number: u8) -> Got {
    connect(&socket(AF_INET, SOCK_STREAM, 0)?, &outside4(number))?;
    sent()
}

pub fn tcp6(number: u8) -> Got {
    connect(&socket(AF_INET6, SOCK_STREAM, 0)?, &outside6(number))?;
    sent()
}

pub fn tcp_mapped(number: u8) -> Got {
    connect(&socket(AF_INET6, SOCK_STREAM, 0)?, &mapped(number))?;
    sent()
}

pub fn fast_open(number: u8) -> Got {
    send_to(
        &socket(AF_INET, SOCK_STREAM, 0)?,
        &marker(number),
        libc::MSG_FASTOPEN | libc::MSG_DONTWAIT,
        &outside4(number),
    )?;
    sent()
}

pub fn fast_open_connect(number: u8) -> Got {
    let stream = socket(AF_INET, SOCK_STREAM, 0)?;
    option(&stream, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1)?;
    connect(&stream, &outside4(number))?;
    send(&stream, &marker(number))?;
    sent()
}

/// First to a listener of its own, which is allowed, then elsewhere with the same socket.
pub fn reconnect(number: u8) -> Got {
    let own = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| format!("listen: {error}"))?;
    let port = own.local_addr().map_err(|error| error.to_string())?.port();
    let stream = socket(AF_INET, SOCK_STREAM, 0)?;
    // Refused where `connect` is the wall that stands.
    let _ = connect(&stream, &ipv4([127, 0, 0, 1], port));
    let unspecified = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let _ = connect(&stream, &unspecified);
    connect(&stream, &outside4(number))?;
    sent()
}

pub fn udp4(number: u8) -> Got {
    send_to(&socket(AF_INET, SOCK_DGRAM, 0)?, &marker(number), 0, &outside4(number))?;
    sent()
}

pub fn udp6(number: u8) -> Got {
    send_to(&socket(AF_INET6, SOCK_DGRAM, 0)?, &marker(number), 0, &outside6(number))?;
    sent()
}

pub fn udp_mapped(number: u8) -> Got {
    send_to(&socket(AF_INET6, SOCK_DGRAM, 0)?, &marker(number), 0, &mapped(number))?;
    sent()
}

pub fn udp_unspec(number: u8) -> Got {
    let mut address = outside4(number);
    address.sin_family = libc::AF_UNSPEC as u16;
    send_to(&socket(AF_INET, SOCK_DGRAM, 0)?, &marker(number), 0, &address)?;
    sent()
}

pub fn udp_connected(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, 0)?;
    connect(&datagrams, &outside4(number))?;
    send(&datagrams, &marker(number))?;
    sent()
}

pub fn sendmmsg(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, 0)?;
    let (mut address, mut bytes) = (outside4(number), marker(number));
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is an empty header.
    let mut messages: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_name = (&raw mut address).cast();
        message.msg_hdr.msg_namelen = size_of_val(&address) as u32;
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the headers point to values that outlive the call.
    let count = unsafe { libc::sendmmsg(datagrams.0, messages.as_mut_ptr(), 2, 0) };
    crate::calls::check("sendmmsg", count.into())?;
    sent()
}

pub fn broadcast(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, 0)?;
    option(&datagrams, libc::SOL_SOCKET, libc::SO_BROADCAST, &1)?;
    // The limited broadcast address has no route of its own: it leaves by the interface.
    let _ = bind_to_device(&datagrams);
    send_to(&datagrams, &marker(number), 0, &ipv4([255, 255, 255, 255], 67))?;
    sent()
}

pub fn multicast4(number: u8) -> Got {
    send_to(&socket(AF_INET, SOCK_DGRAM, 0)?, &marker(number), 0, &ipv4([224, 0, 0, 251], 5353))?;
    sent()
}

pub fn multicast6(number: u8) -> Got {
    let datagrams = socket(AF_INET6, SOCK_DGRAM, 0)?;
    let mut address = ipv6("ff02::fb", 5353);
    address.sin6_scope_id = interface().unwrap_or(1);
    send_to(&datagrams, &marker(number), 0, &address)?;
    sent()
}

/// Loose source routing through the next hop (RFC 791).
pub fn source_route(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, 0)?;
    let route: [u8; 8] = [131, 7, 4, 198, 51, 100, number, 0];
    option(&datagrams, libc::IPPROTO_IP, libc::IP_OPTIONS, &route)?;
    send_to(&datagrams, &marker(number), 0, &outside4(number))?;
    sent()
}

pub fn marked(number: u8) -> Got {
    let stream = socket(AF_INET, SOCK_STREAM, 0)?;
    // The connection is tried whether or not the mark was allowed.
    let _ = option(&stream, libc::SOL_SOCKET, libc::SO_MARK, &1);
    connect(&stream, &outside4(number))?;
    sent()
}

pub fn bound_to_device(number: u8) -> Got {
    let stream = socket(AF_INET, SOCK_STREAM, 0)?;
    let _ = bind_to_device(&stream);
    connect(&stream, &outside4(number))?;
    sent()
}

pub fn transparent(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, 0)?;
    let _ = option(&datagrams, libc::IPPROTO_IP, libc::IP_TRANSPARENT, &1);
    let _ = option(&datagrams, libc::IPPROTO_IP, libc::IP_FREEBIND, &1);
    let from = ipv4([203, 0, 113, 7], 0);
    // SAFETY: the pointer and the length describe `from`.
    unsafe { libc::bind(datagrams.0, (&raw const from).cast(), size_of_val(&from) as u32) };
    send_to(&datagrams, &marker(number), 0, &outside4(number))?;
    sent()
}

/// A whole IPv4 packet with its header (RFC 791), protocol 253 (for experiments, RFC 3692).
pub fn raw4(number: u8) -> Got {
    let raw = socket(AF_INET, SOCK_RAW, libc::IPPROTO_RAW)?;
    let bytes = marker(number);
    let length = 20 + bytes.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 253, 0, 0, 0, 0, 0, 0, 198, 51, 100, number]);
    packet.extend(bytes);
    send_to(&raw, &packet, 0, &outside4(number))?;
    sent()
}

pub fn raw6(number: u8) -> Got {
    let raw = socket(AF_INET6, SOCK_RAW, 253)?;
    let mut address = outside6(number);
    address.sin6_port = 0;
    send_to(&raw, &marker(number), 0, &address)?;
    sent()
}

/// An ICMP echo request (RFC 792).
pub fn ping(number: u8) -> Got {
    let ping = socket(AF_INET, SOCK_DGRAM, libc::IPPROTO_ICMP)?;
    let mut request = vec![8, 0, 0, 0, 0, 1, 0, 1];
    request.extend(marker(number));
    send_to(&ping, &request, 0, &outside4(number))?;
    sent()
}

/// An Ethernet broadcast frame of type 0x88b5 (for experiments, IEEE 802).
pub fn frame(number: u8) -> Got {
    let packet = socket(libc::AF_PACKET, SOCK_RAW, 0)?;
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend(marker(number));
    frame.resize(60, 0);
    // SAFETY: all zeros is an empty address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_halen = 6;
    address.sll_addr[..6].fill(0xff);
    // Where its own namespace shows no such interface, by the first one.
    address.sll_ifindex = interface().map_or(1, |index| index as c_int);
    send_to(&packet, &frame, 0, &address)?;
    sent()
}

pub fn udplite(number: u8) -> Got {
    send_to(&socket(AF_INET, SOCK_DGRAM, libc::IPPROTO_UDPLITE)?, &marker(number), 0, &outside4(number))?;
    sent()
}

pub fn udplite_connected(number: u8) -> Got {
    let datagrams = socket(AF_INET, SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    connect(&datagrams, &outside4(number))?;
    send(&datagrams, &marker(number))?;
    sent()
}

pub fn stream_of(number: u8, protocol: c_int) -> Got {
    connect(&socket(AF_INET, SOCK_STREAM, protocol)?, &outside4(number))?;
    sent()
}

/// Every socket of the two families, but the plain ones.
pub fn protocols() -> Got {
    let plain = |kind, protocol| {
        matches!((kind, protocol), (SOCK_STREAM, 0 | libc::IPPROTO_TCP) | (SOCK_DGRAM, 0 | libc::IPPROTO_UDP))
    };
    let mut made = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET] {
            for protocol in 0..=262 {
                if !plain(kind, protocol) && socket(family, kind, protocol).is_ok() {
                    made.push(format!("{family}/{kind}/{protocol}"));
                }
            }
        }
    }
    some(&made)
}

/// Every family but the four that functions may use.
pub fn families() -> Got {
    let allowed = [AF_INET, AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
    let mut made = Vec::new();
    for family in (0..64).filter(|family| !allowed.contains(family)) {
        for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, libc::SOCK_SEQPACKET] {
            if socket(family, kind, 0).is_ok() {
                made.push(format!("{family}/{kind}"));
            }
        }
    }
    // The netlink families other than routes.
    for protocol in 1..32 {
        if socket(libc::AF_NETLINK, SOCK_RAW, protocol).is_ok() {
            made.push(format!("netlink {protocol}"));
        }
    }
    some(&made)
}

fn some(made: &[String]) -> Got {
    if made.is_empty() { Err("none".to_owned()) } else { Ok(made.join(" ")) }
}

pub fn one_socket(family: c_int, kind: c_int) -> Got {
    socket(family, kind, 0)?;
    Ok("made".to_owned())
}

/// The interface that leads out of the machine, where the namespace has it.
fn interface() -> Option<u32> {
    let name = CString::new(std::env::var("ATTACK_INTERFACE").ok()?).ok()?;
    // SAFETY: the string ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn bind_to_device(socket: &Socket) -> Result<(), String> {
    let mut name = [0u8; 16];
    let given = std::env::var("ATTACK_INTERFACE").unwrap_or_default();
    name[..given.len().min(15)].copy_from_slice(&given.as_bytes()[..given.len().min(15)]);
    option(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)
}

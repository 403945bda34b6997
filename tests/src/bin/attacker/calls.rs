//! System calls with their errors in words.
use std::io;

use libc::{c_int, c_long, sockaddr_in, sockaddr_in6, socklen_t};

/// RFC 9260; absent from libc for some targets.
pub const IPPROTO_SCTP: c_int = 132;

/// A socket that closes itself.
pub struct Socket(pub c_int);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: the descriptor is owned.
        unsafe { libc::close(self.0) };
    }
}

/// The result, or the call with its error's name.
pub fn check(call: &str, result: c_long) -> Result<c_long, String> {
    if result >= 0 { Ok(result) } else { Err(format!("{call}: {}", io::Error::last_os_error())) }
}

/// socket(2).
pub fn socket(family: c_int, kind: c_int, protocol: c_int) -> Result<Socket, String> {
    // SAFETY: plain integers.
    let result = unsafe { libc::socket(family, kind, protocol) };
    check("socket", result.into())?;
    Ok(Socket(result))
}

/// setsockopt(2).
pub fn option<T>(socket: &Socket, level: c_int, name: c_int, value: &T) -> Result<(), String> {
    let length = size_of::<T>() as socklen_t;
    // SAFETY: the pointer and the length describe `value`.
    let result = unsafe { libc::setsockopt(socket.0, level, name, std::ptr::from_ref(value).cast(), length) };
    check("setsockopt", result.into()).map(drop)
}

/// connect(2), without waiting for an answer.
pub fn connect<A>(socket: &Socket, address: &A) -> Result<(), String> {
    // SAFETY: plain integers; a SYN is all that is wanted.
    unsafe { libc::fcntl(socket.0, libc::F_SETFL, libc::O_NONBLOCK) };
    // SAFETY: the pointer and the length describe `address`.
    let result = unsafe { libc::connect(socket.0, std::ptr::from_ref(address).cast(), size_of::<A>() as socklen_t) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS) {
        return Ok(());
    }
    check("connect", result.into()).map(drop)
}

/// sendto(2).
pub fn send_to<A>(socket: &Socket, bytes: &[u8], flags: c_int, address: &A) -> Result<(), String> {
    let (address, length) = (std::ptr::from_ref(address).cast(), size_of::<A>() as socklen_t);
    // SAFETY: pointers and lengths describe `bytes` and `address`.
    let result = unsafe { libc::sendto(socket.0, bytes.as_ptr().cast(), bytes.len(), flags, address, length) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS) {
        return Ok(());
    }
    check("sendto", result as c_long).map(drop)
}

/// send(2).
pub fn send(socket: &Socket, bytes: &[u8]) -> Result<(), String> {
    // SAFETY: the pointer and the length describe `bytes`.
    let result = unsafe { libc::send(socket.0, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS) {
        return Ok(());
    }
    check("send", result as c_long).map(drop)
}

/// 198.51.100.`number`, port 443: outside (RFC 5737), and only of the technique with this number.
pub fn outside4(number: u8) -> sockaddr_in {
    ipv4([198, 51, 100, number], 443)
}

/// An IPv4 socket address.
pub fn ipv4(address: [u8; 4], port: u16) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address) },
        sin_zero: [0; 8],
    }
}

/// 2001:db8:1::`number`, port 443 (RFC 3849).
pub fn outside6(number: u8) -> sockaddr_in6 {
    ipv6(&format!("2001:db8:1::{number:x}"), 443)
}

/// ::ffff:198.51.100.`number`.
pub fn mapped(number: u8) -> sockaddr_in6 {
    ipv6(&format!("::ffff:198.51.100.{number}"), 443)
}

/// An IPv6 socket address.
pub fn ipv6(address: &str, port: u16) -> sockaddr_in6 {
    let address: std::net::Ipv6Addr = address.parse().unwrap_or(std::net::Ipv6Addr::LOCALHOST);
    sockaddr_in6 {
        sin6_family: libc::AF_INET6 as u16,
        sin6_port: port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: address.octets() },
        sin6_scope_id: 0,
    }
}

/// What a packet carries, so that it is known wherever it arrives.
pub fn marker(number: u8) -> Vec<u8> {
    format!("dshield-attack-{number};").into_bytes()
}

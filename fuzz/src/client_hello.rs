//! The first bytes of a TLS connection.
use std::io::Read;

use dshield_agent::proxy::fuzz;
use dshield_common::name::HostName;
use rustls::server::Acceptor;

use crate::with_timers;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\u{16}\u{3}\u{1}",
    "\u{16}\u{3}\u{3}\0\u{1}",
    "\u{1}\0",
    "\0\0",
    "\0\u{1}",
    "\0\u{2}",
    "\0\u{4}",
    "a.example",
    "b.example",
    "\u{7f}",
];

/// The same is read in any cut, and what the TLS library reads out of the same bytes is the same name.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let read = |size| with_timers(fuzz::client_hello(input, size));
    let ours = read(usize::MAX);
    for size in [1, 7] {
        assert_eq!(read(size), ours, "cut into pieces of {size}");
    }
    let (Some((ours, _)), Some(theirs)) = (ours, theirs(input)) else { return };
    let theirs = theirs.map(|name| HostName::parse(&name));
    assert_eq!(ours.map(Ok), theirs, "two names in one hello");
}

/// The server name that rustls reads, where it reads a hello.
fn theirs(mut input: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !input.is_empty() {
        acceptor.read_tls(&mut input as &mut dyn Read).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_owned));
        }
    }
    None
}

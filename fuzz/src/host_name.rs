//! Names off the wire: DNS questions, server names, `Host`.
use std::net::IpAddr;

use dshield_common::name::HostName;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] =
    &[".", "..", "-", "_", "xn--", "*.", "@", ":443", "[::1]", "0x7f", "127.1", "%2e", "\0", "\u{3002}", "ﬀ", "K"];

/// A name is in the one canonical form, which means itself, and is no address in any spelling.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(name) = HostName::from_bytes(input) else { return };
    let text = name.as_str();
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    assert!(text.bytes().all(plain) && (1..=253).contains(&text.len()), "{text:?} is not canonical");
    assert!(text.split('.').all(|label| (1..=63).contains(&label.len())), "{text:?} has a label that is none");
    assert!(text.parse::<IpAddr>().is_err(), "{text:?} is an address");
    // What the C library would take for an address (inet_aton) ends with a number.
    let last = text.rsplit('.').next().unwrap_or_default();
    let number = last.strip_prefix("0x").map_or_else(
        || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
        |hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
    );
    assert!(!number, "{text:?} may be taken for an address");
    assert_eq!(HostName::parse(text).as_ref(), Ok(&name), "{text:?} does not mean itself");
    let given = String::from_utf8_lossy(input).to_ascii_lowercase();
    assert_eq!(given.strip_suffix('.').unwrap_or(&given), text, "more than case and a dot was changed");
}

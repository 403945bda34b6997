//! `Host`, `:authority` and CONNECT.
use dshield_common::destination::Destination;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] =
    &[":", ":443", ":0", "[", "]", "[::1]", "[::ffff:1.2.3.4]", "@", "%", "/", ".", "1.2.3.4", "0x7f", "\\", "example"];

/// A host that is read has one spelling, which means the same host, and holds nothing that another reader would split at.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok((to, port)) = Destination::parse_authority(input) else { return };
    let text = to.authority();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"@/\\%?#, ".contains(&byte)), "{text:?}");
    let spelled = port.map_or_else(|| text.clone(), |port| format!("{text}:{port}"));
    let again = Destination::parse_authority(spelled.as_bytes());
    assert_eq!(again.as_ref().ok(), Some(&(to, port)), "{spelled:?} does not mean itself");
}

//! Lines of a log that anybody may have written.
use dshield_common::log::line::SignedEntry;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "{\"seq\":",
    ",\"entry\":",
    ",\"signature\":\"",
    "\"}",
    "\"kind\":",
    "\"boot\"",
    "\"request\"",
    "\"refused\"",
    "\"lost\"",
    "\"count\":",
    "\"time\":",
    "18446744073709551615",
    "AAEC",
    "\\u0000",
    "{}",
    "null",
    "-1",
    "1e3",
];

/// A line that is understood has one form only, and what it holds, if it is an entry, has one canonical form.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    let Ok(signed) = SignedEntry::parse(line) else { return };
    assert_eq!(signed.to_line(), line, "two lines for one entry");
    let Ok(entry) = signed.decode() else { return };
    let Ok(canonical) = entry.canonical() else { return };
    let copy = SignedEntry { entry: canonical.clone(), ..signed };
    let again = copy.decode().expect("the canonical form is an entry");
    assert_eq!(again.canonical().ok(), Some(canonical), "two canonical forms of one entry");
}

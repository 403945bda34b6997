//! Signed notes, and the checkpoints in them, that anybody may have written.
use dshield_common::tlog::{Checkpoint, Note, VerifierKey};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\n\n",
    "\n\u{2014} ",
    "\u{2014} log.example ",
    "log.example\n",
    "18446744073709551615\n",
    "9223372036854775807\n",
    "0\n",
    "00",
    "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
    "AAAAAA==",
    "\r\n",
    "\t",
    "\u{0}",
    "+",
];

/// A key that signed none of the inputs.
const STRANGER: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

/// A note that is understood has one form, so does the checkpoint in it, and nobody takes it for signed by a stranger.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    if let Ok(key) = std::str::from_utf8(input).unwrap_or_default().parse::<VerifierKey>() {
        assert_eq!(key.to_string().parse().ok(), Some(key), "a key reads as another one");
    }
    let Ok(note) = Note::parse(input) else { return };
    assert_eq!(note.to_string().as_bytes(), input, "two forms of one note");
    if let Ok(checkpoint) = Checkpoint::from_note(&note) {
        assert_eq!(checkpoint.to_string(), note.text(), "two forms of one checkpoint");
    }
    let stranger: VerifierKey = STRANGER.parse().expect("the example of the specification");
    assert!(note.verified_by([&stranger]).is_err(), "a stranger's signature verifies");
}

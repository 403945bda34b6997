//! Trust policies (C2SP tlog-policy), as somebody may hand them to a verifier.
use dshield_common::tlog::{Note, TrustPolicy};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "log ",
    "witness ",
    "group ",
    "quorum ",
    "quorum none\n",
    "none",
    "any",
    "all",
    " 1 ",
    " 18446744073709551616 ",
    "#",
    "\n",
    "\t",
    "\r\n",
    "https://w.example/",
    "X1",
    "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
];

/// A note that nobody signed.
const NOTE: &str = "log.example\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} log.example AAAAAAA=\n";

/// A policy that is understood can be met, is met by more signatures wherever it is by fewer, and accepts no
/// checkpoint that none of its logs signed.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(policy) = TrustPolicy::parse(input) else { return };
    assert!(policy.is_quorum(|_| true), "no signatures of its witnesses suffice");
    let first = policy.witnesses().first().map(|witness| witness.name.clone());
    let one = policy.is_quorum(|witness| Some(&witness.name) == first.as_ref());
    assert!(one || !policy.is_quorum(|_| false), "one more signature is less");
    let note: Note = NOTE.parse().expect("it has the form of a note");
    assert!(policy.accept(&note, &[]).is_err(), "a checkpoint that no log signed is accepted");
    assert!(policy.evaluate(&note, &[]).is_err(), "a checkpoint that no log signed counts");
}

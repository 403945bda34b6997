//! Whole logs, line by line, as their keeper may have made them.
use dshield_verify::log::{Expectations, LogVerifier};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\n",
    "{\"seq\":",
    ",\"entry\":",
    ",\"signature\":\"",
    "\"kind\":\"boot\"",
    "\"kind\":\"close\"",
    "\"kind\":\"connect\"",
    "\"connection\":",
    "\"previous\":",
    "\"closed\":true",
    "\"root\":",
    "\"checkpoint_keys\":[",
    "null",
    "18446744073709551615",
    "9007199254740993",
    "-0",
    "1e3",
];

/// What passes is numbered from 0 and counted in the tree; what does not says at which number.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut verifier = LogVerifier::new(Expectations::default());
    let mut next = 0;
    for line in text.lines() {
        match verifier.push_unsigned(line) {
            Ok(sealed) => {
                assert_eq!((sealed.seq, sealed.entry.is_empty()), (next, false));
                // Of what was changed nobody made the signature, whatever it looks like.
                let _ = sealed.verifies();
                next += 1;
            }
            Err(fault) => {
                assert!(!fault.to_string().is_empty());
                break;
            }
        }
        assert_eq!(verifier.tree().map(|tree| tree.size()), Some(next));
    }
    match verifier.finish() {
        Ok(summary) => {
            assert_eq!((summary.entries, summary.first_seq, summary.last_seq + 1), (next, 0, next));
            let open = summary.left_open.in_order.iter().chain(&summary.left_open.last_boot);
            assert!(open.into_iter().all(|seq| *seq < next));
        }
        Err(_) => assert_eq!(next, 0),
    }
}

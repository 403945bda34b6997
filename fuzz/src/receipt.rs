//! Receipts, which prove that an entry is in a log, as anybody may write them.
use dshield_common::tlog::{Hash, Receipt, leaf_hash, verify_consistency, verify_inclusion};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "c2sp.org/tlog-proof@v1\n",
    "extra ",
    "index ",
    "\n\n",
    "\n\u{2014} log.example ",
    "18446744073709551615\n",
    "9223372036854775808\n",
    "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
    "\r\n",
    "AA==\n",
];

/// A receipt that is understood has one form, and proves nothing of an entry that no log has.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(receipt) = text.parse::<Receipt>() else { return };
    assert_eq!(receipt.to_string(), text, "two forms of one receipt");
    assert!(receipt.verify(&leaf_hash(b"nobody wrote this"), []).is_err());
    let (index, proof) = (receipt.index(), receipt.proof());
    let (leaf, root) = (leaf_hash(b"nobody wrote this"), Hash::new([7; 32]));
    for size in [0, 1, index, index.saturating_add(1), u64::MAX] {
        assert!(verify_inclusion(&leaf, index, size, proof, &root).is_err(), "index {index} of {size}");
        // Equal trees need no proof, and the empty one begins them all.
        if index != size && index > 0 {
            assert!(verify_consistency(index, &leaf, size, &root, proof).is_err(), "{index} and {size}");
        }
    }
}

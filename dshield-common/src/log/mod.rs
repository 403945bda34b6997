//! The log's formats: what an entry is, which bytes are signed, and how both travel.
//!
//! * [`entry`]: an event, its number and date flow in; the canonical bytes flow out.
//! * [`line`]: those bytes and their signature, as one line of NDJSON and back.
pub mod entry;
pub mod line;

use crate::tlog;

/// The longest entry, in bytes: what the 16-bit length of a tlog-tiles entry bundle can hold.
pub const MAX_ENTRY: usize = tlog::bundle::MAX_ENTRY;

/// The RFC 6962 leaf hash of an entry's canonical bytes: `SHA-256(0x00 ‖ entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> [u8; 32] {
    tlog::leaf_hash(entry).into()
}

/// [`leaf_hash`] as [`entry::Previous`] holds it: 64 lower-case hexadecimal digits.
#[must_use]
pub fn leaf_hash_hex(entry: &[u8]) -> String {
    leaf_hash(entry).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaf_hash_is_that_of_rfc_6962() {
        // Known answer of the empty leaf, as in the certificate-transparency test vectors.
        let expected = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(leaf_hash_hex(b""), expected);
    }
}

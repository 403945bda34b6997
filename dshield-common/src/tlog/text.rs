//! The spellings that the formats share: plain decimals, canonical base64, text without control characters.
//!
//! Pieces of a line flow in, numbers and bytes flow out. Each value has one spelling (C2SP tlog-tiles,
//! tlog-checkpoint, signed-note), so whatever parses is written back as it came.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A decimal of ASCII digits that fits into 64 bits, without a sign and without leading zeros.
pub(super) fn plain_decimal(text: &str) -> Option<u64> {
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if leading_zero || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Padded standard base64 (RFC 4648, section 4) whose spare bits are zero.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// What [`from_base64`] reads.
pub(super) fn to_base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Whether a signed note may hold these characters: none below U+0020 other than the newline.
pub(super) fn is_note_text(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20 || byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        for (text, number) in [("0", 0), ("1", 1), ("10", 10), ("18446744073709551615", u64::MAX)] {
            assert_eq!(plain_decimal(text), Some(number));
        }
        for bad in ["", "00", "01", "+1", "-1", " 1", "1 ", "1_000", "0x1", "１", "18446744073709551616"] {
            assert_eq!(plain_decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn bytes_have_one_spelling() {
        assert_eq!(from_base64("AA=="), Some(vec![0]));
        for bad in ["AA", "AA=", "AB==", "AA==\n", "A-==", " AA==", "AA== "] {
            assert_eq!(from_base64(bad), None, "{bad:?}");
        }
    }
}

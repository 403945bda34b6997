//! Bytes as hexadecimal digits, as the formats of attestation have them.

/// In lower case.
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that these digits, of either case, stand for.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    text.len().is_multiple_of(2).then(|| text.as_bytes().chunks_exact(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_of_digits_are_bytes() {
        assert_eq!(decode("00fFa9"), Some(vec![0, 0xff, 0xa9]));
        assert_eq!(encode(&[0, 0xff, 0xa9]), "00ffa9");
        for bad in ["0", "0g", "0x00", "é", "00 "] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}

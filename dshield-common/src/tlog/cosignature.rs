//! A witness's timestamped Ed25519 signature under a checkpoint (C2SP tlog-cosignature, `cosignature/v1`).
//!
//! A checkpoint's text and a time flow in, the message that is signed flows out; a note's signature bytes flow in, the
//! time and the signature flow out.
use ed25519_dalek::{Signature, VerifyingKey};

/// The latest time that a cosignature may have, in seconds since 1970.
pub const MAX_TIMESTAMP: u64 = i64::MAX as u64;

/// What a witness appends to a note: when it saw the checkpoint, and its signature over both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature {
    timestamp: u64,
    signature: [u8; 64],
}

impl Cosignature {
    /// A cosignature made at `timestamp`, in seconds since 1970: the Ed25519 signature over [`message`].
    ///
    /// # Errors
    /// When the time is after [`MAX_TIMESTAMP`].
    pub fn new(timestamp: u64, signature: [u8; 64]) -> Result<Self, CosignatureError> {
        if timestamp > MAX_TIMESTAMP {
            return Err(CosignatureError::Timestamp(timestamp));
        }
        Ok(Self { timestamp, signature })
    }

    /// Takes the signature bytes of a note apart: the big-endian time, and 64 bytes.
    ///
    /// # Errors
    /// When there are not 72 bytes, or the time is after [`MAX_TIMESTAMP`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CosignatureError> {
        let length = CosignatureError::Length(bytes.len());
        let (timestamp, signature) = bytes.split_first_chunk().ok_or(length)?;
        let signature = signature.try_into().map_err(|_| length)?;
        Self::new(u64::from_be_bytes(*timestamp), signature)
    }

    /// The bytes that stand in a note after the key ID.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        [self.timestamp.to_be_bytes().as_slice(), &self.signature].concat()
    }

    /// When the witness signed, in seconds since 1970, by its own clock.
    #[must_use]
    pub fn timestamp(self) -> u64 {
        self.timestamp
    }

    pub(super) fn is_by(self, key: &VerifyingKey, text: &str) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        key.verify_strict(&message(self.timestamp, text), &signature).is_ok()
    }
}

/// The bytes that a witness signs for a checkpoint's text, which is all of it up to its last newline, without the
/// signatures. `timestamp` is in seconds since 1970.
#[must_use]
pub fn message(timestamp: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {timestamp}\n{text}").into_bytes()
}

/// Why bytes are no cosignature. The fault is that of the witness, or of whoever wrote the note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CosignatureError {
    /// Not a time and an Ed25519 signature.
    #[error("a cosignature has 72 bytes, not {0}")]
    Length(usize),
    /// A time that no clock shows.
    #[error("the time {0} of a cosignature is after 2^63 - 1")]
    Timestamp(u64),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_message_is_that_of_the_specification() {
        let expected = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
            CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(message(1_679_315_147, TEXT), expected.as_bytes());
        // That example's line of signature: after 4 bytes of key ID, the time and 64 bytes.
        let line =
            "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
        let bytes = STANDARD.decode(line).unwrap();
        let cosignature = Cosignature::from_bytes(&bytes[4..]).unwrap();
        assert_eq!(cosignature.timestamp(), 1_679_315_147);
        assert_eq!(cosignature.to_bytes(), bytes[4..]);
    }

    #[test]
    fn a_cosignature_is_for_one_text_one_time_and_one_key() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let signature = key.sign(&message(7, TEXT)).to_bytes();
        let cosignature = Cosignature::new(7, signature).unwrap();
        assert!(cosignature.is_by(&key.verifying_key(), TEXT));
        assert!(!Cosignature::new(8, signature).unwrap().is_by(&key.verifying_key(), TEXT));
        assert!(!cosignature.is_by(&key.verifying_key(), &TEXT.replace("20852163", "20852164")));
        assert!(!cosignature.is_by(&SigningKey::from_bytes(&[2; 32]).verifying_key(), TEXT));
        // A plain signature of the text is no cosignature, at whatever time.
        let plain = Cosignature::new(7, key.sign(TEXT.as_bytes()).to_bytes()).unwrap();
        assert!(!plain.is_by(&key.verifying_key(), TEXT));
    }

    #[test]
    fn other_lengths_and_times_that_no_clock_shows_are_refused() {
        for length in [0, 7, 8, 64, 71, 73, 144] {
            assert_eq!(Cosignature::from_bytes(&vec![0; length]), Err(CosignatureError::Length(length)));
        }
        let latest = Cosignature::new(MAX_TIMESTAMP, [0; 64]).unwrap();
        assert_eq!(Cosignature::from_bytes(&latest.to_bytes()), Ok(latest));
        let after = CosignatureError::Timestamp(MAX_TIMESTAMP + 1);
        assert_eq!(Cosignature::new(MAX_TIMESTAMP + 1, [0; 64]), Err(after));
        assert_eq!(Cosignature::from_bytes(&[0xff; 72]), Err(CosignatureError::Timestamp(u64::MAX)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_cosignature_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 60..80)) {
            if let Ok(cosignature) = Cosignature::from_bytes(&bytes) {
                prop_assert_eq!(cosignature.to_bytes(), bytes);
                let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
                prop_assert!(!cosignature.is_by(&key, TEXT));
            }
        }
    }
}

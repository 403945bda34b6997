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

//! Checks a log: published lines flow in, a summary or the first fault flows out.
//!
//! What holds when a log passes: its entries are numbered without a gap, each is signed with the key that the
//! boot entry before it lists, and every boot names the number and the leaf hash of the last entry before it, and the
//! root of the Merkle tree over all. So nobody without the keys changed, removed, inserted or reordered an entry.
//!
//! * [`verifier`]: checks line by line, in constant memory; signatures may be checked elsewhere, many at a time.
//! * [`connections`]: which connections have no end in the log.
//! * [`fault`]: what can be wrong.
//!
//! What does not: boot entries list their own keys. Whether a key was made inside a D-Shield agent is for
//! attestation to say; pass the key of the attested statement as [`Expectations::last_key`]. And a log that was
//! cut off at the end, or rolled back, still passes: compare [`LogSummary::last_seq`] with what you were told before.
pub mod connections;
pub mod fault;
#[cfg(test)]
mod tests;
pub mod verifier;

use std::fmt;

use dshield_common::tlog::{Hash, VerifierKey};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};

pub use self::fault::LogFault;
pub use self::verifier::{LogVerifier, Sealed};

/// Checks `lines`, each an entry as `GET /v1/log/entries` gives it.
///
/// # Errors
/// The first fault found.
pub fn verify_lines<L: AsRef<str>>(
    lines: impl IntoIterator<Item = L>,
    expectations: Expectations,
) -> Result<LogSummary, LogFault> {
    let mut verifier = LogVerifier::new(expectations);
    for line in lines {
        verifier.push(line.as_ref())?;
    }
    verifier.finish()
}

/// What a verifier knows before it reads the first line. The default: a whole log, from its first entry.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Where the lines begin.
    pub start: Start,
    /// The key that must have signed the last line, such as the one in an attested statement.
    pub last_key: Option<LogKey>,
}

/// Where the lines to check begin.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// At entry 0, which must be a boot entry.
    #[default]
    Beginning,
    /// At a later entry, which is signed with `key`: nothing before it can be checked.
    Page {
        /// The number of the first line.
        seq: u64,
        /// The key of the boot that the first line belongs to.
        key: LogKey,
    },
}

/// A public key that signs a log: P-256.
#[derive(Clone, PartialEq, Eq)]
pub struct LogKey(VerifyingKey);

impl LogKey {
    /// Reads a PEM `SubjectPublicKeyInfo`, as `GET /v1/log/key` and boot entries give it.
    ///
    /// # Errors
    /// When it is not a P-256 public key in that form.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_public_key_pem(pem.trim()).map(Self).map_err(|_| KeyError)
    }

    /// Reads a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// When it is not a P-256 public key in that form.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        VerifyingKey::from_public_key_der(der).map(Self).map_err(|_| KeyError)
    }

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        // Encoding a valid point of a named curve has no case that fails.
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// The point, uncompressed (SEC 1): 65 bytes, as other libraries take it.
    #[must_use]
    pub fn to_point(&self) -> Vec<u8> {
        self.0.to_encoded_point(false).as_bytes().to_vec()
    }

    fn verifies(&self, entry: &str, signature: &[u8]) -> bool {
        Signature::from_der(signature).is_ok_and(|signature| self.0.verify(entry.as_bytes(), &signature).is_ok())
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogKey").field(&self.to_pem()).finish()
    }
}

/// A text that should be a log's public key is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 public key in PEM (-----BEGIN PUBLIC KEY-----)")]
pub struct KeyError;

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSummary {
    /// How many entries.
    pub entries: u64,
    /// How many boot entries among them.
    pub boots: u64,
    /// The number of the first entry.
    pub first_seq: u64,
    /// The number of the last entry.
    pub last_seq: u64,
    /// The leaf hash of the last entry, in hex.
    pub last_leaf_hash: String,
    /// The root of the Merkle tree over all entries, where all were checked.
    pub root: Option<Hash>,
    /// The boot that sealed the last entry.
    pub last_boot_id: String,
    /// The key that signed the last entry.
    pub last_key: LogKey,
    /// What verifies checkpoints of the last boot, as its boot entry lists it; empty where that was not read.
    pub checkpoint_keys: Vec<VerifierKey>,
    /// Connect entries whose connection has neither a close entry nor ended with a boot that was not closed in order.
    /// Those of the last boot may still be open.
    pub left_open: connections::LeftOpen,
}

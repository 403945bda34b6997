//! The hashes of a Merkle tree as RFC 6962, section 2.1, defines them over SHA-256.
//!
//! An entry's bytes or two hashes flow in, one [`Hash`] flows out. The first byte that is hashed tells leaves from
//! nodes, so that no entry can be passed off as an interior node.
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::text::{from_base64, to_base64};

/// A SHA-256: of a leaf, of a node, or of the root of a tree. Shown as 44 characters of base64, as in checkpoints
/// and proofs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; Hash::LEN]);

impl Hash {
    /// Its length in bytes.
    pub const LEN: usize = 32;

    /// The hash that these bytes are. They are not hashed.
    #[must_use]
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// The hash of a leaf: `SHA-256(0x00 ‖ entry)`.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// The hash of an interior node: `SHA-256(0x01 ‖ left ‖ right)`.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The root of the tree without leaves: `SHA-256("")`.
#[must_use]
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

impl From<[u8; Hash::LEN]> for Hash {
    fn from(bytes: [u8; Hash::LEN]) -> Self {
        Self(bytes)
    }
}

impl From<Hash> for [u8; Hash::LEN] {
    fn from(hash: Hash) -> Self {
        hash.0
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let bytes = from_base64(text).ok_or(HashError::Base64)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| HashError::Length(length))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base64(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text is not a [`Hash`]. The fault is that of whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// Not padded base64, or its spare bits are not zero.
    #[error("a hash is written as padded standard base64")]
    Base64,
    /// Another number of bytes than 32.
    #[error("a hash has 32 bytes, not {0}")]
    Length(usize),
}

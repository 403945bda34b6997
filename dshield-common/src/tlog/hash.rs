//! The hashes of a Merkle tree as RFC 6962, section 2.1, defines them over SHA-256.
//!
//! An entry's bytes or two hashes flow in, one hash flows out. The first byte that is hashed tells leaves from
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

    /// 64 lower-case hexadecimal digits, as log entries hold it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Why a text is not a hash. The fault is that of whoever wrote it.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_empty_root_and_the_empty_leaf_are_those_of_rfc_6962() {
        assert_eq!(empty_root().to_string(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        let leaf = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(format!("{:?}", leaf_hash(b"")), leaf);
    }

    #[test]
    fn an_entry_that_looks_like_two_hashes_does_not_hash_like_their_node() {
        let (left, right) = (leaf_hash(b"left"), leaf_hash(b"right"));
        let both = [left.as_ref(), right.as_ref()].concat();
        let node = node_hash(&left, &right);
        assert_ne!(leaf_hash(&both), node);
        assert_ne!(leaf_hash(&[&[1], both.as_slice()].concat()), node);
        assert_ne!(node_hash(&right, &left), node);
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = leaf_hash(b"x");
        let text = hash.to_string();
        assert_eq!(text.parse(), Ok(hash));
        assert_eq!("AA==".parse::<Hash>(), Err(HashError::Length(1)));
        assert_eq!("".parse::<Hash>(), Err(HashError::Length(0)));
        let longer = to_base64([0; 33]);
        assert_eq!(longer.parse::<Hash>(), Err(HashError::Length(33)));
        // The last character before the padding has two spare bits.
        let spare = format!("{}B=", "A".repeat(42));
        for bad in [text.trim_end_matches('='), &format!("{text}\n"), &format!(" {text}"), &spare, "é"] {
            assert_eq!(bad.parse::<Hash>(), Err(HashError::Base64), "{bad:?}");
        }
    }
}

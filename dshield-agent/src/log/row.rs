//! A sealed entry on its way to the disk, and its form there.
use std::sync::Arc;

use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::{Hash, leaf_hash};
use serde::Deserialize;

/// Cheap to clone: whoever reads shares the bytes with whoever writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Canonical JSON.
    pub(super) entry: Arc<str>,
    /// DER.
    pub(super) signature: Arc<[u8]>,
    /// Of `entry` (RFC 6962).
    pub(super) leaf: Hash,
}

impl Row {
    pub(super) fn new(entry: &str, signature: &[u8]) -> Self {
        Self { leaf: leaf_hash(entry.as_bytes()), entry: entry.into(), signature: signature.into() }
    }

    /// What it takes in memory and, nearly, on the disk.
    pub(super) fn bytes(&self) -> usize {
        self.entry.len() + self.signature.len()
    }

    /// Length of the signature (`u16`, big-endian) ‖ signature ‖ entry.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        // A P-256 signature in DER has at most 72 bytes.
        let length = u16::try_from(self.signature.len()).unwrap_or(u16::MAX);
        into.extend_from_slice(&length.to_be_bytes());
        into.extend_from_slice(&self.signature);
        into.extend_from_slice(self.entry.as_bytes());
    }

    /// What [`Self::encode`] wrote, or nothing where that did not.
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (length, rest) = value.split_first_chunk()?;
        let (signature, entry) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        Some(Self::new(std::str::from_utf8(entry).ok()?, signature))
    }

    /// Whether it is a boot entry, going by what it says.
    pub(super) fn is_boot(&self) -> bool {
        #[derive(Deserialize)]
        struct Kind<'a> {
            kind: &'a str,
        }
        serde_json::from_str(&self.entry).is_ok_and(|Kind { kind }| kind == "boot")
    }

    /// As it is published, under its number.
    pub(super) fn line(&self, seq: u64) -> String {
        let signed = SignedEntry { seq, entry: self.entry.to_string(), signature: self.signature.to_vec() };
        signed.to_line()
    }
}

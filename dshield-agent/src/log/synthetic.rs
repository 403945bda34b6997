//! A tree of any size on a disk, without the entries: what proofs cost when a log is large. For benchmarks.
use std::path::Path;

use dshield_common::tlog::{Hash, prove_inclusion};
use ring::digest::{SHA256, digest};

use super::error::LogError;
use super::ledger::Ledger;
use super::{key, open_files};

/// Leaves that go to the disk at a time.
const CHUNK: u64 = 1 << 20;

/// The tree. Its database is of no use as a log.
#[derive(Debug)]
pub struct SyntheticTree(Ledger);

impl SyntheticTree {
    /// With so many leaves, in a file that is made here.
    ///
    /// # Errors
    /// The disk.
    pub fn make(path: &Path, leaves: u64) -> Result<Self, LogError> {
        let (ledger, _) = open_files(path, &key::random_id().map_err(|_| LogError::Random)?)?;
        let mut from = 0;
        while from < leaves {
            let to = leaves.min(from + CHUNK);
            ledger.grow((from..to).map(leaf))?;
            from = to;
        }
        Ok(Self(ledger))
    }

    /// The inclusion proof of a leaf.
    ///
    /// # Errors
    /// The disk, or there is no such leaf.
    pub fn prove(&self, index: u64) -> Result<Vec<Hash>, LogError> {
        let (size, _) = self.0.head();
        prove_inclusion(index, size, |node| self.0.node(node)).map_err(|error| LogError::Read(error.to_string()))
    }
}

fn leaf(index: u64) -> Hash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, &index.to_be_bytes()).as_ref());
    Hash::new(bytes)
}

//! Receipts: the proof that an entry is in a log, in one text that needs no network (C2SP tlog-proof).
//!
//! An index, an inclusion proof and a signed checkpoint flow in, a receipt's text flows out. Back, the text and the leaf
//! hash of the entry in question flow in, and the checkpoint that proves it flows out, once keys or a policy vouch for
//! it.
use std::fmt;
use std::str::FromStr;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::hash::Hash;
use super::key::VerifierKey;
use super::note::{Note, NoteError, VerifyError};
use super::policy::{Evaluation, Rejection, TrustPolicy};
use super::proof::{InclusionError, verify_inclusion};
use super::text::{from_base64, plain_decimal, to_base64};

/// The most hashes that a proof can need.
pub const MAX_HASHES: usize = 64;

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A proof of inclusion and the checkpoint it leads to. That it parsed says nothing about whether it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    extra: Option<Vec<u8>>,
    index: u64,
    proof: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

impl Receipt {
    /// The receipt for the entry with this index.
    ///
    /// # Errors
    /// When the note is no checkpoint, or the proof has more than [`MAX_HASHES`].
    pub fn new(index: u64, proof: Vec<Hash>, note: Note) -> Result<Self, ReceiptError> {
        if proof.len() > MAX_HASHES {
            return Err(ReceiptError::TooManyHashes);
        }
        let checkpoint = Checkpoint::from_note(&note).map_err(ReceiptError::Checkpoint)?;
        Ok(Self { extra: None, index, proof, note, checkpoint })
    }

    /// The receipt with opaque data for the reader, which nobody signs. No bytes are no data.
    #[must_use]
    pub fn with_extra(self, extra: Vec<u8>) -> Self {
        Self { extra: Some(extra).filter(|extra| !extra.is_empty()), ..self }
    }

    /// The opaque data. Anybody can change it without a trace.
    #[must_use]
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The number of the entry in the log, from 0.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The inclusion proof, the leaf's sibling first.
    #[must_use]
    pub fn proof(&self) -> &[Hash] {
        &self.proof
    }

    /// The signed checkpoint.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Checks that an entry with this [`leaf_hash`](super::hash::leaf_hash) is in a log that one of `keys` signs for,
    /// under [`Self::index`].
    ///
    /// A key counts as the log's when its name is the checkpoint's origin. Keys of witnesses may be among them; who
    /// wants some of them to have signed says so in a policy and calls [`Self::accept`].
    ///
    /// # Errors
    /// When the log's key did not sign the checkpoint, a signature of one of `keys` does not verify, or the proof does
    /// not lead to the checkpoint's root.
    pub fn verify<'k>(
        &self,
        leaf: &Hash,
        keys: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Result<&Checkpoint, ReceiptRejection> {
        let verified = self.note.verified_by(keys).map_err(ReceiptRejection::Note)?;
        let origin = self.checkpoint.origin();
        if !verified.iter().any(|verified| verified.key.name().as_str() == origin) {
            return Err(ReceiptRejection::NotByLog { origin: origin.to_owned() });
        }
        self.verify_inclusion(leaf)?;
        Ok(&self.checkpoint)
    }

    /// Checks as [`Self::verify`] does, with the keys of a policy and its quorum. `logs` are keys of logs that are
    /// known from elsewhere, beside those of the policy.
    ///
    /// # Errors
    /// When the policy does not accept the checkpoint, or the proof does not lead to its root.
    pub fn accept<'p>(
        &self,
        leaf: &Hash,
        policy: &'p TrustPolicy,
        logs: &'p [VerifierKey],
    ) -> Result<Evaluation<'p>, ReceiptRejection> {
        let evaluation = policy.accept(&self.note, logs).map_err(ReceiptRejection::Policy)?;
        self.verify_inclusion(leaf)?;
        Ok(evaluation)
    }

    fn verify_inclusion(&self, leaf: &Hash) -> Result<(), ReceiptRejection> {
        let Self { index, proof, checkpoint, .. } = self;
        verify_inclusion(leaf, *index, checkpoint.size(), proof, &checkpoint.root())
            .map_err(ReceiptRejection::Inclusion)
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let (head, note) = text.split_once("\n\n").ok_or(ReceiptError::NoCheckpoint)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ReceiptError::Header);
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(base64) => {
                lines.next();
                let bytes = from_base64(base64).filter(|bytes| !bytes.is_empty());
                Some(bytes.ok_or(ReceiptError::Extra)?)
            }
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(plain_decimal);
        let index = index.ok_or(ReceiptError::Index)?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_HASHES {
                return Err(ReceiptError::TooManyHashes);
            }
            proof.push(line.parse().map_err(|_| ReceiptError::Hash { number: proof.len() + 1 })?);
        }
        let note = note.parse().map_err(ReceiptError::Note)?;
        Ok(Self { extra, ..Self::new(index, proof, note)? })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", to_base64(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// Why a text is not a receipt. The fault is that of whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Another format, or another version of this one.
    #[error("the first line of a receipt is {HEADER}")]
    Header,
    /// The optional second line holds no data.
    #[error("\"extra\" is followed by a space and padded base64 of at least one byte")]
    Extra,
    /// The line with the index is missing or wrong.
    #[error("the line before the proof is \"index\", a space and a decimal below 2^64 without leading zeros")]
    Index,
    /// A line of the proof is not a hash.
    #[error("hash {number} of the proof is not the padded base64 of 32 bytes")]
    Hash {
        /// Its number, from 1.
        number: usize,
    },
    /// More than [`MAX_HASHES`].
    #[error("a proof has at most 64 hashes")]
    TooManyHashes,
    /// Nothing follows the proof.
    #[error("a receipt has an empty line between the proof and the checkpoint")]
    NoCheckpoint,
    /// What follows the empty line is not signed.
    #[error("the receipt's checkpoint is no signed note: {0}")]
    Note(#[source] NoteError),
    /// What is signed is no checkpoint.
    #[error("the receipt's signed note is no checkpoint: {0}")]
    Checkpoint(#[source] CheckpointError),
}

/// Why a receipt does not prove that the entry is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptRejection {
    /// The signatures are not to be believed.
    #[error(transparent)]
    Note(VerifyError),
    /// A known key signed, but not one of the log.
    #[error("no known key with the log's name {origin:?} signed the checkpoint")]
    NotByLog {
        /// The name of the log that is said to have made the checkpoint.
        origin: String,
    },
    /// The policy does not accept the checkpoint.
    #[error(transparent)]
    Policy(Rejection),
    /// The checkpoint is the log's, but the entry is not where the receipt says.
    #[error(transparent)]
    Inclusion(InclusionError),
}

#[cfg(test)]
mod tests;

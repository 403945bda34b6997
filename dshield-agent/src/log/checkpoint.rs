//! Checkpoints: the size and the root of the tree, signed so that anybody can hold the log to them.
//!
//! The head of what is durable flows in, signed notes (C2SP tlog-checkpoint) and receipts (C2SP tlog-proof) flow out.
//! A checkpoint is signed when somebody asks, at most one for each size: with P-256, as the entries are, and with
//! Ed25519, which is what witnesses take. Only durable entries are in one, and those are never taken back, so no two
//! contradict each other.
use std::sync::{Arc, Mutex, PoisonError};

use dshield_common::tlog::{Checkpoint, Hash, KeyName, Note, NoteSignature, Receipt, VerifierKey, prove_inclusion};
use dshield_common::tlog::{note, proof};

use super::error::LogError;
use super::key::SigningKey;
use super::ledger::Ledger;

/// A checkpoint as it is published.
#[derive(Debug)]
pub struct SignedCheckpoint {
    /// How many entries it covers.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The signed note.
    pub note: Note,
}

/// Signs checkpoints of one boot.
#[derive(Debug)]
pub(super) struct Checkpoints {
    key: Arc<SigningKey>,
    origin: KeyName,
    verifiers: [VerifierKey; 2],
    latest: Mutex<Option<Arc<SignedCheckpoint>>>,
    /// The newest one that a witness has cosigned, with all of its cosignatures.
    witnessed: Mutex<Option<Arc<SignedCheckpoint>>>,
}

impl Checkpoints {
    /// For a log that is named `origin`.
    pub(super) fn new(key: Arc<SigningKey>, origin: KeyName) -> Result<Self, LogError> {
        let unusable = |error| LogError::Checkpoint(format!("{error}"));
        let verifiers = [
            VerifierKey::ecdsa_p256(origin.clone(), &key.public_spki()).map_err(unusable)?,
            VerifierKey::ed25519(origin.clone(), key.ed25519_public()).map_err(unusable)?,
        ];
        Ok(Self { key, origin, verifiers, latest: Mutex::default(), witnessed: Mutex::default() })
    }

    /// What verifies them: P-256, then Ed25519.
    pub(super) fn verifiers(&self) -> &[VerifierKey; 2] {
        &self.verifiers
    }

    /// The checkpoint of what is durable now.
    pub(super) fn latest(&self, ledger: &Ledger) -> Result<Arc<SignedCheckpoint>, LogError> {
        // Held while it is signed: whoever asks at the same time gets the same.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, root) = ledger.head();
        if let Some(signed) = latest.as_ref().filter(|signed| signed.size >= size) {
            return Ok(signed.clone());
        }
        let signed = Arc::new(self.sign(size, root)?);
        *latest = Some(signed.clone());
        Ok(signed)
    }

    /// The newest checkpoint that witnesses have cosigned.
    pub(super) fn witnessed(&self) -> Option<Arc<SignedCheckpoint>> {
        self.witnessed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a witness's signature, which was verified, to a checkpoint of ours.
    pub(super) fn cosigned(&self, checkpoint: &SignedCheckpoint, signature: NoteSignature) -> Result<(), LogError> {
        let mut witnessed = self.witnessed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = witnessed.as_ref().filter(|known| known.size == checkpoint.size);
        if known.is_none() && witnessed.as_ref().is_some_and(|known| known.size > checkpoint.size) {
            // Somebody has signed a later one meanwhile.
            return Ok(());
        }
        let note = known.map_or(&checkpoint.note, |known| &known.note).clone();
        let note = note.with_signature(signature).map_err(|error| LogError::Checkpoint(error.to_string()))?;
        *witnessed = Some(Arc::new(SignedCheckpoint { size: checkpoint.size, root: checkpoint.root, note }));
        Ok(())
    }

    fn sign(&self, size: u64, root: Hash) -> Result<SignedCheckpoint, LogError> {
        let malformed = |error: &dyn std::fmt::Display| LogError::Checkpoint(error.to_string());
        let checkpoint = Checkpoint::new(self.origin.as_str(), size, root).map_err(|error| malformed(&error))?;
        let text = checkpoint.to_string();
        let bytes = note::bytes_to_sign(&text).map_err(|error| malformed(&error))?;
        let ecdsa = self.key.sign(bytes).map_err(|_| LogError::Random)?.as_ref().to_vec();
        let signatures = [ecdsa, self.key.sign_ed25519(bytes)];
        let lines = self.verifiers.iter().zip(signatures).map(|(key, signature)| NoteSignature {
            name: self.origin.clone(),
            id: key.id(),
            signature,
        });
        let lines: Vec<_> = lines.collect();
        let note = Note::new(text, lines).map_err(|error| malformed(&error))?;
        Ok(SignedCheckpoint { size, root, note })
    }

    /// Proof that entry `seq` is in the log: a `c2sp.org/tlog-proof@v1`.
    pub(super) fn receipt(&self, ledger: &Ledger, seq: u64) -> Result<Receipt, LogError> {
        // One that witnesses have signed proves more, where it covers the entry.
        let signed = self.witnessed().filter(|signed| seq < signed.size).map_or_else(|| self.latest(ledger), Ok)?;
        let proof = prove_inclusion(seq, signed.size, |node| ledger.node(node)).map_err(|error| match error {
            proof::ProveError::Read(error) => error,
            _ => LogError::NoSuchEntry { seq, size: signed.size },
        })?;
        Receipt::new(seq, proof, signed.note.clone()).map_err(|error| LogError::Checkpoint(error.to_string()))
    }
}

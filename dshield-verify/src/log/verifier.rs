//! Checks a log line by line, in constant memory but for the connections that are open.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dshield_common::canonical::canonical_text;
use dshield_common::log::MAX_ENTRY;
use dshield_common::log::entry::{Boot, Previous};
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::key::SignatureType;
use dshield_common::tlog::{Hash, Tree, VerifierKey, leaf_hash};
use serde::Deserialize;

use super::connections::Connections;
use super::{Expectations, LogFault, LogKey, LogSummary, Start};

/// Checks a log line by line, in constant memory.
#[derive(Debug, Default)]
pub struct LogVerifier {
    last_key: Option<LogKey>,
    first: u64,
    next: u64,
    boots: u64,
    /// The key that signs the next entry, unless that is a boot entry.
    key: Option<LogKey>,
    /// The boot that writes the next entry; unknown at the start of a page.
    boot_id: Option<String>,
    /// The leaf hash of the last entry; unknown at the start.
    leaf_hash: Option<Hash>,
    /// The tree over all entries, where all are checked.
    tree: Option<Tree>,
    connections: Connections,
    checkpoint_keys: Vec<VerifierKey>,
}

/// What a boot entry lists.
struct Opened {
    key: LogKey,
    checkpoint_keys: Vec<VerifierKey>,
}

/// An entry whose signature is still to be checked.
#[derive(Clone, Debug)]
#[must_use = "the entry passes only when its signature verifies"]
pub struct Sealed {
    /// Its number.
    pub seq: u64,
    /// The key that must have signed it.
    pub key: LogKey,
    /// The bytes that were signed.
    pub entry: String,
    /// ECDSA P-256 with SHA-256, in ASN.1 DER.
    pub signature: Vec<u8>,
}

impl Sealed {
    /// Whether the key signed the entry.
    #[must_use]
    pub fn verifies(&self) -> bool {
        self.key.verifies(&self.entry, &self.signature)
    }
}

impl LogVerifier {
    /// A verifier that has seen nothing yet.
    #[must_use]
    pub fn new(expectations: Expectations) -> Self {
        let Expectations { start, last_key } = expectations;
        let (first, key, tree) = match start {
            Start::Beginning => (0, None, Some(Tree::new())),
            Start::Page { seq, key } => (seq, Some(key), None),
        };
        Self { last_key, first, next: first, key, boot_id: None, leaf_hash: None, tree, ..Self::default() }
    }

    /// Checks the next line.
    ///
    /// # Errors
    /// The first fault in it. A verifier that found a fault is of no more use.
    pub fn push(&mut self, line: &str) -> Result<(), LogFault> {
        let sealed = self.push_unsigned(line)?;
        if sealed.verifies() { Ok(()) } else { Err(LogFault::BadSignature { seq: sealed.seq }) }
    }

    /// Checks all of the next line but its signature, which comes back: the log passes only when each of them verifies
    /// too. For whoever checks many side by side, or trusts a checkpoint over all hashes instead.
    ///
    /// # Errors
    /// The first fault in it. A verifier that found a fault is of no more use.
    pub fn push_unsigned(&mut self, line: &str) -> Result<Sealed, LogFault> {
        let seq = self.next;
        let signed = SignedEntry::parse(line).map_err(|why| LogFault::Line { seq, why })?;
        if signed.seq != seq {
            return Err(LogFault::WrongNumber { expected: seq, found: signed.seq });
        }
        if signed.entry.len() > MAX_ENTRY {
            return Err(LogFault::TooLarge { seq, size: signed.entry.len() });
        }
        let head = EntryHead::parse(seq, &signed.entry)?;
        if head.seq != seq {
            return Err(LogFault::Renumbered { seq, signed: head.seq });
        }

        let boot = if head.kind == "boot" { Some(self.boot(seq, &signed)?) } else { None };
        let key = boot.as_ref().map(|boot| &boot.key).or(self.key.as_ref()).ok_or(LogFault::NoBoot { seq })?;
        if boot.is_none()
            && let Some(expected) = &self.boot_id
            && *expected != head.boot_id
        {
            let expected = expected.clone();
            return Err(LogFault::WrongBoot { seq, expected, found: head.boot_id });
        }
        let key = key.clone();
        self.connections.take(seq, &head);
        if let Some(Opened { key, checkpoint_keys }) = boot {
            self.boots += 1;
            self.key = Some(key);
            self.checkpoint_keys = checkpoint_keys;
        }
        self.boot_id = Some(head.boot_id);
        let leaf = leaf_hash(signed.entry.as_bytes());
        self.leaf_hash = Some(leaf);
        if let Some(tree) = &mut self.tree {
            tree.append(leaf);
        }
        self.next += 1;
        let SignedEntry { entry, signature, .. } = signed;
        Ok(Sealed { seq, key, entry, signature })
    }

    /// The tree over all entries so far; none where they do not begin with the first.
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    /// The keys for checkpoints that the boot entry before lists.
    #[must_use]
    pub fn checkpoint_keys(&self) -> &[VerifierKey] {
        &self.checkpoint_keys
    }

    /// Says what was checked.
    ///
    /// # Errors
    /// When there was no line, or the last one is not signed with [`Expectations::last_key`].
    pub fn finish(self) -> Result<LogSummary, LogFault> {
        let (Some(key), Some(boot_id), Some(leaf_hash)) = (self.key, self.boot_id, self.leaf_hash) else {
            return Err(LogFault::Empty);
        };
        let last_seq = self.next - 1;
        if self.last_key.is_some_and(|expected| expected != key) {
            return Err(LogFault::WrongKey { seq: last_seq });
        }
        Ok(LogSummary {
            entries: self.next - self.first,
            boots: self.boots,
            first_seq: self.first,
            last_seq,
            last_leaf_hash: leaf_hash.to_hex(),
            root: self.tree.map(|tree| tree.root()),
            last_boot_id: boot_id,
            last_key: key,
            checkpoint_keys: self.checkpoint_keys,
            left_open: self.connections.left_open(),
        })
    }

    /// The keys that a boot entry lists, once what it says about the entries before it is found true.
    fn boot(&self, seq: u64, signed: &SignedEntry) -> Result<Opened, LogFault> {
        let boot: Boot = serde_json::from_str(&signed.entry).map_err(|_| LogFault::NotAnEntry { seq })?;
        let key = LogKey::from_pem(&boot.key).map_err(|why| LogFault::BootKey { seq, why })?;
        let first_line = self.leaf_hash.is_none();
        if first_line && self.key.as_ref().is_some_and(|expected| *expected != key) {
            return Err(LogFault::WrongKey { seq });
        }
        let truthful = match (&boot.previous, seq.checked_sub(1)) {
            (None, None) => true,
            (Some(Previous { seq, leaf_hash, root, .. }), Some(before)) => {
                // At the start of a page the entry before it is not at hand.
                let follows = *seq == before && self.leaf_hash.is_none_or(|known| known.to_hex() == *leaf_hash);
                // Nor are all those before.
                let named = root.as_ref().zip(self.tree.as_ref());
                follows && named.is_none_or(|(root, tree)| *root == tree.root().to_hex())
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !truthful {
            return Err(LogFault::WrongPrevious { seq });
        }
        let mut checkpoint_keys = Vec::new();
        for vkey in &boot.checkpoint_keys {
            let key: VerifierKey = vkey.parse().map_err(|why| LogFault::CheckpointKey { seq, why })?;
            // The key of the entries in another form, or another one that nobody vouches for.
            if key.signature_type() == SignatureType::EcdsaP256 && *key.public_key() != *spki(&boot.key) {
                return Err(LogFault::OtherKey { seq });
            }
            checkpoint_keys.push(key);
        }
        Ok(Opened { key, checkpoint_keys })
    }
}

/// The members that the check itself needs. Kinds that this build does not know are checked like any other.
#[derive(Deserialize)]
pub(crate) struct EntryHead {
    pub(crate) seq: u64,
    pub(crate) boot_id: String,
    pub(crate) kind: String,
    /// Of those that are about a connection.
    pub(super) connection: Option<u64>,
    /// Of those that count what was lost: a text.
    pub(super) source: Option<serde_json::Value>,
    /// Of boot entries.
    pub(super) previous: Option<Previous>,
}

impl EntryHead {
    /// Reads an entry, which must be in canonical form.
    pub(crate) fn parse(seq: u64, entry: &str) -> Result<Self, LogFault> {
        let value: serde_json::Value = serde_json::from_str(entry).map_err(|_| LogFault::NotAnEntry { seq })?;
        // A duplicate member, a blank or another spelling of a number is lost in `value`, so the texts differ.
        match canonical_text(&value) {
            Ok(canonical) if canonical == entry => {}
            _ => return Err(LogFault::NotCanonical { seq }),
        }
        Self::deserialize(&value).map_err(|_| LogFault::NotAnEntry { seq })
    }
}

/// A `SubjectPublicKeyInfo` out of its PEM; empty where there is none.
fn spki(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(base64.trim()).unwrap_or_default()
}

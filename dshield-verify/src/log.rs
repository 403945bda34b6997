//! Checks a log: published lines flow in, a summary or the first fault flows out.
//!
//! What holds when a log passes: its entries are numbered without a gap, each is signed with the key that the
//! boot entry before it lists, and every boot names the number and the leaf hash of the last entry before it. So
//! nobody without the keys changed, removed, inserted or reordered an entry.
//!
//! What does not: boot entries list their own keys. Whether a key was made inside a D-Shield agent is for
//! attestation to say; pass the key of the attested statement as [`Expectations::last_key`]. And a log that was
//! cut off at the end, or rolled back, still passes: compare [`LogSummary::last_seq`] with what you were told before.
#[cfg(test)]
mod tests;

use std::fmt;

use dshield_common::canonical::to_canonical_json;
use dshield_common::log::MAX_ENTRY;
use dshield_common::log::entry::{Boot, Previous};
use dshield_common::log::line::{LineError, SignedEntry};
use dshield_common::tlog::{Hash, Tree, leaf_hash};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use serde::Deserialize;

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

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        // Encoding a valid point of a named curve has no case that fails.
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
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
}

/// What is wrong with a log. Only whoever holds or serves the log can have caused it; `seq` is the number at
/// which it shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault {
    /// A signature does not verify: the entry was changed, or another key signed it.
    #[error(
        "entry {seq}: the signature does not verify with the key of its boot; the entry was changed or another key signed it"
    )]
    BadSignature {
        /// Where.
        seq: u64,
    },
    /// A boot entry lists something that is not a key.
    #[error("boot entry {seq} lists no usable key: {why}")]
    BootKey {
        /// Where.
        seq: u64,
        /// What is wrong with it.
        why: KeyError,
    },
    /// There was nothing to check.
    #[error("there are no entries to check")]
    Empty,
    /// The line is not a signed entry.
    #[error("line for entry {seq}: {why}")]
    Line {
        /// The number that was expected.
        seq: u64,
        /// What is wrong with the line.
        why: LineError,
    },
    /// The log does not begin with a boot entry, so no key is known.
    #[error("entry {seq} should be the boot entry that lists the signing key, and is not")]
    NoBoot {
        /// Where.
        seq: u64,
    },
    /// The entry is not a JSON object with the members that every entry has.
    #[error("entry {seq} is not a log entry")]
    NotAnEntry {
        /// Where.
        seq: u64,
    },
    /// The entry's bytes are not the canonical form (RFC 8785) of what they say.
    #[error("entry {seq} is not in canonical form, so its bytes are not the ones an agent signs")]
    NotCanonical {
        /// Where.
        seq: u64,
    },
    /// The line says another number than the entry it carries.
    #[error("the line says it is entry {seq}, the signed entry says {signed}: it was renumbered")]
    Renumbered {
        /// What the line says.
        seq: u64,
        /// What was signed.
        signed: u64,
    },
    /// The entry is longer than an agent writes.
    #[error("entry {seq} has {size} bytes, more than the {MAX_ENTRY} an entry may have")]
    TooLarge {
        /// Where.
        seq: u64,
        /// Its length in bytes.
        size: usize,
    },
    /// An entry that is not a boot entry names a boot other than the current one.
    #[error("entry {seq} claims boot {found}, but boot {expected} was writing")]
    WrongBoot {
        /// Where.
        seq: u64,
        /// The boot id of the governing boot entry.
        expected: String,
        /// The boot id in the entry.
        found: String,
    },
    /// A boot entry, or the last line, lists another key than the one expected.
    #[error("entry {seq} is signed by another key than the expected one")]
    WrongKey {
        /// Where.
        seq: u64,
    },
    /// The entries are not numbered one after the other.
    #[error("entry {expected} should come next, but this is entry {found}: entries were removed, repeated or swapped")]
    WrongNumber {
        /// The number that had to come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A boot entry does not name the entry before it.
    #[error(
        "boot entry {seq} does not name the number and hash of the entry before it: the log was cut or changed before this boot"
    )]
    WrongPrevious {
        /// Where.
        seq: u64,
    },
}

/// Checks a log line by line, in constant memory.
#[derive(Debug)]
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
    leaf_hash: Option<String>,
    /// The tree over all entries, where all are checked.
    tree: Option<Tree>,
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
        Self { last_key, first, next: first, boots: 0, key, boot_id: None, leaf_hash: None, tree }
    }

    /// Checks the next line.
    ///
    /// # Errors
    /// The first fault in it. A verifier that found a fault stays where it was.
    pub fn push(&mut self, line: &str) -> Result<(), LogFault> {
        let seq = self.next;
        let signed = SignedEntry::parse(line).map_err(|why| LogFault::Line { seq, why })?;
        if signed.seq != seq {
            return Err(LogFault::WrongNumber { expected: seq, found: signed.seq });
        }
        if signed.entry.len() > MAX_ENTRY {
            return Err(LogFault::TooLarge { seq, size: signed.entry.len() });
        }
        let head = Head::parse(seq, &signed.entry)?;
        if head.seq != seq {
            return Err(LogFault::Renumbered { seq, signed: head.seq });
        }

        let boot = if head.kind == "boot" { Some(self.boot(seq, &signed)?) } else { None };
        let key = boot.as_ref().or(self.key.as_ref()).ok_or(LogFault::NoBoot { seq })?;
        if boot.is_none()
            && let Some(expected) = &self.boot_id
            && *expected != head.boot_id
        {
            let expected = expected.clone();
            return Err(LogFault::WrongBoot { seq, expected, found: head.boot_id });
        }
        if !key.verifies(&signed.entry, &signed.signature) {
            return Err(LogFault::BadSignature { seq });
        }

        if boot.is_some() {
            self.boots += 1;
            self.key = boot;
        }
        self.boot_id = Some(head.boot_id);
        let leaf = leaf_hash(signed.entry.as_bytes());
        self.leaf_hash = Some(hex(&leaf));
        if let Some(tree) = &mut self.tree {
            tree.append(leaf);
        }
        self.next += 1;
        Ok(())
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
            last_leaf_hash: leaf_hash,
            root: self.tree.map(|tree| tree.root()),
            last_boot_id: boot_id,
            last_key: key,
        })
    }

    /// The key that a boot entry lists, once what it says about the entry before it is found true.
    fn boot(&self, seq: u64, signed: &SignedEntry) -> Result<LogKey, LogFault> {
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
                let follows = *seq == before && self.leaf_hash.as_ref().is_none_or(|known| known == leaf_hash);
                // Nor are all those before.
                let named = root.as_ref().zip(self.tree.as_ref());
                follows && named.is_none_or(|(root, tree)| *root == hex(&tree.root()))
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        if truthful { Ok(key) } else { Err(LogFault::WrongPrevious { seq }) }
    }
}

/// The members that the check itself needs. Kinds that this build does not know are checked like any other.
#[derive(Deserialize)]
struct Head {
    seq: u64,
    boot_id: String,
    kind: String,
}

impl Head {
    fn parse(seq: u64, entry: &str) -> Result<Self, LogFault> {
        let value: serde_json::Value = serde_json::from_str(entry).map_err(|_| LogFault::NotAnEntry { seq })?;
        // A duplicate member, a blank or another spelling of a number is lost in `value`, so the texts differ.
        match to_canonical_json(&value) {
            Ok(canonical) if canonical == entry => {}
            _ => return Err(LogFault::NotCanonical { seq }),
        }
        serde_json::from_value(value).map_err(|_| LogFault::NotAnEntry { seq })
    }
}

fn hex(hash: &Hash) -> String {
    hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

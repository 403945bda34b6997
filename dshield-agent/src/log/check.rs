//! Checks a log's lines, their signatures on all processors.
//!
//! Lines flow in one after the other, what they are together flows out. The chain is checked by
//! [`dshield_verify::log::LogVerifier`], as anybody can who has the lines; only who multiplies points differs.
use std::num::NonZero;
use std::thread;

use dshield_common::tlog::{Hash, VerifierKey};
use dshield_verify::log::{Expectations, LogFault, LogSummary, LogVerifier, Sealed};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

/// Signatures that are checked at a time.
const BATCH: usize = 4096;

/// Whether signatures are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// Each.
    All,
    /// None: a signed checkpoint over the hashes of all entries vouches for them.
    None,
}

/// Checks lines.
#[derive(Debug)]
pub struct Checker {
    verifier: LogVerifier,
    signatures: Signatures,
    sealed: Vec<Sealed>,
    bad: Vec<u64>,
    count: u64,
}

impl Checker {
    /// Has seen nothing yet.
    #[must_use]
    pub fn new(expectations: Expectations, signatures: Signatures) -> Self {
        let verifier = LogVerifier::new(expectations);
        Self { verifier, signatures, sealed: Vec::new(), bad: Vec::new(), count: 0 }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// The first fault in it but its signature.
    pub fn push(&mut self, line: &str) -> Result<(), LogFault> {
        let sealed = self.verifier.push_unsigned(line)?;
        self.count += 1;
        if self.signatures == Signatures::All {
            self.sealed.push(sealed);
            if self.sealed.len() >= BATCH {
                self.check_signatures();
            }
        }
        Ok(())
    }

    /// The numbers of the entries so far whose signatures do not verify: what explains a fault that follows from them.
    pub fn bad(&mut self) -> &[u64] {
        self.check_signatures();
        &self.bad
    }

    /// How many lines it has taken.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The root over all lines so far, where they begin with entry 0.
    #[must_use]
    pub fn root(&self) -> Option<Hash> {
        self.verifier.tree().map(dshield_common::tlog::Tree::root)
    }

    /// The keys for checkpoints that the last boot entry lists.
    #[must_use]
    pub fn checkpoint_keys(&self) -> &[VerifierKey] {
        self.verifier.checkpoint_keys()
    }

    /// What was checked, and the numbers of the entries whose signatures do not verify.
    ///
    /// # Errors
    /// There was nothing, or the last one is not signed by the key that was expected.
    pub fn finish(mut self) -> Result<(LogSummary, Vec<u64>), LogFault> {
        self.check_signatures();
        Ok((self.verifier.finish()?, self.bad))
    }

    fn check_signatures(&mut self) {
        let sealed = std::mem::take(&mut self.sealed);
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = sealed.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let workers: Vec<_> = sealed.chunks(share).map(|part| scope.spawn(|| bad(part))).collect();
            for worker in workers {
                // A worker does not panic.
                self.bad.extend(worker.join().unwrap_or_default());
            }
        });
    }
}

fn bad(sealed: &[Sealed]) -> Vec<u64> {
    let mut point = Vec::new();
    let mut of = None;
    let mut bad = Vec::new();
    for Sealed { seq, key, entry, signature } in sealed {
        if of != Some(key) {
            point = key.to_point();
            of = Some(key);
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point);
        if key.verify(entry.as_bytes(), signature).is_err() {
            bad.push(*seq);
        }
    }
    bad
}

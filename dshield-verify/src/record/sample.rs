//! Some entries of a log, each by its proof.
//!
//! A receipt proves an entry in the tree of the checkpoint in it. That one may be older than the accepted checkpoint, where
//! witnesses have signed it, or newer, where the log grew meanwhile; so each comes with a proof between the two.
use std::collections::BTreeSet;

use dshield_common::log::entry::Boot;
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::{Hash, Receipt, leaf_hash};

use super::{Head, Record};
use crate::log::verifier::EntryHead;
use crate::log::{LogKey, Sealed};
use crate::verdict::{Step, StepId};

/// Checks some entries, each by its proof.
#[derive(Debug, Default)]
pub struct Sample {
    /// The boot entry of the boot that made the statement.
    boot: Option<u64>,
    /// Entries of that boot, which its key has signed.
    own: BTreeSet<u64>,
    /// Entries of other boots.
    others: BTreeSet<u64>,
    /// The number of the first entry that the deployment says it keeps.
    first: u64,
    fault: Option<String>,
}

/// What a proven entry is.
enum Proven {
    /// The boot entry of the boot that made the statement.
    Boot,
    /// Another entry of that boot.
    Own,
    /// An entry of another boot.
    Other,
}

impl Record<'_> {
    /// To check some entries with.
    #[must_use]
    pub fn sample(&self) -> Sample {
        Sample::default()
    }

    /// Takes an entry's line as published, its receipt (`GET /v1/log/proof/{seq}`), and the proof that ties the receipt to
    /// the accepted checkpoint ([`Self::proof_wanted`]).
    pub fn check_one(&self, sample: &mut Sample, seq: u64, line: &str, receipt: &str, proof: &[Hash]) {
        if sample.fault.is_some() {
            return;
        }
        if let Err(why) = self.proven(seq, line, receipt, proof).and_then(|proven| sample.take(seq, &proven)) {
            sample.fault = Some(format!("entry {seq}: {why}"));
        }
    }

    fn proven(&self, seq: u64, line: &str, receipt: &str, proof: &[Hash]) -> Result<Proven, String> {
        let signed = SignedEntry::parse(line).map_err(|error| error.to_string())?;
        if signed.seq != seq {
            return Err(format!("the deployment gave entry {} instead", signed.seq));
        }
        let head = EntryHead::parse(seq, &signed.entry).map_err(|fault| fault.to_string())?;
        if head.seq != seq {
            return Err(format!("it says that it is entry {}", head.seq));
        }
        self.in_tree(seq, &leaf_hash(signed.entry.as_bytes()), receipt, proof)?;
        if head.boot_id != self.statement.boot_id {
            return Ok(Proven::Other);
        }
        let sealed = Sealed { seq, key: self.key.clone(), entry: signed.entry, signature: signed.signature };
        if !sealed.verifies() {
            return Err("its signature is not the attested key's".to_owned());
        }
        if head.kind != "boot" {
            return Ok(Proven::Own);
        }
        let boot: Boot =
            serde_json::from_str(&sealed.entry).map_err(|error| format!("it is no boot entry: {error}"))?;
        match LogKey::from_pem(&boot.key) {
            Ok(key) if key == self.key => Ok(Proven::Boot),
            _ => Err("the boot entry lists another key than the attested one".to_owned()),
        }
    }

    /// Whether a leaf is in the tree of the accepted checkpoint, under its number.
    fn in_tree(&self, seq: u64, leaf: &Hash, receipt: &str, proof: &[Hash]) -> Result<(), String> {
        let accepted = self.head.as_ref().ok_or("there is no checkpoint to compare with")?;
        if seq >= accepted.size {
            return Err(format!("the checkpoint covers {} entries, so not this one", accepted.size));
        }
        let receipt: Receipt = receipt.parse().map_err(|error| format!("its proof is not understood: {error}"))?;
        if receipt.index() != seq {
            return Err(format!("its proof is about entry {}", receipt.index()));
        }
        let checkpoint = self.by_both(receipt.note()).map_err(|why| format!("its proof does not hold: {why}"))?;
        receipt.verify(leaf, &self.keys).map_err(|error| format!("its proof does not hold: {error}"))?;
        self.tied(accepted, &Head::of(&checkpoint), proof).map_err(|error| {
            format!("its proof is of another tree than the checkpoint's ({error}): there are two logs")
        })
    }

    /// Takes what came out of checking some entries.
    pub fn checked_sample(&mut self, sample: Sample) {
        let first = sample.first;
        let step = match sample.judge() {
            Ok(says) => Step::pass(StepId::Entries, says).note(
                "the others were not looked at, nor signatures of other boots; log.entries = \"all\" looks at each",
            ),
            Err(says) => Step::fail(StepId::Entries, says),
        };
        let step = match first {
            0 => step,
            first => step.note(format!(
                "the deployment says that it does not keep the entries before number {first} any more, so nobody can look at them"
            )),
        };
        self.steps.push(step);
    }
}

impl Sample {
    /// Says that entries are only kept from number `first` on: of the others, only the hashes can be had.
    pub fn kept_from(&mut self, first: u64) {
        self.first = first;
    }

    fn take(&mut self, seq: u64, proven: &Proven) -> Result<(), String> {
        match proven {
            Proven::Other => {
                self.others.insert(seq);
            }
            Proven::Own => {
                self.own.insert(seq);
            }
            Proven::Boot => {
                if let Some(other) = self.boot.filter(|other| *other != seq) {
                    return Err(format!("entry {other} is the boot entry of the same boot already"));
                }
                self.own.insert(seq);
                self.boot = Some(seq);
            }
        }
        Ok(())
    }

    fn judge(self) -> Result<String, String> {
        let Self { boot, own, others, fault, .. } = self;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let boot = boot.ok_or("the deployment did not show the boot entry of the boot that was quoted".to_owned())?;
        if let Some(early) = own.first().filter(|first| **first < boot) {
            return Err(format!("entry {early} is of the boot that was quoted, whose boot entry is only entry {boot}"));
        }
        if let Some(late) = others.last().filter(|last| **last > boot) {
            return Err(format!(
                "entry {late} is of another boot, after the one that was quoted: the log goes on under another key"
            ));
        }
        Ok(format!(
            "{} entries were looked at, the boot's own among them: each is in the tree, and {} of the boot that was quoted are signed by it",
            own.len() + others.len(),
            own.len()
        ))
    }
}

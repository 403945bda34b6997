//! Is the record whole? Steps over the log of an attested statement.
//!
//! In: the statement, and what the deployment answers about its log, in the order in which it is fetched; the caller does the
//! fetching. Out: steps, and what to remember of the log for the next time ([`Seen`]).
use dshield_common::attestation::Statement;
use dshield_common::log::entry::Boot;
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::{Checkpoint, Hash, Note, Receipt, TrustPolicy, VerifierKey, leaf_hash, verify_consistency};
use serde::{Deserialize, Serialize};

use crate::expect::{self, Entries};
use crate::log::{Expectations, LogKey, LogSummary, LogVerifier, Sealed};
use crate::verdict::{Step, StepId};

/// What a verifier remembers of a log: the next time, the log must contain it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// What its checkpoints name it by.
    pub origin: String,
    /// How many entries it had.
    pub size: u64,
    /// The root of the tree over them, in hexadecimal.
    pub root: String,
}

/// Looks at the log of one statement.
#[derive(Debug)]
pub struct Record<'e> {
    expect: &'e expect::Log,
    statement: &'e Statement,
    keys: [VerifierKey; 2],
    attested: Head,
    head: Option<Head>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    size: u64,
    root: Hash,
}

/// Checks each entry, in order.
#[derive(Debug)]
pub struct Whole {
    verifier: LogVerifier,
    heads: Vec<(&'static str, Head)>,
    fault: Option<String>,
    count: u64,
}

/// Checks some entries, each by its proof.
#[derive(Debug, Default)]
pub struct Sample {
    checked: u64,
    fault: Option<String>,
    boot: bool,
}

impl<'e> Record<'e> {
    /// For the log that an attested statement names.
    ///
    /// # Errors
    /// The step that failed: the statement's keys are none, or the log is not the expected one.
    pub fn new(statement: &'e Statement, expect: &'e expect::Log) -> Result<Self, Step> {
        let log = &statement.log;
        let fail = |says: String| Step::fail(StepId::Checkpoint, says);
        let key = |name: &str, vkey: &str| -> Result<VerifierKey, Step> {
            let key: VerifierKey =
                vkey.parse().map_err(|error| fail(format!("the statement's {name} key is not understood: {error}")))?;
            match key.name().as_str() == log.origin {
                true => Ok(key),
                false => {
                    Err(fail(format!("the statement's {name} key is for the log {}, not {}", key.name(), log.origin)))
                }
            }
        };
        let keys = [key("P-256", &log.ecdsa_p256)?, key("Ed25519", &log.ed25519)?];
        if let Some(origin) = expect.origin.as_ref().filter(|origin| **origin != log.origin) {
            return Err(fail(format!("the log is {}, and {origin} is expected", log.origin)));
        }
        let root = log.root.parse().map_err(|_| fail("the statement's root of the log is no hash".to_owned()))?;
        let attested = Head { size: log.size, root };
        Ok(Self { expect, statement, keys, attested, head: None, steps: Vec::new() })
    }

    /// Which entries are to be looked at.
    #[must_use]
    pub fn wanted(&self) -> Entries {
        self.expect.entries
    }

    /// How many entries the statement names: `GET /v1/log/consistency?old=` is asked from there.
    #[must_use]
    pub fn attested_size(&self) -> u64 {
        self.attested.size
    }

    /// How many entries the checkpoint covers; none before one was accepted.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.size)
    }

    /// Takes the log's checkpoint, and the proof that it begins with what the statement names. False where it does not hold:
    /// then nothing more can be said.
    pub fn checkpoint(&mut self, note: &str, proof: &[Hash]) -> bool {
        let (step, head) = match self.accept(note, proof) {
            Ok(head) => {
                let says = format!("the log's head, of {} entries, is signed by the attested keys", head.size);
                (
                    Step::pass(StepId::Checkpoint, says)
                        .saw("origin", self.statement.log.origin.clone())
                        .saw("size", head.size.to_string())
                        .saw("root", head.root.to_string()),
                    Some(head),
                )
            }
            Err(says) => (Step::fail(StepId::Checkpoint, says), None),
        };
        self.steps.push(step);
        self.head = head;
        self.head.is_some()
    }

    fn accept(&self, note: &str, proof: &[Hash]) -> Result<Head, String> {
        let (checkpoint, _) = self.signed(note)?;
        let head = Head { size: checkpoint.size(), root: checkpoint.root() };
        if head.size < self.attested.size {
            return Err(format!(
                "the log has {} entries, and the statement says {}: it was cut",
                head.size, self.attested.size
            ));
        }
        verify_consistency(self.attested.size, &self.attested.root, head.size, &head.root, proof).map_err(|error| {
            format!("the log does not begin with what the statement names ({error}): there are two logs")
        })?;
        Ok(head)
    }

    /// A checkpoint that both attested keys have signed.
    fn signed(&self, note: &str) -> Result<(Checkpoint, Note), String> {
        let note: Note = note.parse().map_err(|error| format!("the log's checkpoint is no signed note: {error}"))?;
        let checkpoint =
            Checkpoint::from_note(&note).map_err(|error| format!("the log's head is no checkpoint: {error}"))?;
        if checkpoint.origin() != self.statement.log.origin {
            return Err(format!(
                "the checkpoint is of the log {}, and the statement's is {}",
                checkpoint.origin(),
                self.statement.log.origin
            ));
        }
        match note.verified_by(&self.keys) {
            Ok(verified) if verified.len() == self.keys.len() => Ok((checkpoint, note)),
            Ok(_) => Err("the checkpoint lacks the signature of one of the two attested keys".to_owned()),
            Err(error) => Err(format!(
                "the checkpoint is not signed by the attested keys ({error}): the log is another's, or its key was swapped"
            )),
        }
    }

    /// Compares with what this verifier saw of this deployment before. `proof` is from that size to the checkpoint's.
    pub fn history(&mut self, seen: Option<&Seen>, proof: &[Hash]) {
        let Some(head) = &self.head else { return };
        let step = match seen {
            None => Step::skipped(
                StepId::History,
                "this is the first time that this verifier sees the log; from now on it must contain what it has today",
            ),
            Some(seen) if seen.origin != self.statement.log.origin => {
                let says = format!(
                    "the log is {}, and it was {} when this verifier last looked: it was exchanged",
                    self.statement.log.origin, seen.origin
                );
                Step::fail(StepId::History, says)
            }
            Some(seen) if seen.size > head.size => {
                let says = format!(
                    "the log has {} entries, and this verifier has seen {}: it was rolled back",
                    head.size, seen.size
                );
                Step::fail(StepId::History, says)
            }
            Some(seen) => {
                let consistent =
                    seen.root.parse::<Hash>().map_err(|_| "the remembered root is no hash".to_owned()).and_then(
                        |root| {
                            verify_consistency(seen.size, &root, head.size, &head.root, proof)
                                .map_err(|error| error.to_string())
                        },
                    );
                match consistent {
                    Ok(()) => Step::pass(
                        StepId::History,
                        format!("the log contains the {} entries that this verifier saw before", seen.size),
                    ),
                    Err(error) => Step::fail(
                        StepId::History,
                        format!(
                            "the log does not contain the {} entries that this verifier saw before ({error}): it was rewritten",
                            seen.size
                        ),
                    ),
                }
            }
        };
        self.steps.push(step);
    }

    /// What to remember; none where the log did not hold.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        let failed = self.steps.iter().any(|step| step.result == crate::verdict::StepResult::Fail);
        let head = self.head.as_ref().filter(|_| !failed)?;
        Some(Seen { origin: self.statement.log.origin.clone(), size: head.size, root: head.root.to_string() })
    }

    /// To check each entry with.
    #[must_use]
    pub fn whole(&self) -> Whole {
        let mut heads = vec![("the statement", self.attested.clone())];
        heads.extend(self.head.clone().map(|head| ("the checkpoint", head)));
        heads.sort_by_key(|(_, head)| head.size);
        Whole { verifier: LogVerifier::new(Expectations::default()), heads, fault: None, count: 0 }
    }

    /// Takes what came out of checking each entry.
    pub fn checked_whole(&mut self, whole: Whole) {
        let step =
            match self.judge_whole(whole) {
                Ok(summary) => {
                    let says = format!(
                        "all {} entries are numbered without a gap, signed, and in the tree that the checkpoint names",
                        summary.entries
                    );
                    let step = Step::pass(StepId::Entries, says).saw("boots", summary.boots.to_string());
                    summary.left_open.in_order.iter().fold(step, |step, seq| {
                        step.note(format!("the connection of entry {seq} has no end in the log"))
                    })
                }
                Err(says) => Step::fail(StepId::Entries, says),
            };
        self.steps.push(step);
    }

    fn judge_whole(&self, whole: Whole) -> Result<LogSummary, String> {
        let Whole { verifier, heads, fault, count } = whole;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some((what, head)) = heads.first() {
            return Err(format!(
                "there are {count} entries, and {what} covers {}: entries are missing at the end",
                head.size
            ));
        }
        let summary = verifier.finish().map_err(|fault| fault.to_string())?;
        let point = |key: &LogKey| key.to_point();
        let attested = self.keys[0].public_key();
        // The last boot is the one that made the statement.
        if summary.last_boot_id != self.statement.boot_id || !attested.ends_with(&point(&summary.last_key)) {
            return Err(
                "the last boot in the log is not the one that was quoted: the log goes on under another key".to_owned()
            );
        }
        Ok(summary)
    }

    /// To check some entries with.
    #[must_use]
    pub fn sample(&self) -> Sample {
        Sample::default()
    }

    /// Takes an entry's line as published, and its receipt (`GET /v1/log/proof/{seq}`).
    pub fn check_one(&self, sample: &mut Sample, seq: u64, line: &str, receipt: &str) {
        if sample.fault.is_some() {
            return;
        }
        match self.proven(seq, line, receipt) {
            Ok(boot) => {
                sample.boot |= boot;
                sample.checked += 1;
            }
            Err(why) => sample.fault = Some(format!("entry {seq}: {why}")),
        }
    }

    /// Whether it is the boot entry of the boot that made the statement.
    fn proven(&self, seq: u64, line: &str, receipt: &str) -> Result<bool, String> {
        let signed = SignedEntry::parse(line).map_err(|error| error.to_string())?;
        if signed.seq != seq {
            return Err(format!("the deployment gave entry {} instead", signed.seq));
        }
        let receipt: Receipt = receipt.parse().map_err(|error| format!("its proof is not understood: {error}"))?;
        if receipt.index() != seq {
            return Err(format!("its proof is about entry {}", receipt.index()));
        }
        let leaf = leaf_hash(signed.entry.as_bytes());
        let checkpoint = receipt.verify(&leaf, &self.keys).map_err(|error| error.to_string())?;
        if checkpoint.origin() != self.statement.log.origin {
            return Err(format!("its proof is of the log {}", checkpoint.origin()));
        }
        #[derive(Deserialize)]
        struct Head {
            seq: u64,
            boot_id: String,
            kind: String,
        }
        let head: Head = serde_json::from_str(&signed.entry).map_err(|error| format!("it is no entry: {error}"))?;
        if head.seq != seq {
            return Err(format!("it says that it is entry {}", head.seq));
        }
        if head.boot_id != self.statement.boot_id {
            return Ok(false);
        }
        let sealed = Sealed { seq, key: self.key()?, entry: signed.entry, signature: signed.signature };
        if !sealed.verifies() {
            return Err("its signature is not the attested key's".to_owned());
        }
        if head.kind != "boot" {
            return Ok(false);
        }
        let boot: Boot =
            serde_json::from_str(&sealed.entry).map_err(|error| format!("it is no boot entry: {error}"))?;
        match LogKey::from_pem(&boot.key) {
            Ok(key) if key == sealed.key => Ok(true),
            _ => Err("the boot entry lists another key than the attested one".to_owned()),
        }
    }

    fn key(&self) -> Result<LogKey, String> {
        LogKey::from_spki(self.keys[0].public_key()).map_err(|error| error.to_string())
    }

    /// Takes what came out of checking some entries.
    pub fn checked_sample(&mut self, sample: Sample) {
        let Sample { checked, fault, boot } = sample;
        let step = match fault {
            Some(fault) => Step::fail(StepId::Entries, fault),
            None if !boot => {
                Step::fail(StepId::Entries, "the deployment did not show the boot entry of the boot that was quoted")
            }
            None => Step::pass(
                StepId::Entries,
                format!("{checked} entries were looked at, the boot's own among them: each is signed and in the tree"),
            )
            .note("the others were not looked at; log.entries = \"all\" looks at each"),
        };
        self.steps.push(step);
    }

    /// Says that entries were not looked at, and why.
    pub fn entries_skipped(&mut self, why: &str) {
        self.steps.push(Step::skipped(StepId::Entries, why));
    }

    /// Says that the log could not be looked at.
    pub fn unreachable(&mut self, why: &str) {
        self.steps.push(Step::not_checked(StepId::Checkpoint, why));
    }

    /// Takes the newest checkpoint that witnesses have signed, and the proof from it to the checkpoint before.
    pub fn witnessed(&mut self, note: &str, proof: &[Hash]) {
        let Some(policy) = &self.expect.witnesses else {
            self.steps.push(Step::skipped(StepId::Witnesses, "no witnesses are expected ([log] witnesses in expect.toml): only this verifier's memory tells of a rollback"));
            return;
        };
        let step = match self.seen_by_witnesses(policy, note, proof) {
            Ok(names) => Step::pass(StepId::Witnesses, format!("the log was witnessed by {names}")),
            Err(says) => Step::fail(StepId::Witnesses, says),
        };
        self.steps.push(step);
    }

    fn seen_by_witnesses(&self, policy: &TrustPolicy, note: &str, proof: &[Hash]) -> Result<String, String> {
        let (checkpoint, note) = self.signed(note)?;
        let evaluation = policy
            .accept(&note, &self.keys)
            .map_err(|error| format!("the witnesses do not vouch for the log: {error}"))?;
        let head = self.head.as_ref().ok_or("there is no checkpoint to compare with")?;
        verify_consistency(checkpoint.size(), &checkpoint.root(), head.size, &head.root, proof).map_err(|error| {
            format!("the log does not contain what the witnesses saw ({error}): there are two logs")
        })?;
        let names: Vec<String> =
            evaluation.witnesses.iter().map(|witnessed| witnessed.witness.name.to_string()).collect();
        Ok(if names.is_empty() { "nobody, and the policy asks for nobody".to_owned() } else { names.join(", ") })
    }

    /// The steps, in order.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl Whole {
    /// Takes the next entry's line. False where the log does not hold: then the rest says nothing.
    pub fn push(&mut self, line: &str) -> bool {
        if self.fault.is_none()
            && let Err(fault) = self.take(line)
        {
            self.fault = Some(fault);
        }
        self.fault.is_none()
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        self.verifier.push(line).map_err(|fault| fault.to_string())?;
        self.count += 1;
        while let Some((what, head)) = self.heads.first().filter(|(_, head)| head.size == self.count) {
            let root = self.verifier.tree().map(dshield_common::tlog::Tree::root);
            if root.as_ref() != Some(&head.root) {
                return Err(format!(
                    "{what} says that the first {} entries have the root {}, and these have another: there are two logs",
                    head.size, head.root
                ));
            }
            self.heads.remove(0);
        }
        Ok(())
    }
}

//! Is the record whole? Steps over the log of an attested statement.
//!
//! In: the statement, and what the deployment answers about its log, in the order in which it is fetched; the caller does the
//! fetching. Out: steps, and what to remember of the log for the next time ([`Seen`]).
//!
//! Everything is tied to one tree, that of the checkpoint which [`Record::checkpoint`] accepted: the statement's is its
//! beginning, what was seen before too, and each receipt and what witnesses saw begin with it or are its beginning. A
//! signature alone ties nothing. Where the Ed25519 key is made from a seed (`[log] seed_secret`), whoever deployed has it too,
//! so both keys must have signed each head; and a key that leaked could sign two logs, each well in itself.
//!
//! * [`whole`]: each entry, in order; [`sample`]: some, each by its proof
mod sample;
mod whole;

use dshield_common::attestation::Statement;
use dshield_common::hex;
use dshield_common::tlog::key::SignatureType;
use dshield_common::tlog::proof::ConsistencyError;
use dshield_common::tlog::{Checkpoint, Hash, Note, Receipt, TrustPolicy, VerifierKey, verify_consistency};
use serde::{Deserialize, Serialize};

pub use self::sample::Sample;
pub use self::whole::Whole;
use crate::expect::{self, Entries};
use crate::log::LogKey;
use crate::time;
use crate::verdict::{Step, StepId, StepResult};

/// The steps about the log, in order.
const STEPS: [StepId; 4] = [StepId::Checkpoint, StepId::History, StepId::Entries, StepId::Witnesses];

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
    /// P-256, then Ed25519.
    keys: [VerifierKey; 2],
    /// The first of them: what signs the entries of the boot.
    key: LogKey,
    attested: Head,
    head: Option<Head>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    size: u64,
    root: Hash,
}

impl Head {
    fn of(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size(), root: checkpoint.root() }
    }
}

impl<'e> Record<'e> {
    /// For the log that an attested statement names.
    ///
    /// # Errors
    /// The step that failed: the statement's keys are none, or the log is not the expected one.
    pub fn new(statement: &'e Statement, expect: &'e expect::Log) -> Result<Self, Step> {
        let log = &statement.log;
        let fail = |says: String| Step::fail(StepId::Checkpoint, says);
        let key = |name: &str, vkey: &str, kind: SignatureType| -> Result<VerifierKey, Step> {
            let key: VerifierKey =
                vkey.parse().map_err(|error| fail(format!("the statement's {name} key is not understood: {error}")))?;
            if key.signature_type() != kind {
                return Err(fail(format!("the statement's {name} key is none: it is of another type")));
            }
            match key.name().as_str() == log.origin {
                true => Ok(key),
                false => {
                    Err(fail(format!("the statement's {name} key is for the log {}, not {}", key.name(), log.origin)))
                }
            }
        };
        let keys = [
            key("P-256", &log.ecdsa_p256, SignatureType::EcdsaP256)?,
            key("Ed25519", &log.ed25519, SignatureType::Ed25519)?,
        ];
        if let Some(origin) = expect.origin.as_ref().filter(|origin| **origin != log.origin) {
            return Err(fail(format!("the log is {}, and {origin} is expected", log.origin)));
        }
        let key = LogKey::from_spki(keys[0].public_key()).map_err(|error| fail(error.to_string()))?;
        let root = root(&log.root).ok_or_else(|| fail("the statement's root of the log is no hash".to_owned()))?;
        let attested = Head { size: log.size, root };
        Ok(Self { expect, statement, keys, key, attested, head: None, steps: Vec::new() })
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

    /// The two sizes, `old` and `new` of `GET /v1/log/consistency`, between which a proof ties `answer`, a receipt or a
    /// signed checkpoint, to the accepted checkpoint. None where no proof is needed, or none would help.
    #[must_use]
    pub fn proof_wanted(&self, answer: &str) -> Option<(u64, u64)> {
        let head = self.size()?;
        let note = match answer.parse::<Receipt>() {
            Ok(receipt) => receipt.note().clone(),
            Err(_) => answer.parse().ok()?,
        };
        let size = Checkpoint::from_note(&note).ok()?.size();
        let (old, new) = (size.min(head), size.max(head));
        (old > 0 && old < new).then_some((old, new))
    }

    /// Takes the log's checkpoint, and the proof that it begins with what the statement names. False where it does not hold:
    /// then nothing more can be said, and the steps say so.
    pub fn checkpoint(&mut self, note: &str, proof: &[Hash]) -> bool {
        match self.accept(note, proof) {
            Ok(head) => {
                let says = format!("the log's head, of {} entries, is signed by the attested keys", head.size);
                let step = Step::pass(StepId::Checkpoint, says)
                    .saw("origin", self.statement.log.origin.clone())
                    .saw("size", head.size.to_string())
                    .saw("root", head.root.to_hex());
                self.steps.push(step);
                self.head = Some(head);
                true
            }
            Err(says) => {
                self.steps.push(Step::fail(StepId::Checkpoint, says));
                let says = "without a head of the log that holds, nothing is known of its entries";
                self.steps.extend(STEPS[1..].iter().map(|step| Step::not_checked(*step, says)));
                self.head = None;
                false
            }
        }
    }

    fn accept(&self, note: &str, proof: &[Hash]) -> Result<Head, String> {
        let (checkpoint, _) = self.signed(note)?;
        let head = Head::of(&checkpoint);
        if head.size < self.attested.size {
            return Err(format!(
                "the log has {} entries, and the statement says {}: it was cut",
                head.size, self.attested.size
            ));
        }
        if head.size == 0 {
            return Err("the log is empty, and the boot that was quoted began with an entry: it was cut".to_owned());
        }
        verify_consistency(self.attested.size, &self.attested.root, head.size, &head.root, proof).map_err(|error| {
            format!("the log does not begin with what the statement names ({error}): there are two logs")
        })?;
        Ok(head)
    }

    /// A checkpoint that both attested keys have signed.
    fn signed(&self, note: &str) -> Result<(Checkpoint, Note), String> {
        let note: Note = note.parse().map_err(|error| format!("the log's checkpoint is no signed note: {error}"))?;
        Ok((self.by_both(&note)?, note))
    }

    fn by_both(&self, note: &Note) -> Result<Checkpoint, String> {
        let checkpoint =
            Checkpoint::from_note(note).map_err(|error| format!("the log's head is no checkpoint: {error}"))?;
        if checkpoint.origin() != self.statement.log.origin {
            return Err(format!(
                "the checkpoint is of the log {}, and the statement's is {}",
                checkpoint.origin(),
                self.statement.log.origin
            ));
        }
        match note.verified_by(&self.keys) {
            Ok(verified) if verified.len() == self.keys.len() => Ok(checkpoint),
            Ok(_) => Err("the checkpoint lacks the signature of one of the two attested keys".to_owned()),
            Err(error) => Err(format!(
                "the checkpoint is not signed by the attested keys ({error}): the log is another's, or its key was swapped"
            )),
        }
    }

    /// Whether another head is of the accepted one's tree: one begins with the other. `proof` is from the smaller to the
    /// larger.
    fn tied(&self, accepted: &Head, other: &Head, proof: &[Hash]) -> Result<(), ConsistencyError> {
        let (old, new) = if other.size <= accepted.size { (other, accepted) } else { (accepted, other) };
        verify_consistency(old.size, &old.root, new.size, &new.root, proof)
    }

    /// Compares with what this verifier saw of this deployment before. `proof` is from that size to the checkpoint's.
    pub fn history(&mut self, seen: Option<&Seen>, proof: &[Hash]) {
        let Some(head) = &self.head else { return };
        let step = match seen {
            None => Step::skipped(
                StepId::History,
                "this is the first time that this verifier sees the log; from now on it must contain what it has today",
            ),
            Some(seen) => self.contains(head, seen, proof),
        };
        self.steps.push(step);
    }

    fn contains(&self, head: &Head, seen: &Seen, proof: &[Hash]) -> Step {
        let Some(root) = root(&seen.root) else {
            let says = "what this verifier remembers of the log is damaged: its root is no hash; forget it, and the next look counts as the first";
            return Step::not_checked(StepId::History, says);
        };
        if seen.origin != self.statement.log.origin {
            let says = format!(
                "the log is {}, and it was {} when this verifier last looked: it was exchanged",
                self.statement.log.origin, seen.origin
            );
            return Step::fail(StepId::History, says);
        }
        if seen.size > head.size {
            let says = format!(
                "the log has {} entries, and this verifier has seen {}: it was rolled back",
                head.size, seen.size
            );
            return Step::fail(StepId::History, says);
        }
        match verify_consistency(seen.size, &root, head.size, &head.root, proof) {
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

    /// What to remember; none where the log did not hold, or could not be looked at.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        let doubtful = |step: &Step| matches!(step.result, StepResult::Fail | StepResult::NotChecked);
        let head = self.head.as_ref().filter(|_| !self.steps.iter().any(doubtful))?;
        Some(Seen { origin: self.statement.log.origin.clone(), size: head.size, root: head.root.to_hex() })
    }

    /// Says that entries were not looked at, and why.
    pub fn entries_skipped(&mut self, why: &str) {
        self.steps.push(Step::skipped(StepId::Entries, why));
    }

    /// Says that the log could not be looked at, from the first step on that was not taken.
    pub fn unreachable(&mut self, why: &str) {
        let taken = |id: &StepId| self.steps.iter().any(|step| step.step == *id);
        let first = STEPS.into_iter().find(|id| !taken(id)).unwrap_or(StepId::Witnesses);
        self.steps.push(Step::not_checked(first, why));
    }

    /// Takes the newest checkpoint that witnesses have signed, and the proof that ties it to the checkpoint before
    /// ([`Self::proof_wanted`]).
    pub fn witnessed(&mut self, note: &str, proof: &[Hash]) {
        let Some(policy) = &self.expect.witnesses else {
            self.steps.push(Step::skipped(StepId::Witnesses, "no witnesses are expected ([log] witnesses in expect.toml): only this verifier's memory tells of a rollback"));
            return;
        };
        let step = self.seen_by_witnesses(policy, note, proof);
        self.steps.push(step.unwrap_or_else(|says| Step::fail(StepId::Witnesses, says)));
    }

    fn seen_by_witnesses(&self, policy: &TrustPolicy, note: &str, proof: &[Hash]) -> Result<Step, String> {
        let (checkpoint, note) = self.signed(note)?;
        let evaluation = policy
            .accept(&note, &self.keys)
            .map_err(|error| format!("the witnesses do not vouch for the log: {error}"))?;
        let accepted = self.head.as_ref().ok_or("there is no checkpoint to compare with")?;
        let theirs = Head::of(&checkpoint);
        self.tied(accepted, &theirs, proof).map_err(|error| {
            format!("the log does not contain what the witnesses saw ({error}): there are two logs")
        })?;
        if theirs.size == 0 {
            return Err("the witnesses have seen an empty log, so they vouch for no entry".to_owned());
        }
        let names: Vec<String> =
            evaluation.witnesses.iter().map(|witnessed| witnessed.witness.name.to_string()).collect();
        if names.is_empty() {
            return Ok(Step::pass(
                StepId::Witnesses,
                "the log was witnessed by nobody, and the policy asks for nobody",
            ));
        }
        let says = format!("the log's first {} entries were witnessed by {}", theirs.size, names.join(", "));
        let step = Step::pass(StepId::Witnesses, says).saw("witnessed size", theirs.size.to_string());
        Ok(evaluation.witnesses.iter().zip(names).fold(step, |step, (witnessed, name)| {
            step.saw(format!("witnessed by {name}"), time::rfc3339(witnessed.timestamp))
        }))
    }

    /// The steps, in order.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// A root in hexadecimal, as statements and what is remembered hold it.
fn root(text: &str) -> Option<Hash> {
    hex::decode_array(text).map(Hash::new)
}

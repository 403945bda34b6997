//! Whom to believe about a log, and how many of them (C2SP tlog-policy).
//!
//! * [`parse`]: a policy file flows in, a [`TrustPolicy`] flows out, or the line that is wrong and why.
//! * Here: a signed checkpoint flows in; whether the log signed it, which witnesses did and when, and whether they are
//!   enough flows out.
use std::fmt;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::key::VerifierKey;
use super::note::{Note, VerifyError};

pub mod parse;

pub use parse::PolicyError;

/// A name or a URL of a policy file: octets that mean nothing outside of it. Shown as UTF-8, what is none replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Octets(Vec<u8>);

/// The logs and witnesses that are known, and which witnesses have to have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    /// Each refers to those before it only, so that going through them in order settles them all.
    groups: Vec<Group>,
    /// Nothing for `quorum none`.
    quorum: Option<Member>,
}

/// A log whose checkpoints are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its key, whose name is the log's origin.
    pub key: VerifierKey,
    /// Where it is to be found, if the policy says.
    pub url: Option<Octets>,
}

/// Somebody who signs the checkpoints that he found consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// What the policy calls it; not the name of its key.
    pub name: Octets,
    /// Its key, of the type for cosignatures.
    pub key: VerifierKey,
    /// Where it is to be found, if the policy says.
    pub url: Option<Octets>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    /// At least 1, at most the number of members.
    needed: usize,
    members: Vec<Member>,
}

/// A place among the witnesses or the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// What a policy finds in a checkpoint that its log signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation<'p> {
    /// What the log stated.
    pub checkpoint: Checkpoint,
    /// The keys with which the log signed; at least one.
    pub logs: Vec<&'p VerifierKey>,
    /// The witnesses that signed, in the order of the note.
    pub witnesses: Vec<Witnessed<'p>>,
    /// Whether they are enough.
    pub quorum: bool,
}

/// A witness that signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessed<'p> {
    /// Which.
    pub witness: &'p Witness,
    /// When, in seconds since 1970, by its own clock. The quorum does not depend on it.
    pub timestamp: u64,
}

impl TrustPolicy {
    /// The logs, in the order of the file.
    #[must_use]
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The witnesses, in the order of the file.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether these witnesses together are enough. Says nothing about whether they signed; [`Self::evaluate`] does.
    pub fn is_quorum(&self, signed: impl Fn(&Witness) -> bool) -> bool {
        let signed: Vec<bool> = self.witnesses.iter().map(signed).collect();
        let mut reached: Vec<bool> = Vec::with_capacity(self.groups.len());
        let is_in = |reached: &[bool], member: Member| match member {
            Member::Witness(place) => signed.get(place) == Some(&true),
            Member::Group(place) => reached.get(place) == Some(&true),
        };
        for group in &self.groups {
            let count = group.members.iter().filter(|member| is_in(&reached, **member)).count();
            reached.push(count >= group.needed);
        }
        self.quorum.is_none_or(|member| is_in(&reached, member))
    }

    /// Looks at a signed checkpoint. `logs` are keys of logs that are known from elsewhere, beside those of the policy.
    ///
    /// Look at [`Evaluation::quorum`], or call [`Self::accept`] instead.
    ///
    /// # Errors
    /// When no log whose key has the checkpoint's origin as its name signed it, when a signature of a known key does
    /// not verify, or when the note is no checkpoint.
    pub fn evaluate<'p>(&'p self, note: &Note, logs: &'p [VerifierKey]) -> Result<Evaluation<'p>, Rejection> {
        let log_keys = || self.logs.iter().map(|log| &log.key).chain(logs);
        let witness_keys = self.witnesses.iter().map(|witness| &witness.key);
        let verified = note.verified_by(log_keys().chain(witness_keys)).map_err(Rejection::Note)?;
        let checkpoint = Checkpoint::from_note(note).map_err(Rejection::Checkpoint)?;
        let is_log = |key: &VerifierKey| key.name().as_str() == checkpoint.origin() && log_keys().any(|log| log == key);
        let logs: Vec<_> = verified.iter().map(|verified| verified.key).filter(|key| is_log(key)).collect();
        if logs.is_empty() {
            return Err(Rejection::NotByLog { origin: checkpoint.origin().to_owned() });
        }
        let witnesses: Vec<_> = verified
            .iter()
            .filter_map(|verified| {
                let witness = self.witnesses.iter().find(|witness| witness.key == *verified.key)?;
                Some(Witnessed { witness, timestamp: verified.timestamp? })
            })
            .collect();
        let quorum = self.is_quorum(|witness| witnesses.iter().any(|signed| signed.witness.key == witness.key));
        Ok(Evaluation { checkpoint, logs, witnesses, quorum })
    }

    /// [`Self::evaluate`], refusing a checkpoint that too few witnesses signed.
    ///
    /// # Errors
    /// As for [`Self::evaluate`], and when the quorum is not reached.
    pub fn accept<'p>(&'p self, note: &Note, logs: &'p [VerifierKey]) -> Result<Evaluation<'p>, Rejection> {
        let evaluation = self.evaluate(note, logs)?;
        if evaluation.quorum {
            return Ok(evaluation);
        }
        let signed = evaluation.witnesses.iter().map(|signed| signed.witness.name.clone()).collect();
        Err(Rejection::NoQuorum { signed })
    }
}

impl Octets {
    /// The octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Why a policy does not accept a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The signatures are not to be believed.
    #[error(transparent)]
    Note(VerifyError),
    /// The signed text is none: the log is at fault.
    #[error("what is signed is not a checkpoint: {0}")]
    Checkpoint(CheckpointError),
    /// Somebody signed, but not a known log of this name. Add its key to the policy if the log is to be believed.
    #[error("no known log with the name {origin:?} signed the checkpoint")]
    NotByLog {
        /// The name of the log that is said to have made the checkpoint.
        origin: String,
    },
    /// Too few witnesses signed, or not the right ones. Ask for the checkpoint again later, when more of them have.
    #[error("the witnesses that signed are no quorum: {}", list(signed))]
    NoQuorum {
        /// What the policy calls those who signed.
        signed: Vec<Octets>,
    },
}

fn list(names: &[Octets]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.iter().map(Octets::to_string).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests;

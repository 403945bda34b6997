//! What was checked, what came out, and the one answer.
//!
//! Steps flow in, in the order in which they were taken; the [`Outcome`] follows from them alone.
use std::fmt;

use serde::{Deserialize, Serialize};

/// The value of a verdict's `format`.
pub const FORMAT: &str = "dshield.verdict/v1";

/// Which of a reader's three questions a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Is it a genuine machine that runs D-Shield and nothing that could go around it?
    Machine,
    /// Where can data go?
    Policy,
    /// Is the record of where it went whole?
    Log,
}

impl Question {
    /// All of them, in the order in which they are answered.
    pub const ALL: [Self; 3] = [Self::Machine, Self::Policy, Self::Log];

    /// The question.
    #[must_use]
    pub fn asks(self) -> &'static str {
        match self {
            Self::Machine => "is it a genuine machine that runs D-Shield, and nothing that could go around it?",
            Self::Policy => "where can data go?",
            Self::Log => "is the record of where it went whole?",
        }
    }
}

/// A step of the verification, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StepId {
    /// The evidence and the statement in it are understood.
    Evidence,
    /// The quote is signed by a genuine platform.
    Quote,
    /// The platform's firmware is as current as asked for.
    Tcb,
    /// The machine is no debug machine.
    Attributes,
    /// Firmware and kernel are the expected ones.
    Measurements,
    /// The event log is that of the quote's registers.
    EventLog,
    /// What was deployed on the machine leaves D-Shield alone in control.
    Compose,
    /// The statement is the one that was quoted.
    ReportData,
    /// The answer was made for this question.
    Nonce,
    /// The connection ends in the machine that was quoted.
    Channel,
    /// Agent, kernel programs and filters are a known release's.
    Release,
    /// The policy is the expected one.
    Policy,
    /// The functions' code is the expected one.
    Code,
    /// The log's head is signed by the attested keys.
    Checkpoint,
    /// The log contains what was seen of it before.
    History,
    /// The entries are numbered, signed and in the tree.
    Entries,
    /// Witnesses have seen the same log.
    Witnesses,
}

impl StepId {
    /// The question that it helps to answer.
    #[must_use]
    pub fn question(self) -> Question {
        match self {
            Self::Release | Self::Policy | Self::Code => Question::Policy,
            Self::Checkpoint | Self::History | Self::Entries | Self::Witnesses => Question::Log,
            _ => Question::Machine,
        }
    }

    /// Its name, as in a verdict's JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Quote => "quote",
            Self::Tcb => "tcb",
            Self::Attributes => "attributes",
            Self::Measurements => "measurements",
            Self::EventLog => "event-log",
            Self::Compose => "compose",
            Self::ReportData => "report-data",
            Self::Nonce => "nonce",
            Self::Channel => "channel",
            Self::Release => "release",
            Self::Policy => "policy",
            Self::Code => "code",
            Self::Checkpoint => "checkpoint",
            Self::History => "history",
            Self::Entries => "entries",
            Self::Witnesses => "witnesses",
        }
    }

    /// What a failure of it means.
    fn failure(self) -> Outcome {
        match self {
            Self::Evidence => Outcome::NotChecked,
            Self::Nonce | Self::History => Outcome::Stale,
            Self::Measurements | Self::Compose | Self::Release | Self::Policy | Self::Code => Outcome::Policy,
            Self::Checkpoint | Self::Entries | Self::Witnesses => Outcome::Log,
            _ => Outcome::Attestation,
        }
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What came out of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Nobody looked, and without it there is no verdict.
    NotChecked,
    /// Nobody looked; the verdict stands without it, and says so.
    Skipped,
}

/// One step, with what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub step: StepId,
    /// The question that it helps to answer.
    pub question: Question,
    /// What came out.
    pub result: StepResult,
    /// One sentence for a person: what holds, or what does not and what that means.
    pub says: String,
    /// What was seen, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observed: Vec<Observed>,
    /// What a reader should know besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A value that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// What it is.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Step {
    pub(crate) fn new(step: StepId, result: StepResult, says: impl Into<String>) -> Self {
        Self { step, question: step.question(), result, says: says.into(), observed: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn pass(step: StepId, says: impl Into<String>) -> Self {
        Self::new(step, StepResult::Pass, says)
    }

    pub(crate) fn fail(step: StepId, says: impl Into<String>) -> Self {
        Self::new(step, StepResult::Fail, says)
    }

    pub(crate) fn not_checked(step: StepId, says: impl Into<String>) -> Self {
        Self::new(step, StepResult::NotChecked, says)
    }

    /// What a quote would have shown, where there is no genuine one.
    pub(crate) fn without_a_quote() -> impl Iterator<Item = Self> {
        let steps = [
            StepId::Tcb,
            StepId::Attributes,
            StepId::Measurements,
            StepId::EventLog,
            StepId::Compose,
            StepId::ReportData,
        ];
        steps.into_iter().map(|step| Self::not_checked(step, "without a genuine quote nothing is known of the machine"))
    }

    pub(crate) fn skipped(step: StepId, says: impl Into<String>) -> Self {
        Self::new(step, StepResult::Skipped, says)
    }

    pub(crate) fn saw(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.observed.push(Observed { name: name.into(), value: value.into() });
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// Everything that was to be checked holds.
    Verified,
    /// It is not a genuine machine, or not this one.
    Attestation,
    /// It is, but what runs on it is not what was expected.
    Policy,
    /// The log does not hold.
    Log,
    /// It is old: replayed, or rolled back.
    Stale,
    /// Something that a verdict needs could not be checked.
    NotChecked,
}

impl Outcome {
    /// The exit code of a command with this answer.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Verified => 0,
            Self::Attestation => 10,
            Self::Policy => 11,
            Self::Log => 12,
            Self::Stale => 13,
            Self::NotChecked => 20,
        }
    }
}

/// A verdict: what was checked, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`FORMAT`].
    pub format: String,
    /// The answer.
    pub outcome: Outcome,
    /// True where the quote was made for development: under keys that anybody can make, so it proves nothing.
    pub development: bool,
    /// The moment for which it was judged, in seconds since 1970.
    pub at: u64,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Where data can go, for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<crate::destinations::Destination>,
    /// What was seen, as an `expect.toml`; absent where there is nothing worth expecting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saw: Option<String>,
}

impl Verdict {
    pub(crate) fn new(at: u64, development: bool, steps: Vec<Step>) -> Self {
        let outcome = outcome(&steps);
        Self { format: FORMAT.to_owned(), outcome, development, at, steps, destinations: Vec::new(), saw: None }
    }

    /// Adds what was found later, such as about the log.
    pub fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
        self.outcome = outcome(&self.steps);
    }

    /// The step `id`, where it was taken.
    #[must_use]
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.step == id)
    }

    /// The steps that are about `question`.
    pub fn about(&self, question: Question) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(move |step| step.question == question)
    }
}

/// The first failure decides; without one, whatever is missing.
fn outcome(steps: &[Step]) -> Outcome {
    let failed = steps.iter().find(|step| step.result == StepResult::Fail);
    if let Some(failed) = failed {
        return failed.step.failure();
    }
    let missing = steps.is_empty() || steps.iter().any(|step| step.result == StepResult::NotChecked);
    if missing { Outcome::NotChecked } else { Outcome::Verified }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_and_what_is_missing_is_no_success() {
        let pass = || Step::pass(StepId::Quote, "");
        let verdict = |steps: Vec<Step>| Verdict::new(0, false, steps).outcome;
        assert_eq!(verdict(vec![]), Outcome::NotChecked);
        assert_eq!(verdict(vec![pass(), Step::skipped(StepId::Witnesses, "")]), Outcome::Verified);
        assert_eq!(verdict(vec![pass(), Step::not_checked(StepId::Policy, "")]), Outcome::NotChecked);
        let failed =
            vec![Step::not_checked(StepId::Tcb, ""), Step::fail(StepId::Nonce, ""), Step::fail(StepId::Policy, "")];
        assert_eq!(verdict(failed), Outcome::Stale);
        let mut later = Verdict::new(0, false, vec![pass()]);
        later.extend([Step::fail(StepId::Entries, "")]);
        assert_eq!(later.outcome, Outcome::Log);
    }

    #[test]
    fn exit_codes_are_those_that_are_published() {
        let all = [
            (Outcome::Verified, 0),
            (Outcome::Attestation, 10),
            (Outcome::Policy, 11),
            (Outcome::Log, 12),
            (Outcome::Stale, 13),
            (Outcome::NotChecked, 20),
        ];
        for (outcome, code) in all {
            assert_eq!(outcome.exit_code(), code);
        }
    }
}

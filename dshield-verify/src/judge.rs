//! Evidence in, verdict out: all steps about the machine and the policy, in order.
//!
//! No socket, no file, no clock: what was asked for, over which connection and when is told by the caller. Steps about the
//! log follow ([`crate::record`]), because they take more questions to the deployment.
use dshield_common::attestation::{Evidence, Nonce, Provider, Statement};

use crate::destinations::{AGENT, Destination};
use crate::expect::Expect;
use crate::quote::Root;
use crate::verdict::{Step, StepId, StepResult, Verdict};
use crate::{deployment, machine, suggestion};

/// What was presented, and how.
#[derive(Clone, Debug)]
pub struct Presented<'a> {
    /// The evidence: JSON.
    pub evidence: &'a str,
    /// What the evidence was asked for with; none for evidence that lay in a file.
    pub nonce: Option<Nonce>,
    /// What it came over.
    pub channel: Channel,
}

/// What evidence came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// No connection: it lay in a file.
    File,
    /// A connection without TLS.
    Plain,
    /// TLS, whose other end has proved to hold the key with this hash: SHA-256 of the DER `SubjectPublicKeyInfo`.
    Tls {
        /// The hash.
        spki_sha256: [u8; 32],
    },
}

/// How to judge.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The moment to judge for, in seconds since 1970.
    pub now: u64,
    /// Whose platforms are genuine.
    pub root: Root,
    /// Whether evidence that proves nothing, because it was made for development, may pass.
    pub insecure_development: bool,
    /// Whether what is not expected may pass, whatever it is.
    pub insecure_any_measurement: bool,
}

/// The verdict so far, and the statement where it is attested.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What was found.
    pub verdict: Verdict,
    /// What the machine says; only where a quote vouches for it.
    pub statement: Option<Statement>,
}

/// Judges evidence.
#[must_use]
pub fn judge(presented: &Presented<'_>, expect: &Expect, options: &Options) -> Judged {
    let evidence = match Evidence::parse(presented.evidence) {
        Ok(evidence) => evidence,
        Err(error) => {
            let verdict = Verdict::new(options.now, false, vec![Step::fail(StepId::Evidence, error.to_string())]);
            return Judged { verdict, statement: None };
        }
    };
    let development = evidence.provider == Provider::Development;
    let statement = Statement::parse(&evidence.statement);
    let mut steps = Vec::new();
    let mut facts = suggestion::Facts::default();
    steps.push(match &statement {
        Ok(_) => Step::pass(StepId::Evidence, "the evidence is complete").saw("provider", evidence.provider.as_str()),
        Err(error) => Step::fail(StepId::Evidence, error.to_string()),
    });
    let vouched = hardware(&evidence, expect, options, &mut steps, &mut facts);
    let mut destinations = Vec::new();
    let mut attested = None;
    match statement {
        Ok(statement) if vouched => {
            said(&statement, &evidence, presented, expect, options, &mut steps, &mut destinations);
            facts.statement = Some(statement.clone());
            attested = Some(statement);
        }
        _ => {
            let says = "no quote vouches for the statement, so nothing of what it says is known";
            let of_statement = [StepId::Nonce, StepId::Channel, StepId::Release, StepId::Policy, StepId::Code];
            steps.extend(of_statement.map(|step| Step::not_checked(step, says)));
        }
    }
    let mut verdict = Verdict::new(options.now, development, steps);
    verdict.destinations = destinations;
    verdict.saw = attested.as_ref().and_then(|_| facts.written());
    Judged { verdict, statement: attested }
}

/// The steps that lead from a root of trust to the statement; true where a quote vouches for it.
fn hardware(
    evidence: &Evidence,
    expect: &Expect,
    options: &Options,
    steps: &mut Vec<Step>,
    facts: &mut suggestion::Facts,
) -> bool {
    let any = options.insecure_any_measurement;
    if evidence.provider == Provider::Tpm {
        facts.provider = Some(evidence.provider);
        let (of_tpm, bound) = crate::tpm::steps::steps(evidence, expect, any, facts);
        steps.extend(of_tpm);
        return bound;
    }
    let (step, verified) = machine::quote(evidence, &options.root, options.insecure_development, options.now);
    let genuine = step.result != StepResult::NotChecked;
    steps.push(step);
    let Some(verified) = verified.filter(|_| genuine) else {
        steps.extend(Step::without_a_quote());
        return false;
    };
    let registers = verified.registers();
    steps.push(machine::tcb(&verified, &expect.tcb, options.now));
    steps.push(machine::attributes(&registers));
    steps.push(machine::measurements(&registers, expect, any));
    facts.tcb = Some(verified.claims().tcb.status.to_string());
    facts.machine = Some(machine::machine(&registers));
    facts.provider = Some(evidence.provider);
    let report_data = machine::report_data(&registers.report_data, &evidence.statement);
    let bound = report_data.result == StepResult::Pass;
    steps.extend(crate::boot::steps(evidence, &registers, expect, any, facts));
    steps.push(report_data);
    bound
}

/// The steps over what an attested statement says.
fn said(
    statement: &Statement,
    evidence: &Evidence,
    presented: &Presented<'_>,
    expect: &Expect,
    options: &Options,
    steps: &mut Vec<Step>,
    destinations: &mut Vec<Destination>,
) {
    let any = options.insecure_any_measurement;
    steps.push(nonce(statement, presented));
    steps.push(channel(statement, presented.channel));
    steps.push(deployment::release(statement, expect, any));
    let (step, view) = deployment::policy(statement, &evidence.policy, expect, any);
    steps.push(step);
    *destinations = view.destinations;
    let nowhere =
        |who: String| Destination { who, to: "nowhere".to_owned(), how: String::new(), limits: String::new() };
    destinations.extend(view.closed.into_iter().map(nowhere));
    // Functions first: the agent's own traffic is of another kind.
    destinations.sort_by_key(|row| row.who == AGENT);
    steps.push(deployment::code(statement, expect));
}

/// Whether the answer was made for this question.
fn nonce(statement: &Statement, presented: &Presented<'_>) -> Step {
    let step = match (presented.nonce, statement.nonce) {
        (Some(asked), Some(answered)) if asked == answered => {
            Step::pass(StepId::Nonce, "the answer was made for this question")
        }
        (Some(_), Some(_)) => {
            Step::fail(StepId::Nonce, "the answer has another nonce than was asked for: it is an old one, replayed")
        }
        (Some(_), None) => {
            Step::fail(StepId::Nonce, "the answer has no nonce, although one was asked for: it may be of any age")
        }
        (None, _) => {
            Step::skipped(StepId::Nonce, "nobody says which nonce was asked for (--nonce), so this may be of any age")
        }
    };
    match statement.nonce {
        Some(nonce) => step.saw("nonce", nonce.to_string()),
        None => step,
    }
}

/// Whether the connection ends in the machine that was quoted.
fn channel(statement: &Statement, channel: Channel) -> Step {
    let attested = statement.tls_spki_sha256.as_deref();
    let step = match (channel, attested) {
        (Channel::File, _) => Step::skipped(StepId::Channel, "the evidence lay in a file: no connection to look at"),
        (Channel::Plain, _) => Step::skipped(
            StepId::Channel,
            "channel not bound: the connection has no TLS, so anybody on the way can read and answer",
        ),
        (Channel::Tls { .. }, None) => Step::skipped(
            StepId::Channel,
            "channel not bound: the agent speaks no TLS itself, so whoever ends the TLS can read and answer",
        ),
        (Channel::Tls { spki_sha256 }, Some(attested)) if dshield_common::hex::encode(&spki_sha256) == attested => {
            Step::pass(
                StepId::Channel,
                "the connection ends in the machine that was quoted: its TLS key is the attested one",
            )
        }
        (Channel::Tls { spki_sha256 }, Some(attested)) => {
            let found = dshield_common::hex::encode(&spki_sha256);
            let says = format!(
                "the connection's TLS key is {found}, and {attested} was quoted: somebody sits between, and passes the evidence on"
            );
            Step::fail(StepId::Channel, says)
        }
    };
    match attested {
        Some(attested) => step.saw("tls_spki_sha256", attested),
        None => step,
    }
}

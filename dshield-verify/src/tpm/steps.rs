//! The steps of a verdict that a TPM's quote answers. It answers fewer than TDX: whose machine it is, and what booted; not
//! whether the host is kept out of it.
use dshield_common::attestation::{Evidence, ReportData, Statement};
use dshield_common::hex;

use super::{AGENT_PCR, TpmClaims, verify};
use crate::expect::Expect;
use crate::suggestion::Facts;
use crate::verdict::{Step, StepId};

/// The steps from the quote to the report data, in order; and whether the TPM vouches for the statement.
pub(crate) fn steps(evidence: &Evidence, expect: &Expect, any: bool, facts: &mut Facts) -> (Vec<Step>, bool) {
    let claims = match &evidence.tpm {
        None => Err("there is no TPM quote in the evidence".to_owned()),
        Some(quote) => verify(quote, &ReportData::of(&evidence.statement)).map_err(|fault| fault.to_string()),
    };
    let claims = match claims {
        Ok(claims) => claims,
        Err(says) => {
            let steps = std::iter::once(Step::fail(StepId::Quote, says)).chain(Step::without_a_quote());
            return (steps.collect(), false);
        }
    };
    facts.tpm_key = Some(claims.ak_sha256.to_string());
    // The agent's own is another with each of its starts.
    let boots = claims.pcrs.iter().filter(|(number, _)| **number != AGENT_PCR);
    facts.tpm_pcrs = boots.map(|(number, value)| (*number, hex::encode(value))).collect();
    let no_tee =
        "a TPM does not say whether the host is kept out of the machine's memory, nor how current its firmware is";
    let steps = vec![
        key(&claims, expect, any),
        Step::skipped(StepId::Tcb, no_tee),
        Step::skipped(StepId::Attributes, no_tee),
        pcrs(&claims, expect, any),
        measured(&claims, evidence),
        Step::skipped(
            StepId::Compose,
            "the machine was not started by dstack: what runs beside D-Shield is not measured",
        ),
        Step::pass(StepId::ReportData, "the statement is the one that the machine had quoted"),
    ];
    (steps, true)
}

/// Whether the key is one that is trusted: nothing but the expectation says so.
fn key(claims: &TpmClaims, expect: &Expect, any: bool) -> Step {
    let found = claims.ak_sha256.to_string();
    let step = if expect.tpm_keys.contains(&found) {
        Step::pass(StepId::Quote, "the quote is signed by a TPM whose key is expected")
    } else if expect.tpm_keys.is_empty() {
        let says = "no TPM is expected ([tpm] ak_sha256 in expect.toml): anybody's TPM, or a program, could have made the quote";
        if any { Step::skipped(StepId::Quote, says) } else { Step::not_checked(StepId::Quote, says) }
    } else {
        let says = format!("the quote is signed by {found}, and {} is expected", expect.tpm_keys.join(" or "));
        Step::fail(StepId::Quote, says)
    };
    let step = step.saw("ak_sha256", found).saw("resets", claims.reset_count.to_string());
    match claims.boots {
        Some(boots) => step.saw("boots of the agent", boots.to_string()),
        None => step,
    }
    .note("a TPM that the host runs in software is the host's word: it can be rolled back")
}

fn pcrs(claims: &TpmClaims, expect: &Expect, any: bool) -> Step {
    let found = |number: &u8| {
        claims.pcrs.get(number).map(|value| hex::encode(value)).unwrap_or_else(|| "not quoted".to_owned())
    };
    let differs = expect.tpm_pcrs.iter().find(|(number, value)| found(number) != **value);
    let step = match differs {
        _ if expect.tpm_pcrs.is_empty() => {
            let says = "no PCRs are expected ([tpm.pcrs] in expect.toml), so any firmware and kernel would do";
            if any { Step::skipped(StepId::Measurements, says) } else { Step::not_checked(StepId::Measurements, says) }
        }
        None => Step::pass(StepId::Measurements, "the PCRs are the expected ones"),
        Some((number, value)) => {
            Step::fail(StepId::Measurements, format!("PCR {number} is {}, and {value} is expected", found(number)))
        }
    };
    claims.pcrs.iter().fold(step, |step, (number, value)| step.saw(format!("pcr {number}"), hex::encode(value)))
}

/// Whether the agent's PCR holds what the statement says.
fn measured(claims: &TpmClaims, evidence: &Evidence) -> Step {
    if !claims.explained {
        let says = "others extended the agent's PCR since the machine started, such as an earlier start of the agent: it says nothing. \
                    The quote alone binds the statement";
        return Step::skipped(StepId::EventLog, says);
    }
    let Ok(statement) = Statement::parse(&evidence.statement) else {
        return Step::fail(StepId::EventLog, "there is no statement to compare the PCR with");
    };
    let object = |name: &str| statement.ebpf_object(name).unwrap_or_default().to_owned();
    let stated = [
        statement.agent.sha256.clone(),
        object("cgroup"),
        object("lsm"),
        object("netns"),
        statement.policy_sha256.clone(),
    ];
    let found: Vec<String> = claims.measured.iter().map(|sha256| hex::encode(sha256)).collect();
    // A policy that was exchanged since the start, while developing, is in no PCR.
    if found.len() == stated.len() && found[..4] == stated[..4] {
        Step::pass(
            StepId::EventLog,
            "the agent's PCR holds the agent and the kernel programs that the statement names, and nothing else",
        )
    } else {
        Step::fail(
            StepId::EventLog,
            "the agent's PCR holds another agent or other kernel programs than the statement names",
        )
    }
}

//! Is it a genuine machine? Steps over the quote: signature, firmware, flags, measurements.
//!
//! Evidence and expectations flow in, steps flow out, and the registers that a genuine platform vouches for.
use dcap_qvl::TcbStatus;
use dshield_common::attestation::{Evidence, Provider, ReportData};
use dshield_common::hex;

use crate::expect::{Expect, Machine, TcbPolicy};
use crate::quote::{Registers, Root, VerifiedQuote, top_certificate};
use crate::time;
use crate::verdict::{Step, StepId};

/// TD attributes, bit 0 of the first byte, which is `TUD` ("TD under debug"): the host can look into the machine (Intel TDX
/// module ABI, `ATTRIBUTES.DEBUG`). Any bit of that byte makes the machine one that is not to be trusted.
const DEBUG: u8 = 1;

/// The quote, where it is genuine.
pub(crate) fn quote(
    evidence: &Evidence,
    root: &Root,
    insecure_development: bool,
    now: u64,
) -> (Step, Option<VerifiedQuote>) {
    let Some(quote) = &evidence.quote else {
        return (Step::fail(StepId::Quote, "there is no TDX quote in the evidence"), None);
    };
    let Some(collateral) = &evidence.collateral else {
        let says = "there is no collateral (Intel's data about the platform) in the evidence, so nobody can say whether the quote is genuine; \
                    let the agent fetch it ([attestation] pccs in its policy), or leave --offline out";
        return (Step::not_checked(StepId::Quote, says), None);
    };
    let development = evidence.provider == Provider::Development;
    let own;
    let root = match (development, top_certificate(quote)) {
        // The steps below are worth seeing on a laptop; this one says that they prove nothing.
        (true, Some(top)) => {
            own = Root::Other(top);
            &own
        }
        _ => root,
    };
    let verified = match VerifiedQuote::verify(quote, collateral, root, now) {
        Ok(verified) => verified,
        Err(error) => return (Step::fail(StepId::Quote, error.to_string()), None),
    };
    let claims = verified.claims();
    let step = if !development {
        Step::pass(
            StepId::Quote,
            "the quote is signed by a genuine Intel TDX platform, and nothing on the way is revoked or expired",
        )
    } else if insecure_development {
        Step::pass(
            StepId::Quote,
            "DEVELOPMENT: the quote is signed by a test key that anybody can make; it proves nothing",
        )
    } else {
        let says = "DEVELOPMENT: the quote is signed by a test key that anybody can make, so nothing of this is proven; \
                    --insecure-development goes on all the same";
        Step::fail(StepId::Quote, says)
    };
    let step = step
        .saw("fmspc", hex::encode(&claims.platform.pck.fmspc))
        .saw("quote version", claims.header.version.to_string())
        .saw("collateral valid until", time::rfc3339(claims.earliest_expiration_date));
    (step, Some(verified))
}

/// Whether the platform's firmware is as current as asked for.
pub(crate) fn tcb(verified: &VerifiedQuote, policy: &TcbPolicy, now: u64) -> Step {
    let claims = verified.claims();
    let status = claims.tcb.status;
    let number = claims.tcb.eval_data_number;
    let name = status.to_string();
    let listed = policy.statuses.contains(&name);
    let step = if status == TcbStatus::Revoked {
        Step::fail(StepId::Tcb, "the platform's TCB is revoked: its keys may be known to others")
    } else if !listed && !in_grace(verified, policy, now) {
        let wanted = policy.statuses.join(", ");
        let says = format!(
            "the platform's TCB status is {name}, and {wanted} is expected; if you accept it, add it to tcb.statuses, or set tcb.grace_days"
        );
        Step::fail(StepId::Tcb, says)
    } else if number < policy.min_evaluation_number {
        let says = format!(
            "Intel's data are of TCB evaluation {number}, and at least {} is expected: the deployment keeps old data",
            policy.min_evaluation_number
        );
        Step::fail(StepId::Tcb, says)
    } else if let Some(advisory) = claims.tcb.advisory_ids.iter().find(|id| rejected(policy, id)) {
        Step::fail(
            StepId::Tcb,
            format!("the advisory {advisory} applies to the platform, and is among tcb.reject_advisories"),
        )
    } else if listed {
        Step::pass(StepId::Tcb, format!("the platform's TCB status is {name}"))
    } else {
        let says = format!("the platform's TCB status is {name}, and it is within {} days of grace", policy.grace_days);
        Step::pass(StepId::Tcb, says)
    };
    let step = step
        .saw("status", name)
        .saw("level of", claims.platform.tcb_level.tcb_date.clone())
        .saw("evaluation number", number.to_string());
    match claims.tcb.advisory_ids.as_slice() {
        [] => step,
        ids => step.saw("advisories", ids.join(", ")),
    }
}

fn rejected(policy: &TcbPolicy, id: &str) -> bool {
    policy.reject_advisories.iter().any(|rejected| rejected.eq_ignore_ascii_case(id))
}

/// Whether what is out of date has been so for less than the grace.
fn in_grace(verified: &VerifiedQuote, policy: &TcbPolicy, now: u64) -> bool {
    let claims = verified.claims();
    if policy.grace_days == 0
        || !matches!(claims.tcb.status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded)
    {
        return false;
    }
    let grace = u64::from(policy.grace_days) * 86_400;
    let recent = |date: Option<u64>| date.is_some_and(|date| date.saturating_add(grace) >= now);
    let out = |status: TcbStatus| matches!(status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
    let platform = !out(claims.platform.tcb_level.tcb_status) || recent(Some(claims.platform.tcb_date_tag));
    let enclave = &claims.qe.tcb_level;
    platform && (!out(enclave.tcb_status) || recent(time::parse(&enclave.tcb_date)))
}

/// Whether the host is kept out of the machine.
pub(crate) fn attributes(registers: &Registers) -> Step {
    let under_debug = registers.attributes[0];
    let step = if under_debug == 0 {
        Step::pass(StepId::Attributes, "the machine is no debug machine: the host cannot look into it")
    } else if under_debug & DEBUG != 0 {
        Step::fail(StepId::Attributes, "the machine runs in debug mode: the host can read and change its memory")
    } else {
        Step::fail(StepId::Attributes, "the machine is being profiled: the host can watch what it does")
    };
    step.saw("td attributes", hex::encode(&registers.attributes)).saw("xfam", hex::encode(&registers.xfam))
}

/// Whether firmware and kernel are the expected ones.
pub(crate) fn measurements(registers: &Registers, expect: &Expect, any: bool) -> Step {
    let found = machine(registers);
    let step = if expect.machines.is_empty() {
        let says = "no firmware and kernel are expected ([[machine]] in expect.toml), so any machine would do: a changed one can say whatever it likes";
        if any { Step::skipped(StepId::Measurements, says) } else { Step::not_checked(StepId::Measurements, says) }
    } else if let Some(known) = expect.machines.iter().find(|known| same(known, &found)) {
        let name = known.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        Step::pass(StepId::Measurements, format!("firmware and kernel are expected ones{name}"))
    } else {
        // The nearest one says most.
        let differs =
            expect.machines.iter().map(|known| differing(known, &found)).min_by_key(Vec::len).unwrap_or_default();
        let names: Vec<&str> = differs.iter().map(|(name, _)| *name).collect();
        let detail: Vec<String> =
            differs.iter().map(|(name, expected)| format!("{name} is expected to be {expected}")).collect();
        let says = format!(
            "{} of the machine is not expected: another firmware, kernel or shape of machine ({})",
            names.join(", "),
            detail.join("; ")
        );
        Step::fail(StepId::Measurements, says)
    };
    step.saw("mrtd", found.mrtd)
        .saw("rtmr0", found.rtmr0)
        .saw("rtmr1", found.rtmr1)
        .saw("rtmr2", found.rtmr2)
        .saw("rtmr3", hex::encode(&registers.rtmr[3]))
        .saw("mrseam", hex::encode(&registers.mr_seam))
}

/// The machine, as it would be expected.
pub(crate) fn machine(registers: &Registers) -> Machine {
    let [rtmr0, rtmr1, rtmr2, _] = registers.rtmr.map(|register| hex::encode(&register));
    Machine { mrtd: hex::encode(&registers.mrtd), rtmr0, rtmr1, rtmr2, ..Machine::default() }
}

pub(crate) fn same(known: &Machine, found: &Machine) -> bool {
    differing(known, found).is_empty()
}

fn differing<'k>(known: &'k Machine, found: &Machine) -> Vec<(&'static str, &'k str)> {
    let all = [
        ("MRTD", &known.mrtd, &found.mrtd),
        ("RTMR0", &known.rtmr0, &found.rtmr0),
        ("RTMR1", &known.rtmr1, &found.rtmr1),
        ("RTMR2", &known.rtmr2, &found.rtmr2),
    ];
    all.into_iter().filter(|(_, known, found)| known != found).map(|(name, known, _)| (name, known.as_str())).collect()
}

/// Whether the quote is about this statement.
pub(crate) fn report_data(quoted: &[u8; 64], statement: &str) -> Step {
    let wanted = ReportData::of(statement);
    let step = if wanted.as_bytes() == quoted {
        Step::pass(StepId::ReportData, "the statement is the one that the machine had quoted")
    } else {
        Step::fail(
            StepId::ReportData,
            "the quote is not about this statement: the statement was changed, or the quote is another's",
        )
    };
    step.saw("report data", hex::encode(quoted)).saw("of the statement", wanted.to_string())
}

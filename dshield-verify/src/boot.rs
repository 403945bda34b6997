//! What was started on the machine: steps over the event log and the compose file.
//!
//! Evidence and the registers of a genuine quote flow in. Where dstack started the machine, its log names the compose file
//! and that says what runs beside D-Shield; elsewhere all that runs is in the image that the measurements are of.
use dshield_common::attestation::{Evidence, Provider, Statement};
use dshield_common::canonical::Sha256Digest;
use dshield_common::hex;
use sha2::{Digest, Sha256};

use crate::compose::{AppCompose, Expectations, lint};
use crate::event_log::{Identity, RuntimeReplayed, replay, replay_runtime_only};
use crate::expect::{self, Expect, Starts};
use crate::machine::{machine, same};
use crate::quote::Registers;
use crate::suggestion::Facts;
use crate::verdict::{Step, StepId};

/// What an agent extends RTMR3 with where there is no dstack, by name.
const EVENTS: [&str; 3] = ["dshield-agent", "dshield-ebpf", "dshield-policy"];

/// The steps about event log and compose file.
pub(crate) fn steps(
    evidence: &Evidence,
    registers: &Registers,
    expect: &Expect,
    any: bool,
    facts: &mut Facts,
) -> [Step; 2] {
    match evidence.provider {
        Provider::Dstack | Provider::Development => dstack(evidence, registers, expect, any, facts),
        _ => [runtime_events(evidence, registers, expect, any), image(registers, expect, any)],
    }
}

fn dstack(evidence: &Evidence, registers: &Registers, expect: &Expect, any: bool, facts: &mut Facts) -> [Step; 2] {
    let identity = match evidence.event_log.as_deref().map(|log| replay(log, &registers.rtmr)) {
        None => Err("the evidence has no event log, so nobody can say what was started on the machine".to_owned()),
        Some(Err(fault)) => Err(fault.to_string()),
        Some(Ok(replayed)) => Ok(replayed),
    };
    let replayed = match identity {
        Ok(replayed) => replayed,
        Err(says) => {
            let without = "without the machine's event log nobody knows its compose file";
            return [Step::fail(StepId::EventLog, says), Step::not_checked(StepId::Compose, without)];
        }
    };
    let says = format!("the event log, of {} events, is that of the quote's registers", replayed.events);
    let mut log = Step::pass(StepId::EventLog, says);
    for (name, value) in seen(&replayed.identity) {
        log = log.saw(name, value);
    }
    log.notes = replayed.notes;
    [log, compose(evidence, &replayed.identity.compose_hash, &expect.compose, any, facts)]
}

fn seen(identity: &Identity) -> Vec<(&'static str, String)> {
    let mut seen = vec![("app-id", hex::encode(&identity.app_id)), ("compose-hash", identity.compose_hash.to_string())];
    seen.extend(identity.instance_id.map(|id| ("instance-id", hex::encode(&id))));
    seen.extend(
        identity.key_provider.as_ref().map(|provider| ("key-provider", format!("{} {}", provider.name, provider.id))),
    );
    seen.extend(
        identity
            .os_image_hash
            .map(|hash| ("os-image-hash (asserted by the key service, not measured)", hash.to_string())),
    );
    seen
}

/// Whether what was deployed leaves D-Shield alone in control.
fn compose(
    evidence: &Evidence,
    measured: &Sha256Digest,
    expect: &expect::Compose,
    any: bool,
    facts: &mut Facts,
) -> Step {
    let Some(text) = &evidence.app_compose else {
        return Step::fail(
            StepId::Compose,
            "the evidence lacks the compose file (app_compose) that the event log names",
        );
    };
    let app = match AppCompose::parse(text, measured) {
        Ok(app) => app,
        Err(fault) => return Step::fail(StepId::Compose, fault.to_string()),
    };
    let sha256 = measured.to_string();
    facts.compose_sha256 = Some(sha256.clone());
    let approved = expect.sha256.contains(&sha256);
    let wanted = expect.image_digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:"));
    let dshield_image = wanted.and_then(hex::decode_array::<32>).map(Sha256Digest::from);
    let found = lint(&app, &Expectations { compose_hash_approved: approved, dshield_image });
    facts.image_digest = found.dshield.as_ref().map(|shield| format!("sha256:{}", shield.digest));
    let step = if !expect.sha256.is_empty() && !approved {
        Step::fail(
            StepId::Compose,
            format!("the compose file is {sha256}, and {} is expected", expect.sha256.join(" or ")),
        )
    } else if let Some(first) = found.findings.first() {
        let more = match found.findings.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Step::fail(StepId::Compose, format!("the compose file lets others around D-Shield: {first}{more}"))
    } else if found.dshield.is_none() {
        Step::fail(
            StepId::Compose,
            "no service of the compose file is D-Shield: none is privileged and pinned by digest",
        )
    } else if expect.sha256.is_empty() && dshield_image.is_none() {
        let says = "no compose file and no image of D-Shield are expected ([compose] in expect.toml): what runs as D-Shield could be anything";
        if any { Step::skipped(StepId::Compose, says) } else { Step::not_checked(StepId::Compose, says) }
    } else {
        Step::pass(
            StepId::Compose,
            "of what was deployed on the machine, D-Shield alone is privileged, and it is pinned by digest",
        )
    };
    let mut step = step.saw("compose", sha256);
    if let Some(shield) = &found.dshield {
        step = step.saw("service", shield.service.clone()).saw("image", shield.image.clone());
    }
    for finding in &found.findings {
        step = step.note(finding.to_string());
    }
    for note in found.notes {
        step = step.note(note);
    }
    step
}

/// Whether all that runs is in the measured image. Who serves the evidence says by what way it was made, so that alone must
/// not get around the compose file: only the expectation can say that there is none.
fn image(registers: &Registers, expect: &Expect, any: bool) -> Step {
    let found = machine(registers);
    if expect.compose != expect::Compose::default() {
        let says = "a compose file is expected ([compose] in expect.toml), and by the evidence dstack did not start the machine, so there is none to look at";
        return Step::fail(StepId::Compose, says);
    }
    let known = expect.machines.iter().filter(|known| same(known, &found));
    if known.clone().any(|known| known.starts == Starts::Dshield) {
        let says = "the expected image starts D-Shield and nothing that could go around it (starts = \"dshield\" in expect.toml)";
        return Step::pass(StepId::Compose, says);
    }
    let says = "no compose file came along, so what runs beside D-Shield, or in its place, is not known; where the image that [[machine]] \
                names starts D-Shield and nothing else, say so there: starts = \"dshield\"";
    if any { Step::skipped(StepId::Compose, says) } else { Step::not_checked(StepId::Compose, says) }
}

/// What an agent extended RTMR3 with by itself.
fn runtime_events(evidence: &Evidence, registers: &Registers, expect: &Expect, any: bool) -> Step {
    let Some(log) = &evidence.event_log else {
        if registers.rtmr[3] == [0; 48] {
            let says = "nothing extended RTMR3: the report data alone binds the statement";
            return Step::skipped(StepId::EventLog, says);
        }
        let says = "something extended RTMR3, and no event log says what: where dstack did, the evidence must come through its guest agent";
        return if any { Step::skipped(StepId::EventLog, says) } else { Step::fail(StepId::EventLog, says) };
    };
    let replayed = match replay_runtime_only(log, &registers.rtmr) {
        Ok(replayed) => replayed,
        Err(fault) => return Step::fail(StepId::EventLog, fault.to_string()),
    };
    let mut step = match measured(&replayed, evidence, expect) {
        Ok(says) => Step::pass(StepId::EventLog, says),
        Err(says) => Step::fail(StepId::EventLog, says),
    };
    for one in &replayed.measured {
        step = step.saw(one.name.clone(), hex::encode(&one.payload));
    }
    step
}

/// Every agent that ran since the machine booted is in RTMR3: the last must be the one that speaks, the others known.
fn measured(replayed: &RuntimeReplayed, evidence: &Evidence, expect: &Expect) -> Result<String, String> {
    let Ok(statement) = Statement::parse(&evidence.statement) else {
        return Err("there is no statement to compare RTMR3 with".to_owned());
    };
    // dstack's own events would say so too: whoever hides them hides what was deployed.
    if let Some(other) = replayed.measured.iter().find(|one| !EVENTS.contains(&one.name.as_str())) {
        return Err(format!("something other than the agent extended RTMR3, with the event {:?}", other.name));
    }
    let last = |name: &str| replayed.all(name).last().map(hex::encode).unwrap_or_default();
    for (name, stated) in [("dshield-agent", statement.agent.sha256.clone()), ("dshield-ebpf", ebpf(&statement))] {
        if last(name) != stated {
            return Err(format!("RTMR3 was last extended with {name} {}, and the statement says {stated}", last(name)));
        }
    }
    let stranger = replayed
        .all("dshield-agent")
        .map(hex::encode)
        .find(|agent| !expect.releases.is_empty() && !expect.releases.iter().any(|release| release.agent == *agent));
    match stranger {
        Some(agent) => {
            Err(format!("the agent {agent} has run on this machine since it booted, and no expected release has it"))
        }
        None => Ok("RTMR3 holds the agents that ran since the machine booted, the one that speaks last".to_owned()),
    }
}

/// As the agent extends with: SHA-256 over the objects' hashes, in the order of their names.
fn ebpf(statement: &Statement) -> String {
    let mut hash = Sha256::new();
    for name in ["cgroup", "lsm", "netns"] {
        hash.update(statement.ebpf_object(name).and_then(hex::decode).unwrap_or_default());
    }
    hex::encode(&hash.finalize())
}

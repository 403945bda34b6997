//! What runs there, and where can it send data? Steps over an attested statement: release, policy, code.
use std::collections::{BTreeMap, BTreeSet};

use dshield_common::attestation::Statement;
use dshield_common::canonical::sha256_hex;

use crate::destinations::{View, diff};
use crate::expect::{Expect, Release};
use crate::verdict::{Step, StepId};

/// Whether agent, kernel programs and filters are a known release's.
pub(crate) fn release(statement: &Statement, expect: &Expect, any: bool) -> Step {
    let found = found(statement);
    let step = if expect.releases.is_empty() {
        let says = "no release is expected ([[release]] in expect.toml), so any program may call itself the agent";
        if any { Step::skipped(StepId::Release, says) } else { Step::not_checked(StepId::Release, says) }
    } else {
        match &found {
            Err(missing) => Step::fail(
                StepId::Release,
                format!("the statement names no {missing} object: the enforcement is not all there"),
            ),
            Ok(found) => match expect.releases.iter().map(|known| differing(known, found)).min_by_key(Vec::len) {
                Some(differs) if !differs.is_empty() => {
                    let says = format!("{}: no expected release has it; {}", differs[0].0, said(&differs));
                    Step::fail(StepId::Release, says)
                }
                _ => Step::pass(StepId::Release, "agent, kernel programs and filters are an expected release's"),
            },
        }
    };
    let mut step = step.saw("version", statement.agent.version.clone()).saw("agent", statement.agent.sha256.clone());
    for object in &statement.ebpf.objects {
        step = step.saw(format!("ebpf_{}", object.name), object.sha256.clone());
    }
    let step = step
        .saw("seccomp", statement.isolation.seccomp_sha256.clone())
        .saw("programs", statement.ebpf.programs.join(" "))
        .saw("landlock", statement.isolation.landlock_abi.to_string())
        .saw("bpf lsm", statement.isolation.lsm_bpf.to_string());
    match statement.isolation.cgroup_controllers.as_slice() {
        [_, _, ..] => step,
        few => step.note(format!(
            "of the cgroup controllers memory and pids, instances are bounded by: {}",
            if few.is_empty() { "none".to_owned() } else { few.join(", ") }
        )),
    }
}

/// The release that a statement names, or the object that it does not.
pub(crate) fn found(statement: &Statement) -> Result<Release, &'static str> {
    let object = |name: &'static str| statement.ebpf_object(name).map(str::to_owned).ok_or(name);
    Ok(Release {
        name: Some(format!("dshield {}", statement.agent.version)),
        agent: statement.agent.sha256.clone(),
        ebpf_cgroup: object("cgroup")?,
        ebpf_lsm: object("lsm")?,
        ebpf_netns: object("netns")?,
        seccomp: statement.isolation.seccomp_sha256.clone(),
    })
}

fn differing<'a>(known: &'a Release, found: &'a Release) -> Vec<(&'static str, &'a str, &'a str)> {
    let all = [
        ("the agent's executable", &known.agent, &found.agent),
        ("the kernel programs of the cgroup (ebpf_cgroup)", &known.ebpf_cgroup, &found.ebpf_cgroup),
        ("the kernel programs at the security hooks (ebpf_lsm)", &known.ebpf_lsm, &found.ebpf_lsm),
        ("the kernel programs of the network namespace (ebpf_netns)", &known.ebpf_netns, &found.ebpf_netns),
        ("the seccomp filters", &known.seccomp, &found.seccomp),
    ];
    all.into_iter()
        .filter(|(_, known, found)| known != found)
        .map(|(name, known, found)| (name, known.as_str(), found.as_str()))
        .collect()
}

fn said(differs: &[(&str, &str, &str)]) -> String {
    let each = differs.iter().map(|(name, known, found)| format!("{name} is {found}, expected {known}"));
    each.collect::<Vec<_>>().join("; ")
}

/// Whether the policy is the expected one, and what it allows.
pub(crate) fn policy(statement: &Statement, text: &str, expect: &Expect, any: bool) -> (Step, View) {
    let sha256 = sha256_hex(text.as_bytes());
    if sha256 != statement.policy_sha256 {
        let says = format!(
            "the policy that came along is not the attested one: its hash is {sha256}, and {} was quoted",
            statement.policy_sha256
        );
        return (Step::fail(StepId::Policy, says), View::default());
    }
    let view = match View::of(text) {
        Ok(view) => view,
        Err(error) => return (Step::fail(StepId::Policy, error.to_string()), View::default()),
    };
    let expected = &expect.policy;
    let mut step = if expected.sha256.contains(&sha256) {
        let also = if view.observes { ", which refuses nothing and only writes down" } else { "" };
        Step::pass(StepId::Policy, format!("the policy is the expected one{also}"))
    } else if view.observes {
        let says = "the policy refuses nothing, it only writes down (mode = \"observe\"): data can go anywhere";
        Step::fail(StepId::Policy, says)
    } else if expected.sha256.is_empty() {
        let says = "no policy is expected ([policy] in expect.toml): read where data can go, and decide";
        if any { Step::skipped(StepId::Policy, says) } else { Step::not_checked(StepId::Policy, says) }
    } else {
        let says = match expected.canonical.as_deref().map(View::of) {
            Some(Ok(wanted)) => match diff(&wanted, &view).as_slice() {
                [] => "the policy is not the expected one, though it allows the same: it differs in functions' names, in the log's settings or the like".to_owned(),
                lines => format!("the policy is not the expected one; - expected, + there:\n{}", lines.join("\n")),
            },
            _ => format!("the policy is not the expected one; give it as policy.file in expect.toml to see the difference (expected {})", expected.sha256.join(" or ")),
        };
        Step::fail(StepId::Policy, says)
    };
    step = step.saw("policy", sha256);
    for note in &view.notes {
        step = step.note(note.clone());
    }
    (step, view)
}

/// Whether the functions' code is the expected one.
pub(crate) fn code(statement: &Statement, expect: &Expect) -> Step {
    let found: BTreeMap<&str, &str> =
        statement.functions.iter().map(|function| (function.name.as_str(), function.code_sha256.as_str())).collect();
    let step = if expect.functions.is_empty() {
        // The promise is about where data can go, whatever the code.
        Step::skipped(
            StepId::Code,
            "no code is expected ([functions] in expect.toml): whatever it is, it can send data only where the policy says",
        )
    } else {
        let names: BTreeSet<&str> = found.keys().copied().chain(expect.functions.keys().map(String::as_str)).collect();
        let wrong = names.into_iter().find_map(|name| match (expect.functions.get(name), found.get(name)) {
            (Some(known), Some(sha256)) if known.iter().any(|known| known == sha256) => None,
            (Some(known), Some(sha256)) => {
                Some(format!("the code of {name} is {sha256}, expected {}", known.join(" or ")))
            }
            (Some(_), None) => Some(format!("the function {name} is expected, and is not deployed")),
            (None, _) => Some(format!("the function {name} is deployed, and is not expected")),
        });
        match wrong {
            Some(wrong) => Step::fail(StepId::Code, wrong),
            None => Step::pass(StepId::Code, "the functions' code is the expected one"),
        }
    };
    found.into_iter().fold(step, |step, (name, sha256)| step.saw(name, sha256))
}

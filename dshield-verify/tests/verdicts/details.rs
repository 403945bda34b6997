//! What else a step can say: the rarer ways to fail, and to pass.
use dshield_common::attestation::Provider;
use dshield_common::canonical::sha256_hex;
use dshield_development::{Platform, TcbStatus, boot};
use dshield_verify::expect::{Compose, Expect, Policy, Release};
use dshield_verify::verdict::{StepId, StepResult};
use dshield_verify::{Channel, Outcome};

use crate::scene::{NOW, Scene, app_compose, digest, fails_only, policy};

#[test]
fn evidence_without_a_quote_or_with_one_that_is_none() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    for (quote, says) in [
        (None, "no TDX quote"),
        (Some(""), "the quote"),
        (Some("0G"), "not hexadecimal"),
        (Some("00"), "the quote"),
        (Some("é"), "not hexadecimal"),
    ] {
        evidence.quote = quote.map(str::to_owned);
        fails_only(&scene.judged(&evidence).verdict, StepId::Quote, 10, says);
        // Nor does a word for it help.
        evidence.provider = Provider::Development;
        fails_only(&scene.judged(&evidence).verdict, StepId::Quote, 10, says);
        evidence.provider = Provider::Dstack;
    }
}

#[test]
fn collateral_that_is_no_hexadecimal_is_named() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.collateral.as_mut().unwrap().pck_crl.push('g');
    fails_only(&scene.judged(&evidence).verdict, StepId::Quote, 10, "pck_crl is not hexadecimal");
}

#[test]
fn a_statement_that_is_none_is_no_evidence_even_where_it_was_quoted() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.statement = evidence.statement.replacen('{', "{ ", 1);
    let judged = scene.judged(&evidence);
    assert!(judged.statement.is_none());
    assert_eq!(judged.verdict.outcome.exit_code(), 20);
    assert!(judged.verdict.step(StepId::Evidence).unwrap().says.contains("not canonical"));
}

#[test]
fn the_grace_is_counted_for_the_quoting_enclave_too() {
    let out =
        |days: u64| Platform { qe_status: TcbStatus::OutOfDate, tcb_date: NOW - days * 86_400, ..Platform::default() };
    for (days, grace, outcome) in
        [(20, 21, Outcome::Verified), (20, 19, Outcome::Attestation), (2000, 21, Outcome::Attestation)]
    {
        let mut scene = Scene::with(out(days));
        scene.expect.tcb.grace_days = grace;
        assert_eq!(scene.judge().outcome, outcome, "{days} days, {grace} of grace");
    }
}

#[test]
fn no_grace_for_what_is_not_a_matter_of_time() {
    for status in
        [TcbStatus::ConfigurationNeeded, TcbStatus::SWHardeningNeeded, TcbStatus::ConfigurationAndSWHardeningNeeded]
    {
        let mut scene = Scene::with(Platform { tcb_status: status, tcb_date: NOW - 86_400, ..Platform::default() });
        scene.expect.tcb.grace_days = u32::MAX;
        fails_only(&scene.judge(), StepId::Tcb, 10, &format!("status is {status}, and UpToDate is expected"));
        scene.expect.tcb.statuses.push(status.to_string());
        assert_eq!(scene.judge().outcome, Outcome::Verified);
    }
    let platform =
        Platform { tcb_status: TcbStatus::OutOfDateConfigurationNeeded, tcb_date: NOW - 86_400, ..Platform::default() };
    let mut scene = Scene::with(platform);
    scene.expect.tcb.grace_days = 2;
    assert_eq!(scene.judge().outcome, Outcome::Verified);
}

#[test]
fn the_nearest_of_several_machines_is_the_one_that_is_compared() {
    let mut scene = Scene::new();
    let mut far = scene.expect.machines[0].clone();
    [far.mrtd, far.rtmr0, far.rtmr1] = ["f", "f", "f"].map(|digit| digit.repeat(96));
    let good = std::mem::replace(&mut scene.expect.machines[0], far);
    let near = dshield_verify::expect::Machine { rtmr2: "f".repeat(96), ..good.clone() };
    scene.expect.machines.push(near);
    let verdict = scene.judge();
    fails_only(&verdict, StepId::Measurements, 11, "RTMR2 of the machine is not expected");
    assert!(!verdict.step(StepId::Measurements).unwrap().says.contains("MRTD"));
    scene.expect.machines.push(dshield_verify::expect::Machine { name: Some("4 vCPU".to_owned()), ..good });
    assert!(scene.judge().step(StepId::Measurements).unwrap().says.ends_with("(4 vCPU)"));
}

#[test]
fn the_nearest_of_several_releases_is_the_one_that_is_compared() {
    let mut scene = Scene::new();
    let other = |digit: &str| Release {
        name: None,
        agent: digit.repeat(64),
        ebpf_cgroup: digit.repeat(64),
        ebpf_lsm: digit.repeat(64),
        ebpf_netns: digit.repeat(64),
        seccomp: digit.repeat(64),
    };
    let near = Release { seccomp: "e".repeat(64), ..scene.expect.releases[0].clone() };
    let good = std::mem::replace(&mut scene.expect.releases, vec![other("f"), near]);
    let verdict = scene.judge();
    fails_only(&verdict, StepId::Release, 11, "the seccomp filters");
    assert!(!verdict.step(StepId::Release).unwrap().says.contains("executable"));
    scene.expect.releases.extend(good);
    assert_eq!(scene.judge().outcome, Outcome::Verified);
}

#[test]
fn instances_that_nothing_bounds_are_noted() {
    for (controllers, says) in [(&["memory"][..], "bounded by: memory"), (&[], "bounded by: none")] {
        let mut scene = Scene::new();
        scene.statement.isolation.cgroup_controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        let verdict = scene.judge();
        assert!(verdict.step(StepId::Release).unwrap().notes[0].ends_with(says));
        assert_eq!(verdict.outcome, Outcome::Verified);
    }
}

/// Deploys another policy than the expected one.
fn with_policy(policy: String) -> Scene {
    let mut scene = Scene::new();
    scene.statement.policy_sha256 = sha256_hex(policy.as_bytes());
    scene.policy = policy;
    scene
}

#[test]
fn a_policy_that_cannot_be_read_is_none_whatever_its_hash() {
    let good = policy("a.com");
    for text in ["{}".to_owned(), good.replace("policy/v1", "policy/v2"), good.replacen('{', "{\"allow\":\"all\",", 1)]
    {
        let mut scene = with_policy(text);
        scene.expect.policy.sha256 = vec![scene.statement.policy_sha256.clone()];
        let verdict = scene.judge();
        fails_only(&verdict, StepId::Policy, 11, "use the dshield-verify of its version");
        assert!(verdict.destinations.is_empty());
    }
}

#[test]
fn a_policy_that_observes_passes_where_it_is_expected_and_says_so() {
    let mut scene = with_policy(policy("a.com").replace("\"mode\":\"enforce\"", "\"mode\":\"observe\""));
    scene.expect.policy.sha256 = vec![scene.statement.policy_sha256.clone()];
    let verdict = scene.judge();
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(verdict.step(StepId::Policy).unwrap().says.contains("refuses nothing and only writes down"));
}

#[test]
fn another_policy_without_a_file_to_compare_with_or_one_that_allows_the_same() {
    let mut scene = with_policy(policy("b.com"));
    scene.expect.policy = Policy { sha256: vec!["1".repeat(64), "2".repeat(64)], canonical: None };
    fails_only(&scene.judge(), StepId::Policy, 11, "give it as policy.file");
    let allows_the_same = policy("a.com").replace("\"interval_ms\":60000", "\"interval_ms\":70000");
    assert_ne!(allows_the_same, policy("a.com"));
    fails_only(&with_policy(allows_the_same).judge(), StepId::Policy, 11, "though it allows the same");
}

#[test]
fn code_that_nobody_expects_is_said_to_be_so_and_one_of_several_may_be_there() {
    let mut scene = Scene::new();
    scene.expect.functions.get_mut("f").unwrap().insert(0, "e".repeat(64));
    assert_eq!(scene.judge().outcome, Outcome::Verified);
    scene.expect.functions.clear();
    let verdict = scene.judge();
    let step = verdict.step(StepId::Code).unwrap();
    assert_eq!(step.result, StepResult::Skipped);
    assert_eq!(verdict.outcome, Outcome::Verified);
}

#[test]
fn a_compose_file_that_did_not_come_along() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.app_compose = None;
    fails_only(&scene.judged(&evidence).verdict, StepId::Compose, 11, "lacks the compose file");
}

/// Deploys `app_compose`, which nobody approved by its hash.
fn deployed(app_compose: String, image_digest: Option<String>) -> Scene {
    let mut scene = Scene::new();
    (scene.events, scene.report.rtmr) = boot::boot_log(&app_compose);
    scene.app_compose = app_compose;
    scene.expect.compose = Compose { sha256: Vec::new(), image_digest };
    scene
}

#[test]
fn what_is_deployed_is_judged_without_its_hash_by_d_shields_image() {
    let image = Some(format!("sha256:{}", digest()));
    assert_eq!(deployed(app_compose(""), image.clone()).judge().outcome, Outcome::Verified);
    let another = Some(format!("sha256:{}", "6".repeat(64)));
    fails_only(&deployed(app_compose(""), another).judge(), StepId::Compose, 11, "the compose file lets others around");
    let privileged =
        "  other:\n    image: evil\n    privileged: true\n  third:\n    image: evil\n    privileged: true\n";
    fails_only(&deployed(app_compose(privileged), image).judge(), StepId::Compose, 11, "more)");
    let nobody = app_compose("").replace("    privileged: true\\n", "");
    assert_ne!(nobody, app_compose(""));
    fails_only(&deployed(nobody, None).judge(), StepId::Compose, 11, "none is privileged, so none can be D-Shield");
}

#[test]
fn what_runs_as_d_shield_is_not_checked_where_nobody_says_what_it_is() {
    let mut scene = deployed(app_compose(""), None);
    let verdict = scene.judge();
    assert_eq!(verdict.outcome.exit_code(), 20);
    assert_eq!(verdict.step(StepId::Compose).unwrap().result, StepResult::NotChecked);
    scene.options.insecure_any_measurement = true;
    let verdict = scene.judge();
    assert_eq!(verdict.step(StepId::Compose).unwrap().result, StepResult::Skipped);
    assert_eq!(verdict.outcome, Outcome::Verified);
}

#[test]
fn evidence_that_lay_in_a_file_may_be_of_any_age() {
    let mut scene = Scene::new();
    (scene.asked, scene.channel) = (None, Channel::File);
    let verdict = scene.judge();
    assert_eq!(verdict.step(StepId::Nonce).unwrap().result, StepResult::Skipped);
    assert!(verdict.step(StepId::Channel).unwrap().says.contains("lay in a file"));
    assert_eq!(verdict.outcome, Outcome::Verified);
    scene.statement.nonce = None;
    let verdict = scene.judge();
    assert!(verdict.step(StepId::Nonce).unwrap().observed.is_empty());
    assert_eq!(verdict.outcome, Outcome::Verified);
}

#[test]
fn what_was_seen_is_read_back_whatever_functions_are_called_and_has_no_release_that_is_not_whole() {
    let mut scene = Scene::new();
    for name in ["a.b", "\"quoted\"", "new\nline", "[functions]", ""] {
        scene.statement.functions[0].name = name.to_owned();
        let saw = scene.judge().saw.unwrap();
        let read = Expect::parse(&saw, &mut |_| Err(String::new())).unwrap();
        assert_eq!(read.functions.keys().collect::<Vec<_>>(), [name], "{saw}");
        assert_eq!(read.releases.len(), 1);
        assert_eq!(read.log.origin.as_deref(), Some("log.example"));
    }
    scene.statement.functions.clear();
    scene.statement.ebpf.objects.pop();
    let saw = scene.judge().saw.unwrap();
    let read = Expect::parse(&saw, &mut |_| Err(String::new())).unwrap();
    assert!(read.releases.is_empty() && read.functions.is_empty(), "{saw}");
    assert_eq!(read.policy.sha256, [scene.statement.policy_sha256]);
}

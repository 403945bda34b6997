//! Each step of a verdict, broken by itself: the step that fails, the exit code, the sentence.
#![allow(clippy::unwrap_used)]
use std::time::Instant;

use dshield_common::attestation::event::Event;
use dshield_common::attestation::{Nonce, Provider};
use dshield_common::canonical::sha256_hex;
use dshield_common::hex;
use dshield_development::{DEBUG, Issued, Lifetimes, Machine, Pki, Platform, SEPT_VE_DISABLE, TcbStatus, boot};
use dshield_verify::quote::Root;
use dshield_verify::verdict::{StepId, StepResult};
use dshield_verify::{Channel, Outcome};

use self::scene::{NOW, Scene, app_compose, fails_only, policy};

mod details;
mod provider;
mod scene;

#[test]
fn a_deployment_that_holds_in_every_respect_is_verified() {
    let verdict = Scene::new().judge();
    let wrong: Vec<_> = verdict.steps.iter().filter(|step| step.result != StepResult::Pass).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(!verdict.development);
    assert_eq!(verdict.destinations[0].to, "a.com:443");
    let ids: Vec<_> = verdict.steps.iter().map(|step| step.step).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(ids, sorted, "the steps are not in order");
}

#[test]
fn a_flipped_bit_anywhere_in_the_quote_that_is_signed() {
    let scene = Scene::new();
    let evidence = scene.evidence();
    let quote = hex::decode(evidence.quote.as_ref().unwrap()).unwrap();
    // Header, registers, report data, signature, attestation key.
    for at in [8, 190, 570, 640, 710] {
        let mut flipped = quote.clone();
        flipped[at] ^= 1;
        let mut evidence = evidence.clone();
        evidence.quote = Some(hex::encode(&flipped));
        let verdict = scene.judged(&evidence).verdict;
        fails_only(&verdict, StepId::Quote, 10, "the quote");
    }
}

#[test]
fn a_root_that_is_not_intels() {
    let mut scene = Scene::new();
    scene.options.root = Root::Intel;
    fails_only(&scene.judge(), StepId::Quote, 10, "does not verify");
    scene.options.root = Root::Other(Pki::generate().unwrap().root_der().to_vec());
    fails_only(&scene.judge(), StepId::Quote, 10, "does not verify");
}

#[test]
fn collateral_that_is_missing_expired_or_anothers() {
    let scene = Scene::with(Platform { lifetimes: Lifetimes::all(60), ..Platform::default() });
    let mut evidence = scene.evidence();
    let collateral = evidence.collateral.take();
    let verdict = scene.judged(&evidence).verdict;
    assert_eq!(verdict.outcome, Outcome::NotChecked);
    assert!(verdict.step(StepId::Quote).unwrap().says.contains("no collateral"));
    evidence.collateral = collateral;
    let mut late = Scene::with(Platform::default());
    late.options.now = NOW + 3600;
    late.options.root = scene.options.root.clone();
    fails_only(&late.judged(&evidence).verdict, StepId::Quote, 10, "expired");
    evidence.collateral = Some(Scene::new().machine.collateral(NOW));
    fails_only(&scene.judged(&evidence).verdict, StepId::Quote, 10, "does not verify");
}

#[test]
fn a_platform_that_is_out_of_date_and_the_ways_to_accept_it() {
    let out =
        |days: u64| Platform { tcb_status: TcbStatus::OutOfDate, tcb_date: NOW - days * 86_400, ..Platform::default() };
    let mut scene = Scene::with(out(20));
    fails_only(&scene.judge(), StepId::Tcb, 10, "status is OutOfDate, and UpToDate is expected");
    scene.expect.tcb.grace_days = 19;
    fails_only(&scene.judge(), StepId::Tcb, 10, "OutOfDate");
    scene.expect.tcb.grace_days = 21;
    let verdict = scene.judge();
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(verdict.step(StepId::Tcb).unwrap().says.contains("grace"));
    scene.expect.tcb.grace_days = 0;
    scene.expect.tcb.statuses.push("OutOfDate".to_owned());
    assert_eq!(scene.judge().outcome, Outcome::Verified);
}

#[test]
fn a_quoting_enclave_that_is_out_of_date() {
    let scene = Scene::with(Platform { qe_status: TcbStatus::OutOfDate, ..Platform::default() });
    fails_only(&scene.judge(), StepId::Tcb, 10, "OutOfDate");
}

#[test]
fn a_platform_that_is_revoked() {
    let mut scene = Scene::with(Platform { tcb_status: TcbStatus::Revoked, ..Platform::default() });
    scene.expect.tcb.statuses.push("OutOfDate".to_owned());
    let verdict = scene.judge();
    assert_eq!(verdict.outcome.exit_code(), 10, "{:?}", verdict.outcome);
    let revoked = verdict.steps.iter().find(|step| step.result == StepResult::Fail).unwrap();
    assert!(revoked.says.to_lowercase().contains("revoked"), "{}", revoked.says);
    for issued in [Issued::Pck, Issued::PlatformCa, Issued::TcbSigning] {
        let scene = Scene::with(Platform { revoked: vec![issued], ..Platform::default() });
        fails_only(&scene.judge(), StepId::Quote, 10, "evoked");
    }
}

#[test]
fn data_of_an_old_evaluation_and_advisories_that_are_not_accepted() {
    let mut scene = Scene::with(Platform { advisory_ids: vec!["INTEL-SA-00001".to_owned()], ..Platform::default() });
    scene.expect.tcb.min_evaluation_number = 21;
    fails_only(&scene.judge(), StepId::Tcb, 10, "of TCB evaluation 20, and at least 21 is expected");
    scene.expect.tcb.min_evaluation_number = 20;
    assert_eq!(scene.judge().outcome, Outcome::Verified);
    scene.expect.tcb.reject_advisories = vec!["intel-sa-00001".to_owned()];
    fails_only(&scene.judge(), StepId::Tcb, 10, "INTEL-SA-00001");
}

#[test]
fn a_machine_in_debug_mode() {
    let mut scene = Scene::new();
    scene.report.td_attributes = SEPT_VE_DISABLE | DEBUG;
    fails_only(&scene.judge(), StepId::Attributes, 10, "debug mode: the host can read");
}

/// The library looks at these together with debug mode, which is a step of its own here.
#[test]
fn a_machine_that_is_profiled() {
    for bit in 4..7 {
        let mut scene = Scene::new();
        scene.report.td_attributes = SEPT_VE_DISABLE | 1 << bit;
        fails_only(&scene.judge(), StepId::Attributes, 10, "being profiled");
    }
}

#[test]
fn another_firmware_kernel_or_shape_of_machine() {
    for (name, change) in [
        ("MRTD", (|scene| scene.report.mr_td[0] ^= 1) as fn(&mut Scene)),
        ("RTMR0", |scene| {
            scene.events.push(Event { imr: 0, digest: "0".repeat(96), ..scene.events[0].clone() });
            scene.replay_into_registers();
        }),
        ("RTMR1", |scene| {
            scene.events.push(Event { imr: 1, digest: "0".repeat(96), ..scene.events[0].clone() });
            scene.replay_into_registers();
        }),
        ("RTMR2", |scene| {
            scene.events.push(Event { imr: 2, digest: "0".repeat(96), ..scene.events[0].clone() });
            scene.replay_into_registers();
        }),
    ] {
        let mut scene = Scene::new();
        change(&mut scene);
        fails_only(&scene.judge(), StepId::Measurements, 11, &format!("{name} of the machine is not expected"));
    }
}

#[test]
fn an_event_log_that_is_not_this_machines() {
    let mut scene = Scene::new();
    scene.events.pop();
    fails_only(&scene.judge(), StepId::EventLog, 10, "RTMR3");
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.event_log = None;
    fails_only(&scene.judged(&evidence).verdict, StepId::EventLog, 10, "no event log");
}

#[test]
fn a_second_compose_hash_before_the_mark() {
    let mut scene = Scene::new();
    let at = scene.events.iter().position(|event| event.event == "compose-hash").unwrap();
    let other = hex::decode(&sha256_hex(b"another compose file")).unwrap();
    scene.events.insert(at + 1, Event::runtime("compose-hash", &other));
    scene.replay_into_registers();
    fails_only(&scene.judge(), StepId::EventLog, 10, "compose-hash");
}

#[test]
fn a_compose_hash_after_the_mark_changes_nothing() {
    let mut scene = Scene::new();
    scene.events.push(Event::runtime("compose-hash", &[1; 32]));
    scene.replay_into_registers();
    let verdict = scene.judge();
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(verdict.step(StepId::EventLog).unwrap().notes.iter().any(|note| note.contains("compose-hash")));
}

/// Deploys another compose file, of which only the hash that is expected may be wrong.
fn deployed(more: &str, expected: bool) -> Scene {
    let mut scene = Scene::new();
    scene.app_compose = app_compose(more);
    (scene.events, scene.report.rtmr) = boot::boot_log(&scene.app_compose);
    if expected {
        scene.expect.compose.sha256 = vec![sha256_hex(scene.app_compose.as_bytes())];
    }
    scene
}

#[test]
fn another_compose_file_than_expected() {
    let scene = deployed("    restart: always\n", false);
    fails_only(&scene.judge(), StepId::Compose, 11, "is expected");
}

#[test]
fn a_second_privileged_service_even_where_its_hash_was_approved() {
    let image = format!("x.example/y@sha256:{}", "6".repeat(64));
    let scene = deployed(&format!("  other:\n    image: {image}\n    privileged: true\n"), true);
    fails_only(&scene.judge(), StepId::Compose, 11, "privileged");
    let scene = deployed(&format!("  other:\n    image: {image}\n"), true);
    assert_eq!(scene.judge().outcome, Outcome::Verified);
}

#[test]
fn a_compose_file_that_is_not_the_measured_one() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.app_compose = Some(app_compose("    restart: always\n"));
    fails_only(&scene.judged(&evidence).verdict, StepId::Compose, 11, "the SHA-256 of app-compose.json is");
}

#[test]
fn a_statement_that_was_not_quoted() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.statement = evidence.statement.replace(&"a".repeat(64), &"f".repeat(64));
    let judged = scene.judged(&evidence);
    fails_only(&judged.verdict, StepId::ReportData, 10, "not about this statement");
    assert!(judged.statement.is_none());
    assert_eq!(judged.verdict.step(StepId::Policy).unwrap().result, StepResult::NotChecked);
    assert_eq!(judged.verdict.saw, None);
}

#[test]
fn evidence_that_is_replayed_or_older_than_the_question() {
    let mut scene = Scene::new();
    scene.asked = Some(Nonce::new([8; 32]));
    fails_only(&scene.judge(), StepId::Nonce, 13, "replayed");
    scene.statement.nonce = None;
    fails_only(&scene.judge(), StepId::Nonce, 13, "no nonce");
}

#[test]
fn another_tls_key_than_the_quoted_one() {
    let mut scene = Scene::new();
    scene.channel = Channel::Tls { spki_sha256: [1; 32] };
    fails_only(&scene.judge(), StepId::Channel, 10, "somebody sits between");
}

#[test]
fn a_channel_that_is_not_bound_is_said_to_be_so() {
    let mut scene = Scene::new();
    scene.channel = Channel::Plain;
    let verdict = scene.judge();
    assert!(verdict.step(StepId::Channel).unwrap().says.contains("channel not bound"));
    scene.channel = Channel::Tls { spki_sha256: scene::SPKI };
    scene.statement.tls_spki_sha256 = None;
    let verdict = scene.judge();
    let step = verdict.step(StepId::Channel).unwrap();
    assert!(step.says.contains("channel not bound"), "{}", step.says);
    assert_eq!((step.result, verdict.outcome), (StepResult::Skipped, Outcome::Verified));
}

#[test]
fn another_agent_kernel_program_or_filter_than_a_releases() {
    for (change, says) in [
        ((|scene| scene.statement.agent.sha256 = "f".repeat(64)) as fn(&mut Scene), "the agent's executable"),
        (|scene| scene.statement.ebpf.objects[0].sha256 = "f".repeat(64), "ebpf_cgroup"),
        (|scene| scene.statement.ebpf.objects[1].sha256 = "f".repeat(64), "ebpf_lsm"),
        (|scene| scene.statement.ebpf.objects[2].sha256 = "f".repeat(64), "ebpf_netns"),
        (|scene| drop(scene.statement.ebpf.objects.remove(2)), "names no netns object"),
        (|scene| scene.statement.isolation.seccomp_sha256 = "f".repeat(64), "seccomp"),
    ] {
        let mut scene = Scene::new();
        change(&mut scene);
        fails_only(&scene.judge(), StepId::Release, 11, says);
    }
}

#[test]
fn another_policy_is_shown_by_what_differs() {
    let mut scene = Scene::new();
    scene.policy = policy("evil.com");
    scene.statement.policy_sha256 = sha256_hex(scene.policy.as_bytes());
    let verdict = scene.judge();
    fails_only(&verdict, StepId::Policy, 11, "- f -> a.com:443");
    let says = &verdict.step(StepId::Policy).unwrap().says;
    assert!(says.contains("+ f -> evil.com:443"), "{says}");
}

#[test]
fn a_policy_that_is_not_the_attested_one() {
    let scene = Scene::new();
    let mut evidence = scene.evidence();
    evidence.policy = policy("b.com");
    fails_only(&scene.judged(&evidence).verdict, StepId::Policy, 11, "not the attested one");
}

#[test]
fn a_policy_that_only_observes_is_no_policy_to_rely_on() {
    let mut scene = Scene::new();
    scene.policy = scene.policy.replace("\"mode\":\"enforce\"", "\"mode\":\"observe\"");
    scene.statement.policy_sha256 = sha256_hex(scene.policy.as_bytes());
    fails_only(&scene.judge(), StepId::Policy, 11, "refuses nothing");
    scene.options.insecure_any_measurement = true;
    scene.expect.policy = Default::default();
    fails_only(&scene.judge(), StepId::Policy, 11, "refuses nothing");
}

#[test]
fn other_code_one_function_more_or_less() {
    let mut scene = Scene::new();
    scene.statement.functions[0].code_sha256 = "f".repeat(64);
    fails_only(&scene.judge(), StepId::Code, 11, "the code of f is ffff");
    let mut scene = Scene::new();
    scene.expect.functions.insert("g".to_owned(), vec!["d".repeat(64)]);
    fails_only(&scene.judge(), StepId::Code, 11, "g is expected, and is not deployed");
    let mut scene = Scene::new();
    scene.expect.functions = [("g".to_owned(), vec!["d".repeat(64)])].into();
    fails_only(&scene.judge(), StepId::Code, 11, "f is deployed, and is not expected");
}

#[test]
fn without_expectations_nothing_is_verified_and_what_was_seen_is_ready_to_be_expected() {
    let mut scene = Scene::new();
    let wanted = std::mem::take(&mut scene.expect);
    let verdict = scene.judge();
    assert_eq!(verdict.outcome.exit_code(), 20);
    for step in [StepId::Measurements, StepId::Compose, StepId::Release, StepId::Policy] {
        assert_eq!(verdict.step(step).unwrap().result, StepResult::NotChecked, "{step}");
    }
    let saw = verdict.saw.unwrap();
    let read = dshield_verify::expect::Expect::parse(&saw, &mut |_| Err(String::new())).unwrap();
    assert_eq!(read.machines, wanted.machines);
    assert_eq!(read.compose, wanted.compose);
    assert_eq!(read.functions, wanted.functions);
    scene.expect = read;
    assert_eq!(scene.judge().outcome, Outcome::Verified);
    scene.expect = Default::default();
    scene.options.insecure_any_measurement = true;
    assert_eq!(scene.judge().outcome, Outcome::Verified);
}

#[test]
fn evidence_made_for_development_is_never_mistaken() {
    let mut scene = Scene::new();
    scene.provider = Provider::Development;
    scene.options.root = Root::Intel;
    let verdict = scene.judge();
    assert!(verdict.development);
    fails_only(&verdict, StepId::Quote, 10, "DEVELOPMENT");
    // All else is judged, so that it can be tried on a laptop.
    assert_eq!(verdict.step(StepId::Policy).unwrap().result, StepResult::Pass);
    scene.options.insecure_development = true;
    let verdict = scene.judge();
    assert!(verdict.development);
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(verdict.step(StepId::Quote).unwrap().says.contains("DEVELOPMENT"));
    // Its own word makes it development; another word does not make it real.
    scene.provider = Provider::Dstack;
    fails_only(&scene.judge(), StepId::Quote, 10, "does not verify");
}

#[test]
fn what_is_no_evidence_cannot_be_judged() {
    let scene = Scene::new();
    for text in ["", "{}", "<html>", "[]", "{\"format\":\"dshield.evidence/v2\"}"] {
        let presented = dshield_verify::Presented { evidence: text, nonce: None, channel: Channel::File };
        let judged = dshield_verify::judge(&presented, &scene.expect, &scene.options);
        assert_eq!(judged.verdict.outcome.exit_code(), 20, "{text}");
    }
}

/// A machine of its own PKI, as a hostile host has it: real formats, wrong root.
#[test]
fn a_whole_forged_machine_is_worth_nothing() {
    let mut scene = Scene::new();
    scene.machine = Machine::new(Pki::generate().unwrap(), Platform::default());
    fails_only(&scene.judge(), StepId::Quote, 10, "does not verify");
}

#[test]
fn evidence_is_small_and_a_verdict_is_fast() {
    let scene = Scene::new();
    let evidence = scene.evidence();
    assert!(evidence.to_json().len() < 64 << 10, "{}", evidence.to_json().len());
    scene.judged(&evidence);
    let started = Instant::now();
    let verdict = scene.judged(&evidence).verdict;
    let took = started.elapsed();
    assert_eq!(verdict.outcome, Outcome::Verified);
    eprintln!("a verdict took {took:?}; evidence has {} bytes", evidence.to_json().len());
    // The budget is 100 ms optimised; this is not, and others build beside it.
    assert!(took.as_millis() < 2000, "{took:?}");
}

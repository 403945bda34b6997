//! Who made the quote is the evidence's own word: it must not take a step away from the verdict.
use dshield_common::attestation::Provider;
use dshield_common::attestation::event::Event;
use dshield_common::hex;
use dshield_development::boot;
use dshield_verify::Outcome;
use dshield_verify::expect::{Compose, Starts};
use dshield_verify::verdict::{StepId, StepResult};
use sha2::{Digest, Sha256};

use crate::scene::{Scene, app_compose, fails_only};

/// What an agent extends RTMR3 with where there is no dstack.
fn agent_events(agent: &str, objects: [&str; 3]) -> [Event; 2] {
    let mut ebpf = Sha256::new();
    objects.iter().for_each(|digit| ebpf.update(hex::decode(&digit.repeat(64)).unwrap()));
    let agent = hex::decode(&agent.repeat(64)).unwrap();
    [Event::runtime("dshield-agent", &agent), Event::runtime("dshield-ebpf", &ebpf.finalize())]
}

/// A machine that dstack did not start, whose RTMR3 has these events and whose other registers have dstack's.
fn without_dstack(runtime: &[Event]) -> Scene {
    let mut scene = Scene::new();
    scene.events.retain(|event| event.imr != 3);
    scene.events.extend(runtime.iter().cloned());
    scene.replay_into_registers();
    scene.events.retain(|event| event.imr == 3);
    scene.provider = Provider::ConfigfsTsm;
    scene.expect.compose = Compose::default();
    scene.expect.machines[0].starts = Starts::Dshield;
    scene
}

fn judged(scene: &Scene, event_log: bool) -> dshield_verify::Verdict {
    let mut evidence = scene.evidence();
    evidence.app_compose = None;
    if !event_log {
        evidence.event_log = None;
    }
    scene.judged(&evidence).verdict
}

#[test]
fn a_machine_without_dstack_whose_kernel_extends_nothing() {
    let verdict = judged(&without_dstack(&[]), false);
    assert_eq!(verdict.outcome, Outcome::Verified);
    let step = verdict.step(StepId::EventLog).unwrap();
    assert_eq!(step.result, StepResult::Skipped);
    assert!(step.says.contains("nothing extended RTMR3"), "{}", step.says);
    let step = verdict.step(StepId::Compose).unwrap();
    assert!(step.says.contains("the expected image starts D-Shield"), "{}", step.says);
}

/// A general image runs whatever its root user likes, under a statement of his own making.
#[test]
fn a_machine_without_a_compose_file_is_good_only_where_its_image_is_said_to_start_dshield() {
    let mut scene = without_dstack(&agent_events("a", ["1", "2", "3"]));
    scene.expect.machines[0].starts = Starts::Compose;
    let verdict = judged(&scene, true);
    assert_eq!(verdict.outcome, Outcome::NotChecked);
    let step = verdict.step(StepId::Compose).unwrap();
    assert!(step.says.contains("starts = \"dshield\""), "{}", step.says);
    scene.options.insecure_any_measurement = true;
    assert_eq!(judged(&scene, true).outcome, Outcome::Verified);
}

#[test]
fn a_machine_without_dstack_whose_agent_extends_rtmr3() {
    let scene = without_dstack(&agent_events("a", ["1", "2", "3"]));
    let verdict = judged(&scene, true);
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert_eq!(verdict.step(StepId::EventLog).unwrap().result, StepResult::Pass);
    // Without the log nobody knows with what.
    fails_only(&judged(&scene, false), StepId::EventLog, 10, "no event log says what");
}

#[test]
fn another_agent_or_other_programs_than_rtmr3_was_last_extended_with() {
    for (events, says) in [
        (agent_events("f", ["1", "2", "3"]), "last extended with dshield-agent ffff"),
        (agent_events("a", ["1", "2", "f"]), "last extended with dshield-ebpf"),
    ] {
        fails_only(&judged(&without_dstack(&events), true), StepId::EventLog, 10, says);
    }
    let [agent, ebpf] = agent_events("a", ["1", "2", "3"]);
    fails_only(&judged(&without_dstack(&[ebpf]), true), StepId::EventLog, 10, "dshield-agent");
    fails_only(&judged(&without_dstack(&[agent]), true), StepId::EventLog, 10, "dshield-ebpf");
}

#[test]
fn an_agent_of_no_release_that_ran_before() {
    let [stranger, _] = agent_events("f", ["1", "2", "3"]);
    let [agent, ebpf] = agent_events("a", ["1", "2", "3"]);
    let scene = without_dstack(&[stranger, agent.clone(), ebpf.clone()]);
    fails_only(&judged(&scene, true), StepId::EventLog, 10, "ffff has run on this machine");
    // One that is expected may have run before.
    let scene = without_dstack(&[agent.clone(), ebpf.clone(), agent, ebpf]);
    assert_eq!(judged(&scene, true).outcome, Outcome::Verified);
}

/// Everything on it is genuine but what was deployed: who made the quote is said to be another, so that nobody asks.
#[test]
fn a_machine_of_dstack_that_says_it_is_none() {
    let mut scene = Scene::new();
    scene.app_compose = app_compose("  evil:\n    image: evil\n    privileged: true\n");
    (scene.events, scene.report.rtmr) = boot::boot_log(&scene.app_compose);
    scene.provider = Provider::ConfigfsTsm;
    let verdict = judged(&scene, false);
    assert_eq!(verdict.step(StepId::EventLog).unwrap().result, StepResult::Fail);
    let step = verdict.step(StepId::Compose).unwrap();
    assert_eq!(step.result, StepResult::Fail);
    assert!(step.says.contains("a compose file is expected"), "{}", step.says);
    assert_ne!(verdict.outcome, Outcome::Verified);
    // Nor where nobody said what is to be deployed.
    scene.expect.compose = Compose::default();
    fails_only(&judged(&scene, false), StepId::EventLog, 10, "no event log says what");
}

/// An application of dstack may extend RTMR3 too, with an agent's events if it likes.
#[test]
fn a_machine_of_dstack_that_plays_an_agent_without() {
    let mut scene = Scene::new();
    scene.events.extend(agent_events("a", ["1", "2", "3"]));
    scene.replay_into_registers();
    scene.events.retain(|event| event.imr == 3);
    scene.provider = Provider::ConfigfsTsm;
    scene.expect.compose = Compose::default();
    fails_only(&judged(&scene, true), StepId::EventLog, 10, "system-preparing");
}

#[test]
fn a_compose_file_is_expected_of_a_machine_that_has_none() {
    let mut scene = without_dstack(&[]);
    scene.expect.compose.image_digest = Some(format!("sha256:{}", "5".repeat(64)));
    fails_only(&judged(&scene, false), StepId::Compose, 11, "a compose file is expected");
}

#[test]
fn whatever_is_not_expected_may_pass_where_that_was_asked_for() {
    let mut scene = without_dstack(&[Event::runtime("another", b"")]);
    scene.options.insecure_any_measurement = true;
    let verdict = judged(&scene, false);
    assert_eq!(verdict.step(StepId::EventLog).unwrap().result, StepResult::Skipped);
    assert_eq!(verdict.outcome, Outcome::Verified);
}

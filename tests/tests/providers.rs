//! An agent on machines that make quotes: dstack's guest agent and Linux's configfs-tsm, played by stand-ins whose quotes
//! hold under a root of their own. Who trusts Intel's root takes none of them.
use std::time::Duration;

use dshield_common::attestation::event::{Event, extend, runtime_digest};
use dshield_common::attestation::{Evidence, Nonce, Provider, Statement};
use dshield_common::hex;
use dshield_common::log::entry;
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::guest_agent::{Answer, GuestAgent};
use dshield_tests::requires::{require_root, requires_that};
use dshield_tests::tdx::{Tdx, app_compose, saw};
use dshield_tests::tsm::{Step, Tsm};
use dshield_tests::verifier::Verifier;
use dshield_tests::wait;
use dshield_verify::Channel;
use dshield_verify::expect::{Expect, Starts};
use dshield_verify::verdict::{Outcome, StepId, StepResult, Verdict};
use serde_json::json;

const NONCE: [u8; 32] = [7; 32];

fn project() -> Project {
    Project::new().with(&Function::probe("native").egress(&Egress::to("a.example.com")))
}

fn launch(project: &Project, launch: Launch) -> Agent {
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

/// How an agent is started beside this guest agent.
fn beside(endpoint: &str) -> Launch {
    Launch { environment: vec![("DSTACK_SIMULATOR_ENDPOINT", endpoint.to_owned())], ..Launch::default() }
}

/// How an agent is started on this machine.
fn on(tsm: &Tsm) -> Launch {
    Launch { attestation: Some("configfs-tsm"), arguments: tsm.arguments(), ..Launch::default() }
}

fn fresh(agent: &Agent) -> dshield_tests::client::Answer {
    agent.get(&format!("/v1/attestation?nonce={}", Nonce::new(NONCE)))
}

/// What a verifier of the stand-in's machine says: first of what it sees, then by that as its expectation.
fn verdicts(tdx: &Tdx, evidence: &Evidence, completed: impl Fn(&mut Expect)) -> [Verdict; 2] {
    let judge = |expect: &Expect| tdx.judge(evidence, Some(Nonce::new(NONCE)), Channel::Plain, expect);
    let first = judge(&Expect::default());
    let mut expect = saw(&first);
    completed(&mut expect);
    let second = judge(&expect);
    [first, second]
}

/// Whoever trusts Intel takes none of it.
#[track_caller]
fn refused_by_strangers(evidence: &Evidence) {
    let verifier = Verifier::new();
    let file = verifier.write("evidence.json", &evidence.to_json());
    let told = verifier.run([&file, "--offline", "--insecure-development", "--insecure-any-measurement"]);
    told.ended(10, &["NOT VERIFIED (quote: the quote does not verify"]);
    assert!(!told.stdout.contains("DEVELOPMENT"), "it calls itself {:?}", evidence.provider);
}

fn error(answer: &dshield_tests::client::Answer) -> (u16, String, String) {
    let error = &answer.json()["error"];
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

#[test]
fn on_dstack_evidence_has_quote_event_log_and_compose_file_and_they_hold_together() {
    if !require_root() {
        return;
    }
    let (guest, tdx) = (GuestAgent::start(), Tdx::new());
    tdx.behind(&guest, &app_compose());
    let project = project();
    // Both by name and as what is found.
    for attestation in [Some("dstack"), None] {
        let mut agent = launch(&project, Launch { attestation, ..beside(guest.endpoint()) });
        agent.says("quotes over what runs here are made by: dstack");
        let evidence = tdx.completed(&fresh(&agent).text());
        assert_eq!(evidence.provider, Provider::Dstack);
        assert_eq!(evidence.app_compose, Some(app_compose()));
        assert!(evidence.vm_config.is_some() && evidence.quote.is_some());
        let [first, second] = verdicts(&tdx, &evidence, |_| ());
        assert_eq!(first.outcome, Outcome::NotChecked, "{first:#?}");
        assert_eq!(second.outcome, Outcome::Verified, "{second:#?}");
        for id in [StepId::Quote, StepId::Measurements, StepId::EventLog, StepId::Compose, StepId::Release] {
            let step = second.step(id).unwrap_or_else(|| panic!("no {id}"));
            assert_eq!(step.result, StepResult::Pass, "{step:?}");
        }
        refused_by_strangers(&evidence);
        // In the log of the boot it is too, without what a PCCS would add.
        let log =
            agent.log_with("the evidence of this boot", |log| log.to_string().contains("\"kind\":\"attestation\""));
        let logged = log.events().filter_map(|(_, event)| match event {
            entry::Event::Attestation(attested) => Some(attested.clone()),
            _ => None,
        });
        let logged = logged.last().expect("the evidence of this boot");
        assert_eq!(logged.provider, "dstack");
        let logged = tdx.completed(&logged.evidence);
        assert_eq!(tdx.judge(&logged, None, Channel::File, &saw(&first)).outcome, Outcome::Verified);
        // Nothing was asked of dstack but quotes and what it is.
        let methods = guest.methods();
        assert!(methods.iter().all(|method| method == "GetQuote" || method == "Info"), "{methods:?}");
        assert_eq!(agent.stop(), Some(0));
    }
}

/// Another compose file than the one that was measured, a quote over something else: by the agent's own check, or the
/// verifier's.
#[test]
fn a_guest_agent_that_lies_is_found_out() {
    if !require_root() {
        return;
    }
    let (guest, tdx) = (GuestAgent::start(), Tdx::new());
    tdx.behind(&guest, &app_compose());
    let project = project();
    let agent = launch(&project, beside(guest.endpoint()));
    let evidence = tdx.completed(&fresh(&agent).text());
    let [first, good] = verdicts(&tdx, &evidence, |_| ());
    assert_eq!(good.outcome, Outcome::Verified, "{good:#?}");
    let expect = saw(&first);
    let judged = |evidence: &Evidence| tdx.judge(evidence, Some(Nonce::new(NONCE)), Channel::Plain, &expect);
    let other = Evidence { app_compose: Some(app_compose().replace("\"x\"", "\"y\"")), ..evidence.clone() };
    assert_eq!(judged(&other).step(StepId::Compose).map(|step| step.result), Some(StepResult::Fail));
    let log = evidence.event_log.as_deref().unwrap_or_default();
    let other = Evidence { event_log: Some(log.replacen("system-ready", "system-redy", 1)), ..evidence };
    assert_eq!(judged(&other).outcome, Outcome::Attestation);

    let mut make = tdx.maker(|report, rtmr3| report.rtmr[3] = rtmr3);
    guest.make_with(move |_, rtmr3| make(&[9; 64], rtmr3));
    let (status, code, message) = error(&fresh(&agent));
    assert_eq!((status, code.as_str()), (503, "attestation_failed"));
    assert_eq!(message, "the quote is over other report data than was asked for");
}

#[test]
fn while_the_guest_agent_is_away_the_agent_serves_and_says_why_there_is_no_evidence() {
    if !require_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("dstack.sock");
    let (tdx, project) = (Tdx::new(), project());
    // Not there yet when the agent starts.
    let agent = launch(&project, Launch { attestation: Some("dstack"), ..beside(&socket.to_string_lossy()) });
    let serves = || assert_eq!(agent.call("native", &json!({"do": "echo"})), json!({"do": "echo"}));
    let away = || {
        let (status, code, message) = error(&fresh(&agent));
        assert_eq!((status, code.as_str()), (503, "attestation_failed"), "{message}");
        assert!(message.contains("dstack.sock"), "{message}");
        serves();
    };
    away();
    agent.says("no evidence of what runs here");
    for _ in 0..2 {
        let guest = GuestAgent::start_at(&socket);
        tdx.behind(&guest, &app_compose());
        let evidence = tdx.completed(&fresh(&agent).text());
        let [_, verdict] = verdicts(&tdx, &evidence, |_| ());
        assert_eq!(verdict.outcome, Outcome::Verified, "{verdict:#?}");
        // It refuses, once: whoever asks again is answered.
        guest.answer_once("GetQuote", Answer::Status(500, json!({"error": "the quoting enclave is busy"}).to_string()));
        let (status, _, message) = error(&fresh(&agent));
        assert_eq!(status, 503);
        assert!(message.contains("refused: GetQuote: the quoting enclave is busy"), "{message}");
        assert_eq!(fresh(&agent).status, 200);
        drop(guest);
        away();
    }
    // What is kept in the certificate and the log is tried again by itself.
    let guest = GuestAgent::start_at(&socket);
    tdx.behind(&guest, &app_compose());
    let has = || Some(agent.log()).filter(|log| log.to_string().contains("\"kind\":\"attestation\""));
    let log = wait::within(Duration::from_secs(60), has).expect("the evidence of this boot in the log");
    assert_eq!(log.verify(), Ok(()));
}

#[test]
fn a_provider_that_was_asked_for_and_is_not_there_is_no_agent() {
    if !require_root() {
        return;
    }
    let project = project();
    let on_dstack = ["/var/run/dstack.sock", "/run/dstack/dstack.sock"];
    let on_dstack = on_dstack.iter().any(|path| std::path::Path::new(path).exists());
    if !requires_that(!on_dstack, "this machine is dstack's") {
        return;
    }
    let nowhere = vec!["--tsm-report".to_owned(), "/nonexistent".to_owned()];
    for (attestation, says) in [
        ("dstack", "--attestation dstack cannot be had here: there is no socket of dstack's guest agent"),
        ("configfs-tsm", "--attestation configfs-tsm cannot be had here: /nonexistent"),
    ] {
        let asked = Launch { attestation: Some(attestation), arguments: nowhere.clone(), ..Launch::default() };
        let refused = Agent::launch(&project, asked).expect_err("it cannot make quotes");
        let said: Vec<_> = refused.stderr.lines().filter(|line| line.starts_with("dshield: ")).collect();
        let [said] = said[..] else { panic!("one sentence: {}", refused.stderr) };
        assert!(said.contains(says) && said.contains("`--attestation auto` takes what the machine has"), "{said}");
        assert_eq!((refused.code, refused.stdout.as_str(), refused.left), (Some(1), "", Vec::new()), "{said}");
    }
    let wrong = Launch { attestation: Some("sgx"), ..Launch::default() };
    let refused = Agent::launch(&project, wrong).expect_err("there is no such provider");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("auto, none, dstack, configfs-tsm, tpm, development"), "{}", refused.stderr);
    // Left to itself it serves without.
    let agent = launch(&project, Launch { arguments: nowhere, ..Launch::default() });
    let (status, code, message) = error(&agent.get("/v1/attestation"));
    assert_eq!((status, code.as_str()), (404, "no_attestation"));
    for reason in ["no guest agent's socket of dstack", "no /nonexistent: no TDX machine"] {
        assert!(message.contains(reason), "{message}");
    }
}

/// The register as an auditor computes it.
fn replayed(events: &[Event]) -> [u8; 48] {
    events.iter().fold([0; 48], |register, event| {
        let payload = hex::decode(&event.event_payload).expect("hexadecimal");
        extend(&register, &runtime_digest(&event.event, &payload))
    })
}

fn events(evidence: &Evidence) -> Vec<Event> {
    serde_json::from_str(evidence.event_log.as_deref().expect("an event log")).expect("events")
}

#[test]
fn on_linux_alone_the_agent_extends_rtmr3_once_with_what_it_is_and_the_events_replay() {
    if !require_root() {
        return;
    }
    let Some(tsm) = Tsm::mount() else { return };
    let tdx = Tdx::new();
    tdx.inside(&tsm);
    let first_project = project();
    let image = |expect: &mut Expect| expect.machines.iter_mut().for_each(|known| known.starts = Starts::Dshield);
    let mut agent = launch(&first_project, on(&tsm));
    agent.says("quotes over what runs here are made by: configfs-tsm");
    let evidence = tdx.completed(&fresh(&agent).text());
    assert_eq!((evidence.provider, &evidence.app_compose), (Provider::ConfigfsTsm, &None));
    let told = events(&evidence);
    let names: Vec<&str> = told.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["dshield-agent", "dshield-ebpf", "dshield-policy"]);
    let statement = Statement::parse(&evidence.statement).expect("a statement");
    assert_eq!(told[0].event_payload, statement.agent.sha256);
    assert_eq!(told[2].event_payload, statement.policy_sha256);
    assert_eq!(tsm.rtmr3(), replayed(&told));
    let [first, verdict] = verdicts(&tdx, &evidence, image);
    assert_eq!((first.outcome, verdict.outcome), (Outcome::NotChecked, Outcome::Verified), "{verdict:#?}");
    let step = verdict.step(StepId::EventLog).expect("it was taken");
    assert!(step.says.contains("the agents that ran since the machine booted"), "{step:?}");
    refused_by_strangers(&evidence);
    assert_eq!(agent.stop(), Some(0));

    // The same again has nothing new to say, after an orderly end and after a kill.
    let before = tsm.rtmr3();
    for _ in 0..2 {
        let mut again = launch(&first_project, on(&tsm));
        assert_eq!(events(&tdx.completed(&fresh(&again).text())), told);
        assert_eq!(tsm.rtmr3(), before);
        again.kill9();
    }
    // Another policy is one event more, and another agent of the machine beside it shares the log.
    let one = launch(&first_project, on(&tsm));
    let other = project();
    std::fs::write(other.folder().join("other.toml"), other.policy().replace("a.example.com", "b.example.com"))
        .expect("the folder is ours");
    let two = launch(&other, Launch { config: Some(other.folder().join("other.toml")), ..on(&tsm) });
    for agent in [&one, &two] {
        let evidence = tdx.completed(&fresh(agent).text());
        let names: Vec<String> = events(&evidence).into_iter().map(|event| event.event).collect();
        assert_eq!(names, ["dshield-agent", "dshield-ebpf", "dshield-policy", "dshield-policy"]);
        let [_, verdict] = verdicts(&tdx, &evidence, image);
        assert_eq!(verdict.outcome, Outcome::Verified, "{verdict:#?}");
    }
    assert!(tsm.reports().is_empty(), "{:?}", tsm.reports());
}

#[test]
fn a_register_that_somebody_else_extended_is_left_alone_and_the_verdict_says_so() {
    if !require_root() {
        return;
    }
    let Some(tsm) = Tsm::mount() else { return };
    let tdx = Tdx::new();
    tdx.inside(&tsm);
    tsm.set_rtmr3([3; 48]);
    let project = project();
    let agent = launch(&project, on(&tsm));
    agent.says("RTMR3 is not extended:");
    assert_eq!(tsm.rtmr3(), [3; 48]);
    let evidence = tdx.completed(&fresh(&agent).text());
    assert_eq!(evidence.event_log, None);
    let [_, verdict] = verdicts(&tdx, &evidence, |_| ());
    assert_eq!(verdict.outcome, Outcome::Attestation);
    let step = verdict.step(StepId::EventLog).expect("it was taken");
    assert!(step.says.contains("something extended RTMR3, and no event log says what"), "{step:?}");
}

#[test]
fn what_the_kernel_refuses_for_a_moment_is_asked_again_and_what_it_lacks_is_told() {
    if !require_root() {
        return;
    }
    let Some(tsm) = Tsm::mount() else { return };
    let tdx = Tdx::new();
    tdx.inside(&tsm);
    let project = project();
    let agent = launch(&project, on(&tsm));
    agent.log_with("the evidence of this boot", |log| log.to_string().contains("\"kind\":\"attestation\""));
    for (step, errno) in [(Step::Read, libc::EBUSY), (Step::Create, libc::EBUSY), (Step::Read, libc::ETIMEDOUT)] {
        tsm.fail(step, errno, 2);
        let evidence = tdx.completed(&fresh(&agent).text());
        assert_eq!(tsm.failures_left(step), 0);
        assert_eq!(replayed(&events(&evidence)), tsm.rtmr3());
    }
    tsm.disturb(1);
    assert_eq!(fresh(&agent).status, 200, "somebody else wrote into the report");

    tsm.fail(Step::Read, libc::ENXIO, 1);
    let (status, code, message) = error(&fresh(&agent));
    assert_eq!((status, code.as_str()), (503, "attestation_failed"));
    assert!(message.contains("no TSM provider: is the tdx_guest module loaded?"), "{message}");
    assert_eq!(agent.call("native", &json!({"do": "echo"})), json!({"do": "echo"}));
    assert_eq!(fresh(&agent).status, 200);
    assert!(tsm.reports().is_empty(), "{:?}", tsm.reports());
    drop(agent);

    // Another kind of machine.
    tsm.set_provider("sev_guest");
    let refused = Agent::launch(&project, on(&tsm)).expect_err("it makes no TDX quotes");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("this machine's provider is \"sev_guest\""), "{}", refused.stderr);
}

//! Verdicts over a TPM's quotes.
use dshield_common::attestation::statement::{self, Agent, Ebpf, EbpfObject, Statement};
use dshield_common::attestation::{Evidence, Nonce, Provider, evidence};
use dshield_common::canonical::sha256_hex;

use super::*;
use crate::expect::Expect;
use crate::judge::{Channel, Options, Presented, judge};
use crate::verdict::{StepId, StepResult, Verdict};

const POLICY: &str = r#"{"attestation":{"pccs":null},"functions":[],"log":{"interval_ms":1,"origin":null,"seed_secret":null,"witnesses":[]},"log_level":"request","memory_only":false,"mode":"enforce","resolver":"system","type":"dshield.policy/v1"}"#;

struct Scene {
    statement: Statement,
    extended: Vec<[u8; 32]>,
    expect: Expect,
    any: bool,
}

impl Scene {
    fn new() -> Self {
        let policy_sha256 = sha256_hex(POLICY.as_bytes());
        let object = |name: &str, byte: u8| EbpfObject { name: name.to_owned(), sha256: to_hex(&[byte; 32]) };
        let statement = Statement {
            kind: statement::TYPE.to_owned(),
            nonce: Some(Nonce::new([1; 32])),
            boot_id: "b".repeat(32),
            agent: Agent { version: "0.1.0".to_owned(), sha256: to_hex(&[0xa; 32]) },
            ebpf: Ebpf {
                objects: vec![object("cgroup", 1), object("lsm", 2), object("netns", 3)],
                programs: Vec::new(),
            },
            policy_sha256: policy_sha256.clone(),
            functions: Vec::new(),
            isolation: statement::Isolation {
                netns: "sealed".to_owned(),
                seccomp_sha256: to_hex(&[4; 32]),
                landlock_abi: 0,
                lsm_bpf: false,
                cgroup_controllers: Vec::new(),
            },
            log: statement::Log {
                origin: "o".to_owned(),
                ecdsa_p256: String::new(),
                ed25519: String::new(),
                size: 0,
                root: String::new(),
            },
            tls_spki_sha256: None,
        };
        let policy = hex::decode_array(&policy_sha256).unwrap();
        let extended = vec![boots_digest(7), [0xa; 32], [1; 32], [2; 32], [3; 32], policy];
        Self { statement, extended, expect: Expect::default(), any: true }
    }

    fn judge(&self) -> Verdict {
        let statement = self.statement.canonical();
        let mut made = Made::new().with_value(super::super::extended(&self.extended));
        made.extra_data = qualifying_data(&ReportData::of(&statement)).to_vec();
        made.extended = self.extended.clone();
        let evidence = Evidence {
            format: evidence::FORMAT.to_owned(),
            provider: Provider::Tpm,
            statement,
            policy: POLICY.to_owned(),
            quote: None,
            collateral: None,
            event_log: None,
            vm_config: None,
            app_compose: None,
            tpm: Some(made.quote()),
        };
        let text = evidence.to_json();
        let nonce = Some(Nonce::new([1; 32]));
        let options = Options { insecure_any_measurement: self.any, ..Options::default() };
        judge(&Presented { evidence: &text, nonce, channel: Channel::Plain }, &self.expect, &options).verdict
    }

    /// The result of a step, and what it says.
    fn step(&self, id: StepId) -> (StepResult, String) {
        let verdict = self.judge();
        let step = verdict.step(id).unwrap();
        (step.result, step.says.clone())
    }
}

fn ak() -> String {
    sha256_hex(key().verifying_key().to_public_key_der().unwrap().as_bytes())
}

#[test]
fn a_tpm_is_worth_what_its_key_is_and_never_says_that_the_host_is_kept_out() {
    let mut scene = Scene::new();
    assert_eq!(scene.judge().outcome.exit_code(), 0);
    scene.any = false;
    assert_eq!(scene.step(StepId::Quote).0, StepResult::NotChecked);
    scene.expect.tpm_keys = vec!["0".repeat(64)];
    let (result, says) = scene.step(StepId::Quote);
    assert_eq!((result, scene.judge().outcome.exit_code()), (StepResult::Fail, 10));
    assert!(says.contains("is expected"), "{says}");
    scene.expect.tpm_keys = vec![ak()];
    assert_eq!(scene.step(StepId::Quote).0, StepResult::Pass);
    let (result, says) = scene.step(StepId::Attributes);
    assert_eq!(result, StepResult::Skipped);
    assert!(says.contains("whether the host is kept out"), "{says}");
}

#[test]
fn pcrs_are_compared_where_they_are_expected() {
    let mut scene = Scene::new();
    scene.any = false;
    assert_eq!(scene.step(StepId::Measurements).0, StepResult::NotChecked);
    scene.expect.tpm_pcrs = [(0, to_hex(&[9; 32]))].into();
    assert_eq!(scene.step(StepId::Measurements).0, StepResult::Pass);
    scene.expect.tpm_pcrs = [(0, to_hex(&[8; 32]))].into();
    assert!(scene.step(StepId::Measurements).1.contains("PCR 0 is 0909"));
    scene.expect.tpm_pcrs = [(1, to_hex(&[8; 32]))].into();
    let (result, says) = scene.step(StepId::Measurements);
    assert_eq!((result, scene.judge().outcome.exit_code()), (StepResult::Fail, 11));
    assert!(says.contains("PCR 1 is not quoted"), "{says}");
}

#[test]
fn the_agents_pcr_holds_what_the_statement_names() {
    let mut scene = Scene::new();
    assert_eq!(scene.step(StepId::EventLog).0, StepResult::Pass);
    scene.extended[1] = [0xb; 32];
    let (result, says) = scene.step(StepId::EventLog);
    assert_eq!((result, scene.judge().outcome.exit_code()), (StepResult::Fail, 10));
    assert!(says.contains("another agent"), "{says}");
}

#[test]
fn a_quote_over_another_statement_vouches_for_nothing() {
    let scene = Scene::new();
    let mut other = Scene::new();
    other.statement.boot_id = "c".repeat(32);
    let text = |scene: &Scene| scene.statement.canonical();
    assert_ne!(text(&scene), text(&other));
    let mut made = Made::new();
    made.extra_data = qualifying_data(&ReportData::of(&text(&other))).to_vec();
    assert_eq!(verify(&made.quote(), &ReportData::of(&text(&scene))), Err(TpmFault::OtherReportData));
}

#[test]
fn what_was_seen_can_be_expected_the_next_time() {
    let mut scene = Scene::new();
    let saw = scene.judge().saw.unwrap();
    scene.expect = Expect::parse(&saw, &mut |_| Err(String::new())).unwrap();
    assert_eq!(scene.expect.tpm_keys, [ak()]);
    assert!(!scene.expect.tpm_pcrs.contains_key(&AGENT_PCR));
    scene.any = false;
    assert_eq!(scene.judge().outcome.exit_code(), 0);
}

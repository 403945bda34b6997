//! A deployment that holds in every respect, to break in one.
use dshield_common::attestation::event::Event;
use dshield_common::attestation::statement::{self, Agent, Ebpf, EbpfObject, Function, Statement};
use dshield_common::attestation::{Evidence, Nonce, Provider, ReportData, evidence};
use dshield_common::canonical::sha256_hex;
use dshield_common::hex;
use dshield_common::policy::Deployment;
use dshield_development::{Machine, Pki, Platform, TdReport, boot};
use dshield_verify::expect::{self, Expect};
use dshield_verify::quote::{Registers, Root};
use dshield_verify::verdict::{StepId, StepResult, Verdict};
use dshield_verify::{Channel, Judged, Options, Presented, judge};

/// 2026-11-28.
pub const NOW: u64 = 1_795_848_000;
pub const NONCE: [u8; 32] = [7; 32];
pub const SPKI: [u8; 32] = [9; 32];

pub struct Scene {
    pub machine: Machine,
    pub report: TdReport,
    pub events: Vec<Event>,
    pub app_compose: String,
    pub policy: String,
    pub statement: Statement,
    pub provider: Provider,
    pub channel: Channel,
    pub asked: Option<Nonce>,
    pub expect: Expect,
    pub options: Options,
}

pub fn digest() -> String {
    "5".repeat(64)
}

/// dstack's, with D-Shield alone or with `more` services.
pub fn app_compose(more: &str) -> String {
    let compose = format!(
        "services:\n  dshield:\n    image: ghcr.io/dshield/dshield@sha256:{}\n    privileged: true\n    network_mode: host\n    \
         volumes:\n      - /var/run/dstack.sock:/var/run/dstack.sock\n{more}",
        digest()
    );
    serde_json::json!({
        "manifest_version": 2, "name": "x", "runner": "docker-compose", "docker_compose_file": compose,
        "kms_enabled": false, "allowed_envs": [],
    })
    .to_string()
}

pub fn policy(host: &str) -> String {
    let text = format!(
        "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"c\"\n[[function.egress]]\nhost = \"{host}\"\n"
    );
    Deployment::parse(&text, &mut |_| Err(String::new())).unwrap().policy.canonical()
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Platform::default())
    }

    pub fn with(platform: Platform) -> Self {
        let machine = Machine::new(Pki::generate().unwrap(), platform);
        let app_compose = app_compose("");
        let (events, rtmr) = boot::boot_log(&app_compose);
        let report = TdReport {
            rtmr,
            mr_config_id: boot::mr_config_id(&app_compose),
            ..TdReport::new(&ReportData::of("replaced"))
        };
        let policy = policy("a.com");
        let object = |name: &str, digit: &str| EbpfObject { name: name.to_owned(), sha256: digit.repeat(64) };
        let statement = Statement {
            kind: statement::TYPE.to_owned(),
            nonce: Some(Nonce::new(NONCE)),
            boot_id: "b".repeat(32),
            agent: Agent { version: "0.1.0".to_owned(), sha256: "a".repeat(64) },
            ebpf: Ebpf {
                objects: vec![object("cgroup", "1"), object("lsm", "2"), object("netns", "3")],
                programs: vec!["ds_connect4".to_owned()],
            },
            policy_sha256: sha256_hex(policy.as_bytes()),
            functions: vec![Function { name: "f".to_owned(), code_sha256: "d".repeat(64) }],
            isolation: statement::Isolation {
                netns: "sealed".to_owned(),
                seccomp_sha256: "4".repeat(64),
                landlock_abi: 6,
                lsm_bpf: true,
                cgroup_controllers: vec!["memory".to_owned(), "pids".to_owned()],
            },
            log: statement::Log {
                origin: "log.example".to_owned(),
                ecdsa_p256: String::new(),
                ed25519: String::new(),
                size: 0,
                root: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned(),
            },
            tls_spki_sha256: Some(hex::encode(&SPKI)),
        };
        let root = Root::Other(machine.pki().root_der().to_vec());
        let mut scene = Self {
            machine,
            report,
            events,
            app_compose,
            policy,
            statement,
            provider: Provider::Dstack,
            channel: Channel::Tls { spki_sha256: SPKI },
            asked: Some(Nonce::new(NONCE)),
            expect: Expect::default(),
            options: Options { now: NOW, root, ..Options::default() },
        };
        scene.expect = scene.expectations();
        scene
    }

    /// What a verifier of this deployment expects.
    pub fn expectations(&self) -> Expect {
        let quote = Registers::unverified(&hex::encode(&self.machine.quote(&self.report))).unwrap();
        let [rtmr0, rtmr1, rtmr2, _] = quote.rtmr.map(|register| hex::encode(&register));
        let release = expect::Release {
            name: None,
            agent: "a".repeat(64),
            ebpf_cgroup: "1".repeat(64),
            ebpf_lsm: "2".repeat(64),
            ebpf_netns: "3".repeat(64),
            seccomp: "4".repeat(64),
        };
        Expect {
            machines: vec![expect::Machine {
                mrtd: hex::encode(&quote.mrtd),
                rtmr0,
                rtmr1,
                rtmr2,
                ..expect::Machine::default()
            }],
            compose: expect::Compose {
                sha256: vec![sha256_hex(self.app_compose.as_bytes())],
                image_digest: Some(format!("sha256:{}", digest())),
            },
            releases: vec![release],
            policy: expect::Policy {
                sha256: vec![sha256_hex(self.policy.as_bytes())],
                canonical: Some(self.policy.clone()),
            },
            functions: [("f".to_owned(), vec!["d".repeat(64)])].into(),
            ..Expect::default()
        }
    }

    /// The events, as they lead to the registers that are quoted.
    pub fn replay_into_registers(&mut self) {
        self.report.rtmr = boot::registers(&self.events).unwrap();
    }

    pub fn evidence(&self) -> Evidence {
        let statement = self.statement.canonical();
        let report = TdReport { report_data: *ReportData::of(&statement).as_bytes(), ..self.report.clone() };
        Evidence {
            format: evidence::FORMAT.to_owned(),
            provider: self.provider,
            statement,
            policy: self.policy.clone(),
            quote: Some(hex::encode(&self.machine.quote(&report))),
            collateral: Some(self.machine.collateral(self.options.now)),
            event_log: Some(serde_json::to_string(&self.events).unwrap()),
            vm_config: None,
            app_compose: Some(self.app_compose.clone()),
            tpm: None,
        }
    }

    pub fn judge(&self) -> Verdict {
        self.judged(&self.evidence()).verdict
    }

    pub fn judged(&self, evidence: &Evidence) -> Judged {
        let text = evidence.to_json();
        let presented = Presented { evidence: &text, nonce: self.asked, channel: self.channel };
        judge(&presented, &self.expect, &self.options)
    }
}

/// That `verdict` fails at `step`, at no other, with this code, and says so.
pub fn fails_only(verdict: &Verdict, step: StepId, code: u8, says: &str) {
    let failed: Vec<_> = verdict.steps.iter().filter(|step| step.result == StepResult::Fail).collect();
    let names: Vec<_> = failed.iter().map(|step| (step.step, step.says.as_str())).collect();
    assert_eq!(failed.iter().map(|step| step.step).collect::<Vec<_>>(), [step], "{names:?}");
    assert!(failed[0].says.contains(says), "{:?} does not say {says:?}", failed[0].says);
    assert_eq!(verdict.outcome.exit_code(), code);
}

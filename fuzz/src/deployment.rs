//! A deployment that holds in every respect, and parts of others that do not: what targets change and mix.
//!
//! Everything follows from one key that is no secret, so that the corpus holds on every machine and every day.
use std::sync::OnceLock;

use dshield_common::attestation::event::Event;
use dshield_common::attestation::statement::{self, Agent, Ebpf, EbpfObject, Function, Isolation, Statement};
use dshield_common::attestation::{Evidence, Nonce, Provider, ReportData, evidence};
use dshield_common::canonical::sha256_hex;
use dshield_common::hex;
use dshield_common::policy;
use dshield_development::{DEBUG, Machine, Pki, Platform, SEPT_VE_DISABLE, TdReport, boot};
use dshield_verify::expect::{self, Expect};
use dshield_verify::quote::Root;
use dshield_verify::{Channel, Options, Presented, Verdict, judge};

/// 2026-11-28: when everything is judged.
pub const NOW: u64 = 1_795_848_000;
/// How much of a quote of version 4 the platform's key signs: header and report.
pub const SIGNED: usize = 632;
/// The policy, as somebody writes it.
pub const POLICY: &str =
    "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"c\"\n[[function.egress]]\nhost = \"a.com\"\n";

const NONCE: [u8; 32] = [7; 32];
const SPKI: [u8; 32] = [9; 32];
/// PKCS#8 of the P-256 key whose 32 bytes are all 7.
const KEY: &str = "MEECAQAwEwYHKoZIzj0CAQYIKoZIzj0DAQcEJzAlAgEBBCAHBwcHBwcHBwcHBwcH\nBwcHBwcHBwcHBwcHBwcHBwcHBw==";

/// What there is to mix.
#[derive(Debug)]
pub struct Deployment {
    /// The machine.
    pub machine: Machine,
    /// What holds.
    pub evidence: Evidence,
    /// What is expected of it.
    pub expect: Expect,
    /// How to judge it.
    pub options: Options,
    /// A quote of a machine in debug mode, over the same statement.
    pub debug_quote: String,
    /// Another compose file, and the quote of a machine that was started with it, over the same statement.
    pub other_compose: String,
    /// See there.
    pub other_quote: String,
    /// The event log of that machine.
    pub other_event_log: String,
    /// Another statement, which nobody had quoted.
    pub other_statement: String,
}

/// The one.
///
/// # Panics
/// When this crate or those that it is made of are wrong.
pub fn deployment() -> &'static Deployment {
    static ONE: OnceLock<Deployment> = OnceLock::new();
    ONE.get_or_init(Deployment::new)
}

impl Deployment {
    fn new() -> Self {
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n");
        let machine = Machine::new(Pki::from_pem(&pem).expect("a key"), Platform::default());
        let policy = policy::Deployment::parse(POLICY, &mut |_| Err(String::new())).expect("a policy");
        let policy = policy.policy.canonical();
        let statement = statement(&policy);
        let other = Statement { functions: Vec::new(), ..statement.clone() };
        let text = statement.canonical();
        let report_data = ReportData::of(&text);
        let compose = app_compose("");
        let other_compose = app_compose("  evil:\n    image: evil\n    privileged: true\n");
        let (report, events) = started(&compose, &report_data);
        let (other_report, other_events) = started(&other_compose, &report_data);
        let debug = TdReport { td_attributes: SEPT_VE_DISABLE | DEBUG, ..report };
        let quote = |report: &TdReport| hex::encode(&machine.quote(report));
        let log = |events: &[Event]| serde_json::to_string(events).expect("events have a JSON form");
        let [rtmr0, rtmr1, rtmr2, _] = report.rtmr.map(|register| hex::encode(&register));
        let expected =
            expect::Machine { mrtd: hex::encode(&report.mr_td), rtmr0, rtmr1, rtmr2, ..expect::Machine::default() };
        Self {
            expect: Expect {
                machines: vec![expected],
                compose: expect::Compose {
                    sha256: vec![sha256_hex(compose.as_bytes())],
                    image_digest: Some(format!("sha256:{}", "5".repeat(64))),
                },
                releases: vec![release()],
                policy: expect::Policy { sha256: vec![sha256_hex(policy.as_bytes())], canonical: None },
                functions: [("f".to_owned(), vec!["d".repeat(64)])].into(),
                ..Expect::default()
            },
            options: Options { now: NOW, root: Root::Other(machine.pki().root_der().to_vec()), ..Options::default() },
            debug_quote: quote(&debug),
            other_quote: quote(&other_report),
            other_event_log: log(&other_events),
            other_compose,
            other_statement: other.canonical(),
            evidence: Evidence {
                format: evidence::FORMAT.to_owned(),
                provider: Provider::Dstack,
                statement: text,
                policy,
                quote: Some(quote(&report)),
                collateral: Some(machine.collateral(NOW)),
                event_log: Some(log(&events)),
                vm_config: None,
                app_compose: Some(compose),
                tpm: None,
            },
            machine,
        }
    }

    /// The verdict on a text, as it came over a connection that ends in this machine.
    #[must_use]
    pub fn judge(&self, evidence: &str, expect: &Expect) -> Verdict {
        let channel = Channel::Tls { spki_sha256: SPKI };
        let presented = Presented { evidence, nonce: Some(Nonce::new(NONCE)), channel };
        judge(&presented, expect, &self.options).verdict
    }
}

/// A release's hashes.
#[must_use]
pub fn release() -> expect::Release {
    let hash = |digit: &str| digit.repeat(64);
    expect::Release {
        name: None,
        agent: hash("a"),
        ebpf_cgroup: hash("1"),
        ebpf_lsm: hash("2"),
        ebpf_netns: hash("3"),
        seccomp: hash("4"),
    }
}

fn started(compose: &str, report_data: &ReportData) -> (TdReport, Vec<Event>) {
    let (events, rtmr) = boot::boot_log(compose);
    (TdReport { rtmr, mr_config_id: boot::mr_config_id(compose), ..TdReport::new(report_data) }, events)
}

fn app_compose(more: &str) -> String {
    let compose =
        format!("services:\n  dshield:\n    image: x/dshield@sha256:{}\n    privileged: true\n{more}", "5".repeat(64));
    serde_json::json!({ "runner": "docker-compose", "docker_compose_file": compose, "allowed_envs": [] }).to_string()
}

fn statement(policy: &str) -> Statement {
    let release = release();
    let object = |name: &str, sha256: String| EbpfObject { name: name.to_owned(), sha256 };
    Statement {
        kind: statement::TYPE.to_owned(),
        nonce: Some(Nonce::new(NONCE)),
        boot_id: "b".repeat(32),
        agent: Agent { version: "0.1.0".to_owned(), sha256: release.agent },
        ebpf: Ebpf {
            objects: vec![
                object("cgroup", release.ebpf_cgroup),
                object("lsm", release.ebpf_lsm),
                object("netns", release.ebpf_netns),
            ],
            programs: vec!["ds_connect4".to_owned()],
        },
        policy_sha256: sha256_hex(policy.as_bytes()),
        functions: vec![Function { name: "f".to_owned(), code_sha256: "d".repeat(64) }],
        isolation: Isolation {
            netns: "sealed".to_owned(),
            seccomp_sha256: release.seccomp,
            landlock_abi: 6,
            lsm_bpf: true,
            cgroup_controllers: vec!["memory".to_owned(), "pids".to_owned()],
        },
        log: statement::Log {
            origin: "log.example".to_owned(),
            ecdsa_p256: "k".to_owned(),
            ed25519: "k".to_owned(),
            size: 0,
            root: "0".repeat(64),
        },
        tls_spki_sha256: Some(hex::encode(&SPKI)),
    }
}

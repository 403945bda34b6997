//! Evidence of a running agent: for whoever asks, in its TLS certificate, and in its log.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dshield_common::attestation::ratls::EVIDENCE_OID;
use dshield_common::attestation::{Evidence, Nonce, Provider, ReportData, Statement};
use dshield_common::hex;
use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::client::{self, Answer};
use dshield_tests::command::dshield;
use dshield_tests::guest_agent::GuestAgent;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::tdx::{Tdx, app_compose, saw};
use dshield_tests::wait;
use dshield_verify::expect::Expect;
use dshield_verify::ratls::{evidence_of, spki_sha256};
use dshield_verify::{Channel, Options, Presented, judge, time};
use serde_json::json;

fn project(host: &str) -> Project {
    Project::new().with(&Function::probe("native").egress(&Egress::to(host)))
}

fn launch(project: &Project, launch: Launch) -> Agent {
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

fn development(project: &Project) -> Option<Agent> {
    require_root().then(|| launch(project, Launch { attestation: Some("development"), ..Launch::default() }))
}

#[track_caller]
fn evidence(answer: &Answer) -> (Evidence, Statement) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let evidence = Evidence::parse(&answer.text()).unwrap_or_else(|error| panic!("{error}: {}", answer.text()));
    let statement = Statement::parse(&evidence.statement).unwrap_or_else(|error| panic!("{error}"));
    (evidence, statement)
}

fn nonce(byte: u8) -> String {
    Nonce::new([byte; 32]).to_string()
}

#[test]
fn evidence_is_made_for_the_nonce_that_was_asked_with_and_one_for_all_without() {
    let project = project("a.example.com");
    let Some(agent) = development(&project) else { return };
    let ask = |query: &str| agent.get(&format!("/v1/attestation{query}"));
    let mut quotes = Vec::new();
    for byte in [1, 1, 2] {
        let answer = ask(&format!("?nonce={}", nonce(byte)));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let (evidence, statement) = evidence(&answer);
        assert_eq!(statement.nonce, Some(Nonce::new([byte; 32])));
        assert_eq!(evidence.provider, Provider::Development);
        quotes.push(hex::decode(evidence.quote.as_deref().unwrap_or_default()).expect("hexadecimal"));
        // The report data of a quote of version 4.
        let quoted = &quotes.last().expect("it was pushed")[568..632];
        assert_eq!(quoted, ReportData::of(&evidence.statement).as_bytes());
    }
    assert_ne!(quotes[0], quotes[2]);
    let (first, second) = (ask(""), ask(""));
    assert_eq!(first.text(), second.text());
    assert_eq!(evidence(&first).1.nonce, None);

    for (query, says) in [
        ("?nonce=00".to_owned(), "nonce is none: a nonce is 64 hexadecimal digits in lower case"),
        ("?nonce=".to_owned(), "nonce is none: a nonce is 64 hexadecimal digits in lower case"),
        (format!("?nonce={}", nonce(0xab).to_uppercase()), "in lower case, that is 32 random bytes"),
        (format!("?nonce={}0", nonce(1)), "64 hexadecimal digits"),
        (format!("?nonce={}", "%00".repeat(64)), "64 hexadecimal digits"),
        (format!("?nonse={}", nonce(1)), "nonse is not a parameter of this path; those are: nonce"),
    ] {
        let answer = ask(&query);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (400, &json!("invalid_parameter")), "{query}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{query}: {error}");
    }
    // What is in force and what the log says is what is stated.
    let (evidence, statement) = evidence(&ask(""));
    assert_eq!(statement.policy_sha256, dshield_common::canonical::sha256_hex(evidence.policy.as_bytes()));
    let log = agent.log();
    let boot = log.events().find_map(|(_, event)| if let Event::Boot(boot) = event { Some(boot) } else { None });
    let boot = boot.expect("the first entry");
    assert_eq!(boot.checkpoint_keys, [statement.log.ecdsa_p256.clone(), statement.log.ed25519.clone()]);
    assert_eq!(boot.sha256["agent"], statement.agent.sha256);
    assert_eq!(statement.boot_id, log.lines[0].entry.boot_id);
}

/// A connection of its own from an address of loopback, on which one request is answered.
struct Caller {
    runtime: tokio::runtime::Runtime,
    sender: hyper::client::conn::http1::SendRequest<http_body_util::Full<bytes::Bytes>>,
    to: SocketAddr,
}

impl Caller {
    fn connect(to: SocketAddr, from: u8) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an epoll");
        let sender = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            let own = IpAddr::from(Ipv4Addr::new(127, 0, 0, from));
            socket.bind(SocketAddr::from((own, 0))).expect("all of 127/8 is ours");
            let stream = socket.connect(to).await.expect("it listens");
            let io = hyper_util::rt::TokioIo::new(stream);
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a connection");
            tokio::spawn(connection);
            sender
        });
        Self { runtime, sender, to }
    }

    fn ask(mut self, path: &str) -> Answer {
        let request = hyper::Request::get(path).header("host", self.to.to_string());
        let request = request.body(http_body_util::Full::default()).expect("a path and a header");
        let answer = async {
            let patience = wait::scaled(Duration::from_secs(100));
            tokio::time::timeout(patience, client::send(&mut self.sender, request)).await
        };
        self.runtime.block_on(answer).expect("an answer in time").expect("an answer")
    }
}

/// The device makes one quote at a time. One caller floods it; another one, and those who need no nonce, are served.
#[test]
fn a_flood_of_questions_is_answered_or_told_to_wait_and_starves_nobody() {
    const FLOOD: usize = 50;
    if !require_root() {
        return;
    }
    let guest = GuestAgent::start();
    let tdx = Tdx::new();
    guest.set_app_compose(&app_compose());
    let mut make = tdx.maker(|report, rtmr3| report.rtmr[3] = rtmr3);
    guest.make_with(move |report_data, rtmr3| {
        // As slow as hardware, more or less.
        std::thread::sleep(Duration::from_millis(100));
        make(report_data, rtmr3)
    });
    let project = project("a.example.com");
    let environment = vec![("DSTACK_SIMULATOR_ENDPOINT", guest.endpoint().to_owned())];
    let agent = launch(&project, Launch { environment, ..Launch::default() });
    agent.log_with("the evidence of this boot", |log| log.to_string().contains("\"kind\":\"attestation\""));
    let address = agent.address();
    let (before, answered) = (guest.methods().len(), AtomicUsize::new(0));
    let start = Barrier::new(FLOOD + 1);
    let modest = Caller::connect(address, 2);
    let (modest, shared, flood) = std::thread::scope(|scope| {
        let (start, answered) = (&start, &answered);
        let flood: [_; FLOOD] = std::array::from_fn(|number| {
            scope.spawn(move || {
                let caller = Caller::connect(address, 1);
                let asked = nonce(u8::try_from(number).expect("it is small"));
                start.wait();
                let answer = caller.ask(&format!("/v1/attestation?nonce={asked}"));
                answered.fetch_add(usize::from(answer.status == 200), Ordering::SeqCst);
                (asked, answer)
            })
        });
        start.wait();
        // One is being made, and the flood's others wait.
        wait::until("the device at work", || (guest.methods().len() > before).then_some(()));
        let modest = scope.spawn(move || {
            let answer = modest.ask(&format!("/v1/attestation?nonce={}", nonce(200)));
            (answer, answered.load(Ordering::SeqCst))
        });
        let shared: Vec<_> =
            (0..20).map(|_| scope.spawn(move || Caller::connect(address, 1).ask("/v1/attestation"))).collect();
        let shared: Vec<Answer> = shared.into_iter().map(|one| one.join().expect("no panic")).collect();
        (modest.join().expect("no panic"), shared, flood.map(|one| one.join().expect("no panic")))
    });
    let (modest, flood_before) = modest;
    assert_eq!(evidence(&modest).1.nonce, Some(Nonce::new([200; 32])));
    let (mut good, mut busy) = (0, 0);
    for (asked, answer) in flood {
        if answer.status == 200 {
            good += 1;
            assert_eq!(evidence(&answer).1.nonce.map(|nonce| nonce.to_string()), Some(asked));
        } else {
            busy += 1;
            let error = &answer.json()["error"];
            assert_eq!((answer.status, &error["code"]), (503, &json!("attestation_busy")), "{error}");
            let message = error["message"].as_str().unwrap_or_default();
            assert!(message.contains("ask without a nonce, or later"), "{message}");
        }
    }
    assert!(good >= 16 && busy >= 20, "{good} answered, {busy} told to wait");
    assert!(flood_before < good, "the modest caller was served last: after {flood_before} of {good}");
    for answer in &shared {
        assert_eq!(answer.text(), shared[0].text());
    }
    assert_eq!(evidence(&shared[0]).1.nonce, None);
    // Whoever needs no nonce costs no quote: the one that the agent made for itself is young enough.
    let quotes = guest.methods().iter().skip(before).filter(|method| *method == "GetQuote").count();
    assert_eq!(quotes, good + 1, "one for each who was answered");
}

/// The certificate of a handshake, its key's hash, and the evidence in it, if any.
fn certificate(address: SocketAddr) -> (Vec<u8>, String, Option<Evidence>) {
    let answer = client::request_tls(address, "GET", "/healthz", "", wait::scaled(wait::PATIENCE));
    let (_, leaf) = answer.unwrap_or_else(|error| panic!("{error}"));
    let carried = evidence_of(&leaf).expect("a certificate");
    let carried = carried.map(|bytes| String::from_utf8(bytes).expect("JSON"));
    let carried = carried.map(|text| Evidence::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
    (leaf.clone(), hex::encode(&spki_sha256(&leaf).expect("a certificate")), carried)
}

#[test]
fn a_handshake_shows_evidence_that_names_its_key_and_after_a_change_the_new_policy() {
    if !require_root() {
        return;
    }
    let first = project("a.example.com");
    // Quotes for development are what `dshield dev` makes without being told.
    let agent = launch(&first, Launch { command: "dev", tls: Some(true), ..Launch::default() });
    let of_policy = |policy: &str| {
        wait::until("evidence in the certificate", || {
            let (leaf, key, carried) = certificate(agent.address());
            let evidence = carried.filter(|evidence| evidence.policy.contains(policy))?;
            Some((leaf, key, evidence))
        })
    };
    let (leaf, key, evidence) = of_policy("a.example.com");
    let statement = Statement::parse(&evidence.statement).expect("a statement");
    assert_eq!(statement.tls_spki_sha256.as_deref(), Some(key.as_str()));
    assert_eq!(evidence.collateral, None, "a handshake should be short");
    assert!(leaf.len() < 24 << 10, "{} bytes", leaf.len());
    // Whoever reads it there can judge it, with collateral from elsewhere.
    let collateral = Evidence::parse(&agent.get("/v1/attestation").text()).expect("evidence").collateral;
    let whole = Evidence { collateral, ..evidence }.to_json();
    let channel = Channel::Tls { spki_sha256: spki_sha256(&leaf).expect("a certificate") };
    let options = Options {
        now: dshield_tests::tdx::now(),
        insecure_development: true,
        insecure_any_measurement: true,
        ..Options::default()
    };
    let judged = judge(&Presented { evidence: &whole, nonce: None, channel }, &Expect::default(), &options);
    assert_eq!(judged.verdict.outcome.exit_code(), 0, "{:#?}", judged.verdict);

    let text = first.policy().replace("a.example.com", "b.example.com");
    std::fs::write(first.folder().join("dshield.toml"), text).expect("the folder is ours");
    let (_, same, evidence) = of_policy("b.example.com");
    assert_eq!(same, key, "the key is the boot's");
    let in_force = agent.get("/v1/policy");
    let stated = Statement::parse(&evidence.statement).expect("a statement").policy_sha256;
    assert_ne!(stated, statement.policy_sha256);
    assert!(in_force.text().contains("b.example.com"), "{}", in_force.text());
    assert_eq!(stated, dshield_common::canonical::sha256_hex(evidence.policy.as_bytes()));
    // Whoever asks without a nonce is not told of the policy before either.
    let (_, asked) = self::evidence(&agent.get("/v1/attestation"));
    assert_eq!(asked.policy_sha256, stated);
}

#[test]
fn openssl_shows_the_evidence_of_a_running_agent() {
    if !requires("openssl") || !require_root() {
        return;
    }
    let project = project("a.example.com");
    let agent = launch(&project, Launch { tls: Some(true), attestation: Some("development"), ..Launch::default() });
    wait::until("evidence in the certificate", || certificate(agent.address()).2);
    let shell = format!(
        "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -text -fingerprint",
        agent.address()
    );
    let output = Command::new("sh").args(["-c", &shell]).stdin(Stdio::null()).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Subject: CN = D-Shield"), "{text}");
    let after = text.split_once(EVIDENCE_OID).unwrap_or_else(|| panic!("no {EVIDENCE_OID}: {text}")).1;
    assert!(after.contains("dshield.evidence/v1"), "{after}");
}

#[test]
fn the_log_of_each_boot_holds_evidence_that_names_its_keys_and_was_good_when_it_was_written() {
    if !require_root() {
        return;
    }
    let project = project("a.example.com");
    let mut boots = BTreeMap::new();
    for boot in 1..=2 {
        let launch = Launch { tls: Some(true), attestation: Some("development"), ..Launch::default() };
        let mut agent = self::launch(&project, launch);
        let has = |log: &dshield_tests::agent::Log| log.to_string().matches("\"kind\":\"attestation\"").count() == boot;
        let log = agent.log_with("the evidence of this boot", has);
        assert_eq!(log.verify(), Ok(()));
        let told = dshield(["logs", "--url", &agent.url()]).printed();
        let sentence = "a quote by development, which proves nothing, over agent ";
        assert_eq!(told.lines().filter(|line| line.contains(" attested ") && line.contains(sentence)).count(), boot);
        assert!(!told.contains("does not know"), "{told}");
        if boot == 2 {
            let mut keys = Vec::new();
            for line in &log.lines {
                let id = line.entry.boot_id.clone();
                match &line.entry.record.event {
                    Event::Boot(boot) => keys = boot.checkpoint_keys.clone(),
                    Event::Attestation(attested) => {
                        assert_eq!(attested.provider, "development");
                        let evidence = Evidence::parse(&attested.evidence).expect("evidence");
                        let statement = Statement::parse(&evidence.statement).expect("a statement");
                        assert_eq!(statement.boot_id, id);
                        assert_eq!(keys, [statement.log.ecdsa_p256, statement.log.ed25519]);
                        assert!(statement.log.size <= line.entry.seq, "it is over what was before it");
                        boots.insert(id, judged_then(&attested.evidence, &line.entry.time));
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(agent.stop(), Some(0));
    }
    assert_eq!(boots.len(), 2, "one for each boot");
    assert!(boots.values().all(|code| *code == 0), "{boots:?}");
}

/// The exit code of a verdict for the moment of an entry, by whoever expects what they see.
fn judged_then(evidence: &str, at: &str) -> u8 {
    let now = time::parse(at).unwrap_or_else(|| panic!("no moment: {at}"));
    let options = Options { now, insecure_development: true, ..Options::default() };
    let presented = Presented { evidence, nonce: None, channel: Channel::File };
    let first = judge(&presented, &Expect::default(), &options).verdict;
    judge(&presented, &saw(&first), &options).verdict.outcome.exit_code()
}

#![allow(clippy::unwrap_used)]
//! The task against a PCCS on loopback, over real TLS, for the quotes of a machine that is none.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use dshield_common::attestation::{Evidence, ReportData};
use dshield_common::log::entry::{Event, Phase};
use dshield_common::log::line::SignedEntry;
use dshield_common::policy::{Deployment, Policy};
use dshield_development::{Issued, Lifetimes, Machine, Pki, Platform, TdReport};
use dshield_tests::requires::requires_that;
use http::{Request as HttpRequest, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::attest::{Facts, InForce, Measurements, QuoteError as NoQuote, Quoted, Quoter};
use crate::log::{BootFacts, Log, Storage};
use crate::proxy::{InspectionCa, Proxy};

const NOW: u64 = 1_800_000_000;
const HOST: &str = "pccs.example";
/// Fast, so that a test sees many rounds.
const FAST: Pace = Pace {
    shortest: Duration::from_millis(20),
    longest_after_failure: Duration::from_millis(40),
    longest: Duration::from_millis(30),
};

/// What the machine's device gives: the same bytes each time, or a quote over what is asked.
#[derive(Debug)]
struct Device {
    machine: Machine,
    fixed: Option<Vec<u8>>,
    own: Option<Collateral>,
}

impl Quoter for Device {
    fn provider(&self) -> Provider {
        Provider::ConfigfsTsm
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, NoQuote> {
        let made = || self.machine.quote(&TdReport::new(report_data));
        let quote = Some(self.fixed.clone().unwrap_or_else(made));
        Ok(Quoted { quote, collateral: self.own.clone(), ..Quoted::default() })
    }
}

/// What the PCCS does.
#[derive(Clone)]
enum Mood {
    Serves(Box<Collateral>),
    Status(u16),
    /// Much more than anything of Intel's.
    Babbles,
    /// Breaks off without a word.
    HangsUp,
}

/// Plays a PCCS.
struct StandIn {
    address: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
}

struct Shared {
    mood: Mutex<Mood>,
    /// Path and query of each request, and whether the log had it when it arrived.
    seen: Mutex<Vec<(String, bool)>>,
    accepted: AtomicUsize,
    log: Log,
}

impl StandIn {
    /// A port that nobody listens on until [`StandIn::serve`].
    fn bind(log: Log, mood: Mood) -> (Self, TcpSocket, TlsAcceptor) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key.into()).unwrap();
        let shared =
            Arc::new(Shared { mood: Mutex::new(mood), seen: Mutex::default(), accepted: AtomicUsize::new(0), log });
        (Self { address, ca_pem, shared }, socket, TlsAcceptor::from(Arc::new(config)))
    }

    fn serve(&self, listener: TcpListener, tls: TlsAcceptor) {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let Ok(stream) = tls.accept(stream).await else { continue };
                let shared = shared.clone();
                let service = service_fn(move |request| answer(shared.clone(), request));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
            }
        });
    }

    fn start(log: Log, mood: Mood) -> Self {
        let (stand_in, socket, tls) = Self::bind(log, mood);
        stand_in.serve(socket.listen(16).unwrap(), tls);
        stand_in
    }

    fn becomes(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    fn seen(&self) -> MutexGuard<'_, Vec<(String, bool)>> {
        self.shared.seen.lock().unwrap()
    }

    /// Waits until all of what it is now was asked for, and judged.
    async fn rounds(&self) {
        let (before, rounds) = (self.seen().len(), 3);
        until(|| self.seen().len() >= before + rounds * 4).await;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("hung up")]
struct HungUp;

async fn answer(shared: Arc<Shared>, request: HttpRequest<Incoming>) -> Result<Response<Full<Bytes>>, HungUp> {
    assert_eq!(request.method(), http::Method::GET);
    assert!(request.headers()["host"].to_str().unwrap().starts_with(HOST));
    let path = request.uri().path().strip_prefix("/at").unwrap().to_owned();
    let logged = begun(&shared.log).await.iter().filter(|logged| **logged == format!("/at{path}")).count();
    {
        let mut seen = shared.seen.lock().unwrap();
        let before = seen.iter().filter(|(seen, _)| seen.split('?').next() == Some(&path)).count();
        seen.push((request.uri().path_and_query().unwrap().as_str()["/at".len()..].to_owned(), logged > before));
    }
    let mood = shared.mood.lock().unwrap().clone();
    let respond = |status: u16, header: &str, chain: &str, body: Vec<u8>| {
        let chain: String = chain.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let response = Response::builder().status(status).header(header, chain);
        Ok(response.body(Full::new(Bytes::from(body))).unwrap())
    };
    let collateral = match mood {
        Mood::Serves(collateral) => collateral,
        Mood::Status(status) => return respond(status, "x", "", Vec::new()),
        Mood::Babbles => return respond(200, "x", "", vec![b'0'; 4 * MOST_BODY]),
        Mood::HangsUp => return Err(HungUp),
    };
    let signed =
        |name: &str, text: &str, signature: &str| format!("{{\"{name}\":{text},\"signature\":\"{signature}\"}}").into();
    match path.as_str() {
        "/sgx/certification/v4/pckcrl" => respond(
            200,
            "SGX-PCK-CRL-Issuer-Chain",
            &collateral.pck_crl_issuer_chain,
            hex::decode(&collateral.pck_crl).unwrap(),
        ),
        "/sgx/certification/v4/rootcacrl" => respond(200, "x", "", collateral.root_ca_crl.clone().into()),
        "/tdx/certification/v4/tcb" => respond(
            200,
            "TCB-Info-Issuer-Chain",
            &collateral.tcb_info_issuer_chain,
            signed("tcbInfo", &collateral.tcb_info, &collateral.tcb_info_signature),
        ),
        "/tdx/certification/v4/qe/identity" => respond(
            200,
            "SGX-Enclave-Identity-Issuer-Chain",
            &collateral.qe_identity_issuer_chain,
            signed("enclaveIdentity", &collateral.qe_identity, &collateral.qe_identity_signature),
        ),
        _ => respond(404, "x", "", Vec::new()),
    }
}

async fn events(log: &Log) -> Vec<Event> {
    let lines = log.read(0, 10_000).await.unwrap();
    lines.iter().map(|line| SignedEntry::parse(line).unwrap().decode().unwrap().record.event).collect()
}

/// The paths of requests whose begin is in the log.
async fn begun(log: &Log) -> Vec<String> {
    let begun = |event| match event {
        Event::Request(request) if request.phase == Phase::Begin => {
            assert_eq!(request.rule.as_deref(), Some("attestation.pccs"));
            request.path
        }
        _ => None,
    };
    events(log).await.into_iter().filter_map(begun).collect()
}

/// Waits with a deadline.
async fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn policy(port: u16, ca_pem: &str) -> Arc<Policy> {
    let text = format!(
        "[attestation]\npccs = \"https://{HOST}:{port}/at/\"\nresolve = [\"127.0.0.1\"]\nca = \"ca.pem\"\n\
         [[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n"
    );
    Deployment::parse(&text, &mut |_| Ok(ca_pem.as_bytes().to_vec())).unwrap().policy
}

/// An agent's parts that the task needs, and its clock.
struct Bench {
    log: Log,
    machine: Machine,
    attester: Attester,
    clock: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::new(Pki::generate().unwrap(), Platform::default());
        Self::with(Device { machine, fixed: None, own: None })
    }

    fn with(device: Device) -> Self {
        let log = Log::open(Storage::Memory, BootFacts::default()).unwrap();
        let facts = Facts {
            measurements: Measurements { sha256: BTreeMap::new() },
            programs: Vec::new(),
            isolation: Default::default(),
            tls_spki_sha256: None,
        };
        let in_force =
            Arc::new(|| InForce { policy: String::new(), policy_sha256: String::new(), functions: Vec::new() });
        let machine = device.machine.clone();
        let attester = Attester::start(Box::new(device), facts, in_force, log.clone());
        Self { log, machine, attester, clock: Arc::new(AtomicU64::new(NOW)) }
    }

    fn egress(&self, policy: &Policy) -> OwnEgress {
        let ca = Arc::new(InspectionCa::generate().unwrap());
        let proxy = Proxy::new(self.log.clone(), ca, Arc::new(|_, _| None));
        proxy.own(policy.attestation.egress(), policy).unwrap()
    }

    fn source(&self, egress: OwnEgress, pccs: Pccs) -> Source {
        let clock = self.clock.clone();
        Source {
            attester: self.attester.clone(),
            egress,
            pccs,
            root: Root::Other(self.machine.pki().root_der().to_vec()),
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            pace: FAST,
        }
    }

    fn asking(&self, stand_in: &StandIn) -> Source {
        let policy = policy(stand_in.address.port(), &stand_in.ca_pem);
        self.source(self.egress(&policy), policy.attestation.pccs.clone().unwrap())
    }

    async fn evidence(&self) -> Arc<Evidence> {
        self.attester.evidence(Asker::Shared, None).await.unwrap()
    }

    async fn has(&self, collateral: &Collateral) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.evidence().await.collateral.as_ref() != Some(collateral) {
            assert!(Instant::now() < deadline, "the evidence does not get it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self, refresh: Refresh) {
        refresh.stop().await;
        self.attester.stop();
    }
}

fn serves(collateral: &Collateral) -> Mood {
    Mood::Serves(Box::new(collateral.clone()))
}

#[tokio::test]
async fn what_intel_says_is_in_the_evidence_and_each_request_is_in_the_log_before_it_arrives() {
    let bench = Bench::new();
    let collateral = bench.machine.collateral(NOW);
    let stand_in = StandIn::start(bench.log.clone(), serves(&collateral));
    let source = Source { pace: Pace::USUAL, ..bench.asking(&stand_in) };
    let refresh = Refresh::run(source);
    bench.has(&collateral).await;
    let seen = stand_in.seen().clone();
    let paths = [
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
        "/tdx/certification/v4/tcb?fmspc=444556544458&update=standard",
        "/tdx/certification/v4/qe/identity?update=standard",
    ];
    assert_eq!(seen, paths.map(|path| (path.to_owned(), true)));
    // Evidence for a nonce has it too.
    let nonce = dshield_common::attestation::Nonce::new([1; 32]);
    let asked = bench.attester.evidence(Asker::Shared, Some(nonce)).await.unwrap();
    assert_eq!(asked.collateral.as_ref(), Some(&collateral));
    bench.end(refresh).await;
}

#[tokio::test]
async fn a_pccs_that_serves_something_else_is_not_believed() {
    let bench = Bench::new();
    let right = bench.machine.collateral(NOW);
    let elsewhere = Machine::new(Pki::generate().unwrap(), Platform::default());
    let other_hardware = Platform { fmspc: *b"OTHER!", ..Platform::default() };
    let other_hardware = Machine::new(bench.machine.pki().clone(), other_hardware);
    let changed = Collateral { tcb_info: right.tcb_info.replace("UpToDate", "OutOfDate"), ..right.clone() };
    let stand_in = StandIn::start(bench.log.clone(), Mood::HangsUp);
    let refresh = Refresh::run(bench.asking(&stand_in));
    for mood in [
        serves(&elsewhere.collateral(NOW)),
        serves(&other_hardware.collateral(NOW)),
        serves(&bench.machine.collateral(NOW - 60 * 24 * 60 * 60)),
        serves(&bench.machine.collateral(NOW + 60 * 24 * 60 * 60)),
        serves(&changed),
        Mood::Status(404),
        Mood::Status(307),
        Mood::Babbles,
        Mood::HangsUp,
    ] {
        stand_in.becomes(mood);
        stand_in.rounds().await;
        assert_eq!(bench.evidence().await.collateral, None);
    }
    stand_in.becomes(serves(&right));
    bench.has(&right).await;
    stand_in.becomes(serves(&elsewhere.collateral(NOW)));
    stand_in.rounds().await;
    assert_eq!(bench.evidence().await.collateral.as_ref(), Some(&right), "what was right is kept");
    bench.end(refresh).await;
}

#[tokio::test]
async fn a_pccs_that_is_down_when_the_agent_starts_is_asked_again() {
    let bench = Bench::new();
    let collateral = bench.machine.collateral(NOW);
    let (stand_in, socket, tls) = StandIn::bind(bench.log.clone(), serves(&collateral));
    let refresh = Refresh::run(bench.asking(&stand_in));
    let failed = async |log: &Log| events(log).await.iter().filter(|event| matches!(event, Event::Close(_))).count();
    let deadline = Instant::now() + Duration::from_secs(30);
    while failed(&bench.log).await < 2 {
        assert!(Instant::now() < deadline, "nobody tries");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.evidence().await.collateral, None);
    stand_in.serve(socket.listen(16).unwrap(), tls);
    bench.has(&collateral).await;
    bench.end(refresh).await;
}

#[tokio::test]
async fn a_certificate_authority_that_the_policy_does_not_name_proves_nothing() {
    let bench = Bench::new();
    let stand_in = StandIn::start(bench.log.clone(), serves(&bench.machine.collateral(NOW)));
    let other = StandIn::bind(bench.log.clone(), Mood::HangsUp).0;
    let policy = policy(stand_in.address.port(), &other.ca_pem);
    let source = bench.source(bench.egress(&policy), policy.attestation.pccs.clone().unwrap());
    let refresh = Refresh::run(source);
    until(|| stand_in.shared.accepted.load(Ordering::SeqCst) >= 3).await;
    assert!(stand_in.seen().is_empty());
    assert_eq!(bench.evidence().await.collateral, None);
    bench.end(refresh).await;
}

#[tokio::test]
async fn a_host_that_no_rule_allows_is_not_dialled() {
    let bench = Bench::new();
    let stand_in = StandIn::start(bench.log.clone(), serves(&bench.machine.collateral(NOW)));
    let allowed = policy(stand_in.address.port() ^ 1, &stand_in.ca_pem);
    let wanted = policy(stand_in.address.port(), &stand_in.ca_pem).attestation.pccs.clone().unwrap();
    let source = bench.source(bench.egress(&allowed), wanted);
    let refused = source.refresh(&mut None).await.unwrap_err();
    assert!(matches!(refused, RefreshError::Egress(OwnError::Refused(_))), "{refused}");
    bench.log.settled().await;
    let events = events(&bench.log).await;
    assert!(events.iter().any(|event| matches!(event, Event::Refused(refused) if refused.layer == "connect")));
    assert!(!events.iter().any(|event| matches!(event, Event::Connect(_))));
    assert_eq!(stand_in.shared.accepted.load(Ordering::SeqCst), 0);
    bench.attester.stop();
}

#[tokio::test]
async fn collateral_is_replaced_before_it_ends() {
    let bench = Bench::new();
    let lasting = |seconds| {
        let platform = Platform { lifetimes: Lifetimes::all(seconds), ..Platform::default() };
        Machine::new(bench.machine.pki().clone(), platform).collateral(NOW)
    };
    // Four seconds are left of it.
    let (first, second) = (lasting(4), lasting(1000));
    let stand_in = StandIn::start(bench.log.clone(), serves(&first));
    let since = Instant::now();
    let refresh =
        Refresh::run(Source { pace: Pace { longest: Pace::USUAL.longest, ..FAST }, ..bench.asking(&stand_in) });
    bench.has(&first).await;
    stand_in.becomes(serves(&second));
    bench.has(&second).await;
    assert!(since.elapsed() >= Duration::from_secs(3), "not sooner than it has to be: {:?}", since.elapsed());
    assert_eq!(stand_in.seen().len(), 8);
    bench.end(refresh).await;
}

#[test]
fn the_next_time_is_when_a_quarter_of_the_validity_is_left_and_a_day_later_at_most() {
    let day = 24 * 60 * 60;
    let until_next = |left: u64| Pace::USUAL.until_next(NOW, NOW + left).as_secs();
    assert_eq!(until_next(30 * day), day);
    assert_eq!(until_next(day), day * 3 / 4);
    assert_eq!(until_next(4000), 3000);
    assert_eq!(until_next(10), 60);
    assert_eq!(Pace::USUAL.until_next(NOW, NOW - 1).as_secs(), 60);
    assert_eq!(Pace::USUAL.until_next(0, u64::MAX).as_secs(), day);
}

#[tokio::test]
async fn a_pccs_that_takes_a_step_back_is_not_followed() {
    let bench = Bench::new();
    let (older, newer) = (bench.machine.collateral(NOW - 1000), bench.machine.collateral(NOW));
    let stand_in = StandIn::start(bench.log.clone(), serves(&older));
    let refresh = Refresh::run(bench.asking(&stand_in));
    bench.has(&older).await;
    stand_in.becomes(serves(&newer));
    bench.has(&newer).await;
    stand_in.becomes(serves(&older));
    stand_in.rounds().await;
    assert_eq!(bench.evidence().await.collateral.as_ref(), Some(&newer));
    bench.end(refresh).await;
}

#[tokio::test]
async fn that_the_platform_is_revoked_is_not_kept_from_who_checks_the_evidence() {
    let bench = Bench::new();
    let good = bench.machine.collateral(NOW - 1000);
    let revoked = Platform { revoked: vec![Issued::Pck], ..Platform::default() };
    let bad = Machine::new(bench.machine.pki().clone(), revoked).collateral(NOW);
    let stand_in = StandIn::start(bench.log.clone(), serves(&good));
    let refresh = Refresh::run(bench.asking(&stand_in));
    bench.has(&good).await;
    stand_in.becomes(serves(&bad));
    bench.has(&bad).await;
    stand_in.becomes(serves(&good));
    stand_in.rounds().await;
    assert_eq!(bench.evidence().await.collateral.as_ref(), Some(&bad), "it cannot be taken back with what was before");
    bench.end(refresh).await;
}

#[tokio::test]
async fn nothing_is_fetched_for_a_machine_whose_quotes_come_with_collateral() {
    let machine = Machine::new(Pki::generate().unwrap(), Platform::default());
    let own = Some(machine.collateral(NOW));
    let bench = Bench::with(Device { machine, fixed: None, own });
    let stand_in = StandIn::start(bench.log.clone(), serves(&bench.machine.collateral(NOW)));
    let Refresh(task) = Refresh::run(bench.asking(&stand_in));
    tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    assert_eq!(stand_in.shared.accepted.load(Ordering::SeqCst), 0);
    bench.attester.stop();
    let policy = policy(stand_in.address.port(), &stand_in.ca_pem);
    let pccs = policy.attestation.pccs.clone().unwrap();
    assert!(Refresh::start(Attester::none("no device"), bench.egress(&policy), pccs).is_none());
}

#[tokio::test]
async fn the_task_ends_with_the_device() {
    let bench = Bench::new();
    let stand_in = StandIn::start(bench.log.clone(), Mood::HangsUp);
    let Refresh(task) = Refresh::run(bench.asking(&stand_in));
    until(|| !stand_in.seen().is_empty()).await;
    bench.attester.stop();
    // The last evidence is given on as long as it is fresh, so it is asked for something new.
    bench.attester.set_collateral(bench.machine.collateral(NOW));
    tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn each_kind_of_failure_is_told_once_until_all_is_well() {
    let mut told = Vec::new();
    let answer = || RefreshError::Answer(CollateralError::NotTdx);
    let news = [answer(), RefreshError::NoQuote, answer(), RefreshError::NoQuote, RefreshError::Endless];
    let news = news.map(|error| is_news(&error, &mut told));
    assert_eq!(news, [true, true, false, false, true]);
    told.clear();
    assert!(is_news(&answer(), &mut told));
}

#[tokio::test]
async fn a_real_platform_gets_what_intel_said_of_it() {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    let folder = std::env::var_os("DSHIELD_VECTORS").map_or_else(beside, PathBuf::from);
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    let found = read("tdx_quote").zip(read("tdx_quote_collateral.json"));
    if !requires_that(found.is_some(), "no tdx_quote in DSHIELD_VECTORS nor ../shared/vectors") {
        return;
    }
    let (quote, collateral) = found.unwrap();
    let collateral: Collateral = serde_json::from_slice(&collateral).unwrap();
    let machine = Machine::new(Pki::generate().unwrap(), Platform::default());
    let bench = Bench::with(Device { machine, fixed: Some(quote), own: None });
    bench.clock.store(1_750_332_747, Ordering::SeqCst);
    let stand_in = StandIn::start(bench.log.clone(), serves(&collateral));
    let refresh = Refresh::run(Source { root: Root::Intel, ..bench.asking(&stand_in) });
    bench.has(&collateral).await;
    assert!(stand_in.seen().iter().any(|(path, _)| path.contains("fmspc=B0C06F000000&")));
    bench.end(refresh).await;
}

//! A stand-in for dstack's guest agent: JSON over HTTP on a unix socket, or on a port of loopback.
//!
//! Questions flow in and are remembered; answers like those of dstack flow out (`sdk/curl/api.md` there), with quotes by a
//! [`Maker`], or else whatever a test has put in their place.
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dshield_common::attestation::event::{Event, extend, runtime_digest};
use dshield_common::canonical::{Sha256Digest, sha256_hex};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::background::Background;
use crate::tsm::{Maker, QuoteShape, quote};

/// What its machine runs, unless it is told otherwise.
pub const APP_COMPOSE: &str =
    "{ \"manifest_version\": 2,\n  \"name\": \"fünction\", \"runner\": \"docker-compose\" }\n";

/// The events of firmware and boot chain: register and payload. A digest is the register's number, 48 times.
const BOOT: [(u8, &str); 3] = [(0, "095464785461626c65"), (1, "00ff"), (2, "636d646c696e65")];

/// What is said instead of an answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This, with this status.
    Status(u16, String),
    /// These bytes and no others, whether they are HTTP or not.
    Raw(Vec<u8>),
    /// Nothing, and the connection stays open.
    Silence,
}

/// A running guest agent; it stops when dropped.
pub struct GuestAgent {
    state: Arc<Mutex<State>>,
    endpoint: String,
    _server: Background,
    _folder: Option<TempDir>,
}

struct State {
    maker: Maker,
    app_compose: String,
    info: Value,
    with_digests: bool,
    scripted: VecDeque<(String, Answer)>,
    asked: Vec<(String, Value)>,
}

impl GuestAgent {
    /// On a unix socket. Its quotes are [`quote`]s of version 4 until it is told otherwise.
    #[must_use]
    pub fn start() -> Self {
        let folder = folder();
        let path = folder.path().join("dstack.sock");
        Self { _folder: Some(folder), ..Self::start_at(&path) }
    }

    /// On a unix socket at this path, in whose place there may be one that nobody listens at any more.
    #[must_use]
    pub fn start_at(path: &Path) -> Self {
        // Mostly there is none.
        let _ = std::fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).expect("the folder is ours");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let state = state();
        let served = Arc::clone(&state);
        let server = Background::spawn("guest-agent", move || async move {
            let listener = UnixListener::from_std(listener).expect("a socket of this process");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&served)));
            }
        });
        Self { state, endpoint: path.to_string_lossy().into_owned(), _server: server, _folder: None }
    }

    /// On a port of 127.0.0.1, as dstack's simulator may be.
    #[must_use]
    pub fn start_tcp() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = state();
        let served = Arc::clone(&state);
        let server = Background::spawn("guest-agent", move || async move {
            let listener = TcpListener::from_std(listener).expect("a socket of this process");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, Arc::clone(&served)));
            }
        });
        Self { state, endpoint: format!("http://{address}"), _server: server, _folder: None }
    }

    /// Where it is, as `DSTACK_SIMULATOR_ENDPOINT` names it: its socket's path, or its URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its socket, to be mounted somewhere else.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(&self.endpoint)
    }

    /// Quotes are made by `maker` from now on.
    pub fn make_with(&self, maker: impl FnMut(&[u8; 64], &[u8; 48]) -> Vec<u8> + Send + 'static) {
        self.state().maker = Box::new(maker);
    }

    /// The machine runs another `app-compose.json`.
    pub fn set_app_compose(&self, text: &str) {
        text.clone_into(&mut self.state().app_compose);
    }

    /// A member of `Info` that is not as dstack has it.
    pub fn set_info(&self, member: &str, value: Value) {
        self.state().info[member] = value;
    }

    /// From 0.6 on, dstack leaves out the digests of run-time events and the payloads of all others.
    pub fn leave_out_digests(&self) {
        self.state().with_digests = false;
    }

    /// The next question for this method is answered so; the one after that as ever, unless this was said twice.
    pub fn answer_once(&self, method: &str, answer: Answer) {
        self.state().scripted.push_back((method.to_owned(), answer));
    }

    /// The method and body of each question so far.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.state().asked.clone()
    }

    /// The methods of the questions so far.
    #[must_use]
    pub fn methods(&self) -> Vec<String> {
        self.asked().into_iter().map(|(method, _)| method).collect()
    }

    /// The value of RTMR0 to 2 in its quotes, if they are to be what the event log leads to.
    #[must_use]
    pub fn boot_registers(&self) -> [[u8; 48]; 3] {
        BOOT.map(|(imr, _)| extend(&[0; 48], &[imr; 48]))
    }

    /// The value of RTMR3 in its quotes: what the event log leads to.
    #[must_use]
    pub fn rtmr3(&self) -> [u8; 48] {
        self.state().rtmr3()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for GuestAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestAgent").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("dshield-dstack-").tempdir().expect("a temporary folder")
}

fn state() -> Arc<Mutex<State>> {
    Arc::new(Mutex::new(State {
        maker: Box::new(|report_data, rtmr3| quote(QuoteShape::V4, report_data, rtmr3)),
        app_compose: APP_COMPOSE.to_owned(),
        info: Value::Null,
        with_digests: true,
        scripted: VecDeque::new(),
        asked: Vec::new(),
    }))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("a maker of quotes panicked")
}

impl State {
    /// What dstack extends RTMR3 with before any container starts.
    fn runtime_events(&self) -> Vec<Event> {
        let compose = Sha256Digest::of(self.app_compose.as_bytes());
        let provider: &[u8] = br#"{"name":"kms","id":"00"}"#;
        let payloads: [(&str, &[u8]); 7] = [
            ("system-preparing", b""),
            ("app-id", &compose.as_bytes()[..20]),
            ("compose-hash", compose.as_bytes()),
            ("instance-id", &[0x1d; 20]),
            ("boot-mr-done", b""),
            ("key-provider", provider),
            ("system-ready", b""),
        ];
        payloads.map(|(name, payload)| Event::runtime(name, payload)).to_vec()
    }

    fn rtmr3(&self) -> [u8; 48] {
        self.runtime_events().iter().fold([0; 48], |register, event| {
            extend(&register, &runtime_digest(&event.event, &bytes_of(&event.event_payload)))
        })
    }

    fn event_log(&self) -> String {
        let boot = |imr, payload: &str| Event {
            imr,
            event_type: 0x8000_000b,
            digest: hex(&[imr; 48]),
            event: String::new(),
            event_payload: if self.with_digests { payload.to_owned() } else { String::new() },
            version: None,
            preimage: None,
        };
        let mut events = BOOT.map(|(imr, payload)| boot(imr, payload)).to_vec();
        events.extend(self.runtime_events());
        if !self.with_digests {
            events.iter_mut().filter(|event| event.imr == 3).for_each(|event| event.digest.clear());
        }
        serde_json::to_string(&events).expect("events have a JSON form")
    }

    fn answer(&mut self, method: &str, question: &Value) -> (u16, Value) {
        let refused = |error: &str| (400, json!({ "error": error }));
        match method {
            "GetQuote" => {
                let mut report_data = bytes_of(question["report_data"].as_str().unwrap_or("?"));
                if report_data.is_empty() || report_data.len() > 64 {
                    return refused("Report data is too long");
                }
                report_data.resize(64, 0);
                let rtmr3 = self.rtmr3();
                let quote = (self.maker)(report_data[..].try_into().expect("it has 64 bytes"), &rtmr3);
                let answer = json!({
                    "quote": hex(&quote),
                    "event_log": self.event_log(),
                    "report_data": hex(&report_data),
                    "vm_config": r#"{"spec_version":1,"cpu_count":2,"memory_size":2147483648}"#,
                });
                (200, answer)
            }
            "Info" => {
                let tcb_info = json!({
                    "mrtd": "00".repeat(48),
                    "rtmr3": hex(&self.rtmr3()),
                    "compose_hash": sha256_hex(self.app_compose.as_bytes()),
                    "event_log": [],
                    "app_compose": self.app_compose,
                });
                let mut answer = json!({
                    "app_id": "a0".repeat(20),
                    "instance_id": "1d".repeat(20),
                    "app_name": "function",
                    "tcb_info": tcb_info.to_string(),
                    "vm_config": r#"{"spec_version":1,"from":"Info"}"#,
                });
                for (member, value) in self.info.as_object().into_iter().flatten() {
                    answer[member] = value.clone();
                }
                (200, answer)
            }
            "GetKey" => {
                let key = sha256_hex(question["path"].as_str().unwrap_or_default().as_bytes());
                (200, json!({ "key": key, "signature_chain": ["00".repeat(65), "00".repeat(65)] }))
            }
            _ => (404, json!({ "error": format!("Service not found: {method}") })),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Nothing of what is no hexadecimal.
fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let pair = |pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.map(pair).collect::<Option<_>>().unwrap_or_default()
}

async fn connection(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let raw = {
        let mut state = lock(&state);
        match state.scripted.front() {
            Some((_, Answer::Raw(bytes))) => {
                let bytes = bytes.clone();
                state.scripted.pop_front();
                Some(bytes)
            }
            _ => None,
        }
    };
    if let Some(raw) = raw {
        // A client that went away misses its answer, nothing else. The question is in one packet.
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(&raw).await;
        return;
    }
    let service = service_fn(|request| serve(request, &state));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve(request: Request<Incoming>, state: &Mutex<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let post = request.method() == hyper::Method::POST;
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let question = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let scripted = {
        let mut state = lock(state);
        state.asked.push((method.clone(), question.clone()));
        let at = state.scripted.iter().position(|(about, _)| *about == method);
        at.and_then(|at| state.scripted.remove(at)).map(|(_, answer)| answer)
    };
    let (status, text) = match scripted {
        Some(Answer::Status(status, text)) => (status, text),
        Some(Answer::Silence) => std::future::pending().await,
        _ if !post || !question.is_object() => (400, json!({ "error": "invalid request" }).to_string()),
        _ => {
            let (status, answer) = lock(state).answer(&method, &question);
            (status, answer.to_string())
        }
    };
    let answer = Response::builder().status(status).header("content-type", "application/json");
    Ok(answer.body(Full::new(Bytes::from(text))).expect("a status and one header"))
}

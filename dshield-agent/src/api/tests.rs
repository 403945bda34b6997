//! The API over real connections, with functions in real processes.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use dshield_common::log::entry::{Event, Record, Subject};
use dshield_common::log::line::SignedEntry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{ApiState, Deployed, serve};
use crate::attest::{Attester, RatlsCertificate};
use crate::log::Log;
use crate::runtime::testing::{Source, closed_log, exchange, function, log, pool, until};
use crate::runtime::{LaunchError, Launcher, Pool};

mod handshakes;
mod readers;
mod secure;

struct Api {
    address: SocketAddr,
    deployment: watch::Sender<Arc<Deployed>>,
    ready: Arc<AtomicBool>,
}

impl Api {
    async fn start(log: Log, functions: Vec<Pool>) -> Self {
        Self::start_with(log, functions, None).await
    }

    async fn start_with(log: Log, functions: Vec<Pool>, tls: Option<Arc<RatlsCertificate>>) -> Self {
        let named = |pool: Pool| (pool.function().spec.name.to_string(), Arc::new(pool));
        let deployed = Deployed {
            functions: functions.into_iter().map(named).collect(),
            policy: "{}".to_owned(),
            policy_sha256: "44136fa3".to_owned(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let deployment = watch::Sender::new(Arc::new(deployed));
        let ready = Arc::new(AtomicBool::new(true));
        let asked = ready.clone();
        let health =
            move || if asked.load(Ordering::SeqCst) { Ok(()) } else { Err("a program is detached".to_owned()) };
        let attester = Attester::none("this is a test");
        let state = ApiState { log, attester, deployment: deployment.subscribe(), health: Arc::new(health) };
        tokio::spawn(serve(listener, tls, state, std::future::pending()));
        Self { address, deployment, ready }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    async fn send(&self, request: &str) -> (u16, String) {
        exchange(self.address, request.as_bytes()).await
    }

    /// Status, `x-amzn-errortype` or `x-amz-function-error`, and body, of an invocation.
    async fn invoke(&self, name: &str, headers: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST /2015-03-31/functions/{name}/invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        assert_eq!(header("x-amzn-requestid").unwrap().len(), 36);
        let status: u16 = head[9..12].parse().unwrap();
        assert_eq!(header("x-amz-executed-version").is_some(), status == 200);
        assert_eq!(header("retry-after").is_some(), [429, 503].contains(&status));
        assert_eq!(header("x-dshield-log").is_some(), status == 200);
        let error = header("x-amzn-errortype").or(header("x-amz-function-error")).unwrap_or_default();
        (status, error, body.to_owned())
    }
}

/// A function that needs no interpreter but the shell: it fails to load.
fn broken_function(name: &str) -> (crate::snapshot::FrozenFunction, Source) {
    let source = Source::native("#!/bin/sh\nexit 1\n");
    (function(name, &source), source)
}

fn refusing_launcher() -> Launcher {
    Arc::new(|_| {
        Box::pin(async {
            Err(LaunchError::Sandbox { function: "f".to_owned(), source: "/secret/path is missing".into() })
        })
    })
}

#[tokio::test]
async fn an_invocation_answers_as_lambda_does() {
    let source = Source::python(
        "app",
        "
import time
def handler(event, context):
    if event.get('sleep'): time.sleep(event['sleep'])
    if event.get('fail'): raise RuntimeError(event['fail'])
    return event
",
    );
    if let Some(why) = source.unavailable() {
        eprintln!("skipped: {why}");
        return;
    }
    let log = log();
    let (pool, count) = pool(function("echo", &source), &log);
    let api = Api::start(log, vec![pool]).await;
    let ok = |body: &str| (200, String::new(), body.to_owned());
    assert_eq!(api.invoke("echo", "", "{\"a\": [1, \"é\"]}").await, ok("{\"a\": [1, \"é\"]}"));
    assert_eq!(api.invoke("echo", "", "").await, ok("{}"));
    for name in ["echo%3A%24LATEST", "arn%3Aaws%3Alambda%3Aus-east-1%3A012345678912%3Afunction%3Aecho", "function:echo"]
    {
        assert_eq!(api.invoke(name, "X-Amz-Invocation-Type: RequestResponse\r\n", "{}").await, ok("{}"), "{name}");
    }

    let (status, error, body) = api.invoke("echo", "", "{\"fail\": \"so\"}").await;
    assert_eq!((status, error.as_str()), (200, "Unhandled"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["errorType"], &body["errorMessage"]), (&json!("RuntimeError"), &json!("so")));

    assert_eq!(
        api.invoke("echo", "X-Amz-Invocation-Type: DryRun\r\n", "{}").await,
        (204, String::new(), String::new())
    );
    // Longer than the test: the process ends with its pool.
    let slow = api.invoke("echo", "X-Amz-Invocation-Type: Event\r\n", "{\"sleep\": 30}").await;
    assert_eq!(slow, (202, String::new(), String::new()));
    let refused = api.invoke("echo", "", "{}").await;
    let body =
        r#"{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}"#;
    assert_eq!(refused, (429, "TooManyRequestsException".to_owned(), body.to_owned()));
    assert_eq!(count.launched(), 1);
}

#[tokio::test]
async fn what_the_caller_does_wrong_gets_lambdas_error_bodies() {
    let log = log();
    let (function, _source) = broken_function("f");
    let (pool, count) = pool(function, &log);
    let api = Api::start(log, vec![pool]).await;
    let golden = [
        (
            ("nope", "", "{}".to_owned()),
            (404, "ResourceNotFoundException"),
            r#"{"Message":"Function not found: arn:aws:lambda:us-east-1:012345678912:function:nope","Type":"User"}"#,
        ),
        (
            ("f:live", "", "{}".to_owned()),
            (404, "ResourceNotFoundException"),
            r#"{"Message":"Function not found: arn:aws:lambda:us-east-1:012345678912:function:f","Type":"User"}"#,
        ),
        (
            ("f", "", "{\"a\":".to_owned()),
            (400, "InvalidRequestContentException"),
            r#"{"Type":"User","message":"Could not parse request body into json: EOF while parsing a value at line 1 column 5"}"#,
        ),
        (
            ("f", "X-Amz-Invocation-Type: Sometimes\r\n", "{}".to_owned()),
            (400, "InvalidParameterValueException"),
            r#"{"Type":"User","message":"X-Amz-Invocation-Type must be RequestResponse, Event or DryRun"}"#,
        ),
        (
            ("f", "", " ".repeat(6 * 1024 * 1024 + 1)),
            (413, "RequestTooLargeException"),
            r#"{"Type":"User","message":"Request must be smaller than 6291456 bytes for the InvokeFunction operation"}"#,
        ),
        (
            ("f", "X-Amz-Invocation-Type: Event\r\n", " ".repeat(1024 * 1024 + 1)),
            (413, "RequestTooLargeException"),
            r#"{"Type":"User","message":"Request must be smaller than 1048576 bytes for the InvokeFunction operation"}"#,
        ),
        (
            ("f%2Fg", "", "{}".to_owned()),
            (400, "InvalidParameterValueException"),
            r#"{"Type":"User","message":"The function name must be a name, name:$LATEST or the ARN of a function"}"#,
        ),
    ];
    for ((name, headers, body), (status, error), expected) in golden {
        assert_eq!(api.invoke(name, headers, &body).await, (status, error.to_owned(), expected.to_owned()));
    }
    assert_eq!(count.launched(), 0, "nothing of this reaches the function");
    let (status, error, body) = api.invoke("f", "", "{}").await;
    assert_eq!((status, error.as_str()), (200, "Unhandled"));
    assert!(body.contains("Runtime exited with error: exit status 1"), "{body}");
}

#[tokio::test]
async fn what_the_agent_cannot_do_is_said_without_its_secrets() {
    let (function, _source) = broken_function("f");
    let open = log();
    let api = Api::start(open.clone(), vec![Pool::new(Arc::new(function.clone()), refusing_launcher(), open)]).await;
    let (status, error, body) = api.invoke("f", "", "{}").await;
    assert_eq!((status, error.as_str()), (502, "InvalidRuntimeException"));
    assert!(body.contains("sandbox could not be started") && !body.contains("secret"), "{body}");

    let closed = closed_log().await;
    let (pool, _) = pool(function, &closed);
    let api = Api::start(closed, vec![pool]).await;
    let (status, error, body) = api.invoke("f", "", "{}").await;
    assert_eq!((status, error.as_str()), (503, "ServiceException"));
    assert_eq!(
        body,
        r#"{"Message":"The log takes no entries, so the function was not run. See /readyz.","Type":"Service"}"#
    );
}

#[tokio::test]
async fn a_new_deployment_takes_effect_with_the_next_request() {
    let log = log();
    let (function, _source) = broken_function("f");
    let (pool, _) = pool(function, &log);
    let api = Api::start(log, vec![pool]).await;
    let (status, body) = api.get("/v1/functions").await;
    let listed = r#"{"functions":[{"code_sha256":"e3b0c442","concurrency":1,"name":"f","runtime":"native"}]}"#;
    assert_eq!((status, body.as_str()), (200, listed));
    assert_eq!(api.get("/v1/policy").await, (200, "{}".to_owned()));
    api.deployment.send_replace(Arc::new(Deployed { functions: BTreeMap::new(), ..Deployed::default() }));
    assert_eq!(api.get("/v1/functions").await, (200, r#"{"functions":[]}"#.to_owned()));
    assert_eq!(api.invoke("f", "", "{}").await.0, 404);
}

#[tokio::test]
async fn ready_means_that_log_and_enforcement_work() {
    let log = log();
    let api = Api::start(log.clone(), vec![]).await;
    assert_eq!(api.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(api.get("/readyz").await, (200, "ok\n".to_owned()));
    api.ready.store(false, Ordering::SeqCst);
    let body = r#"{"error":{"code":"not_ready","message":"not ready: a program is detached"}}"#;
    assert_eq!(api.get("/readyz").await, (503, body.to_owned()));
    api.ready.store(true, Ordering::SeqCst);
    log.close().await;
    assert_eq!(api.get("/readyz").await.0, 503);
    assert_eq!(api.get("/healthz").await.0, 200);
}

async fn write(log: &Log, count: u64) {
    for number in 0..count {
        log.append(Record::agent(Event::Lost { count: number, source: "test".to_owned() })).await.unwrap();
    }
}

fn numbers(ndjson: &str) -> Vec<u64> {
    // The stand-alone number first in each line; chunk sizes of a streamed body have no such form.
    ndjson.split("{\"seq\":").skip(1).map(|line| line.split_once(',').unwrap().0.parse().unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_read_in_pages_and_bad_parameters_are_named() {
    let log = log();
    write(&log, 150).await;
    let first = usize::try_from(*log.head().borrow()).unwrap() - 150;
    let api = Api::start(log.clone(), vec![]).await;
    assert_eq!(numbers(&api.get("/v1/log/entries").await.1), Vec::from_iter(0..100));
    assert_eq!(numbers(&api.get("/v1/log/entries?from=3&limit=2").await.1), [3, 4]);
    assert_eq!(
        numbers(&api.get("/v1/log/entries?from=140&limit=1000").await.1),
        Vec::from_iter(140..150 + first as u64)
    );
    assert_eq!(api.get("/v1/log/entries?from=100000").await, (200, String::new()));
    assert!(api.get("/v1/log/key").await.1.starts_with("-----BEGIN PUBLIC KEY-----"));
    let bad = [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("from=-1", "from"),
        ("from=18446744073709551616", "from"),
        ("form=1", "form"),
    ];
    for (query, parameter) in bad {
        let (status, body) = api.get(&format!("/v1/log/entries?{query}")).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["error"]["parameter"]), (400, &json!(parameter)), "{query}: {body}");
    }
}

/// Status, header fields and body.
async fn whole(address: SocketAddr, path: &str, fields: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    (head[9..12].parse().unwrap(), head, answer[end + 4..].to_vec())
}

#[tokio::test]
async fn entries_are_chosen_by_what_they_say_and_the_answer_says_where_to_go_on() {
    let log = log();
    for number in 0..40_u64 {
        let subject = Subject {
            function: Some(format!("f{}", number % 4)),
            request_id: Some(format!("r{number}")),
            ..Subject::default()
        };
        log.append(Record { subject, event: Event::Tamper { what: number.to_string() } }).await.unwrap();
    }
    write(&log, 5).await;
    let api = Api::start(log.clone(), vec![]).await;
    let get = async |query: &str| {
        let (status, head, body) = whole(api.address, &format!("/v1/log/entries?{query}"), "").await;
        assert_eq!(status, 200, "{query}");
        let next = head.lines().find_map(|line| line.strip_prefix("x-dshield-next: ")).unwrap().parse::<u64>().unwrap();
        (numbers(std::str::from_utf8(&body).unwrap()), next)
    };
    assert_eq!(get("function=f1&limit=3").await, (vec![2, 6, 10], 11));
    assert_eq!(get("function=f1&limit=3&from=11").await, (vec![14, 18, 22], 23));
    assert_eq!(get("kind=lost").await, ((41..46).collect(), 46));
    assert_eq!(get("kind=tamper&request=r7").await, (vec![8], 46));
    assert_eq!(get("function=nobody").await, (vec![], 46));
    assert_eq!(get("until=2001-01-01").await, (vec![], 46));
    assert_eq!(get("since=2001-01-01&limit=2&from=3").await, (vec![3, 4], 5));
    assert_eq!(get("from=44").await, (vec![44, 45], 46));
    assert_eq!(get("from=99").await, (vec![], 99));
    for bad in ["since=yesterday", "until=2026-13", "kinds=lost"] {
        assert_eq!(api.get(&format!("/v1/log/entries?{bad}")).await.0, 400, "{bad}");
    }
}

/// What somebody who has the two keys and nothing else can check.
#[tokio::test]
async fn checkpoints_proofs_and_tiles_verify_against_each_other() {
    use dshield_common::tlog::{Checkpoint, Note, Receipt, Tree, VerifierKey, leaf_hash, verify_consistency};
    let log = log();
    write(&log, 600).await;
    let api = Api::start(log.clone(), vec![]).await;
    let text = async |path: &str| {
        let (status, body) = api.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let checkpoint = async || {
        let note: Note = text("/v1/log/checkpoint").await.parse().unwrap();
        // Both keys signed, each of which is enough for somebody.
        assert_eq!(note.verified_by(log.checkpoint_keys()).unwrap().len(), 2);
        Checkpoint::from_note(&note).unwrap()
    };
    let old = checkpoint().await;
    assert_eq!(old.size(), 601);
    write(&log, 100).await;
    let new = checkpoint().await;
    assert_eq!((new.size(), new.origin()), (701, old.origin()));

    // The entries give the root, and each is proved by a receipt.
    let entries: Vec<String> = {
        let lines = log.read(0, usize::MAX).await.unwrap();
        lines.iter().map(|line| SignedEntry::parse(line).unwrap().entry).collect()
    };
    let mut tree = Tree::new();
    for entry in &entries {
        tree.append(leaf_hash(entry.as_bytes()));
    }
    assert_eq!((tree.size(), tree.root()), (new.size(), new.root()));
    let keys: &[VerifierKey] = log.checkpoint_keys();
    for seq in [0, 1, 255, 256, 600, 700] {
        let receipt: Receipt = text(&format!("/v1/log/proof/{seq}")).await.parse().unwrap();
        assert_eq!(receipt.index(), seq);
        let leaf = leaf_hash(entries[usize::try_from(seq).unwrap()].as_bytes());
        let proved = receipt.verify(&leaf, keys).unwrap();
        assert_eq!(proved.size(), 701);
        assert!(receipt.verify(&leaf_hash(b"another"), keys).is_err());
    }
    let proof: Value = serde_json::from_str(&text("/v1/log/consistency?old=601").await).unwrap();
    let hashes: Vec<_> =
        proof["hashes"].as_array().unwrap().iter().map(|h| h.as_str().unwrap().parse().unwrap()).collect();
    verify_consistency(601, &old.root(), 701, &new.root(), &hashes).unwrap();

    // Tiles are what the specification says, may be kept, and need not be sent again.
    let (status, head, tile) = whole(api.address, "/v1/log/tlog/tile/0/001", "").await;
    assert_eq!((status, tile.len()), (200, 8192));
    assert_eq!(tile[..32], leaf_hash(entries[256].as_bytes()).as_bytes()[..]);
    assert!(head.contains("immutable") && head.contains("application/octet-stream"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = whole(api.address, "/v1/log/tlog/tile/0/001", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((again.0, again.2.len()), (304, 0));
    assert_eq!(whole(api.address, "/v1/log/tlog/tile/1/000.p/2", "").await.2.len(), 64);
    let (_, _, bundle) = whole(api.address, "/v1/log/tlog/tile/entries/002.p/189", "").await;
    let bundled = dshield_common::tlog::bundle::decode_entries(&bundle).unwrap();
    assert!(bundled.iter().map(|entry| &entry[..]).eq(entries[512..].iter().map(String::as_bytes)));

    for (path, status) in [
        ("/v1/log/proof/701", 404),
        ("/v1/log/proof/x", 400),
        ("/v1/log/proof/-1", 400),
        ("/v1/log/proof/1?x=1", 400),
        ("/v1/log/consistency", 400),
        ("/v1/log/consistency?old=9&new=8", 400),
        ("/v1/log/consistency?old=9&new=9999", 404),
        ("/v1/log/tlog/tile/0/003", 404),
        ("/v1/log/tlog/tile/0/002.p/190", 404),
        ("/v1/log/tlog/tile/0/2", 400),
        ("/v1/log/tlog/tile/64/000", 400),
        ("/v1/log/tlog/tile/entries/000.p/256", 400),
        ("/v1/log/tlog/tile/entries/003", 404),
        ("/v1/log/tlog/tile/0/x018/x446/x744/x073/x709/551", 404),
        ("/v1/log/tlog/tile/0/x999/x999/x999/x999/x999/x999/x999/999", 400),
    ] {
        let (got, body) = api.get(path).await;
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains("\"message\":"), "{body}");
    }
}

/// Reads a stream until it has shown `count` entries.
async fn follow(address: SocketAddr, request: &str, count: usize, then: impl AsyncFnOnce()) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut then = Some(then);
    loop {
        let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
        if ids.len() >= count {
            assert!(text.contains("data: {\"seq\":"), "{text}");
            return ids;
        }
        let mut buffer = [0; 4096];
        let size = stream.read(&mut buffer).await.unwrap();
        assert!(size > 0, "the stream ended: {text}");
        text.push_str(std::str::from_utf8(&buffer[..size]).unwrap());
        // The first bytes show that the stream is open.
        if text.contains(": dshield log")
            && let Some(then) = then.take()
        {
            then().await;
        }
    }
}

#[tokio::test]
async fn a_stream_starts_where_it_is_told_and_goes_on_with_what_is_written() {
    let log = log();
    write(&log, 3).await;
    let head = *log.head().borrow();
    let api = Api::start(log.clone(), vec![]).await;
    let get = |query: &str, header: &str| format!("GET /v1/log/stream{query} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    let write_two = async || write(&log, 2).await;
    let all: Vec<u64> = (0..head + 2).collect();
    assert_eq!(follow(api.address, &get("?from=0", ""), all.len(), write_two).await, all);
    assert_eq!(follow(api.address, &get("", ""), 2, write_two).await, [head + 2, head + 3]);
    let resumed = get("?from=0", "Last-Event-ID: 1\r\n");
    assert_eq!(follow(api.address, &resumed, 2, async || ()).await[..2], [2, 3]);
    let (status, body) = api.send(&get("", "Last-Event-ID: x\r\nConnection: close\r\n")).await;
    assert_eq!(status, 400);
    assert!(body.contains("Last-Event-ID"), "{body}");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let log = log();
    let api = Api::start(log.clone(), vec![]).await;
    let mut lazy = TcpStream::connect(api.address).await.unwrap();
    lazy.write_all(b"GET /v1/log/stream?from=0 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let source = "x".repeat(50_000);
    for count in 0..400 {
        log.append(Record::agent(Event::Lost { count, source: source.clone() })).await.unwrap();
    }
    let head = log.head();
    until(|| *head.borrow() >= 400).await;
    assert_eq!(api.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_get_json() {
    let api = Api::start(log(), vec![]).await;
    for (request, status, code) in [
        ("GET /v2/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (
            "POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            405,
            "method_not_allowed",
        ),
    ] {
        let (got, body) = api.send(request).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((got, &body["error"]["code"]), (status, &json!(code)));
    }
}

#[tokio::test]
async fn the_command_line_client_understands_the_answers() {
    use dshield_verify::client::{Client, ClientError};
    let api = Api::start(log(), vec![]).await;
    let client = Client::new(&format!("http://{}", api.address), None).unwrap();
    let response = client.send(http::Method::GET, "/healthz", Bytes::new()).await.unwrap();
    assert_eq!(client.body(response).await.unwrap(), "ok\n");
    // Its port is taken, and nobody listens.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = Client::new(&format!("http://{}", nobody.local_addr().unwrap()), None).unwrap();
    let error = client.send(http::Method::GET, "/healthz", Bytes::new()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains("dshield run"), "{error}");
}

#[tokio::test]
async fn a_client_that_asks_first_need_not_send_what_is_too_large() {
    let log = log();
    let (function, _source) = broken_function("f");
    let (pool, _) = pool(function, &log);
    let api = Api::start(log, vec![pool]).await;
    let head = "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
    let (status, body) = api.send(&format!("{head}Content-Length: 6291457\r\n\r\n")).await;
    assert_eq!(status, 413, "{body}");
}

#[tokio::test]
async fn commands_end_with_the_status_that_says_how_it_went() {
    use crate::cli::whom::{AgentArgs, TlsArgs};
    use crate::cli::{invoke, logs};
    let source = Source::native("#!/bin/sh\nexit 1\n").file("event.json", "{}");
    let log = log();
    write(&log, 3).await;
    let (pool, _) = pool(function("broken", &source), &log);
    let api = Api::start(log, vec![pool]).await;
    let url = format!("http://{}", api.address);
    let status = |code: u8| format!("{:?}", std::process::ExitCode::from(code));
    let agent = |url: &str| AgentArgs { url: url.to_owned(), tls: TlsArgs::default() };
    for (name, data, url, expected) in [
        ("broken", "{}", url.as_str(), 1),
        ("nope", "{}", &url, 1),
        ("broken", "{", &url, 1),
        ("broken", "@/no/such/file", &url, 2),
        ("broken", "{}", "ftp://x", 2),
        ("broken", "{}", "http://127.0.0.1:1", 1),
    ] {
        let args = invoke::InvokeArgs { name: name.to_owned(), data: data.to_owned(), agent: agent(url) };
        assert_eq!(format!("{:?}", invoke::run(args).await), status(expected), "{name} {data} {url}");
    }
    let args = logs::LogsArgs { follow: false, json: true, from: 0, agent: agent(&url) };
    assert_eq!(format!("{:?}", logs::run(args.clone()).await), status(0));
    let nobody = logs::LogsArgs { agent: agent("http://127.0.0.1:1"), ..args };
    assert_eq!(format!("{:?}", logs::run(nobody).await), status(1));
}

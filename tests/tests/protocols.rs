//! What a function may speak, and how each protocol learns that it is refused.
use dshield_common::log::entry::{Event, Phase, Request};
use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::versions::Versions;
use dshield_tests::standin::{NAME, Standin};
use hyper::Version;
use serde_json::{Value, json};

/// An agent with one function, `f`, that has these rules; `None` where the machine lacks something.
fn agent(rules: &[Egress]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") || !requires("curl") {
        return None;
    }
    let function = rules.iter().fold(script::function("f").timeout("120s"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// A rule for this upstream, and the folder with its authority.
fn rule_for(upstream: &Versions) -> (Egress, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), upstream.ca_pem()).expect("the file is ours");
    let resolve = format!("[\"{}\"]", upstream.addr());
    let ca = format!("{:?}", file.path());
    (Egress::to(NAME).set("resolve", &resolve).set("ca", &ca), file)
}

#[track_caller]
fn refusal(agent: &Agent, layer: &str, reason: &str) -> Log {
    let has = |log: &Log| log.refused("f").iter().any(|r| r.layer == layer && r.reason == reason);
    let log = agent.log_with(&format!("a refusal by {layer} for {reason}"), has);
    assert_eq!(log.verify(), Ok(()));
    log
}

/// curl inside the instance: what it prints, and its exit status.
const CURL: &str = "
import subprocess
ran = subprocess.run(['curl', '-sS', '--max-time', '20', *event['arguments']], capture_output=True, text=True, env={**os.environ, **event.get('env', {})})
answer = {'out': ran.stdout, 'error': ran.stderr, 'code': ran.returncode}
";

fn curl(agent: &Agent, arguments: &[&str]) -> Value {
    run_with(agent, "f", CURL, json!({"arguments": arguments}))
}

#[test]
fn each_side_speaks_the_version_that_it_agreed_on() {
    for (offered, spoken) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&["h2"], Version::HTTP_2)]
    {
        let upstream = Versions::start(NAME, offered);
        let (rule, _ca) = rule_for(&upstream);
        let Some((_project, agent)) = agent(&[rule]) else { return };
        for (option, own) in [("--http2", "2"), ("--http1.1", "1.1"), ("--http1.0", "1")] {
            let url = format!("https://{NAME}/version");
            let answer = curl(&agent, &[option, "-w", " over %{http_version}", &url]);
            assert_eq!(answer["out"], format!("{spoken:?} over {own}"), "{offered:?}: {answer}");
        }
        let seen = upstream.seen();
        assert!(seen.iter().all(|arrived| arrived.version == spoken), "{seen:?}");
        let log = agent.log_with("three requests", |log| log.requests("f").len() == 3);
        assert_eq!(log.verify(), Ok(()));
        assert!(log.refused("f").is_empty(), "{log}");
    }
}

#[test]
fn in_http2_each_request_is_judged_by_itself() {
    let upstream = Versions::start(NAME, &["h2"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule.methods(&["GET"]).paths(&["/a", "/b"])]) else { return };
    let url = |path: &str| format!("https://{NAME}{path}");
    let each = ["-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null"];
    let next: Vec<String> = ["/a", "/c", "/b"]
        .iter()
        .flat_map(|path| {
            let mut words = vec!["--http2".to_owned()];
            words.extend(each.iter().map(|word| (*word).to_owned()));
            words.extend([url(path), "--next".to_owned()]);
            words
        })
        .collect();
    let mut words: Vec<&str> = next.iter().map(String::as_str).collect();
    words.pop();
    let answer = curl(&agent, &words);
    assert_eq!(answer["out"], "200 1\n403 0\n200 0\n", "{answer}");
    let other =
        curl(&agent, &["--http2", "-H", "Host: attacker.example", "-w", "%{http_code}", "-o", "/dev/null", &url("/a")]);
    assert_eq!(other["out"], "421", "{other}");
    let _ = refusal(&agent, "http", "path_not_allowed");
    let log = refusal(&agent, "http", "authority_mismatch");
    let detail = format!("request for attacker.example on the connection to {NAME}:443");
    assert!(log.refused("f").iter().any(|refused| refused.detail == detail), "{log}");
    let targets: Vec<_> = upstream.seen().into_iter().map(|arrived| arrived.target).collect();
    assert_eq!(targets, [url("/a"), url("/b")]);
}

#[test]
fn trailers_pass_but_for_those_that_decide_something() {
    let upstream = Versions::start(NAME, &["h2"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule]) else { return };
    let url = format!("https://{NAME}/trailers");
    let answer = curl(&agent, &["--http2", "-H", "te: trailers", "-D", "-", &url]);
    let text = answer["out"].as_str().unwrap_or_default();
    assert!(text.contains("body") && text.contains("grpc-status: 0"), "{answer}");
    assert!(!text.contains("not=here"), "{answer}");
    assert_eq!(upstream.seen()[0].headers["te"], "trailers", "gRPC servers ask for it");

    let chunked = format!(
        "
stream = secure('{NAME}')
stream.sendall(b'POST /back HTTP/1.1\\r\\nHost: {NAME}\\r\\nTransfer-Encoding: chunked\\r\\nTrailer: x-sum\\r\\nConnection: close\\r\\n\\r\\n'
               b'5\\r\\nhello\\r\\n0\\r\\nX-Sum: 42\\r\\n\\r\\n')
answer = b''
while more := stream.recv(4096):
    answer += more
answer = answer.decode()
"
    );
    let text = run(&agent, "f", &chunked);
    assert!(text.as_str().is_some_and(|text| text.contains("x-sum: 42") && text.contains("hello")), "{text}");
}

const SWITCH: &str = "
stream = secure(event['host'])
stream.sendall(f\"GET /switch HTTP/1.1\\r\\nHost: {event['host']}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n\".encode())
head = b''
while b'\\r\\n\\r\\n' not in head:
    more = stream.recv(1)
    if not more:
        break
    head += more
answer = {'head': head.decode()}
if head.startswith(b'HTTP/1.1 101'):
    stream.sendall(bytes(range(256)))
    answer['same'] = exactly(stream, 256) == bytes(range(256))
stream.close()
";

/// The last entry of a request.
fn end(log: &Log) -> Option<&Request> {
    log.events().find_map(|(_, event)| match event {
        Event::Request(request) if request.phase == Phase::End => Some(request),
        _ => None,
    })
}

#[test]
fn another_protocol_is_spoken_only_where_a_rule_says_so() {
    let upstream = Versions::start(NAME, &["h2", "http/1.1"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule.clone().set("upgrade", "true")]) else { return };
    let answer = run_with(&agent, "f", SWITCH, json!({"host": NAME}));
    assert_eq!(answer["same"], true, "{answer}");
    let log = agent.log_with("the end of it", |log| end(log).is_some());
    let end = end(&log).expect("it has one");
    assert_eq!((end.status, end.request_bytes, end.response_bytes), (Some(101), Some(256), Some(256)), "{end:?}");
    drop(agent);

    let Some((_project, agent)) = self::agent(&[rule]) else { return };
    let answer = run_with(&agent, "f", SWITCH, json!({"host": NAME}));
    assert!(answer["head"].as_str().is_some_and(|head| head.starts_with("HTTP/1.1 403")), "{answer}");
    let _ = refusal(&agent, "http", "upgrade_not_allowed");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn the_explicit_proxy_decides_as_everywhere_else() {
    let standin = Standin::start();
    let plain = Standin::start_plain();
    let rules = [
        Egress::to_standin(&standin).paths(&["/echo/*"]),
        Egress::to("plain.example").set("ports", "[80]").tls("none").resolve(&plain).paths(&["/echo/*"]),
    ];
    let Some((_project, agent)) = agent(&rules) else { return };
    let through = |arguments: &[&str]| {
        let words: Vec<&str> = ["-x", "http://127.0.0.1:3128", "-w", "\n%{http_code} %{http_connect}"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        curl(&agent, &words)
    };
    let answer = through(&["--data", "hello", &format!("https://{NAME}/echo/1")]);
    assert_eq!(answer["out"], "hello\n200 200", "{answer}");
    let answer = through(&["--data", "hello", "http://plain.example/echo/2", "http://plain.example/echo/3"]);
    assert_eq!(answer["out"], "hello\n200 000hello\n200 000", "{answer}");
    let denied = through(&[&format!("https://{NAME}/other")]);
    assert!(denied["out"].as_str().is_some_and(|out| out.ends_with("403 200")), "{denied}");
    for (url, codes) in [
        ("https://attacker.example/", "000 403"),
        ("http://attacker.example/", "403 000"),
        ("http://plain.example/other", "403 000"),
        ("https://127.0.0.1:8080/", "000 403"),
        ("https://169.254.169.254/", "000 403"),
        ("http://[::1]:8080/", "403 000"),
    ] {
        let answer = through(&[url]);
        assert!(answer["out"].as_str().is_some_and(|out| out.ends_with(codes)), "{url}: {answer}");
    }
    let fronted = "
stream = socket.create_connection(('127.0.0.1', 3128))
stream.sendall(event['head'].encode())
answer = b''
while b'\\r\\n\\r\\n' not in answer:
    more = stream.recv(4096)
    if not more:
        break
    answer += more
if answer.startswith(b'HTTP/1.1 200'):
    context = ssl.create_default_context()
    answer = failure(context.wrap_socket, stream, server_hostname='attacker.example') or 'connected'
else:
    answer = answer.decode().splitlines()[0]
";
    for (head, outcome) in [
        (format!("CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n"), "SSLError"),
        (format!("CONNECT {NAME}:443 HTTP/1.1\r\nHost: attacker.example:443\r\n\r\n"), "HTTP/1.1 400 Bad Request"),
        (format!("CONNECT {NAME} HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), "HTTP/1.1 400 Bad Request"),
        (format!("CONNECT x@{NAME}:443 HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), "HTTP/1.1 400 Bad Request"),
        (format!("CONNECT {NAME}:443 HTTP/1.1\nHost: {NAME}\n\n"), "HTTP/1.1 400 Bad Request"),
        ("GET / HTTP/1.1\r\nHost: plain.example\r\n\r\n".to_owned(), "HTTP/1.1 400 Bad Request"),
        (
            "GET http://plain.example/echo/4 HTTP/1.1\r\nHost: attacker.example\r\n\r\n".to_owned(),
            "HTTP/1.1 400 Bad Request",
        ),
    ] {
        let answer = run_with(&agent, "f", fronted, json!({"head": head}));
        assert!(answer.as_str().is_some_and(|answer| answer.starts_with(&outcome[..8])), "{head:?}: {answer}");
    }
    let _ = refusal(&agent, "tls", "sni_mismatch");
    let log = refusal(&agent, "connect", "proxy_request_invalid");
    let of = |reason: &str| log.refused("f").iter().filter(|refused| refused.reason == reason).count();
    assert_eq!((of("name_not_allowed"), of("proxy_request_invalid")), (2, 6), "{log}");
    // Where two hosts are named, the entry has both, and the one that would have been connected to taken apart.
    for (to, port, other) in [(NAME, 443, "attacker.example:443"), ("plain.example", 80, "attacker.example")] {
        let detail = format!("explicit proxy: the target names {to}:{port} and the Host header {other}");
        let entry = log.refused("f").into_iter().find(|refused| refused.detail == detail);
        let entry = entry.unwrap_or_else(|| panic!("no entry says: {detail}:\n{log}"));
        let attempt = entry.attempt.as_ref().expect("both could be read");
        assert_eq!((attempt.host.as_str(), attempt.port), (to, Some(port)), "{entry:?}");
    }
    let paths = |standin: &Standin| standin.seen().into_iter().map(|seen| seen.path).collect::<Vec<_>>();
    assert_eq!(
        (paths(&standin), paths(&plain)),
        (vec!["/echo/1".to_owned()], vec!["/echo/2".into(), "/echo/3".into()])
    );
}

#[test]
fn each_protocol_learns_in_its_own_words_that_it_is_refused() {
    let Some((_project, agent)) = agent(&[Egress::to(NAME)]) else { return };
    let code = "
connections = 0
def talk(port, data):
    global connections
    connections += 1
    got = b''
    stream = socket.create_connection((event['host'], port), timeout=10)
    if data:
        stream.sendall(data)
    while more := stream.recv(4096):
        got += more
    return got.decode('latin-1')
def reset(port, data):
    try:
        return talk(port, data)
    except ConnectionResetError:
        return 'reset'
hello = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context().wrap_bio(*hello, server_hostname='api.anthropic.com')
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
first = hello[1].read()
answer = {
    'http': again(lambda: talk(80, b'GET /x HTTP/1.1\\r\\nHost: api.anthropic.com\\r\\n\\r\\n')),
    'tls': again(lambda: talk(8443, first)),
    'other': reset(22, b'SSH-2.0-test\\r\\n'),
    'silent': reset(5432, b''),
}
answer['connections'] = connections
";
    let answer = run_with(&agent, "f", code, json!({"host": NAME}));
    assert_eq!((&answer["other"], &answer["silent"]), (&json!("reset"), &json!("reset")), "{answer}");
    // Alert, TLS 1.2, two bytes: fatal, access_denied.
    assert_eq!(answer["tls"], "\u{15}\u{3}\u{3}\u{0}\u{2}\u{2}1", "{answer}");
    let http = answer["http"].as_str().expect("a text");
    let (head, body) = http.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 403") && head.contains("x-dshield-refused: port_not_allowed"), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert!(body["hint"].as_str().is_some_and(|hint| hint.contains("add 80 to `ports`")), "{body}");
    let log = agent.log_with("the refusals", |log| answer["connections"] == log.refused("f").len());
    assert_eq!(log.verify(), Ok(()));
    let entry = &log.lines[usize::try_from(body["seq"].as_u64().expect("a number")).expect("small")].entry;
    let Event::Refused(refused) = &entry.record.event else { panic!("{entry:?}") };
    assert_eq!(
        (refused.reason.as_str(), refused.attempt.as_ref().and_then(|a| a.port)),
        ("port_not_allowed", Some(80))
    );
}

#[test]
fn a_refused_request_names_its_log_entry() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to_standin(&standin).methods(&["POST"])]) else { return };
    let answer = run(&agent, "f", &format!("answer = ask(secure('{NAME}'), 'GET', '/models', '{NAME}')"));
    assert_eq!(answer["status"], 403, "{answer}");
    let body: Value = serde_json::from_str(answer["body"].as_str().expect("a text")).expect("JSON");
    for field in ["error", "rule", "hint"] {
        assert!(body[field].is_string(), "{body}");
    }
    let log = refusal(&agent, "http", "method_not_allowed");
    let entry = &log.lines[usize::try_from(body["seq"].as_u64().expect("a number")).expect("small")].entry;
    let Event::Refused(refused) = &entry.record.event else { panic!("{entry:?}") };
    let attempt = refused.attempt.as_ref().expect("what it was");
    assert_eq!((attempt.method.as_deref(), attempt.path.as_deref()), (Some("GET"), Some("/models")));
}

#[test]
fn a_rate_and_a_number_at_a_time_hold_for_all_instances_together() {
    let standin = Standin::start();
    let rules = [
        Egress::to_standin(&standin).paths(&["/echo/*"]).set("rate", "\"3/h\""),
        Egress::to_standin(&standin).paths(&["/slow"]).set("max_concurrent", "1"),
    ];
    let Some((_project, agent)) = agent(&rules) else { return };
    let code = format!("answer = [ask(secure('{NAME}'), 'POST', '/echo/x', '{NAME}', body='x') for _ in range(5)]");
    let answers = run(&agent, "f", &code);
    let statuses: Vec<_> = answers.as_array().into_iter().flatten().map(|answer| &answer["status"]).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429], "{answers}");
    let _ = refusal(&agent, "http", "rate_exceeded");

    // Both are open before the first is asked, so that the second is asked while the first waits for its answer.
    let both = "
streams = [secure(event['host']) for _ in range(2)]
for stream in streams:
    stream.sendall(f\"GET /slow HTTP/1.1\\r\\nHost: {event['host']}\\r\\n\\r\\n\".encode())
answer = sorted(int(exactly(stream, 12)[9:]) for stream in streams)
";
    assert_eq!(run_with(&agent, "f", both, json!({"host": NAME})), json!([200, 429]));
    let _ = refusal(&agent, "http", "too_many_at_once");
}

/// Takes a ClientHello of this Python's apart and adds an extension of the type of ECH, as browsers send it.
const ENCRYPTED_HELLO: &str = "
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=event['host'])
try:
    tls.do_handshake()
except ssl.SSLWantReadError:
    pass
record = outgoing.read()
message = record[9:]
at = 34
at += 1 + message[at]
at += 2 + struct.unpack('>H', message[at:at + 2])[0]
at += 1 + message[at]
extension = struct.pack('>HH', event['type'], 32) + bytes(32)
extensions = message[at + 2:] + extension
message = message[:at] + struct.pack('>H', len(extensions)) + extensions
handshake = b'\\x01' + struct.pack('>I', len(message))[1:] + message
stream = socket.create_connection((event['host'], 443), timeout=10)
stream.sendall(record[:3] + struct.pack('>H', len(handshake)) + handshake)
answer = list(stream.recv(7))
";

#[test]
fn a_hello_that_hides_another_is_not_passed_through() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to(NAME).tls("passthrough").resolve(&standin)]) else { return };
    let answer = run_with(&agent, "f", ENCRYPTED_HELLO, json!({"host": NAME, "type": 0xfe0d}));
    assert_eq!(answer, json!([21, 3, 3, 0, 2, 2, 112]), "a fatal alert of the proxy's");
    let _ = refusal(&agent, "tls", "encrypted_client_hello");
    assert_eq!(standin.connections(), 0);
    // The same hello with an extension that nobody knows reaches the server, which answers with a handshake record.
    let answer = run_with(&agent, "f", ENCRYPTED_HELLO, json!({"host": NAME, "type": 0xfafa}));
    assert_eq!(answer[0], 22, "{answer}");
    assert_eq!(standin.connections(), 1);
}

/// One HTTP/2 connection has one window for all of its streams.
#[test]
fn an_instance_that_does_not_read_its_answers_does_not_hold_up_the_others() {
    let upstream = Versions::start(NAME, &["h2"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule]) else { return };
    let code = "
kept = []
for _ in range(8):
    stream = secure(event['host'])
    stream.sendall(f\"GET /large HTTP/1.1\\r\\nHost: {event['host']}\\r\\n\\r\\n\".encode())
    kept.append(stream)
while not os.path.exists('/tmp/go'):
    time.sleep(0.02)
answer = 1
";
    let unread = agent.invoke_aside("f", &json!({"code": code, "host": NAME}));
    let arrived = || (upstream.seen().len() == 8).then_some(());
    dshield_tests::wait::until("the answers that nobody reads", arrived);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let code = "answer = len(ask(secure(event['host']), 'GET', '/large', event['host'])['body'])";
    assert_eq!(run_with(&agent, "f", code, json!({"host": NAME})), 8 << 20);
    assert!(!unread.is_finished(), "the answers are still not read");
    std::fs::write(agent.log().tmp().join("go"), "").expect("root may write there");
    let _ = unread.join();
}

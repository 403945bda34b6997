//! What passes on an allowed connection, and how: interim answers, codings, limits, and servers that speak first.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::versions::{PACKED, UNPACKED, Versions};
use dshield_tests::standin::{NAME, Standin};
use serde_json::{Value, json};

/// An agent with one function, `f`, that has these rules; `None` where the machine lacks something.
fn agent(rules: &[Egress]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") || !requires("curl") {
        return None;
    }
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// A rule for this upstream, and the file with its authority.
fn rule_for(upstream: &Versions) -> (Egress, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), upstream.ca_pem()).expect("the file is ours");
    let resolve = json!([upstream.addr().to_string()]).to_string();
    (Egress::to(NAME).set("resolve", &resolve).set("ca", &json!(file.path()).to_string()), file)
}

#[track_caller]
fn refusals(agent: &Agent, layer: &str, reason: &str, count: usize) -> Log {
    let of = |log: &Log| log.refused("f").iter().filter(|r| (&*r.layer, &*r.reason) == (layer, reason)).count();
    let log = agent.log_with(&format!("{count} refusals by {layer} for {reason}"), |log| of(log) == count);
    assert_eq!(log.verify(), Ok(()));
    log
}

/// curl inside the instance: status, head and body of its answer.
const CURL: &str = "
import subprocess
def curl(*arguments, sent=None):
    command = ['curl', '-sS', '--max-time', '20', '-o', '/tmp/body', '-D', '/tmp/head', '-w', '%{http_code} %{http_version}']
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True, input=sent)
    assert ran.returncode == 0, ran.stderr
    return {'status': ran.stdout, 'head': open('/tmp/head').read(), 'body': list(open('/tmp/body', 'rb').read())}
";

#[test]
fn a_client_that_waits_for_100_continue_gets_it_before_its_body_and_a_refused_one_does_not() {
    let upstream = Versions::start(NAME, &["http/1.1"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule.paths(&["/back"])]) else { return };
    let code = "
def answer_to(path):
    stream = secure(event['host'])
    stream.sendall(f\"POST {path} HTTP/1.1\\r\\nHost: {event['host']}\\r\\nContent-Length: 5\\r\\nExpect: 100-continue\\r\\n\\r\\n\".encode())
    first = b''
    while b'\\r\\n\\r\\n' not in first:
        first += exactly(stream, 1)
    if not first.startswith(b'HTTP/1.1 100'):
        return first.decode().splitlines()[:1]
    stream.sendall(b'hello')
    response = http.client.HTTPResponse(stream)
    response.begin()
    return [first.decode().splitlines()[0], response.status, response.read().decode()]
answer = [answer_to('/back'), answer_to('/elsewhere')]
";
    let answer = run_with(&agent, "f", code, json!({"host": NAME}));
    assert_eq!(answer, json!([["HTTP/1.1 100 Continue", 200, "hello"], ["HTTP/1.1 403 Forbidden"]]));
    let [arrived] = &upstream.seen()[..] else { panic!("{:?}", upstream.seen()) };
    assert!(!arrived.headers.contains_key("expect"), "{arrived:?}");
}

#[test]
fn what_is_packed_arrives_byte_for_byte_and_nobody_is_sent_elsewhere() {
    for offered in [&["h2"][..], &["http/1.1"]] {
        let upstream = Versions::start(NAME, offered);
        let (rule, _ca) = rule_for(&upstream);
        let Some((_project, agent)) = agent(&[rule]) else { return };
        let code = format!(
            "{CURL}\nanswer = [curl(version, 'https://{NAME}/packed') for version in ('--http2', '--http1.1')]"
        );
        let answers = run(&agent, "f", &code);
        for (answer, status) in answers.as_array().expect("two").iter().zip(["200 2", "200 1.1"]) {
            assert_eq!((&answer["status"], &answer["body"]), (&json!(status), &json!(PACKED.to_vec())), "{answer}");
            let head = answer["head"].as_str().unwrap_or_default().to_lowercase();
            assert!(head.contains("content-encoding: gzip") && head.contains("content-length: 62"), "{head}");
            assert!(!head.contains("alt-svc") && !head.contains("elsewhere"), "{head}");
        }
    }
    assert!(PACKED.len() < UNPACKED.len() * 3);
}

#[test]
fn max_request_bytes_holds_over_http2() {
    let upstream = Versions::start(NAME, &["h2"]);
    let (rule, _ca) = rule_for(&upstream);
    let Some((_project, agent)) = agent(&[rule.set("max_request_bytes", "1000")]) else { return };
    let code = format!(
        "{CURL}
def post(length, *how):
    got = curl('--http2', '-X', 'POST', *how, 'https://{NAME}/back', sent='x' * length)
    return [got['status'], len(got['body'])] if got['status'] == '200 2' else [got['status'], bytes(got['body']).decode()]
with_length = ('-H', 'Content-Type: application/octet-stream', '--data-binary', '@-')
# From standard input, whose length curl does not know.
without = ('-T', '-')
answer = [post(1000, *with_length), post(1000, *without), post(1001, *with_length), post(1001, *without)]
"
    );
    let answers = run(&agent, "f", &code);
    assert_eq!((&answers[0], &answers[1]), (&json!(["200 2", 1000]), &json!(["200 2", 1000])));
    for answer in [&answers[2], &answers[3]] {
        assert_eq!(answer[0], "413 2", "{answers}");
        let body: Value = serde_json::from_str(answer[1].as_str().expect("a text")).expect("JSON");
        assert_eq!(body["reason"], "request_too_large", "{answers}");
    }
    let _ = refusals(&agent, "http", "request_too_large", 2);
}

/// A server that says hello first, and then says everything back.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (&stream, &stream);
                let _ = writer.write_all(b"220 ready\r\n");
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = reader.read(&mut bytes) {
                    let _ = writer.write_all(&bytes[..count]);
                }
            });
        }
    });
    at
}

fn raw(name: &str, to: SocketAddr) -> Egress {
    let rule = Egress::to(name).tls("none").set("protocol", "\"tcp\"").set("ports", "[25]");
    rule.set("resolve", &json!([to.to_string()]).to_string())
}

#[test]
fn over_raw_tcp_to_a_name_the_server_may_speak_first() {
    let Some((_project, agent)) = agent(&[raw("mail.example", greeter())]) else { return };
    let code = "
stream = socket.create_connection(('mail.example', 25), timeout=20)
greeting = exactly(stream, 11).decode()
stream.sendall(b'hello')
answer = [greeting, exactly(stream, 5).decode()]
";
    assert_eq!(run(&agent, "f", code), json!(["220 ready\r\n", "hello"]));
    let log = agent.log();
    let [connect] = log.connects("f")[..] else { panic!("one connection:\n{log}") };
    assert_eq!((connect.host.as_str(), connect.port, connect.tls.as_str()), ("mail.example", 25, "none"));
}

#[test]
fn max_concurrent_counts_connections_where_requests_are_not_seen() {
    let standin = Standin::start();
    let rules = [
        raw("mail.example", greeter()).set("max_concurrent", "1"),
        Egress::to(NAME).tls("passthrough").resolve(&standin).set("max_concurrent", "1"),
    ];
    let Some((_project, agent)) = agent(&rules) else { return };
    let code = "
def raw():
    stream = socket.create_connection(('mail.example', 25), timeout=20)
    exactly(stream, 11)
    return stream
def passed():
    return secure(event['host'], ca=event['ca'])
answer = []
for connect in (raw, passed):
    first = connect()
    second = failure(connect)
    first.close()
    # The proxy hears of the end a little later.
    deadline = time.monotonic() + 20
    while failure(lambda: connect().close()) and time.monotonic() < deadline:
        time.sleep(0.05)
    answer.append([second, time.monotonic() < deadline])
";
    let answer = run_with(&agent, "f", code, json!({"host": NAME, "ca": standin.ca_pem()}));
    assert_eq!(answer, json!([["ECONNRESET", true], ["ECONNRESET", true]]));
    let at_once = |log: &Log| {
        let refused = log.refused("f");
        let of = |host: &str| refused.iter().any(|r| r.reason == "too_many_at_once" && r.detail.contains(host));
        of("mail.example:25") && of(&format!("{NAME}:443"))
    };
    assert_eq!(agent.log_with("a refusal of each", at_once).verify(), Ok(()));
}

/// A name with a NUL in it, and a number that some readers take for an address.
#[test]
fn no_name_with_a_nul_or_of_digits_goes_through_anywhere() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to_standin(&standin), Egress::to("*.wild.example")]) else { return };
    let code = "
def first_line(stream, head):
    stream.sendall(head.encode('latin-1'))
    return stream.recv(4096).decode().splitlines()[0]
def host(value):
    return first_line(secure(event['host']), f'GET /bytes/1 HTTP/1.1\\r\\nHost: {value}\\r\\n\\r\\n')
def proxied(value):
    stream = socket.create_connection(('127.0.0.1', 3128))
    return first_line(stream, f'CONNECT {value}:443 HTTP/1.1\\r\\nHost: {value}:443\\r\\n\\r\\n')
names = [event['host'] + '\\0', event['host'] + '\\0.wild.example', '2130706433', '0x7f000001', '127.1', '017700000001']
answer = {name: [dns(name)['code'], host(name), proxied(name)] for name in names}
";
    let answer = run_with(&agent, "f", code, json!({"host": NAME}));
    for (name, outcomes) in answer.as_object().expect("an object") {
        eprintln!("{name:?}: {outcomes}");
        assert_ne!(outcomes[0], 0, "{name:?}: {outcomes}");
        for outcome in [&outcomes[1], &outcomes[2]] {
            assert_eq!(*outcome, "HTTP/1.1 400 Bad Request", "{name:?}: {outcomes}");
        }
    }
    assert!(standin.seen().is_empty());
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    assert!(log.requests("f").is_empty(), "{log}");
}

#[test]
fn a_target_and_a_host_that_differ_are_both_in_the_entry() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to_standin(&standin)]) else { return };
    let code = "
stream = secure(event['host'])
stream.sendall(f\"GET https://{event['host']}/bytes/1 HTTP/1.1\\r\\nHost: attacker.example:8443\\r\\n\\r\\n\".encode())
answer = stream.recv(12).decode()
";
    assert_eq!(run_with(&agent, "f", code, json!({"host": NAME})), "HTTP/1.1 400");
    let log = refusals(&agent, "http", "authority_invalid", 1);
    let detail = format!("request to {NAME}: the target names {NAME} and the Host header attacker.example:8443");
    assert_eq!(log.refused("f")[0].detail, detail);
    assert!(standin.seen().is_empty());
}

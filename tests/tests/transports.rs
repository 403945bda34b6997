//! The ways out besides plain HTTPS over IPv4: passthrough, no TLS, DNS in every form, IPv6; and what is asked of an
//! upstream before it gets anything.
use std::net::Ipv4Addr;

use dshield_common::log::entry::{Close, Connect, Event, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Log, Project};
use dshield_tests::nameserver::{self, NameServer};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::{SECRET, Scene, allowed, allowed_but};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::tripwire::Tripwire;
use dshield_tests::wait;
use serde_json::{Value, json};

/// An agent with one function, `f`, that has these rules; `None` where the machine lacks something.
fn agent(rules: &[Egress]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// The log, once `f` was refused by `layer` for `reason`.
#[track_caller]
fn refusal(agent: &Agent, layer: &str, reason: &str) -> Log {
    let has = |log: &Log| log.refused("f").iter().any(|r| r.layer == layer && r.reason == reason);
    let log = agent.log_with(&format!("a refusal by {layer} for {reason}"), has);
    assert_eq!(log.verify(), Ok(()));
    log
}

fn closes(log: &Log) -> Vec<&Close> {
    log.events().filter_map(|(_, event)| if let Event::Close(close) = event { Some(close) } else { None }).collect()
}

const POST: &str =
    "answer = ask(secure(event['host'], ca=event.get('ca')), 'POST', '/echo', event['host'], body='x' * 1000)";

#[test]
fn passthrough_shows_the_function_the_upstreams_own_certificate() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to(NAME).tls("passthrough").resolve(&standin)]) else { return };
    let answer = run_with(&agent, "f", POST, json!({"host": NAME, "ca": standin.ca_pem()}));
    assert_eq!((&answer["status"], answer["body"].as_str().map(str::len)), (&json!(200), Some(1000)), "{answer}");
    // What the sandbox trusts is the inspection CA and the machine's: neither made this certificate.
    let distrusted = run(&agent, "f", &format!("answer = failure(secure, '{NAME}')"));
    assert_eq!(distrusted, "SSLCertVerificationError");

    let log = agent.log_with("both endings", |log| closes(log).len() == 2);
    assert_eq!(log.verify(), Ok(()));
    let [connect, _] = log.connects("f")[..] else { panic!("two connections:\n{log}") };
    assert_eq!((connect.tls.as_str(), connect.host.as_str(), connect.port), ("passthrough", NAME, 443));
    let close = closes(&log).into_iter().find(|close| close.connection == connect.connection).expect("it has ended");
    assert!(close.bytes_from_function > 1000 && close.bytes_to_function > 1000, "{close:?}");
    assert!(log.requests("f").is_empty(), "nobody looked inside:\n{log}");
}

#[test]
fn passthrough_with_another_name_in_the_hello_is_refused_and_not_dialled() {
    let standin = Standin::start_as(&[NAME, "attacker.example"]);
    let Some((_project, agent)) = agent(&[Egress::to(NAME).tls("passthrough").resolve(&standin)]) else { return };
    let wrong = format!("answer = failure(secure, '{NAME}', sni='attacker.example', ca=event['ca'])");
    assert!(run_with(&agent, "f", &wrong, json!({"ca": standin.ca_pem()})).is_string());
    let _ = refusal(&agent, "tls", "sni_mismatch");
    assert_eq!(standin.connections(), 0);
}

#[test]
fn passthrough_of_something_other_than_tls_is_refused_and_not_dialled() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to(NAME).tls("passthrough").resolve(&standin)]) else { return };
    let plain = format!("answer = failure(ask, socket.create_connection(('{NAME}', 443)), 'GET', '/', '{NAME}')");
    assert!(run(&agent, "f", &plain).is_string());
    let _ = refusal(&agent, "tls", "not_tls");
    assert_eq!(standin.connections(), 0);
}

#[test]
fn without_tls_method_path_and_host_are_still_enforced() {
    let standin = Standin::start_plain();
    let rule = Egress::to(NAME).tls("none").set("ports", "[80]").resolve(&standin);
    let Some((_project, agent)) = agent(&[rule.methods(&["POST"]).paths(&["/echo/*"])]) else { return };
    let code = "answer = ask(socket.create_connection((event['to'], 80)), event['method'], event['path'], event['host'], body='hello')";
    let ask = |method: &str, path: &str, host: &str| {
        run_with(&agent, "f", code, json!({"to": NAME, "method": method, "path": path, "host": host}))
    };
    let answer = ask("POST", "/echo/1", NAME);
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")), "{answer}");
    let refused = [
        (ask("PUT", "/echo/2", NAME), 403, "method_not_allowed"),
        (ask("POST", "/other", NAME), 403, "path_not_allowed"),
        (ask("POST", "/echo/3", "attacker.example"), 421, "authority_mismatch"),
        (ask("POST", "/echo/4", &format!("{NAME}:443")), 421, "authority_mismatch"),
    ];
    for (answer, status, reason) in refused {
        assert_eq!((&answer["status"], &answer["refused"]), (&json!(status), &json!(reason)), "{answer}");
        let _ = refusal(&agent, "http", reason);
    }
    let paths: Vec<_> = standin.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/echo/1"]);
    assert_eq!(agent.log().connects("f")[0].tls, "none");
}

#[test]
fn dns_over_tcp_gets_the_same_answers() {
    let Some((_project, agent)) = agent(&[Egress::to(NAME)]) else { return };
    let answer = run(&agent, "f", &format!("answer = [dns('{NAME}', tcp=True), dns('{NAME}')]"));
    assert_eq!(answer[0]["code"], 0);
    assert_synthetic(&answer[0]);
    assert_eq!(answer[0], answer[1], "a name has one address");
    let refused = run(&agent, "f", "answer = dns('attacker.example', tcp=True)");
    assert_eq!(refused, json!({"code": 3, "answers": 0, "addresses": []}));
    let _ = refusal(&agent, "dns", "name_not_allowed");
}

#[test]
fn a_question_to_any_name_server_is_answered_here_and_leaves_nothing() {
    let Some((_project, agent)) = agent(&[Egress::to(NAME)]) else { return };
    let tripwire = Tripwire::start();
    let code = "
answer = {}
for server in event['servers']:
    for tcp in (False, True):
        try:
            answer[f'{server} {tcp}'] = dns(event['name'], server=server, tcp=tcp)
        except OSError as error:
            answer[f'{server} {tcp}'] = {'error': str(error)}
";
    let servers = ["198.18.0.1", "8.8.8.8", "10.0.0.53", "2001:4860:4860::8888", &tripwire.tcp().ip().to_string()];
    let ask = |name: &str| run_with(&agent, "f", code, json!({"servers": servers, "name": name}));
    let answers = ask(NAME);
    for (server, answer) in answers.as_object().expect("an object") {
        assert!(answer["error"].is_null(), "{server}: {answer}");
        assert_synthetic(answer);
    }
    for (server, answer) in ask("secret.attacker.example").as_object().expect("an object") {
        assert_eq!(answer["code"], 3, "{server}: {answer}");
    }
    let asked = 2 * servers.len();
    let all = |log: &Log| log.refused("f").iter().filter(|refused| refused.layer == "dns").count() == asked;
    let log = agent.log_with("every refusal", all);
    assert_eq!(log.verify(), Ok(()));
    assert!(tripwire.arrivals().is_empty());
}

#[test]
fn a_name_has_addresses_and_no_other_record() {
    let Some((_project, agent)) = agent(&[Egress::to(NAME)]) else { return };
    let code = format!("answer = [dns('{NAME}', qtype) for qtype in TYPES if qtype not in ('A', 'AAAA')]");
    let answers = run(&agent, "f", &code);
    assert_eq!(answers.as_array().map(Vec::len), Some(7), "{answers}");
    for answer in answers.as_array().expect("a list") {
        assert_eq!((&answer["code"], &answer["answers"]), (&json!(0), &json!(0)), "{answer}");
    }
}

#[track_caller]
fn assert_synthetic(answer: &Value) {
    let address: Ipv4Addr =
        answer["addresses"][0].as_str().unwrap_or_default().parse().unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert!(matches!(address.octets(), [198, 18 | 19, ..]), "{address} is not one of 198.18.0.0/15");
}

#[test]
fn ipv6_is_no_way_around() {
    let Some((_project, agent)) = agent(&[Egress::to(NAME)]) else { return };
    let tcp = "
def attempt():
    with socket.create_connection(('2001:db8::1', 443), timeout=10) as stream:
        stream.sendall(b'the data')
        exactly(stream, 1)
answer = None
try:
    answer = failure(attempt)
except EOFError:
    answer = 'EOF'
";
    assert!(run(&agent, "f", tcp).is_string());
    let log = refusal(&agent, "connect", "address_not_allowed");
    assert!(log.refused("f")[0].detail.contains("[2001:db8::1]:443"), "{log}");
    let udp = "answer = [failure(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto, b'the data', to)
        for to in (('2001:db8::1', 443), ('::ffff:192.0.2.1', 443))]";
    assert_eq!(run(&agent, "f", udp), json!(["EPERM", "EPERM"]));
    let log = refusal(&agent, "kernel", "udp_port");
    assert!(log.connects("f").is_empty());
}

#[test]
fn a_hello_that_comes_byte_by_byte_is_understood() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to_standin(&standin)]) else { return };
    let code = format!(
        "
context = ssl.create_default_context()
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname='{NAME}')
stream = socket.create_connection(('{NAME}', 443), timeout=20)
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def step(action, *arguments):
    while True:
        try:
            result = action(*arguments)
        except ssl.SSLWantReadError:
            result = None
        for byte in outgoing.read():
            stream.send(bytes([byte]))
        if result is not None:
            return result
        incoming.write(stream.recv(65536))
step(lambda: tls.do_handshake() or True)
step(tls.write, b'GET /bytes/5 HTTP/1.1\\r\\nHost: {NAME}\\r\\nConnection: close\\r\\n\\r\\n')
answer = step(tls.read, 4096).decode()
"
    );
    let answer = run(&agent, "f", &code);
    assert!(answer.as_str().is_some_and(|text| text.starts_with("HTTP/1.1 200")), "{answer}");
    assert_eq!(standin.seen().len(), 1);
}

/// A name that whoever owns it points at the machine itself: the oldest way through a proxy.
#[test]
fn a_name_that_resolves_to_loopback_is_refused_unless_a_rule_pins_it() {
    if !require_root() || !requires("unshare") || !requires("python3") {
        return;
    }
    let (standin, names) = (Standin::start(), NameServer::start(Ipv4Addr::LOCALHOST));
    let ports = format!("[{}]", standin.addr().port());
    let rules =
        ["inspect", "passthrough"].map(|tls| Egress::to(&format!("{tls}.example")).tls(tls).set("ports", &ports));
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let launch = Launch { wrapper: names.wrapper(project.folder()), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));

    let port = standin.addr().port();
    let host = format!("inspect.example:{port}");
    let code = format!("answer = ask(secure('inspect.example', port={port}), 'GET', '/', '{host}')");
    let answer = run(&agent, "f", &code);
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!("special_purpose_address")), "{answer}");
    let code = format!("answer = failure(secure, 'passthrough.example', port={port})");
    assert!(run(&agent, "f", &code).is_string());
    assert!(names.questions() >= 2, "the agent does not use the resolver that this test answers for");
    let two = |log: &Log| log.refused("f").iter().filter(|r| r.reason == "special_purpose_address").count() == 2;
    let log = agent.log_with("both refusals", two);
    assert!(
        log.refused("f").iter().all(|refused| refused.layer == "upstream" && refused.connection.is_some()),
        "{log}"
    );
    assert_eq!(standin.connections(), 0);
}

/// Invariant 2: without DNS nothing leaves, and the function is told why.
#[test]
fn a_name_that_cannot_be_resolved_is_an_answer_that_says_so() {
    if !require_root() || !requires("unshare") || !requires("python3") {
        return;
    }
    // Nobody listens there.
    let silent = Ipv4Addr::new(127, 91, 53, 99);
    let project = Project::new().with(&script::function("f").egress(&Egress::to("unpinned.example")));
    let launch = Launch { wrapper: nameserver::wrapper(silent, project.folder()), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    let answer = run_with(&agent, "f", POST, json!({"host": "unpinned.example"}));
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!("upstream_unreachable")), "{answer}");
    assert!(answer["body"].as_str().is_some_and(|body| body.contains("could not be resolved")), "{answer}");
    let ended =
        |log: &Log| log.events().any(|(_, event)| matches!(event, Event::Request(request) if request.error.is_some()));
    let log = agent.log_with("the request's failure", ended);
    assert_eq!(log.verify(), Ok(()));
}

#[test]
fn at_log_level_connection_no_request_is_kept_and_the_connection_is_known_before_it_answers() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let function = Function::probe("f").egress(&Egress::to_standin(&standin));
    let project = Project::new().set("log_level", "\"connection\"").with(&function);
    let agent = Agent::start(&project);
    let slow = allowed_but(json!({"method": "GET", "path": "/slow?q=mark-path"}));
    let pending = agent.invoke_aside("f", &slow);
    dshield_tests::wait::until("the request at the upstream", || (!standin.seen().is_empty()).then_some(()));
    // The answer takes two seconds more: what is in the log now was there before.
    let log = agent.log();
    let [connect] = log.connects("f")[..] else { panic!("one connection:\n{log}") };
    assert_eq!((connect.host.as_str(), connect.tls.as_str()), (NAME, "inspect"));
    let _ = pending.join();
    // The probe gives its connection up when its runtime turns again.
    let _ = agent.call("f", &json!({"do": "sleep", "ms": 1}));
    let log = agent.log_with("the connection's end", |log| !closes(log).is_empty());
    assert_eq!(log.verify(), Ok(()));
    assert!(log.events().all(|(_, event)| !matches!(event, Event::Request(_))), "{log}");
    for word in ["/slow", "mark-path", "\"GET\""] {
        assert!(!log.to_string().contains(word), "{word} is in the log:\n{log}");
    }
}

#[test]
fn a_log_in_memory_works_and_leaves_no_file() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let function = Function::probe("f").egress(&Egress::to_standin(&standin));
    let project = Project::new().set("memory_only", "true").with(&function);
    let mut agent = Agent::start(&project);
    assert_eq!(agent.call("f", &allowed())["status"], 200);
    let log = agent.log_with("the end of the request", |log| {
        log.events().any(|(_, event)| matches!(event, Event::Request(request) if request.phase == Phase::End))
    });
    assert_eq!(log.verify(), Ok(()));
    assert!(log.events().any(|(_, event)| matches!(event, Event::Boot(boot) if boot.memory_only)), "{log}");
    assert!(!project.state().exists(), "while it runs");
    assert_eq!(agent.stop(), Some(0));
    assert!(!project.state().exists());
}

#[test]
fn a_body_beyond_max_request_bytes_gets_413_and_does_not_arrive() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to_standin(&standin).set("max_request_bytes", "1000")]) else {
        return;
    };
    let post = |body: &str, chunked: &str| {
        let headers = if chunked == "True" { "{'Transfer-Encoding': 'chunked'}" } else { "{}" };
        let code = format!(
            "answer = ask(secure('{NAME}'), 'POST', '/echo', '{NAME}', {headers}, body={body}, chunked={chunked})"
        );
        run(&agent, "f", &code)
    };
    for (body, chunked) in [("b'x' * 1000", "False"), ("iter([b'x' * 500] * 2)", "True")] {
        let answer = post(body, chunked);
        assert_eq!(answer["status"], 200, "exactly the limit: {answer}");
    }
    for (body, chunked) in [("b'x' * 1001", "False"), ("iter([b'x' * 400] * 3)", "True")] {
        let answer = post(body, chunked);
        assert_eq!(
            (&answer["status"], &answer["refused"]),
            (&json!(413), &json!("request_too_large")),
            "{body}: {answer}"
        );
    }
    let two = |log: &Log| log.refused("f").iter().filter(|r| r.reason == "request_too_large").count() == 2;
    let log = agent.log_with("both refusals", two);
    assert_eq!(log.verify(), Ok(()));
    assert!(standin.seen().iter().all(|seen| seen.body_bytes <= 1000), "{:?}", standin.seen());
}

#[test]
fn a_wildcard_allows_every_name_below_and_neither_the_apex_nor_a_lookalike() {
    let names = ["a.wild.example", "b.c.wild.example", "wild.example", "xwild.example"];
    let standin = Standin::start_as(&names);
    let Some((_project, agent)) = agent(&[Egress::to("*.wild.example").pinned(&standin)]) else { return };
    for name in &names[..2] {
        let answer = run_with(&agent, "f", POST, json!({"host": name}));
        assert_eq!(answer["status"], 200, "{name}: {answer}");
    }
    for name in &names[2..] {
        let refused = run(&agent, "f", &format!("answer = failure(secure, '{name}')"));
        assert!(refused.is_string(), "{name}: {refused}");
    }
    let two = |log: &Log| log.refused("f").iter().any(|r| r.detail.contains("xwild.example"));
    let log = agent.log_with("the lookalike's refusal", two);
    let hosts: Vec<_> = log.connects("f").into_iter().map(|Connect { host, .. }| host.as_str()).collect();
    assert_eq!(hosts, names[..2], "the log has the names, not the pattern");
    // A connection to one name is not one to its sibling.
    let code = "answer = ask(secure('a.wild.example'), 'POST', '/echo', 'b.c.wild.example', body='')";
    assert_eq!(run(&agent, "f", code)["status"], 421);
    assert_eq!(standin.seen().len(), 2);
}

#[test]
fn the_unspecified_and_the_metadata_address_are_no_way_out() {
    let Some(scene) = Scene::start() else { return };
    let port = scene.tripwire.tcp().port();
    for address in ["0.0.0.0", "169.254.169.254"] {
        let event = json!({"do": "tcp", "address": format!("{address}:{port}"), "send": SECRET});
        for function in scene.functions() {
            let answer = scene.agent.call(function, &event);
            assert!(answer["failed"].is_string(), "{function}: {address}: {answer}");
        }
    }
    scene.expect_silence();
}

/// A server that wants another key share asks for a second hello, and some go by the name in that one.
#[test]
fn passthrough_with_another_name_in_a_later_hello_is_refused_and_that_does_not_arrive() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[Egress::to(NAME).tls("passthrough").resolve(&standin)]) else { return };
    let code = "
def hello(name):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
stream = socket.create_connection((event['host'], 443), timeout=10)
stream.sendall(hello(event['host']) + b'\\x14\\x03\\x03\\0\\x01\\x01' + hello('attacker.example'))
answer = 0
try:
    while more := stream.recv(4096):
        answer += len(more)
except ConnectionResetError:
    pass
";
    let _ = run_with(&agent, "f", code, json!({"host": NAME}));
    let log = refusal(&agent, "tls", "sni_mismatch");
    let refused = log.refused("f")[0];
    assert!(refused.connection.is_some(), "{log}");
    let both = format!("tls to {NAME}:443: a later ClientHello has the server name attacker.example");
    assert_eq!(refused.detail, both);
    // The stand-in may accept it after the refusal has been read.
    wait::until("the connection for the first hello", || (standin.connections() > 0).then_some(()));
    assert_eq!(standin.connections(), 1);
}

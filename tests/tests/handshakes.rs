//! The beginning of an inspected connection: which hellos are taken, and what a function gets of TLS.
use dshield_tests::agent::{Agent, Egress, Function, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::{NAME, Standin};
use serde_json::{Value, json};

/// An agent with one function, `f`, that may reach this stand-in; `None` where the machine lacks something.
fn agent(standin: &Standin) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = Project::new().with(&script::function("f").egress(&Egress::to_standin(standin)));
    let agent = Agent::start(&project);
    Some((project, agent))
}

#[track_caller]
fn refusals(agent: &Agent, reason: &str, count: usize) -> Log {
    let of = |log: &Log| log.refused("f").iter().filter(|r| (&*r.layer, &*r.reason) == ("tls", reason)).count();
    let log = agent.log_with(&format!("{count} refusals for {reason}"), |log| of(log) == count);
    assert_eq!(log.verify(), Ok(()));
    log
}

/// `tls(change)`: a connection whose context `change` has changed. `alert(change)`: why the proxy ends it.
const CONTEXTS: &str = "
def tls(change, name=NAME, **options):
    context = ssl.create_default_context()
    change(context)
    stream = socket.create_connection((NAME, 443), timeout=20)
    return context.wrap_socket(stream, server_hostname=name, **options)

def alert(change, **options):
    try:
        tls(change, **options).close()
    except ssl.SSLError as error:
        # Versions of Python and OpenSSL spell it differently.
        return str(error).lower().replace('_', ' ')

def hello(name):
    outgoing = ssl.MemoryBIO()
    half = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        half.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()

def answered(data):
    stream = socket.create_connection((NAME, 443), timeout=20)
    stream.sendall(data)
    return list(stream.recv(7))
";

fn with_contexts(code: &str) -> String {
    format!("NAME = {NAME:?}\n{CONTEXTS}\n{code}")
}

/// The fatal alert `unrecognized_name`, in a record of TLS 1.2.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

#[test]
fn tls_1_2_and_1_3_work_and_nothing_is_offered_to_resume() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let code = "
def only(version):
    def change(context):
        context.minimum_version = context.maximum_version = version
    return change
answer = []
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context()
    only(version)(context)
    def connected(session=None):
        stream = socket.create_connection((NAME, 443), timeout=20)
        return context.wrap_socket(stream, server_hostname=NAME, session=session)
    first = connected()
    status = ask(first, 'GET', '/bytes/10', NAME)['status']
    # What a server gives to resume with comes before its first answer at the latest.
    kept = first.session
    second = connected(kept)
    answer.append([first.version(), status, kept is not None and kept.has_ticket, second.session_reused])
";
    let expected = json!([["TLSv1.2", 200, false, false], ["TLSv1.3", 200, false, false]]);
    assert_eq!(run(&agent, "f", &with_contexts(code)), expected);
    // What is older, nobody speaks.
    let old = "
def change(context):
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers('ALL:@SECLEVEL=0')
    context.maximum_version = ssl.TLSVersion.TLSv1_1
answer = alert(change)
";
    let answer = run(&agent, "f", &with_contexts(old));
    assert!(answer.is_string(), "{answer}");
}

/// Browsers send the extension for show. Where TLS ends here, its server cannot decrypt anything, and no name is behind it.
#[test]
fn a_hello_that_pretends_to_hide_another_works_where_tls_is_inspected_and_only_there() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let passed = Egress::to("passed.example").tls("passthrough").resolve(&standin);
    let function = Function::probe("f").egress(&Egress::to_standin(&standin)).egress(&passed);
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    let ask = |host: &str, grease: bool| {
        let event = json!({"do": "https", "host": host, "method": "GET", "path": "/bytes/10", "grease": grease});
        agent.call("f", &event)
    };
    assert_eq!(ask(NAME, true)["status"], 200);
    assert!(agent.log().refused("f").is_empty());
    let refused = ask("passed.example", true);
    assert_eq!(refused["failed"], "tls", "{refused}");
    // It is in the hello: the same without it gets as far as the certificate, which is for another name.
    let passed = ask("passed.example", false);
    assert!(passed["why"].as_str().is_some_and(|why| why.contains("certificate")), "{passed}");
    let _ = refusals(&agent, "encrypted_client_hello", 1);
}

#[test]
fn the_certificate_is_for_the_one_name_and_no_other() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let answer = run(&agent, "f", &format!("answer = secure('{NAME}').getpeercert()['subjectAltName']"));
    assert_eq!(answer, json!([["DNS", NAME]]));
}

#[test]
fn a_hello_without_a_name_is_refused() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let code = "
def change(context):
    context.check_hostname = False
answer = alert(change, name=None)
";
    let answer = run(&agent, "f", &with_contexts(code));
    assert!(answer.as_str().is_some_and(|why| why.contains("unrecognized name")), "{answer}");
    let log = refusals(&agent, "sni_missing", 1);
    assert!(log.connects("f").is_empty(), "{log}");
    assert_eq!(standin.connections(), 0);
}

/// A NUL ends a name for some readers and not for others.
#[test]
fn a_server_name_with_a_nul_or_of_digits_is_refused() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let code = "
good = hello(NAME)
assert good.count(NAME.encode()) == 1
answer = [answered(good.replace(NAME.encode(), bad))
    for bad in (b'api.anthropic.co\\0', b'api.anthropic\\0com', b'0000000002130706433'[2:])]
";
    let answer = run(&agent, "f", &with_contexts(code));
    assert_eq!(answer, json!([UNRECOGNIZED_NAME, UNRECOGNIZED_NAME, UNRECOGNIZED_NAME]));
    let log = refusals(&agent, "sni_invalid", 3);
    assert!(log.connects("f").is_empty(), "{log}");
    assert_eq!(standin.connections(), 0);
}

#[test]
fn a_hello_of_nearly_64_kib_is_taken_and_a_larger_one_is_refused_at_once() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let code = "
def offers(count):
    # Each is its length and 255 bytes; whoever answers takes the one that it knows.
    return lambda context: context.set_alpn_protocols(['http/1.1'] + [f'{n:0255}' for n in range(count)])
def length(count):
    outgoing, context = ssl.MemoryBIO(), ssl.create_default_context()
    offers(count)(context)
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME).do_handshake()
    except ssl.SSLWantReadError:
        return len(outgoing.read())
count = max(n for n in range(200, 256) if length(n) < 65400)
answer = [length(count), ask(tls(offers(count)), 'GET', '/bytes/10', NAME)['status']]
";
    let answer = run(&agent, "f", &with_contexts(code));
    assert!(answer[0].as_u64().is_some_and(|length| length > 65_000), "{answer}");
    assert_eq!(answer[1], 200, "{answer}");
    // 65,533 bytes and the four of their header: one more than are taken. The rest need not come.
    let code = "
good = hello(NAME)
size = (65533).to_bytes(3, 'big')
started = time.monotonic()
answer = [answered(good[:6] + size + good[9:]), time.monotonic() - started]
";
    let answer = run(&agent, "f", &with_contexts(code));
    assert_eq!(answer[0], json!(UNRECOGNIZED_NAME));
    assert!(answer[1].as_f64().is_some_and(|seconds| seconds < 4.0), "not when the time for a hello is over: {answer}");
    let _ = refusals(&agent, "hello_incomplete", 1);
    assert_eq!(standin.connections(), 1);
}

#[test]
fn who_offers_only_protocols_other_than_http_is_refused_and_the_log_says_so() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&standin) else { return };
    let code = with_contexts("answer = alert(lambda context: context.set_alpn_protocols(event['offered']))");
    let offered = |protocols: &[&str]| run_with(&agent, "f", &code, json!({"offered": protocols}));
    for protocols in [&["acme-tls/1"][..], &["dot"], &["smb", "h3"]] {
        let why = offered(protocols);
        assert!(why.as_str().is_some_and(|why| why.contains("no application protocol")), "{protocols:?}: {why}");
    }
    assert_eq!(offered(&["dot", "http/1.1"]), Value::Null);
    assert_eq!(offered(&["acme-tls/1", "h2"]), Value::Null);
    let log = refusals(&agent, "alpn_not_http", 3);
    for refused in log.refused("f") {
        assert!(refused.detail.starts_with(&format!("tls to {NAME}:443: ")), "{refused:?}");
        assert!(refused.connection.is_some() && refused.hint("f").is_some(), "{refused:?}");
    }
    assert_eq!(standin.connections(), 0);
}

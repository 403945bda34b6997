//! What one function's traffic can hold of the agent, and what it cannot: memory, time, places.
use std::net::TcpListener;
use std::time::{Duration, Instant};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project, resident_kib};
use dshield_tests::client;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::{NAME, SLOW, Standin};
use serde_json::json;

/// What a connection may cost in the agent, whatever the function does with it: read and write buffers of both sides,
/// TLS, and for HTTP/2 the windows. The allocator and the debug build need some air.
const PER_CONNECTION_KIB: u64 = 1024;
const CONNECTIONS: usize = 40;

fn agent(functions: &[Function]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = functions.iter().fold(Project::new(), Project::with);
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// Runs `code` while connections are held open in the function, and compares the agent's memory with before.
#[track_caller]
fn assert_bounded(agent: &Agent, what: &str, code: &str) {
    // What is made once, such as the certificate and the first buffers, is not what a connection costs.
    let warm = format!("answer = ask(secure('{NAME}'), 'GET', '/bytes/10', '{NAME}')['status']");
    assert_eq!(run_with(agent, "f", &warm, json!({})), 200);
    let before = resident_kib(agent.pid());
    let answer = run_with(agent, "f", code, json!({"host": NAME, "count": CONNECTIONS}));
    assert_eq!(answer, CONNECTIONS, "{what}");
    let each = resident_kib(agent.pid()).saturating_sub(before) / CONNECTIONS as u64;
    eprintln!("{what}: {each} KiB for each of {CONNECTIONS} connections");
    assert!(each < PER_CONNECTION_KIB, "{what}: {each} KiB for each of {CONNECTIONS} connections");
}

#[test]
fn answers_that_nobody_reads_wait_at_the_upstream() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[script::function("f").egress(&Egress::to_standin(&standin))]) else { return };
    let code = "
kept = []
for _ in range(event['count']):
    stream = secure(event['host'])
    stream.sendall(f\"GET /bytes/100000000 HTTP/1.1\\r\\nHost: {event['host']}\\r\\n\\r\\n\".encode())
    kept.append(stream)
time.sleep(1.5)
globals()['kept_open'] = kept
answer = len(kept)
";
    assert_bounded(&agent, "unread answers", code);
}

#[test]
fn bodies_that_the_upstream_does_not_read_wait_in_the_function() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let standin = Standin::start();
    let resolve = format!("[\"{}\"]", deaf.local_addr().expect("it is bound"));
    let rules = [
        Egress::to_standin(&standin),
        Egress::to("deaf.example").set("ports", "[80]").tls("none").set("resolve", &resolve),
    ];
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    let Some((_project, agent)) = agent(&[function]) else { return };
    let code = "
import threading
kept, sent = [], []
def push():
    stream = socket.create_connection(('deaf.example', 80))
    kept.append(stream)
    stream.sendall(b'POST /x HTTP/1.1\\r\\nHost: deaf.example\\r\\nContent-Length: 100000000\\r\\n\\r\\n')
    stream.settimeout(1.5)
    try:
        while True:
            stream.send(bytes(65536))
    except TimeoutError:
        sent.append(1)
threads = [threading.Thread(target=push) for _ in range(event['count'])]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
globals()['kept_open'] = kept
answer = len(sent)
";
    assert_bounded(&agent, "unread bodies", code);
}

#[test]
fn heads_that_dribble_are_cut_off_and_hold_up_nobody() {
    let standin = Standin::start();
    let function = |name| script::function(name).timeout("120s").egress(&Egress::to_standin(&standin));
    let functions = ["f", "g"].map(function);
    let Some((_project, agent)) = agent(&functions) else { return };
    // Starting an instance is not what is measured.
    let good = format!("answer = ask(secure('{NAME}'), 'GET', '/bytes/10', '{NAME}')['status']");
    assert_eq!(run_with(&agent, "g", &good, json!({})), 200);
    let code = "
kept = []
for _ in range(200):
    stream = secure(event['host'])
    stream.sendall(b'GET / HTTP/1.1\\r\\nX-Dribble: ')
    kept.append(stream)
globals()['kept_open'] = kept
answer = len(kept)
";
    assert_eq!(run_with(&agent, "f", code, json!({"host": NAME})), 200);
    let started = Instant::now();
    assert_eq!(run_with(&agent, "g", &good, json!({})), 200);
    // Held up, it would wait until the heads are cut off: ten seconds.
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    let rest = "
deadline = time.time() + 25
statuses = []
for stream in globals()['kept_open']:
    stream.settimeout(max(0.1, deadline - time.time()))
    try:
        # A byte now and then does not buy more time.
        stream.sendall(b'x')
    except OSError:
        pass
    statuses.append(stream.recv(12).decode())
answer = sorted(set(statuses))
";
    assert_eq!(run_with(&agent, "f", rest, json!({})), json!(["HTTP/1.1 408"]));
    assert!(standin.seen().iter().all(|seen| seen.path == "/bytes/10"), "{:?}", standin.seen());
}

#[test]
fn an_agent_that_is_told_to_stop_lets_requests_end() {
    let standin = Standin::start();
    let Some((_project, mut agent)) = agent(&[script::function("f").egress(&Egress::to_standin(&standin))]) else {
        return;
    };
    let code = format!("answer = ask(secure('{NAME}'), 'GET', '/slow', '{NAME}')['status']");
    assert_eq!(run_with(&agent, "f", "answer = 1", json!({})), 1, "the instance is warm");
    let (address, event) = (agent.address(), json!({"code": code}).to_string());
    let path = "/2015-03-31/functions/f/invocations";
    let asked = std::thread::spawn(move || client::request(address, "POST", path, event, Duration::from_secs(20)));
    let arrived = || standin.seen().iter().any(|seen| seen.path == "/slow").then_some(());
    dshield_tests::wait::until("the request to be under way", arrived);
    let started = Instant::now();
    assert_eq!(agent.stop(), Some(0));
    assert!(started.elapsed() < SLOW + Duration::from_secs(10), "{:?}", started.elapsed());
    let answer = asked.join().expect("it does not panic").expect("there is an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "200"));
}

/// Each request of an HTTP/2 connection may need a connection upstream, and idle ones stay open for the next request.
#[test]
fn requests_on_few_connections_leave_descriptors_to_the_others() {
    if !require_root() || !requires("python3") || !requires("curl") || !requires("prlimit") {
        return;
    }
    let names = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.w.example"));
    let standin = Standin::start_as(&names.each_ref().map(String::as_str));
    let function = script::function("f").timeout("120s").concurrency(1);
    let function = function.egress(&Egress::to("*.w.example").pinned(&standin));
    let project = Project::new().with(&function);
    // So few that one instance gets 58 connections on either side.
    let wrapper = ["prlimit", "--nofile=1700:1700"].map(str::to_owned).to_vec();
    let agent =
        Agent::launch(&project, Launch { wrapper, ..Launch::default() }).unwrap_or_else(|error| panic!("{error}"));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count();
    assert_eq!(run_with(&agent, "f", "answer = 1", json!({})), 1);
    let before = descriptors();
    // To one name after the other, so that the idle connections of the first are in the way of the last.
    let code = "
import subprocess
statuses = set()
for name in event['names']:
    config = f'url = https://{name}/bytes/10\\noutput = /dev/null\\n' * 80
    command = ['curl', '-sS', '--http2', '--parallel', '--parallel-max', '40', '-K', '-', '-w', '%{http_code}\\n']
    statuses |= set(subprocess.run(command, input=config, capture_output=True, text=True).stdout.split())
answer = sorted(statuses)
";
    assert_eq!(run_with(&agent, "f", code, json!({"names": names})), json!(["200"]));
    let grown = descriptors().saturating_sub(before);
    assert!(grown <= 2 * 58 + 10, "{grown} more descriptors");
}

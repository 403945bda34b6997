//! What the log says of bytes and of ends, and what goes upstream, when a function would like the two to differ.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use dshield_common::log::entry::{Close, Event, Phase, Request};
use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::wait;
use serde_json::{Value, json};

const HOST: &str = "upstream.example";

/// An agent with one function, `f`, that has this rule; `None` where the machine lacks something.
fn agent(rule: &Egress) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = Project::new().with(&script::function("f").egress(rule));
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// What an upstream does with a connection; the other is told what was read.
type Serve = fn(&mut TcpStream, &dyn Fn(&[u8]));

/// An upstream without TLS that does as `serve` says with each connection; what it read is kept.
fn upstream(serve: Serve) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let read = Arc::new(Mutex::new(Vec::new()));
    let kept = read.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let kept = kept.clone();
            std::thread::spawn(move || {
                serve(&mut stream, &|bytes| {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes)
                });
            });
        }
    });
    (addr, read)
}

fn rest(stream: &mut TcpStream, keep: &dyn Fn(&[u8])) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        keep(&piece[..count]);
    }
}

/// Answers as soon as a head is there, and reads on.
fn answer_early(stream: &mut TcpStream, keep: &dyn Fn(&[u8])) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    keep(&head);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
    rest(stream, keep);
}

/// Agrees to another protocol when the request is there, and reads on.
fn switch(stream: &mut TcpStream, keep: &dyn Fn(&[u8])) {
    let mut request = [0; 4096];
    let Ok(count) = stream.read(&mut request) else { return };
    keep(&request[..count]);
    let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    rest(stream, keep);
}

fn rule(to: SocketAddr) -> Egress {
    Egress::to(HOST).tls("none").set("ports", "[80]").set("resolve", &json!([to.to_string()]).to_string())
}

fn close(log: &Log) -> Option<&Close> {
    log.events().find_map(|(_, event)| if let Event::Close(close) = event { Some(close) } else { None })
}

fn end(log: &Log) -> Option<&Request> {
    log.events().find_map(|(_, event)| match event {
        Event::Request(request) if request.phase == Phase::End => Some(request),
        _ => None,
    })
}

fn run(agent: &Agent, code: &str) -> Value {
    run_with(agent, "f", code, json!({"host": HOST}))
}

/// A head that is padded makes room for what comes with it.
#[test]
fn what_comes_in_one_piece_with_connect_is_counted() {
    let (addr, read) = upstream(rest);
    let Some((_project, agent)) = agent(&rule(addr).set("protocol", "\"tcp\"")) else { return };
    let code = "
stream = socket.create_connection(('127.0.0.1', 3128))
head = f\"CONNECT {event['host']}:80 HTTP/1.1\\r\\nHost: {event['host']}:80\\r\\nX: {'y' * 20000}\\r\\n\\r\\n\".encode()
stream.sendall(head + b'x' * 10000)
answer = exactly(stream, 39).decode()
stream.shutdown(socket.SHUT_WR)
stream.recv(1)
stream.close()
";
    assert!(run(&agent, code).as_str().is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
    let log = agent.log_with("the end", |log| close(log).is_some());
    // The upstream may not have read all that was passed on to it.
    let arrived = || read.lock().expect("nobody panicked").len();
    let _ = wait::within(wait::PATIENCE, || (arrived() >= 10_000).then_some(()));
    assert_eq!(arrived(), 10_000);
    assert_eq!(close(&log).expect("it is there").bytes_from_function, 10_000);
    assert_eq!(log.verify(), Ok(()));
}

#[test]
fn a_body_that_goes_on_behind_its_answer_is_counted() {
    let (addr, read) = upstream(answer_early);
    let Some((_project, agent)) = agent(&rule(addr)) else { return };
    let code = "
stream = socket.create_connection((event['host'], 80))
stream.sendall(f\"POST / HTTP/1.1\\r\\nHost: {event['host']}\\r\\nContent-Length: 100000\\r\\n\\r\\n\".encode())
answer = b''
while not answer.endswith(b'early'):
    answer += stream.recv(4096)
time.sleep(0.3)
stream.sendall(b'x' * 100000)
time.sleep(0.5)
stream.close()
answer = answer.decode()
";
    let answer = run(&agent, code);
    assert!(answer.as_str().is_some_and(|answer| answer.starts_with("HTTP/1.1 200")), "{answer}");
    let log = agent.log_with("the end", |log| close(log).is_some() && end(log).is_some());
    let body = || {
        let bytes = read.lock().expect("nobody panicked");
        bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| (bytes.len() - at - 4) as u64)
    };
    let end = end(&log).expect("it is there");
    // The upstream may not have read all that was passed on to it.
    let _ = wait::within(wait::PATIENCE, || (body() == end.request_bytes).then_some(()));
    let body = body().expect("a head");
    assert_eq!((end.request_bytes, end.status), (Some(body), Some(200)), "{log}");
}

#[test]
fn a_request_with_a_body_that_asks_for_another_protocol_gets_none_of_ours() {
    let (addr, read) = upstream(switch);
    let Some((_project, agent)) = agent(&rule(addr).set("upgrade", "true")) else { return };
    for framing in
        ["Content-Length: 5\\r\\n\\r\\nhello", "Transfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\n0\\r\\n\\r\\n"]
    {
        let code = format!(
            "
stream = socket.create_connection((event['host'], 80), timeout=20)
stream.sendall(f\"POST / HTTP/1.1\\r\\nHost: {{event['host']}}\\r\\nConnection: upgrade\\r\\nUpgrade: x\\r\\n{framing}\".encode())
answer = stream.recv(4096).decode()
stream.sendall(b'\\0\\n opaque \\r\\n\\r\\n')
time.sleep(0.5)
stream.close()
"
        );
        let _ = run(&agent, &code);
    }
    let read = read.lock().expect("nobody panicked");
    let text = read.escape_ascii().to_string();
    assert!(!text.contains("refused"), "{text}");
}

/// Nobody is left to be told in an answer.
#[test]
fn a_body_that_is_cut_off_behind_its_answer_is_in_the_log() {
    let (addr, read) = upstream(answer_early);
    let Some((_project, agent)) = agent(&rule(addr).set("max_request_bytes", "5000")) else { return };
    let code = "
stream = socket.create_connection((event['host'], 80))
stream.sendall(f\"POST / HTTP/1.1\\r\\nHost: {event['host']}\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n\".encode())
answer = b''
while not answer.endswith(b'early'):
    answer += stream.recv(4096)
for _ in range(10):
    # At some point nobody takes it any more.
    failure(stream.sendall, b'3e8\\r\\n' + b'z' * 1000 + b'\\r\\n')
    time.sleep(0.05)
stream.close()
answer = len(answer)
";
    let _ = run(&agent, code);
    let log = agent.log_with("the end", |log| end(log).is_some());
    let error = end(&log).and_then(|end| end.error.as_deref()).unwrap_or_default();
    assert!(error.contains("max_request_bytes"), "{error:?}");
    assert_eq!(log.verify(), Ok(()));
    assert!(read.lock().expect("nobody panicked").iter().filter(|byte| **byte == b'z').count() <= 5000);
}

/// A function that leaves while the entry of its request is on its way to the disk.
#[test]
fn each_request_that_began_ends_in_the_log() {
    let (addr, _) = upstream(answer_early);
    let Some((_project, agent)) = agent(&rule(addr)) else { return };
    let code = "
answer = 40
for pause in range(answer):
    stream = socket.create_connection((event['host'], 80))
    stream.sendall(f\"GET / HTTP/1.1\\r\\nHost: {event['host']}\\r\\n\\r\\n\".encode())
    time.sleep(pause * 0.0001)
    stream.close()
";
    assert_eq!(run(&agent, code), 40);
    let _ = agent.log_with("the ends of all connections", |log| {
        log.events().filter(|(_, event)| matches!(event, Event::Close(_))).count() == 40
    });
    // The end of a request may come behind that of its connection.
    let log = agent.log_with("the ends of all requests", |log| ends(log) == log.requests("f").len());
    assert_eq!(log.verify(), Ok(()));
}

fn ends(log: &Log) -> usize {
    let ended = |event: &Event| matches!(event, Event::Request(request) if request.phase == Phase::End);
    log.events().filter(|(_, event)| ended(event)).count()
}

/// Of a request that names a host where a path belongs, the log and the upstream saw two paths.
#[test]
fn a_target_that_is_no_path_is_refused() {
    let (addr, read) = upstream(answer_early);
    let Some((_project, agent)) = agent(&rule(addr)) else { return };
    let code = "
answer = []
for target in (event['host'], event['host'] + ':80', '*'):
    stream = socket.create_connection((event['host'], 80), timeout=20)
    stream.sendall(f\"GET {target} HTTP/1.1\\r\\nHost: {event['host']}\\r\\n\\r\\n\".encode())
    answer.append(stream.recv(12).decode())
";
    assert_eq!(run(&agent, code), json!(vec!["HTTP/1.1 400"; 3]));
    assert!(read.lock().expect("nobody panicked").is_empty());
}

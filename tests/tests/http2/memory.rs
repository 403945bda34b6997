//! What the streams of connections that nobody reads hold of the agent's memory.
use std::time::{Duration, Instant};

use dshield_tests::agent::{Agent, Egress, Project, resident_kib};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::versions::Versions;
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use serde_json::json;

use super::FRAMES;

/// As many as one connection has at a time.
const STREAMS: usize = 100;
/// What `docs/reference/network.md` says of each of them: most of it is the connection upstream that it has in HTTP/1.1.
const PER_STREAM_KIB: u64 = 256;

/// Windows as large as they may be, and as many requests as are let through, of whose answers not a byte is read.
const UNREAD: &str = "
kept = []
largest = (1 << 31) - 1
for _ in range(event['connections']):
    stream = opened(event['host'])
    # The window of each stream, and what the connection's is more than the 65,535 that it begins with.
    stream.sendall(PREFACE + settings((4, largest)) + frame(WINDOW_UPDATE, 0, 0, struct.pack('>I', largest - 65535)))
    stream.sendall(b''.join(request(2 * number + 1) for number in range(event['streams'])))
    kept.append(stream)
globals()['kept_open'] = kept
answer = len(kept)
";

#[track_caller]
fn check(rule: &Egress, path: &str, connections: usize, arrived: &dyn Fn() -> usize) {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&script::function("f").egress(rule));
    let agent = Agent::start(&project);
    let event = |connections: usize, streams: usize| json!({"host": NAME, "path": path, "connections": connections, "streams": streams});
    let code = format!("{FRAMES}\n{UNREAD}");
    // What is made once, such as the certificate, is not what a connection costs.
    assert_eq!(run_with(&agent, "f", &code, event(1, 1)), 1);
    wait::until("the first answer", || (arrived() == 1).then_some(()));
    let before = resident_kib(agent.pid());
    assert_eq!(run_with(&agent, "f", &code, event(connections, STREAMS)), connections);
    wait::until("every request to arrive", || (arrived() == 1 + connections * STREAMS).then_some(()));
    let (mut most, mut since) = (0, Instant::now());
    wait::until("the agent to hold no more", || {
        let now = resident_kib(agent.pid());
        if now > most {
            (most, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let each = most.saturating_sub(before) / (connections * STREAMS) as u64;
    eprintln!("{path}: {each} KiB for each of {STREAMS} streams on {connections} connections");
    assert!(each < PER_STREAM_KIB, "{path}: {each} KiB");
}

#[test]
fn streams_that_nobody_reads_hold_a_bounded_memory_whatever_the_upstream_speaks() {
    let standin = Standin::start();
    // Together fewer than the requests that an instance may have under way.
    check(&Egress::to_standin(&standin), "/bytes/100000000", 5, &|| standin.seen().len());
    let upstream = Versions::start(NAME, &["h2"]);
    let ca = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(ca.path(), upstream.ca_pem()).expect("the file is ours");
    let resolve = json!([upstream.addr().to_string()]).to_string();
    let rule = Egress::to(NAME).set("resolve", &resolve).set("ca", &json!(ca.path()).to_string());
    // All of them on one connection upstream, which takes 200 at a time.
    check(&rule, "/large", 1, &|| upstream.seen().len());
}

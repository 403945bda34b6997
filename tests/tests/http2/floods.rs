//! Much of what is allowed once: the agent's memory stays bounded, and everybody else is served.
use std::time::{Duration, Instant};

use dshield_tests::agent::resident_kib;
use serde_json::json;

use super::{HOST, Scene};

/// How much the agent may grow, in KiB.
const GROWTH: u64 = 48 << 10;

/// Sends `data` again and again, at most `count` times, reading what comes back now and then; answers whether the
/// connection ended.
const FLOOD: &str = "
def flood(data, count, first=b''):
    stream = opened(event['host'])
    seen, sent = Seen(stream), 0
    failed = failure(stream.sendall, PREFACE + settings() + first)
    while sent < count and not failed and not seen.closed and not seen.goaway:
        failed = failure(stream.sendall, data(sent))
        sent += 1
        seen.read(0, lambda seen: False)
    seen.read(patience, lambda seen: seen.closed or seen.goaway)
    return {'ended': bool(failed or seen.closed or seen.goaway), 'goaway': seen.goaway, 'sent': sent}

def unread(data, count):
    stream = opened(event['host'])
    stream.settimeout(3)
    failed = failure(stream.sendall, PREFACE + settings())
    while count and not failed:
        failed, count = failure(stream.sendall, data), count - 1
    return {'ended': bool(failed), 'left': count}
";

struct Flood {
    name: &'static str,
    code: &'static str,
    /// It must end the connection.
    ends: bool,
}

const FLOODS: &[Flood] = &[
    Flood {
        name: "CONTINUATION",
        code: "flood(lambda n: frame(CONTINUATION, 0, 1, literal('x', 'y' * 1000)) * 16, 20000, frame(HEADERS, END_STREAM, 1, block(*pseudo())))",
        ends: true,
    },
    Flood {
        name: "empty CONTINUATION",
        code: "flood(lambda n: frame(CONTINUATION, 0, 1) * 100, 10000, frame(HEADERS, END_STREAM, 1, block(*pseudo())))",
        ends: true,
    },
    Flood {
        name: "rapid reset",
        code: "flood(lambda n: b''.join(request(s) + frame(RST_STREAM, 0, s, b'\\0\\0\\0\\x08') for s in range(200 * n + 1, 200 * n + 201, 2)), 100)",
        ends: true,
    },
    Flood {
        name: "streams that the server resets",
        code: "flood(lambda n: b''.join(request(s, ('content-length', '1'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, s, b'hello') for s in range(200 * n + 1, 200 * n + 201, 2)), 100)",
        ends: true,
    },
    Flood {
        name: "header blocks of 48 MB in 12 KB",
        code: "flood(lambda n: frame(HEADERS, 5, 2 * n + 1, block(*pseudo()) + literal('x', 'y' * 4000, 0x40) + b'\\xbe' * 12000), 200)",
        ends: false,
    },
    Flood { name: "PING", code: "flood(lambda n: frame(PING, 0, 0, bytes(8)) * 1000, 200)", ends: false },
    Flood { name: "SETTINGS", code: "flood(lambda n: settings((3, 100)) * 1000, 200)", ends: false },
    Flood {
        name: "PRIORITY",
        code: "flood(lambda n: b''.join(frame(PRIORITY, 0, 2 * s + 1, bytes(5)) for s in range(1000 * n, 1000 * n + 1000)), 200)",
        ends: false,
    },
    // Nobody takes the answers, so at some point nobody takes the questions.
    Flood { name: "PING, its answers unread", code: "unread(frame(PING, 0, 0, bytes(8)) * 10000, 1000)", ends: true },
    Flood { name: "SETTINGS, their answers unread", code: "unread(settings() * 10000, 1000)", ends: true },
    Flood {
        name: "empty DATA",
        code: "flood(lambda n: frame(DATA, 0, 1) * 1000, 200, request(1, method='POST', flags=END_HEADERS))",
        ends: false,
    },
    Flood {
        name: "WINDOW_UPDATE",
        code: "flood(lambda n: frame(WINDOW_UPDATE, 0, 0, b'\\0\\0\\0\\x01') * 1000, 200)",
        ends: false,
    },
    Flood {
        name: "types that nobody knows",
        code: "flood(lambda n: frame(0x42, 0, 0, bytes(16000)), 2000)",
        ends: false,
    },
];

#[test]
fn a_flood_is_paid_for_by_whoever_sends_it() {
    let Some(scene) = Scene::start() else { return };
    let bystander = || {
        let event =
            json!({"do": "https", "host": HOST, "method": "GET", "path": "/row/bystander/", "headers": {}, "body": ""});
        scene.agent.call("native", &event)["status"] == 200
    };
    assert!(bystander());
    let before = resident_kib(scene.agent.pid());
    let mut wrong = Vec::new();
    for flood in FLOODS {
        let (answer, slowest, peak) = std::thread::scope(|scope| {
            let patience = if flood.ends { 20 } else { 1 };
            let code = format!("{FLOOD}\npatience = {patience}\nanswer = {}", flood.code);
            let scene = &scene;
            let flooding = scope.spawn(move || scene.run(&code, "/row/flood/"));
            let (mut slowest, mut peak) = (Duration::ZERO, 0);
            while !flooding.is_finished() {
                let started = Instant::now();
                assert!(bystander(), "{}: the bystander was not served", flood.name);
                slowest = slowest.max(started.elapsed());
                peak = peak.max(resident_kib(scene.agent.pid()));
                std::thread::sleep(Duration::from_millis(20));
            }
            (flooding.join().expect("its panic was printed"), slowest, peak)
        });
        eprintln!("{}: {answer}, bystander within {slowest:?}, at most {peak} KiB", flood.name);
        if flood.ends && answer["ended"] != true {
            wrong.push(format!("{}: the connection went on: {answer}", flood.name));
        }
        if peak > before + GROWTH {
            wrong.push(format!("{}: the agent grew from {before} to {peak} KiB", flood.name));
        }
        if slowest > dshield_tests::wait::scaled(Duration::from_secs(5)) {
            wrong.push(format!("{}: the bystander waited {slowest:?}", flood.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! The log as anyone can read it: pages, key, signatures, stream.
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Egress, Function, Line, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::allowed;
use dshield_tests::standin::Standin;
use dshield_tests::wait;
use serde_json::json;

fn agent() -> Option<(Project, Agent)> {
    if !require_root() {
        return None;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    Some((project, agent))
}

#[test]
fn a_page_begins_where_it_is_asked_to_and_is_no_longer() {
    let Some((_project, agent)) = agent() else { return };
    for _ in 0..5 {
        let _ = agent.call("native", &json!({"do": "echo"}));
    }
    let whole = agent.log_with("five invocations", |log| log.lines.len() > 10);
    let page = |from: usize, limit: usize| {
        let answer = agent.get(&format!("/v1/log/entries?from={from}&limit={limit}"));
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/x-ndjson")));
        answer.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let expected: Vec<_> = whole.lines.iter().map(|line| line.text.clone()).collect();
    assert_eq!(page(4, 3), expected[4..7]);
    assert_eq!(page(0, 1), expected[..1]);
    assert_eq!(page(1_000_000, 10), Vec::<String>::new());
}

#[test]
fn a_query_that_makes_no_sense_gets_400() {
    let Some((_project, agent)) = agent() else { return };
    for query in ["from=x", "from=-1", "limit=many"] {
        let answer = agent.get(&format!("/v1/log/entries?{query}"));
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
}

#[test]
fn the_log_begins_with_the_boot_and_the_policy_in_force() {
    let Some((_project, agent)) = agent() else { return };
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    let kinds: Vec<_> = log.events().map(|(_, event)| event).take(2).collect();
    let [Event::Boot(boot), Event::Policy(policy)] = kinds[..] else { panic!("{log}") };
    assert_eq!(boot.key.trim(), log.key.trim());
    assert!(boot.previous.is_none());
    assert!(!boot.memory_only);
    for (name, hash) in &boot.sha256 {
        assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}: {hash}");
    }
    assert!(boot.sha256.contains_key("agent"));
    assert_eq!(policy.functions, ["native"]);
}

/// What an auditor without our software would do.
#[test]
fn openssl_alone_can_check_every_signature() {
    if !requires("openssl") {
        return;
    }
    let Some((project, agent)) = agent() else { return };
    let _ = agent.call("native", &json!({"do": "echo"}));
    let log = agent.log();
    let file = |name: &str, bytes: &[u8]| {
        let path = project.folder().join(name);
        std::fs::write(&path, bytes).expect("the folder is ours");
        path
    };
    let key = file("key.pem", log.key.as_bytes());
    for line in &log.lines {
        let (entry, signature) = (file("entry", line.canonical.as_bytes()), file("signature", &line.signature));
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-verify"]).arg(&key).arg("-signature").arg(signature).arg(entry);
        let output = openssl.output().expect("openssl starts");
        assert!(output.status.success(), "{}: {}", line.text, String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_stream_brings_new_entries_as_they_are_made() {
    let Some((_project, agent)) = agent() else { return };
    let mut stream = TcpStream::connect(agent.address()).expect("it listens");
    stream.set_read_timeout(Some(wait::scaled(Duration::from_secs(20)))).expect("not zero");
    let host = agent.address();
    write!(stream, "GET /v1/log/stream HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n").expect("open");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line.to_ascii_lowercase().contains("text/event-stream")), "{head:?}");

    let _ = agent.call("native", &json!({"do": "echo"}));
    let streamed = lines
        .filter_map(|line| Line::parse(line.strip_prefix("data:")?.trim_start()).ok())
        .find(|line| matches!(line.entry.record.event, Event::Invoke(_)))
        .expect("the stream brings the invocation");
    let log = agent.log();
    let same = log.lines.iter().find(|line| line.entry.seq == streamed.entry.seq);
    assert_eq!(same.map(|line| &line.text), Some(&streamed.text), "the stream and the pages say the same");
}

/// Invariant 7: the key in the function's environment and in its requests stays there.
#[test]
fn no_secret_gets_into_the_log_or_the_agents_output() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let secret = "sk-not-for-anyone";
    let function = Function::probe("native").env(&[("API_KEY", secret)]).egress(&Egress::to_standin(&standin));
    let project = Project::new().with(&function);
    let mut agent = Agent::start(&project);
    let mut event = allowed();
    event["headers"]["x-api-key"] = json!(secret);
    event["path"] = json!(format!("/v1/messages?key={secret}"));
    let _ = agent.call("native", &event);
    assert_eq!(standin.seen().len(), 1, "the request did get through");
    event["host_header"] = json!("attacker.example");
    let _ = agent.call("native", &event);
    let log = agent.log_with("the refusal", |log| !log.refused("native").is_empty());
    assert!(!log.to_string().contains(secret), "{log}");
    assert_eq!(agent.stop(), Some(0));
    assert!(!agent.stderr().contains(secret), "{}", agent.stderr());
}

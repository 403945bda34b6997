//! Invariant 1: nothing goes upstream before its log entry is durable. The disk is made so slow that the
//! difference can be seen.
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, SystemTime};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::allowed;
use dshield_tests::standin::Standin;

/// What each sync of the log's journal takes longer. An entry waits for two: that of the frame with the invocation's
/// begin, which is under way when it comes, and that of its own.
const DELAY: Duration = Duration::from_millis(300);

/// An agent with a slow disk, which has done everything that it does once.
#[track_caller]
fn slow(project: &Project, function: &str, event: &serde_json::Value) -> Agent {
    let inject = format!("inject=fdatasync,fsync:delay_enter={}", DELAY.as_micros());
    // The agent is the wrapper's own process and strace a grandchild (-D), so that signals reach the agent.
    let words = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject];
    let launch = Launch { wrapper: words.map(str::to_owned).to_vec(), ..Launch::default() };
    let agent = Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"));
    // Warm, so that what follows is the request alone, with nothing of the log's still under way.
    let _ = agent.call(function, event);
    let _ = agent.log();
    agent
}

/// The allowed request arrives, and not before the disk has answered.
#[track_caller]
fn the_request_waits_for_the_disk(standin: &Standin, project: &Project) {
    let agent = slow(project, "native", &serde_json::json!({"do": "echo"}));
    let begun = SystemTime::now();
    assert_eq!(agent.call("native", &allowed())["status"], 200);
    let [seen] = &standin.seen()[..] else { panic!("one request: {:?}", standin.seen()) };
    let waited = seen.at.duration_since(begun).expect("the clock goes on");
    assert!(waited >= 2 * DELAY, "it was there after {waited:?}, before its entry was durable");
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
}

fn project(rule: &Egress) -> Project {
    Project::new().with(&Function::probe("native").timeout("60s").egress(rule))
}

#[test]
fn an_inspected_request_waits_until_its_own_entry_is_durable() {
    if !require_root() || !requires("strace") {
        return;
    }
    let standin = Standin::start();
    the_request_waits_for_the_disk(&standin, &project(&Egress::to_standin(&standin)));
}

#[test]
fn without_request_entries_it_waits_until_the_connections_entry_is_durable() {
    if !require_root() || !requires("strace") {
        return;
    }
    let standin = Standin::start();
    let project = project(&Egress::to_standin(&standin)).set("log_level", "\"connection\"");
    the_request_waits_for_the_disk(&standin, &project);
}

/// Where nobody looks inside, the upstream is not even connected to before.
#[test]
fn a_connection_that_passes_through_is_not_dialled_before_its_entry_is_durable() {
    if !require_root() || !requires("strace") || !requires("python3") {
        return;
    }
    const CONNECT: &str = "
import socket
def handler(event, context):
    if event['go']:
        with socket.create_connection(('raw.example', 5432)) as raw:
            raw.sendall(b'x')
            return raw.recv(1).decode()
    return 'warm'
";
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let pin = upstream.local_addr().expect("it is bound");
    let rule = Egress::to("raw.example").tls("none").set("protocol", "\"tcp\"").set("ports", "[5432]");
    let rule = rule.set("resolve", &format!("[\"{pin}\"]"));
    let project = Project::new().with(&Function::python("raw", CONNECT).timeout("60s").egress(&rule));
    let agent = slow(&project, "raw", &serde_json::json!({"go": false}));

    let accepted = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().expect("the agent connects");
        let at = SystemTime::now();
        stream.write_all(b"y").expect("the agent reads");
        at
    });
    let begun = SystemTime::now();
    assert_eq!(agent.call("raw", &serde_json::json!({"go": true})), "y");
    let waited = accepted.join().expect("it ends").duration_since(begun).expect("the clock goes on");
    assert!(waited >= 2 * DELAY, "it was dialled after {waited:?}, before its entry was durable");
}

//! Invariant 1: nothing goes upstream before its log entry is durable. The disk is made so slow that the
//! difference can be seen.
use std::time::{Duration, SystemTime};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::allowed;
use dshield_tests::standin::Standin;

/// What each sync of the log's file takes longer; a commit makes two.
const DELAY: Duration = Duration::from_millis(300);

/// The allowed request arrives, and not before the disk has answered.
#[track_caller]
fn the_request_waits_for_the_disk(standin: &Standin, project: &Project) {
    let inject = format!("inject=fdatasync,fsync:delay_enter={}", DELAY.as_micros());
    // The agent is the wrapper's own process and strace a grandchild (-D), so that signals reach the agent.
    let words = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject];
    let launch = Launch { wrapper: words.map(str::to_owned).to_vec(), ..Launch::default() };
    let agent = Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"));
    // Warm, so that what follows is the request alone, with nothing of the log's still under way.
    assert_eq!(agent.call("native", &serde_json::json!({"do": "echo"}))["do"], "echo");
    let _ = agent.log();

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

//! The disk fills up under traffic: nothing leaves unlogged, everybody who asks is told why, and when there is space again
//! the agent goes on by itself.
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dshield_common::log::entry::{Event, LOST_BY_LOG};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::command::dshield;
use dshield_tests::requires::{require_root, requires_that};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use serde_json::{Value, json};

/// The journal takes 8 MiB of it, for good; the database grows in the rest.
const DISK: &str = "size=24m";

/// A small disk in memory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).expect("the folder is ours");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all space but so much.
    fn fill_but(&self, left: u64) {
        let stat = nix::sys::statvfs::statvfs(&self.0).expect("it is mounted");
        let free = stat.blocks_available() * stat.fragment_size();
        let bytes = usize::try_from(free.saturating_sub(left)).expect("it is small");
        fs::write(self.ballast(), vec![1; bytes]).expect("there is so much");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: an agent of a test that failed may be there yet.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn load(path: &str, ms: u32) -> Value {
    json!({"do": "load", "host": NAME, "path": path, "connections": 4, "ms": ms, "body_bytes": 100})
}

/// What `/readyz` says, unless the agent is ready.
fn not_ready(agent: &Agent) -> Option<String> {
    let answer = agent.get("/readyz");
    (answer.status != 200).then(|| format!("{} {}", answer.status, answer.text()))
}

fn fill_up(project: &Project, standin: &Standin, disk: &SmallDisk, state: &Path, round: u32) {
    let launch = Launch { state: Some(state.to_owned()), ..Launch::default() };
    let mut agent = Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"));
    assert!(agent.call("native", &load(&format!("/echo/{round}-before-"), 50))["requests"].as_u64() > Some(0));
    assert_eq!(not_ready(&agent), None);
    disk.fill_but(300 << 10);
    let pending = agent.invoke_aside("native", &load(&format!("/echo/{round}-filling-"), 60_000));
    let said = wait::until("a full disk", || not_ready(&agent));
    for words in ["503", "the log stopped accepting entries", "No space left on device", "free space"] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }

    // From here on nothing leaves, whoever tries.
    let _ = pending.join();
    let seen = standin.seen().len();
    for attempt in 0..5 {
        let answer = agent.invoke("native", &load(&format!("/echo/{round}-full-{attempt}-"), 50));
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
        assert!(answer.text().contains("log"), "{}", answer.text());
    }
    assert_eq!(standin.seen().len(), seen, "something arrived while the log could not be written");
    // What is there can be read meanwhile.
    wait::until("entries of before", || {
        let page = agent.get("/v1/log/entries?from=0&limit=5");
        (page.status == 200 && page.text().lines().count() == 5).then_some(())
    });
    assert!(not_ready(&agent).is_some());

    fs::remove_file(disk.ballast()).expect("it is there");
    wait::until("an agent that goes on", || not_ready(&agent).is_none().then_some(()));
    let after = agent.call("native", &load(&format!("/echo/{round}-after-"), 50));
    assert!(after["requests"].as_u64() > Some(0), "{after}");
    let is_lost = |event: &Event| matches!(event, Event::Lost { count, source } if *count > 0 && source == LOST_BY_LOG);
    let log = agent.log_with("the count of what was lost", |log| log.events().any(|(_, event)| is_lost(event)));
    assert_eq!(log.verify(), Ok(()));
    let logged: HashSet<_> = log.requests("native").into_iter().filter_map(|request| request.path.clone()).collect();
    let unlogged: Vec<_> = standin.seen().into_iter().filter(|seen| !logged.contains(&seen.path)).collect();
    assert!(unlogged.is_empty(), "not in the log: {unlogged:?}");
    assert_eq!(agent.stop(), Some(0));
    let told = agent.stderr();
    for words in ["the log stopped accepting entries", "the log accepts entries again"] {
        assert!(told.contains(words), "{words:?}: {told}");
    }
}

#[test]
fn on_a_full_disk_nothing_leaves_and_with_space_again_the_agent_goes_on_and_counts_what_it_refused() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/echo/*"]);
    let project = Project::new().with(&Function::probe("native").timeout("120s").egress(&rule));
    let disk = SmallDisk::mount(project.folder().join("disk"));
    if !requires_that(disk.is_some(), "no tmpfs can be mounted") {
        return;
    }
    let disk = disk.expect("it was just looked at");
    let state = disk.0.join("state");
    for round in 0..2 {
        fill_up(&project, &standin, &disk, &state, round);
    }
    let state = state.to_string_lossy().into_owned();
    let told = dshield(["log", "fsck", "--state", &state]).printed();
    assert!(told.contains("closed in order") && told.contains("entries of 2 boots are good"), "{told}");
}

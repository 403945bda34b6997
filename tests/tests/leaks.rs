//! What instances leave behind when they have ended: nothing, however many there were.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dshield_tests::agent::{Agent, Egress, Footprint, Function, Project, resident_kib};
use dshield_tests::client;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::allowed;
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How many namespaces an agent prepares.
const PREPARED: usize = 4;

/// Starts and ends `count` instances, `lanes` at a time: each is asked for one thing and exits before it answers.
fn cycle(agent: &Agent, count: usize, lanes: usize) {
    let next = AtomicUsize::new(0);
    let one = |number: usize| {
        // Every instance sends something, so that what the proxy keeps of an instance is counted too.
        let refused = json!({"do": "tcp", "address": "192.0.2.1:443", "send": "x"});
        let first = if number.is_multiple_of(10) { allowed() } else { refused };
        let answer = agent.invoke("native", &json!({"do": "exit", "code": 0, "first": first}));
        assert!(answer.header("x-amz-function-error").is_some(), "it did not exit: {}", answer.text());
    };
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let number @ 0.. = next.fetch_add(1, Ordering::Relaxed)
                    && number < count
                {
                    one(number);
                }
            });
        }
    });
}

/// What the agent has when no instance is left and everything is prepared for the next ones.
#[track_caller]
fn at_rest(agent: &Agent) -> Footprint {
    let pins = Path::new("/sys/fs/bpf").join(agent.name());
    let mut now = Footprint::default();
    let rested = wait::within(wait::PATIENCE, || {
        now = Footprint::of(agent);
        // The cgroup of an instance is not the last of it that goes.
        let links = folders(&pins.join("links")).len() + PREPARED;
        let all = [
            ("cgroup", 1),
            ("child", 0),
            ("prepared namespace", PREPARED),
            ("network namespace", PREPARED),
            ("bpf link_id", links),
        ];
        let none = folders(&pins.join("instances")).is_empty();
        (none && all.iter().all(|(what, count)| now.count(what) == *count)).then_some(())
    });
    assert!(rested.is_some(), "the agent does not come to rest: {now:#?}");
    now
}

/// Waits until the agent has no more of anything than `before`.
#[track_caller]
fn settles(agent: &Agent, before: &Footprint) {
    let mut more = Vec::new();
    let settled = wait::within(wait::PATIENCE, || {
        more = Footprint::of(agent).more_than(before);
        more.is_empty().then_some(())
    });
    assert!(settled.is_some(), "there is still more than before: {more:#?}");
}

/// Fills the log's cache (16 MiB), which would otherwise grow during the test as it is meant to.
fn fill_the_cache(agent: &Agent) {
    let path = format!("/echo/{}", "x".repeat(8_000));
    let mut requests = 0;
    while requests < 1_500 {
        let load = json!({"do": "load", "host": NAME, "path": path, "connections": 8, "ms": 1_000});
        requests += agent.call("native", &load)["requests"].as_u64().expect("a number");
    }
}

#[test]
fn a_thousand_instances_leave_nothing_behind() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin);
    let project = Project::new().with(&Function::probe("native").concurrency(16).egress(&rule));
    let mut agent = Agent::start(&project);
    fill_the_cache(&agent);
    // More at a time than later: threads for blocking work stay for a while, as many as were ever needed at once.
    cycle(&agent, 64, 16);
    let (before, memory) = (at_rest(&agent), resident_kib(agent.pid()));
    let sent = standin.seen().len();

    cycle(&agent, 1_000, 4);
    settles(&agent, &before);
    assert_eq!(standin.seen().len(), sent + 100, "every tenth instance sends an allowed request");
    // Measured: 1.0 to 2.6 MiB for the first thousand, 0.25 MiB for the fifth: what is known of an instance for five
    // seconds after its end, and the allocator's arenas. 4 KiB for each instance is a leak.
    let first = resident_kib(agent.pid());
    if first > memory + 4_096 {
        // The second thousand tells: arenas that more threads at once needed are not needed again, and a leak goes on.
        cycle(&agent, 1_000, 4);
        settles(&agent, &before);
        let second = resident_kib(agent.pid());
        assert!(second <= first + 4_096, "the agent has grown from {memory} KiB to {first} KiB to {second} KiB");
    }

    assert_eq!(agent.stop(), Some(0), "{}", agent.stderr());
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

#[test]
fn two_hundred_instances_at_once_leave_nothing_behind() {
    if !require_root() {
        return;
    }
    const ALL: usize = 200;
    const WAVE: usize = 20;
    let project = Project::new().with(&Function::probe("native").concurrency(ALL as u32).timeout("5m"));
    let mut agent = Agent::start(&project);
    cycle(&agent, 16, 16);
    let before = at_rest(&agent);

    let fill = || -> Vec<_> {
        let sleep = json!({"do": "sleep", "ms": 300_000});
        let mut asleep = Vec::new();
        while asleep.len() < ALL {
            // Not all at once: each has ten seconds to get ready, however many share the machine.
            asleep.extend((0..WAVE).map(|_| agent.invoke_aside("native", &sleep)));
            let alive = || agent.leftovers().processes().len() == asleep.len();
            let all = wait::within(Duration::from_secs(120), || alive().then_some(()));
            assert!(all.is_some(), "only {} instances", agent.leftovers().processes().len());
        }
        asleep
    };
    let asleep = fill();
    let all = [("cgroup", 1), ("network namespace", 1), ("child", 1), ("bpf link_id", 1), ("pin", 3)];
    let least = |what: &str, each: usize| before.count(what) + each * ALL;
    let mut full = Footprint::default();
    // What was at rest counts what is prepared, which is made again behind the last instance.
    let _ = wait::within(wait::PATIENCE, || {
        full = Footprint::of(&agent);
        all.iter().all(|(what, each)| full.count(what) >= least(what, *each)).then_some(())
    });
    for (what, each) in all {
        assert!(full.count(what) >= least(what, each), "{what}: {full:?}");
    }
    for pid in agent.leftovers().processes() {
        // All are init of a pid namespace of their own, which ends with them.
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is an instance of this test's agent");
    }
    asleep.into_iter().for_each(|call| call.join().expect("it does not panic"));
    settles(&agent, &before);

    let asleep = fill();
    assert_eq!(agent.stop(), Some(0), "{}", agent.stderr());
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
    asleep.into_iter().for_each(|call| call.join().expect("it does not panic"));
}

/// What is made ahead is closed until an instance has it: nothing runs there, and nothing in it may connect.
#[test]
fn a_prepared_namespace_is_empty_and_not_sealed_until_an_instance_has_it() {
    if !require_root() || !requires("bpftool") {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    let pins = Path::new("/sys/fs/bpf").join(agent.name());
    let sealed = || bpftool(&["map", "dump", "pinned", &pins.join("maps/DS_SEALED").to_string_lossy()]);
    let link = |folder: &Path| bpftool(&["link", "show", "pinned", &folder.join("link").to_string_lossy()]);
    let _ = at_rest(&agent);
    let prepared: Vec<Value> = folders(&pins.join("prepared")).iter().map(|folder| link(folder)).collect();
    assert_eq!(sealed(), json!([]));
    for link in &prepared {
        let name = format!("net:[{}]", link["netns_ino"]);
        let processes = std::fs::read_dir("/proc").expect("it is mounted").flatten();
        let inside = processes.filter(|process| {
            std::fs::read_link(process.path().join("ns/net")).is_ok_and(|netns| netns.as_os_str() == name.as_str())
        });
        assert_eq!((inside.count(), &link["attach_type"]), (0, &json!("sk_lookup")), "{link}");
    }

    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    let instances = folders(&pins.join("instances"));
    let [instance] = &instances[..] else { panic!("one instance: {instances:?}") };
    assert!(prepared.contains(&link(instance)), "the instance has a namespace of its own: {instance:?}");
    assert_eq!(sealed().as_array().map(Vec::len), Some(1), "{}", sealed());
    wait::until("another one", || (folders(&pins.join("prepared")).len() == PREPARED).then_some(()));
}

/// The agent runs out of descriptors at each step of a launch in turn: whatever was half made goes.
#[test]
fn a_launch_that_fails_at_any_step_leaves_nothing_behind() {
    if !require_root() || !requires("prlimit") {
        return;
    }
    let project = Project::new().with(&Function::probe("native").concurrency(16));
    let mut agent = Agent::start(&project);
    cycle(&agent, 64, 16);
    let before = at_rest(&agent);
    let exit = json!({"do": "exit", "code": 0}).to_string();
    for free in 3..20 {
        limit_descriptors(&agent, PLENTY);
        // It prepares again after a launch.
        cycle(&agent, 1, 1);
        let _ = at_rest(&agent);
        // The first ones take what is prepared and fail late; later ones find nothing, and fail while it is made.
        for _ in 0..=PREPARED {
            leave_descriptors(&agent, free);
            // What is still being prepared may take the descriptor of the connection, which is then closed unheard.
            let path = "/2015-03-31/functions/native/invocations";
            let ask = || client::request(agent.address(), "POST", path, exit.clone(), wait::scaled(wait::PATIENCE));
            let answer = wait::until("an answer", || ask().ok());
            let exited = answer.header("x-amz-function-error").is_some();
            assert!(exited || answer.status == 502, "with {free} descriptors: {} {}", answer.status, answer.text());
            settles(&agent, &before);
        }
    }
    limit_descriptors(&agent, PLENTY);
    let bootstrap = agent.copies()[0].join("bootstrap");
    let aside = bootstrap.with_extension("aside");
    std::fs::rename(&bootstrap, &aside).expect("root may");
    assert_eq!(agent.invoke("native", &json!({})).status, 502, "there is nothing to execute");
    settles(&agent, &before);
    std::fs::rename(&aside, &bootstrap).expect("root may");

    let said = agent.stderr();
    for step in ["pass the specification", "pipe", "clone3", "execute"] {
        assert!(said.contains(step), "no launch failed at {step:?}: {said}");
    }
    assert_eq!(said.matches("nothing is prepared ahead").count(), 1, "said once: {said}");
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo", "it goes on");
    assert_eq!(agent.stop(), Some(0), "{}", agent.stderr());
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

/// What an agent has anyway.
const PLENTY: usize = 10_000;

/// Lets the agent open so many descriptors more.
fn leave_descriptors(agent: &Agent, free: usize) {
    let used = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").flatten();
    let used: BTreeSet<usize> = used.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect();
    let next = (0..).filter(|number| !used.contains(number)).nth(free).expect("numbers have no end");
    limit_descriptors(agent, next);
}

/// `RLIMIT_NOFILE` of the running agent, soft only.
fn limit_descriptors(agent: &Agent, most: usize) {
    let nofile = format!("--nofile={most}:");
    let status = Command::new("prlimit").args(["--pid", &agent.pid().to_string(), &nofile]).status();
    assert!(status.expect("it starts").success());
}

fn folders(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).expect("the agent made it").flatten().map(|entry| entry.path()).collect()
}

fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new("bpftool").arg("-j").args(arguments).output().expect("it is installed");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

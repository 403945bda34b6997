//! The agent dies by SIGKILL: nothing gets out any more, the log is whole, the next start tidies up.
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Log, Project};
use dshield_tests::requires::require_root;
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use serde_json::json;

#[test]
fn after_the_agent_is_killed_every_connect_of_its_instances_is_refused() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let function = Function::probe("native").timeout("120s").egress(&Egress::to_standin(&standin));
    let project = Project::new().with(&function);
    let mut agent = Agent::start(&project);
    let pending =
        agent.invoke_aside("native", &json!({"do": "connect_forever", "host": NAME, "report": "/tmp/report"}));
    let log = agent.log_with("the instance's start", |log| instance_pid(log).is_some());
    let pid = instance_pid(&log).expect("it was waited for");
    let report = PathBuf::from(format!("/proc/{pid}/root/tmp/report"));
    let lines = || std::fs::read_to_string(&report).unwrap_or_default();
    wait::until("the first connects", || (lines().matches(" connected\n").count() >= 5).then_some(()));

    agent.kill9();
    let killed = micros_now();
    let seen = standin.connections();
    let attempts = |text: &str| -> Vec<(u128, String)> {
        let complete = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let parsed = complete.filter_map(|line| line.split_once(' '));
        parsed
            .filter_map(|(at, what)| Some((at.parse().ok()?, what.to_owned())))
            .filter(|(at, _)| *at > killed)
            .collect()
    };
    // An instance that dies with its agent makes no connects either.
    let gone = || !std::path::Path::new(&format!("/proc/{pid}/root/tmp")).exists();
    let after = wait::until("fifty more attempts", || {
        let after = attempts(&lines());
        (after.len() >= 50 || gone()).then_some(after)
    });
    let through: Vec<_> = after.iter().filter(|(_, what)| what == "connected").collect();
    assert!(through.is_empty(), "{} of {} connects went through: {through:?}", through.len(), after.len());
    assert_eq!(standin.connections(), seen, "something reached the stand-in after the agent's death");
    let _ = pending.join();
}

#[test]
fn the_next_start_removes_what_a_killed_agent_left() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let mut killed = Agent::start(&project);
    let _ = killed.call("native", &json!({"do": "echo"}));
    let processes = killed.leftovers().processes();
    assert!(!processes.is_empty(), "an instance's processes are in the agent's cgroup");
    killed.kill9();

    let again = Launch { name: killed.name().to_owned(), ..Launch::default() };
    let mut agent = Agent::launch(&project, again).unwrap_or_else(|error| panic!("{error}"));
    let survivors: Vec<_> = processes.iter().filter(|pid| alive(**pid)).collect();
    assert!(survivors.is_empty(), "processes of the killed agent still run: {survivors:?}");
    assert!(agent.leftovers().processes().is_empty(), "{:?}", agent.leftovers().found());
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

/// Invariants 1 and 5: what the upstream saw is in the log, whenever the agent dies.
#[test]
fn killed_under_load_the_log_opens_without_a_gap_and_holds_every_request_that_got_out() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/echo/*"]);
    let project = Project::new().with(&Function::probe("native").timeout("120s").egress(&rule));
    for round in 0..3 {
        let before = standin.seen().len();
        let mut agent = Agent::start(&project);
        let path = format!("/echo/{round}-");
        let load = json!({"do": "load", "host": NAME, "path": path, "connections": 8, "ms": 60_000, "body_bytes": 200});
        let pending = agent.invoke_aside("native", &load);
        wait::until("load", || (standin.seen().len() >= before + 200).then_some(()));
        agent.kill9();
        let _ = pending.join();
    }
    let seen = settled(&standin);

    let mut agent = Agent::start(&project);
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    let logged: HashSet<_> = log.requests("native").into_iter().filter_map(|request| request.path.as_deref()).collect();
    let unlogged: Vec<_> = seen.iter().filter(|path| !logged.contains(path.as_str())).collect();
    assert!(unlogged.is_empty(), "{} of {} requests are not in the log: {unlogged:?}", unlogged.len(), seen.len());
    assert_every_boot_names_the_head_it_found(&log);
    assert_eq!(agent.stop(), Some(0));
}

/// The paths that the stand-in saw, once what is still on its way has arrived.
fn settled(standin: &Standin) -> Vec<String> {
    let mut last = (0, std::time::Instant::now());
    wait::until("the last requests", || {
        let count = standin.seen().len();
        if count != last.0 {
            last = (count, std::time::Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(300)).then_some(())
    });
    standin.seen().into_iter().map(|seen| seen.path).collect()
}

fn assert_every_boot_names_the_head_it_found(log: &Log) {
    let boots: Vec<_> = log
        .lines
        .iter()
        .filter_map(|line| match &line.entry.record.event {
            Event::Boot(boot) => Some((line.entry.seq, boot.previous.as_ref().map(|previous| previous.seq))),
            _ => None,
        })
        .collect();
    assert_eq!(boots.len(), 4, "{boots:?}");
    for (seq, previous) in boots {
        assert_eq!(previous, seq.checked_sub(1), "boot entry {seq}");
    }
}

/// The first process of the instance, as the log names it.
fn instance_pid(log: &Log) -> Option<u32> {
    log.events().find_map(|(_, event)| match event {
        Event::Function(change) if change.phase == Phase::Begin => Some(change.pid),
        _ => None,
    })
}

fn alive(pid: i32) -> bool {
    // A zombie runs no more.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn micros_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_micros()
}

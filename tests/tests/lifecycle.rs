//! Starting, stopping and standing side by side.
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::requires::require_root;
use dshield_tests::scene::{Scene, allowed};
use dshield_tests::standin::Standin;
use dshield_tests::wait;
use serde_json::json;

#[test]
fn a_stopped_agent_leaves_nothing_behind() {
    let Some(mut scene) = Scene::start() else { return };
    for function in scene.functions().to_vec() {
        assert_eq!(scene.agent.call(function, &allowed())["status"], 200);
    }
    let found = scene.agent.leftovers().found();
    let has = |what: &str| found.iter().any(|line| line.starts_with(what));
    assert!(has("cgroup") && has("process") && has("pins"), "while it runs there is something to find: {found:?}");
    let namespaces = namespaces(&scene.agent.leftovers().processes());
    assert!(!namespaces.is_empty());
    let mounts = mounts();

    assert_eq!(scene.agent.stop(), Some(0), "{}", scene.agent.stderr());
    assert_eq!(scene.agent.leftovers().found(), Vec::<String>::new());
    let still: Vec<_> = namespaces.iter().filter(|namespace| in_use(namespace)).collect();
    assert!(still.is_empty(), "network namespaces that a process still uses: {still:?}");
    let new: Vec<_> = self::mounts().into_iter().filter(|mount| !mounts.contains(mount)).collect();
    assert!(new.iter().all(|mount| !mount.contains(scene.agent.name())), "{new:?}");
}

#[test]
fn an_instance_that_ends_takes_everything_with_it() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    let idle = agent.leftovers().found();
    let answer = agent.invoke("native", &json!({"do": "exit", "code": 3}));
    assert!(answer.header("x-amz-function-error").is_some(), "{}", answer.text());
    let ended = |(_, event): (Option<&str>, &Event)| matches!(event, Event::Function(end) if end.phase == Phase::End);
    let _ = agent.log_with("the instance's end", |log| log.events().any(ended));
    wait::until("the instance's cgroup to go", || (agent.leftovers().found() == idle).then_some(()));
}

#[test]
fn two_agents_with_different_names_run_side_by_side() {
    if !require_root() {
        return;
    }
    let standins = [Standin::start(), Standin::start()];
    let project = |standin| Project::new().with(&Function::probe("native").egress(&Egress::to_standin(standin)));
    let projects = [project(&standins[0]), project(&standins[1])];
    let mut agents = [Agent::start(&projects[0]), Agent::start(&projects[1])];
    for (agent, standin) in agents.iter().zip(&standins) {
        assert_eq!(agent.call("native", &allowed())["status"], 200);
        assert_eq!(standin.seen().len(), 1, "each reaches its own upstream");
    }
    assert_eq!(agents[0].stop(), Some(0));
    assert_eq!(agents[1].call("native", &allowed())["status"], 200, "the other one goes on");
    assert_eq!(standins[1].seen().len(), 2);
}

#[test]
fn the_same_name_twice_is_refused_and_the_first_goes_on() {
    if !require_root() {
        return;
    }
    let project = || Project::new().with(&Function::probe("native"));
    let projects = [project(), project()];
    let first = Agent::start(&projects[0]);
    let again = Launch { name: first.name().to_owned(), ..Launch::default() };
    let Err(error) = Agent::launch(&projects[1], again) else { panic!("two agents are called {}", first.name()) };
    assert_eq!(error.code, Some(1), "{error}");
    assert!(error.stderr.contains(first.name()), "{error}");
    assert_eq!(first.call("native", &json!({"do": "echo"}))["do"], "echo");
}

#[test]
fn the_same_state_folder_twice_is_refused_and_the_first_goes_on() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let first = Agent::start(&project);
    let Err(error) = Agent::launch(&project, Launch::default()) else { panic!("two agents write one log") };
    assert_eq!(error.code, Some(1), "{error}");
    assert_eq!(error.left, Vec::<String>::new());
    assert_eq!(first.call("native", &json!({"do": "echo"}))["do"], "echo");
    assert_eq!(first.log().verify(), Ok(()));
}

#[test]
fn a_restarted_agent_continues_its_log() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let mut first = Agent::start(&project);
    let _ = first.call("native", &json!({"do": "echo"}));
    assert_eq!(first.stop(), Some(0));
    let second = Agent::start(&project);
    let _ = second.call("native", &json!({"do": "echo"}));
    let log = second.log();
    assert_eq!(log.verify(), Ok(()));
    let boots = log.events().filter(|(_, event)| matches!(event, Event::Boot(_))).count();
    assert_eq!(boots, 2, "{log}");
}

/// The network namespaces of these processes. They stay open: the kernel gives the number of one that is gone again, and
/// another test's would be taken for it.
fn namespaces(processes: &[i32]) -> Vec<File> {
    let number = |file: &File| file.metadata().expect("it is open").ino();
    let own = number(&File::open("/proc/self/ns/net").expect("it is mounted"));
    let mut all: Vec<_> = processes.iter().filter_map(|pid| File::open(format!("/proc/{pid}/ns/net")).ok()).collect();
    all.retain(|namespace| number(namespace) != own);
    all.sort_by_key(number);
    all.dedup_by_key(|namespace| number(namespace));
    all
}

fn in_use(namespace: &File) -> bool {
    let number = namespace.metadata().expect("it is open").ino();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::metadata(process.path().join("ns/net")).ok())
        .any(|other| other.ino() == number)
}

fn mounts() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().map(str::to_owned).collect()
}

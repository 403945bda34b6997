//! Root can change what holds a function at any time. The agent notices each of these changes, says what it is, and
//! runs nothing any more.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Function, Log, Project, cgroup2};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::wait;
use serde_json::json;

/// An agent with one running instance, `native-0`.
struct Scene {
    agent: Agent,
    _project: Project,
}

impl Scene {
    fn start() -> Option<Self> {
        let scene = Self::idle()?;
        let _ = scene.agent.call("native", &json!({"do": "echo"}));
        assert_eq!(scene.agent.get("/readyz").status, 200);
        Some(scene)
    }

    /// Without an instance.
    fn idle() -> Option<Self> {
        if !require_root() || !requires("bpftool") || !requires("ip") || !requires("nsenter") {
            return None;
        }
        let project = Project::new().with(&Function::probe("native"));
        let agent = Agent::start(&project);
        Some(Self { agent, _project: project })
    }

    fn pin(&self, path: &str) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.agent.name()).join(path)
    }

    fn cgroup(&self) -> PathBuf {
        cgroup2().expect("the agent runs").join(self.agent.name())
    }

    /// Runs a command in the instance's network namespace; false when it fails.
    fn inside(&self, command: &str) -> bool {
        let pid = self.agent.leftovers().processes()[0];
        let namespace = format!("--net=/proc/{pid}/ns/net");
        let mut words = vec![namespace.as_str()];
        words.extend(command.split(' '));
        run("nsenter", &words)
    }

    /// The agent has noticed: no instance, no invocation, not ready, and a signed entry with these words.
    #[track_caller]
    fn is_over(&self, words: &[&str]) {
        self.is_over_for_one_of(&[words]);
    }

    /// The same, where one manipulation makes two differences: a look is not atomic, and one that had passed the place of
    /// the first when it happened finds only the second.
    #[track_caller]
    fn is_over_for_one_of(&self, either: &[&[&str]]) {
        let agent = &self.agent;
        let ready = wait::until("the agent to notice", || Some(agent.get("/readyz")).filter(|is| is.status == 503));
        wait::until("the instances to end", || agent.leftovers().processes().is_empty().then_some(()));
        let answer = agent.invoke("native", &json!({"do": "echo"}));
        assert_eq!(answer.status, 503, "{}", answer.text());
        let log = agent.log_with("the entry", |log| tampers(log).next().is_some());
        assert_eq!(log.verify(), Ok(()));
        let entries: Vec<_> = tampers(&log).collect();
        assert_eq!(entries.len(), 1, "the first difference decides: {entries:?}");
        for text in [entries[0].to_owned(), ready.text(), answer.text()] {
            let named = either.iter().any(|words| words.iter().all(|word| text.contains(word)));
            assert!(named, "{either:?}: {text}");
        }
    }
}

fn tampers(log: &Log) -> impl Iterator<Item = &str> {
    log.events().filter_map(|(_, event)| if let Event::Tamper { what } = event { Some(what.as_str()) } else { None })
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    if !output.status.success() {
        eprintln!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

#[track_caller]
fn bpftool(arguments: &[&str]) {
    assert!(run("/usr/sbin/bpftool", arguments), "bpftool {arguments:?}");
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn a_program_that_is_detached() {
    let Some(scene) = Scene::start() else { return };
    bpftool(&["link", "detach", "pinned", &text(&scene.pin("links/ds_connect4"))]);
    let runs_no_more = ["cgroup_inet4_connect: program ds_connect4", "does not run any more"];
    scene.is_over_for_one_of(&[&["ds_connect4", "detached"], &runs_no_more]);
}

#[test]
fn a_pin_that_is_removed() {
    for (pin, name) in [
        ("links/ds_connect4", "ds_connect4"),
        ("programs/ds_egress", "ds_egress"),
        ("maps/DS_SEALED", "DS_SEALED"),
        ("instances/native-0/link", "ds_sklookup"),
        ("instances/native-0/program", "instance native-0: ds_sklookup"),
        ("instances/native-0/sockets", "DS_SOCKETS"),
    ] {
        let Some(scene) = Scene::start() else { return };
        std::fs::remove_file(scene.pin(pin)).expect("the pin is there");
        scene.is_over(&[name, pin, "No such file"]);
    }
}

#[test]
fn a_pin_that_is_exchanged() {
    let Some(scene) = Scene::start() else { return };
    std::fs::rename(scene.pin("links/ds_connect6"), scene.pin("links/ds_connect4")).expect("bpffs renames");
    scene.is_over_for_one_of(&[&["ds_connect4", "another link"], &["links/ds_connect6", "No such file"]]);
}

#[test]
fn the_cgroup_that_is_removed() {
    let Some(scene) = Scene::idle() else { return };
    std::fs::remove_dir(scene.cgroup()).expect("it is empty");
    // The kernel detaches the links, one after the other, from the cgroup that is gone.
    let cgroup = text(&scene.cgroup());
    scene.is_over_for_one_of(&[&["ds_", "it was detached"], &[&cgroup, "it was removed"]]);
}

#[test]
fn a_foreign_program_at_the_agents_cgroup() {
    let Some(scene) = Scene::start() else { return };
    let program = text(&scene.pin("programs/ds_connect4"));
    let cgroup = text(&scene.cgroup());
    bpftool(&["cgroup", "attach", &cgroup, "connect4", "pinned", &program, "multi"]);
    let there = format!("cgroup {cgroup}: cgroup_inet4_connect: program ds_connect4 (id ");
    // Every leaf inherits it.
    let leaf = format!("instance native-0: cgroup {cgroup}/native-0: cgroup_inet4_connect: program ds_connect4 (id ");
    scene.is_over_for_one_of(&[&[&there, "runs too"], &[&leaf, "runs too"]]);
}

#[test]
fn a_foreign_program_at_the_cgroup_of_one_instance() {
    let Some(scene) = Scene::start() else { return };
    let program = text(&scene.pin("programs/ds_egress"));
    let leaf = text(&scene.cgroup().join("native-0"));
    bpftool(&["cgroup", "attach", &leaf, "egress", "pinned", &program, "multi"]);
    scene.is_over(&["instance native-0", &leaf, "cgroup_inet_egress: program ds_egress", "runs too"]);
}

#[test]
fn a_namespace_that_is_sealed_by_somebody_else() {
    let Some(scene) = Scene::start() else { return };
    let map = text(&scene.pin("maps/DS_SEALED"));
    let key = ["key", "7", "0", "0", "0", "0", "0", "0", "0"];
    bpftool(&[&["map", "update", "pinned", &map], &key[..], &["value", "1", "0", "0", "0"]].concat());
    scene.is_over(&["DS_SEALED", "namespace 7 ", "not sealed by dshield"]);
}

#[test]
fn an_instance_whose_connections_are_not_steered_any_more() {
    let Some(scene) = Scene::start() else { return };
    bpftool(&["link", "detach", "pinned", &text(&scene.pin("instances/native-0/link"))]);
    let runs_no_more =
        ["instance native-0: its namespace: sk_lookup: program ds_sklookup (id ", "does not run any more"];
    scene.is_over_for_one_of(&[&["instance native-0: ds_sklookup", "detached"], &runs_no_more]);
}

#[test]
fn a_socket_that_is_taken_out_of_an_instances_map() {
    let Some(scene) = Scene::start() else { return };
    let map = text(&scene.pin("instances/native-0/sockets"));
    bpftool(&["map", "delete", "pinned", &map, "key", "0", "0", "0", "0"]);
    scene.is_over(&["instance native-0: map DS_SOCKETS: slot 0 has no socket"]);
}

#[test]
fn a_route_that_is_deleted() {
    for (command, route) in [
        (
            "ip route del table local local 0.0.0.0/0 dev lo",
            "the IPv4 route local 0.0.0.0/0 table local dev lo is gone",
        ),
        ("ip -6 route del table local local ::/0 dev lo", "the IPv6 route local ::/0 table local dev lo is gone"),
    ] {
        let Some(scene) = Scene::start() else { return };
        assert!(scene.inside(command));
        scene.is_over(&["instance native-0", route]);
    }
}

#[test]
fn a_route_or_a_rule_that_is_added() {
    for (command, what) in [
        ("ip route add 10.1.2.0/24 dev lo table 77", "the IPv4 route unicast 10.1.2.0/24 table 77 dev lo is new"),
        ("ip rule add pref 5 table 77", "the IPv4 routing rule 5 table 77 is new"),
    ] {
        let Some(scene) = Scene::start() else { return };
        assert!(scene.inside(command));
        scene.is_over(&["instance native-0", what]);
    }
}

#[test]
fn an_interface_that_is_added() {
    let Some(scene) = Scene::start() else { return };
    // Which kinds there are depends on the kernel.
    let added = ["dummy", "bridge", "ifb"].iter().any(|kind| scene.inside(&format!("ip link add extra type {kind}")));
    assert!(added, "no kind of interface could be added");
    scene.is_over(&["instance native-0: the interface extra (", "down) is new"]);
}

#[test]
fn a_loopback_interface_that_is_taken_down() {
    let Some(scene) = Scene::start() else { return };
    assert!(scene.inside("ip link set lo down"));
    let down = "the interface lo (1, up) is gone, the interface lo (1, down) is new";
    // Its routes go with it, and are listed after the interfaces.
    scene.is_over_for_one_of(&[&["instance native-0", down], &["instance native-0", "route", "is gone"]]);
}

/// An instance that starts or ends while it is looked at is no difference.
#[test]
fn sixty_instances_that_come_and_go_raise_no_alarm() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native").concurrency(6));
    let agent = Arc::new(Agent::start(&project));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let agent = agent.clone();
            std::thread::spawn(move || {
                for _ in 0..10 {
                    let answer = agent.invoke("native", &json!({"do": "exit", "code": 3}));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(agent.get("/readyz").status, 200);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("each invocation got its answer");
    }
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    assert_eq!(tampers(&log).collect::<Vec<_>>(), Vec::<&str>::new());
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    let started = agent.log().events().filter(|(_, event)| matches!(event, Event::Function(_))).count();
    assert!(started >= 61, "instances did come and go: {started} entries");
}

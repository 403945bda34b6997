//! `dshield inspect` shows what bpftool and `/proc` show, without the agent's help.
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use dshield_tests::agent::{Agent, Function, Project, binary, copy_executable};
use dshield_tests::requires::{require_root, requires};
use serde_json::{Value, json};

/// Exit code, stdout, stderr.
fn inspect(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).arg("inspect").args(arguments).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn as_json(arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = inspect(&[arguments, &["--json"]].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[track_caller]
fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new("bpftool").arg("-j").args(arguments).output().expect("it is installed");
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"))
}

/// Two functions with an instance each.
fn start() -> Option<(Project, Agent)> {
    if !require_root() {
        return None;
    }
    let project = Project::new().with(&Function::probe("first")).with(&Function::probe("second"));
    let agent = Agent::start(&project);
    for function in ["first", "second"] {
        let _ = agent.call(function, &json!({"do": "echo"}));
    }
    Some((project, agent))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list: {value}"))
}

/// The same fields, by our name and by bpftool's.
#[track_caller]
fn same(ours: &Value, theirs: &Value, fields: &[(&str, &str)]) {
    for (our, their) in fields {
        assert_eq!(ours[our], theirs[their], "{our}: {ours} and {theirs}");
    }
}

#[test]
fn programs_links_and_maps_are_those_that_bpftool_shows() {
    if !requires("bpftool") {
        return;
    }
    let Some((_project, agent)) = start() else { return };
    let seen = as_json(&["--name", agent.name()]);
    let pins = Path::new("/sys/fs/bpf").join(agent.name());
    assert_eq!(seen["pins"], json!(pins));
    assert_eq!(seen["pid"], json!(agent.pid()));
    let shown = |kind: &str, pin: &Path| bpftool(&[kind, "show", "pinned", &pin.to_string_lossy()]);

    let attached = bpftool(&["cgroup", "show", seen["cgroup"]["path"].as_str().expect("a path")]);
    assert_eq!(list(&seen["programs"]["list"]).len(), list(&attached).len());
    for program in list(&seen["programs"]["list"]) {
        let name = program["name"].as_str().expect("a name");
        let fields = [("name", "name"), ("id", "id"), ("type", "type"), ("tag", "tag")];
        same(program, &shown("prog", &pins.join("programs").join(name)), &fields);
        let at = list(&attached).iter().find(|one| one["id"] == program["id"]).expect("it is attached");
        same(program, at, &[("name", "name"), ("attach_type", "attach_type")]);
    }
    let links = list(&seen["links"]["list"]);
    assert_eq!(links.len(), list(&attached).len());
    let fields = [("id", "id"), ("type", "type"), ("program_id", "prog_id"), ("attach_type", "attach_type")];
    for link in links {
        let theirs = shown("link", &pins.join("links").join(link["name"].as_str().expect("a name")));
        same(link, &theirs, &fields);
        same(link, &theirs, &[("cgroup_id", "cgroup_id")]);
        assert_eq!(link["cgroup_id"], seen["cgroup"]["id"]);
    }
    let maps = list(&seen["maps"]["list"]);
    assert!(maps.iter().any(|map| map["name"] == "DS_SEALED" && map["entries"] == 2), "two namespaces: {maps:?}");
    for map in maps {
        let theirs = shown("map", &pins.join("maps").join(map["name"].as_str().expect("a name")));
        same(map, &theirs, &[("name", "name"), ("id", "id"), ("type", "type"), ("max_entries", "max_entries")]);
    }
    for instance in list(&seen["instances"]) {
        let folder = pins.join("instances").join(instance["id"].as_str().expect("an id"));
        let steering = &instance["steering"];
        same(&steering["link"], &shown("link", &folder.join("link")), &fields);
        same(&steering["link"], &shown("link", &folder.join("link")), &[("netns_inode", "netns_ino")]);
        same(&steering["program"], &shown("prog", &folder.join("program")), &[("id", "id"), ("tag", "tag")]);
        same(&steering["map"], &shown("map", &folder.join("sockets")), &[("id", "id"), ("type", "type")]);
    }
}

#[test]
fn each_instance_is_shown_with_its_processes_and_its_namespace() {
    let Some((_project, agent)) = start() else { return };
    let seen = as_json(&["--name", agent.name()]);
    let instances = list(&seen["instances"]);
    let functions: Vec<_> = instances.iter().map(|instance| instance["function"].clone()).collect();
    assert_eq!(functions, ["first", "second"]);
    let mut pids = Vec::new();
    for instance in instances {
        let processes = list(&instance["processes"]["list"]);
        for process in processes {
            let pid = process["pid"].as_i64().expect("a number");
            let netns = std::fs::metadata(format!("/proc/{pid}/ns/net")).expect("it runs");
            let owner = std::fs::metadata(format!("/proc/{pid}")).expect("it runs");
            assert_eq!(process["netns_inode"], json!(netns.ino()));
            assert_eq!(instance["netns"]["inode"], json!(netns.ino()));
            assert!(process["uid"] != 0 && (process["uid"] == json!(owner.uid()) || owner.uid() == 0), "{process}");
            assert_eq!((&process["seccomp"], &process["comm"]), (&json!("filter"), &json!("bootstrap")), "{process}");
            assert!(process["seccomp_filters"].as_u64().is_some_and(|count| count >= 1), "{process}");
            pids.push(i32::try_from(pid).expect("process ids are below 2^22"));
        }
        let path = Path::new(instance["cgroup"]["path"].as_str().expect("a path"));
        assert_eq!(instance["cgroup"]["id"], json!(std::fs::metadata(path).expect("it is there").ino()));
        let netns = &instance["netns"];
        assert_eq!((&netns["interfaces"], &netns["holds_all"]), (&json!(["lo"]), &json!(true)));
        let api = json!({"protocol": "tcp", "address": "127.0.0.1:9001", "uid": 0});
        assert!(list(&netns["listening"]).contains(&api), "{netns}");
    }
    let mut expected = agent.leftovers().processes();
    expected.sort_unstable();
    pids.sort_unstable();
    assert_eq!(pids, expected);
}

/// They are there to be pasted.
#[test]
fn every_command_that_is_shown_works() {
    let tools = ["bpftool", "ip", "ss", "nsenter"];
    if !tools.iter().all(|tool| requires(tool)) {
        return;
    }
    let Some((_project, agent)) = start() else { return };
    let (code, text, _) = inspect(&["first", "--name", agent.name()]);
    assert_eq!(code, Some(0));
    let commands: Vec<_> = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ ")).collect();
    assert!(commands.len() >= 11, "{text}");
    for command in commands {
        let output = Command::new("sh").args(["-e", "-c", command]).output().expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{command}: {stderr}");
    }
}

#[test]
fn only_the_instances_of_the_function_that_was_named_are_shown() {
    let Some((_project, agent)) = start() else { return };
    let seen = as_json(&["second", "--name", agent.name()]);
    let [instance] = list(&seen["instances"]) else { panic!("one instance: {seen}") };
    assert_eq!(instance["function"], "second");
    let (_, text, _) = inspect(&["second", "--name", agent.name()]);
    assert!(text.contains("INSTANCE second-") && !text.contains("INSTANCE first-"), "{text}");
}

#[test]
fn what_is_not_there_is_said_in_one_sentence_with_what_is() {
    let Some((_project, agent)) = start() else { return };
    let unknown = inspect(&["third", "--name", agent.name()]);
    let nobody = inspect(&["--name", "dst-nobody"]);
    for (said, words) in [(unknown, ["`third`", "first-"]), (nobody, ["dst-nobody", agent.name()])] {
        assert_eq!((said.0, said.1.as_str()), (Some(1), ""), "{}", said.2);
        assert_eq!(said.2.trim_end().lines().count(), 1, "{}", said.2);
        assert!(words.iter().all(|word| said.2.contains(word)), "{words:?}: {}", said.2);
    }
}

/// Whoever is killed holds no lock any more, though its pins stay.
#[test]
fn an_agent_that_was_killed_is_not_running() {
    let Some((_project, mut agent)) = start() else { return };
    agent.kill9();
    let (code, _, stderr) = inspect(&["--name", agent.name()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no agent named"), "{stderr}");
    assert!(!agent.leftovers().found().is_empty(), "its pins are still there");
}

#[test]
fn without_root_the_sentence_says_so() {
    if !require_root() || !requires("setpriv") {
        return;
    }
    // A copy, because `nobody` may not look into every folder above the build.
    let project = Project::new();
    let own = project.folder().join("dshield");
    copy_executable(&binary(), &own);
    for path in [project.folder(), own.as_path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(own).arg("inspect");
    let output = nobody.output().expect("it is installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("root") && stderr.lines().count() == 1, "{stderr}");
}

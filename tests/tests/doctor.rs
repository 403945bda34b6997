//! Is this machine fit? `dshield doctor` says so, `dshield run` refuses when it is not, and neither leaves anything.
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Function, Launch, Leftovers, Project, StartError, binary, copy_executable};
use dshield_tests::built;
use dshield_tests::port;
use dshield_tests::requires::{require_root, requires, requires_built, requires_that};
use dshield_tests::tsm::Tsm;
use serde_json::{Value, json};

/// What is looked at, by the names that programs rely on.
const CHECKS: [&str; 20] = [
    "root",
    "kernel",
    "cgroup2",
    "controllers",
    "bpffs",
    "seccomp",
    "instances",
    "clock",
    "landlock",
    "btf",
    "unprivileged_bpf",
    "locked_memory",
    "core_dumps",
    "tdx",
    "attestation",
    "programs",
    "bpf_lsm",
    "network_namespace",
    "sk_lookup",
    "ipv6",
];

/// What a throw-away instance tries at least once.
const ATTEMPTS: [&str; 12] = [
    "tcp",
    "udp",
    "interface",
    "packet_socket",
    "raw_socket",
    "vsock",
    "io_uring",
    "bpf",
    "host_file",
    "mount",
    "root",
    "user_namespace",
];

/// What one examination left: exit code, stdout, stderr, and what carries its name on the machine.
struct Examined {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    left: Vec<String>,
}

impl Examined {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// The names of the attempts that were not held.
    #[track_caller]
    fn got_out(&self) -> Vec<String> {
        let report = self.json();
        let attempts = report["self_test"]["attempts"].as_array().expect("a list");
        let out = attempts.iter().filter(|attempt| attempt["held"] != true);
        let mut names: Vec<_> = out.map(|attempt| attempt["name"].as_str().expect("a name").to_owned()).collect();
        names.dedup();
        names
    }
}

/// Runs `words` with `doctor`, under a name of its own, and these arguments.
fn doctor(words: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Examined {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("dst-doctor-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let leftovers = Leftovers::of(&name);
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["doctor", "--name", &name])
        .args(arguments)
        .env_remove("COLUMNS")
        .env_remove("DSHIELD_LOG")
        .env_remove("DSTACK_SIMULATOR_ENDPOINT")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let left = leftovers.found();
    Examined { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr), left }
}

fn of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The program that can take walls away.
fn unwalled() -> Option<PathBuf> {
    if !require_root() || !requires_built("dshield-unwalled") {
        return None;
    }
    built("dshield-unwalled")
}

fn good() -> Project {
    Project::new().with(&Function::probe("native"))
}

/// `fit` and `dshield run` must say the same about any machine; what it lacks is in the test's output.
#[test]
fn the_doctor_calls_those_machines_fit_on_which_run_serves() {
    if !require_root() {
        return;
    }
    let examined = doctor(&[&of(&binary())], &["--json"], &[]);
    let report = examined.json();
    let checks = report["checks"].as_array().expect("a list");
    for check in checks.iter().filter(|check| check["status"] != "ok") {
        eprintln!("{}: {} ({})", check["name"], check["detail"], check["status"]);
    }
    let served = Agent::launch(&good(), Launch::default());
    assert_eq!(report["fit"], json!(served.is_ok()), "{report:#}");
    assert_eq!(examined.code, Some(if served.is_ok() { 0 } else { 1 }));
    let missing = checks.iter().any(|check| check["status"] == "missing");
    assert_eq!(report["fit"], json!(!missing && report["self_test"]["held"] == true));
    assert_eq!((examined.left, examined.stderr.as_str()), (Vec::new(), ""));
}

#[test]
fn programs_get_one_object_with_the_same_fields_everywhere() {
    if !require_root() {
        return;
    }
    let report = doctor(&[&of(&binary())], &["--json"], &[]).json();
    let keys = |value: &Value| {
        let mut keys: Vec<_> = value.as_object()?.keys().cloned().collect();
        keys.sort();
        Some(keys)
    };
    assert_eq!(keys(&report).expect("an object"), ["checks", "fit", "self_test", "version"]);
    let checks = report["checks"].as_array().expect("a list");
    let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(names, CHECKS);
    for check in checks {
        assert_eq!(keys(check).expect("an object"), ["detail", "fix", "name", "status"]);
        assert!(["ok", "missing", "optional"].contains(&check["status"].as_str().expect("a word")), "{check}");
        assert!(check["detail"].is_string() && (check["fix"].is_string() || check["fix"].is_null()), "{check}");
    }
    let test = &report["self_test"];
    assert_eq!(keys(test).expect("an object"), ["attempts", "error", "held", "milliseconds"]);
    assert!(test["milliseconds"].as_f64().is_some_and(|taken| taken > 0.0), "{test}");
    let attempts = test["attempts"].as_array().expect("a list");
    for attempt in attempts {
        assert_eq!(keys(attempt).expect("an object"), ["detail", "held", "name", "what"]);
    }
    for name in ATTEMPTS {
        assert!(attempts.iter().any(|attempt| attempt["name"] == name), "nobody tried {name}: {test}");
    }
}

#[test]
fn people_get_tables_that_fit_their_terminal() {
    if !require_root() {
        return;
    }
    for (variables, width) in [(&[][..], 80), (&[("COLUMNS", "120")], 120)] {
        let examined = doctor(&[&of(&binary())], &[], variables);
        for line in examined.stdout.lines() {
            assert!(line.chars().count() <= width && line.trim_end() == line, "{width}: {line:?}");
        }
        for name in CHECKS {
            let row = |line: &str| line.starts_with(&format!("{} ", name.replace('_', " ")));
            assert!(examined.stdout.lines().any(row), "{name}: {}", examined.stdout);
        }
        let last = examined.stdout.lines().last().expect("a last line");
        assert!(last.starts_with(if examined.code == Some(0) { "fit: " } else { "UNFIT: " }), "{last}");
    }
}

/// Nothing depends on it: a machine that makes no quotes is fit.
#[test]
fn it_is_told_who_would_make_quotes_and_why_nobody_would() {
    if !require_root() {
        return;
    }
    let attestation = |arguments: &[&str], variables: &[(&str, &str)]| {
        let examined = doctor(&[&of(&binary())], &[&["--json"], arguments].concat(), variables);
        assert_eq!(examined.left, Vec::<String>::new());
        let report = examined.json();
        let checks = report["checks"].as_array().expect("a list");
        checks.iter().find(|check| check["name"] == "attestation").expect("the check").clone()
    };
    let named = attestation(&[], &[("DSTACK_SIMULATOR_ENDPOINT", "/tmp/x.sock")]);
    let detail = "dstack's guest agent is at /tmp/x.sock, as DSTACK_SIMULATOR_ENDPOINT says";
    assert_eq!((&named["status"], &named["detail"]), (&json!("ok"), &json!(detail)));
    let on_dstack = ["/var/run/dstack.sock", "/var/run/dstack/dstack.sock"].iter().any(|path| Path::new(path).exists());
    if !requires_that(!on_dstack, "this machine is dstack's, whose guest agent comes first") {
        return;
    }
    let nobody = attestation(&["--tsm-report", "/nonexistent"], &[]);
    let detail = nobody["detail"].as_str().unwrap_or_default();
    assert_eq!(nobody["status"], "optional", "{detail}");
    for words in ["nobody makes quotes over what runs here: no guest agent's socket", "no /nonexistent: no TDX machine"]
    {
        assert!(detail.contains(words), "{detail}");
    }
    assert!(nobody["fix"].as_str().is_some_and(|fix| fix.contains("mount /var/run/dstack.sock")), "{nobody}");
    let Some(tsm) = Tsm::mount() else { return };
    let report = of(&tsm.report());
    let found = attestation(&["--tsm-report", &report], &[]);
    assert_eq!((&found["status"], &found["detail"]), (&json!("ok"), &json!(format!("{report} makes TDX quotes"))));
    assert!(tsm.reports().is_empty(), "what was tried is removed");
}

/// Each wall alone: the others may hold, but the doctor must see the gap.
#[test]
fn a_machine_whose_walls_do_not_stand_is_unfit() {
    let Some(unwalled) = unwalled() else { return };
    let whole = doctor(&[&of(&unwalled)], &["--json"], &[]);
    assert_eq!((whole.code, whole.got_out()), (Some(0), vec![]), "{}", whole.stdout);
    let cases: [(&str, &[&str]); 4] = [
        ("netns,connect,sendmsg", &["tcp", "udp", "interface"]),
        ("netns", &["interface"]),
        ("seccomp", &["io_uring", "user_namespace"]),
        ("privileges", &["root"]),
    ];
    for (off, expected) in cases {
        let examined = doctor(&[&of(&unwalled)], &["--json"], &[("DSHIELD_WALLS_OFF", off)]);
        let got_out = examined.got_out();
        for name in expected {
            assert!(got_out.iter().any(|one| one == name), "without {off}, {name} must get out: {got_out:?}");
        }
        assert_eq!((examined.code, &examined.json()["fit"]), (Some(1), &json!(false)), "{off}");
        assert_eq!(examined.left, Vec::<String>::new(), "{off}");
        let people = doctor(&[&of(&unwalled)], &[], &[("DSHIELD_WALLS_OFF", off)]);
        assert!(people.stdout.contains("NOT HELD") && people.stdout.contains("\nUNFIT: "), "{}", people.stdout);
    }
}

#[test]
fn run_refuses_to_serve_when_the_self_test_fails_and_leaves_nothing() {
    let Some(unwalled) = unwalled() else { return };
    let free = port::free();
    let off = |walls: &str| Launch {
        binary: Some(unwalled.clone()),
        wrapper: vec!["env".into(), format!("DSHIELD_WALLS_OFF={walls}")],
        listen: free.to_string(),
        ..Launch::default()
    };
    let project = good();
    for command in ["run", "dev"] {
        let launch = Launch { command, ..off("netns,connect,sendmsg") };
        let Err(error) = Agent::launch(&project, launch) else { panic!("{command} serves") };
        let StartError { code, stdout, stderr, left, .. } = error;
        assert_eq!((code, stdout.as_str(), left), (Some(1), "", Vec::new()), "{stderr}");
        let said: Vec<_> = stderr.lines().filter(|line| line.starts_with("dshield: ")).collect();
        let [said] = said[..] else { panic!("one sentence: {stderr}") };
        for word in ["self-test", "TCP to 127.0.0.1:", "arrived outside", "dshield doctor"] {
            assert!(said.contains(word), "{word}: {stderr}");
        }
        assert!(!project.state().exists(), "nothing was to be logged");
        assert!(TcpStream::connect(free).is_err(), "nobody listens");
    }
    // It is the self-test that refuses: without it the same agent serves.
    let launch = off("netns,connect,sendmsg,self_test");
    assert_eq!(Agent::launch(&project, launch).map(|agent| agent.get("/readyz").status).unwrap_or(0), 200);
}

/// The self-test's own refusals are the agent's doing, and no function's.
#[test]
fn the_self_test_writes_nothing_into_the_log() {
    if !require_root() {
        return;
    }
    let project = good();
    let agent = Agent::start(&project);
    // The kernel's refusals come in their order: when this one is there, all before it would be.
    let _ = agent.call("native", &json!({"do": "udp", "address": "192.0.2.1:9", "send": "the data"}));
    let log = agent.log_with("the refusal", |log| !log.refused("native").is_empty());
    let refused = log.events().filter(|(_, event)| matches!(event, Event::Refused(_) | Event::Lost { .. }));
    assert_eq!(refused.count(), 1, "{log}");
}

/// However far it gets, what was made goes away again. No kernel without the feature is at hand, so strace answers
/// for one: from some call of bpf(2) on.
#[test]
fn a_failed_examination_leaves_nothing_behind() {
    if !require_root() || !requires("strace") {
        return;
    }
    let binary = of(&binary());
    let mut unfit = 0;
    for first in (1..600).step_by(29) {
        let inject = format!("inject=bpf:error=EPERM:when={first}+");
        let words = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=bpf", "-e", &inject, &binary];
        let examined = doctor(&words, &["--json"], &[]);
        assert_eq!(examined.left, Vec::<String>::new(), "from call {first} on: {}", examined.stderr);
        let report = examined.json();
        assert_eq!(report["fit"], json!(examined.code == Some(0)), "{report:#}");
        if examined.code == Some(0) {
            break;
        }
        let said = |check: &&Value| check["status"] == "missing" && !check["detail"].as_str().unwrap_or("").is_empty();
        let missing = report["checks"].as_array().expect("a list").iter().filter(said).count();
        assert!(missing > 0 || report["self_test"]["error"].is_string(), "{report:#}");
        unfit += 1;
    }
    assert!((2..20).contains(&unfit), "unfit from {unfit} different calls on");
}

#[test]
fn without_root_the_doctor_says_so_and_what_else_it_can_see() {
    if !require_root() || !requires("setpriv") {
        return;
    }
    // A copy, because `nobody` may not look into every folder above the build.
    let project = good();
    let own = project.folder().join("dshield");
    copy_executable(&binary(), &own);
    for path in [project.folder(), own.as_path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &of(&own)];
    let examined = doctor(&nobody, &["--json"], &[]);
    let report = examined.json();
    assert_eq!((examined.code, &report["fit"]), (Some(1), &json!(false)));
    let root = &report["checks"][0];
    assert_eq!((&root["name"], &root["status"]), (&json!("root"), &json!("missing")));
    assert!(root["fix"].as_str().is_some_and(|fix| fix.contains("sudo")), "{root}");
    assert_eq!(report["checks"][1]["name"], "kernel", "the rest is looked at all the same");
    assert!(report["self_test"]["error"].is_string(), "{report:#}");
    assert_eq!(examined.left, Vec::<String>::new());
}

#[test]
fn wrong_arguments_exit_with_2_and_the_name_of_a_running_agent_with_1() {
    if !require_root() {
        return;
    }
    let run = |arguments: &[&str]| {
        let output = Command::new(binary()).arg("doctor").args(arguments).output().expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [&["--jsn"][..], &["--name", "a/b"], &["now"]] {
        assert_eq!(run(arguments).0, Some(2), "{arguments:?}");
    }
    let project = good();
    let agent = Agent::start(&project);
    let (code, stderr) = run(&["--name", agent.name()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(agent.name()) && stderr.contains("running"), "{stderr}");
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo", "the agent goes on");
}

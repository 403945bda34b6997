//! The command line as a person uses it: init, check, invoke, logs, dev, measure; and bpftool beside it.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use dshield_common::log::entry::{Event, PolicyInForce, Record};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Line, Log, Project, binary, cgroup2};
use dshield_tests::port;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::wait;
use serde_json::{Value, json};

/// What a command left: exit code, stdout, stderr.
type Left = (Option<i32>, String, String);

fn left(output: &Output) -> Left {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("DSHIELD_URL").env_remove("DSHIELD_LOG").stdin(Stdio::null());
    command
}

fn dshield(arguments: &[&str]) -> Left {
    left(&command(arguments).output().expect("the binary runs"))
}

fn dshield_with_input(arguments: &[&str], input: &str) -> Left {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("it was asked for").write_all(input.as_bytes()).expect("it reads its input");
    left(&child.wait_with_output().expect("it ends"))
}

fn url(agent: &Agent) -> String {
    format!("http://{}", agent.address())
}

fn probe() -> Option<(Project, Agent)> {
    if !require_root() {
        return None;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_init_writes_runs_as_it_stands() {
    if !require_root() {
        return;
    }
    for (runtime, needs) in [("python3", "python3"), ("node", "node"), ("native", "bash")] {
        if !requires(needs) {
            continue;
        }
        let project = Project::new();
        let folder = project.folder().join("new");
        let dir = folder.to_string_lossy();
        let (code, stdout, stderr) = dshield(&["init", &dir, "--runtime", runtime]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{runtime}");
        assert!(stdout.contains("dshield.toml"), "{stdout}");
        let config = folder.join("dshield.toml");
        assert_eq!(dshield(&["check", &config.to_string_lossy()]).0, Some(0), "{runtime}");

        let launch = Launch { config: Some(config.clone()), ..Launch::default() };
        let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{runtime}: {error}"));
        let said = dshield(&["invoke", "hello", "--data", r#"{"name": "Ada"}"#, "--url", &url(&agent)]);
        let answer: Value =
            serde_json::from_str(&said.1).unwrap_or_else(|error| panic!("{runtime}: {error}: {said:?}"));
        assert_eq!((said.0, answer), (Some(0), json!({"message": "Hello, Ada!"})), "{runtime}");
        let nobody = dshield(&["invoke", "hello", "--url", &url(&agent)]);
        assert!(nobody.1.contains("Hello, world!"), "{runtime}: {nobody:?}");

        let before = std::fs::read(&config).expect("it was written");
        let (code, _, stderr) = dshield(&["init", &dir]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("dshield.toml") && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(std::fs::read(&config).expect("it is still there"), before, "nothing is overwritten");
    }
}

#[test]
fn check_says_in_plain_words_where_data_can_go() {
    let rule = Egress::to("api.anthropic.com").methods(&["POST"]).paths(&["/v1/messages"]);
    let project = Project::new().with(&Function::probe("open").egress(&rule)).with(&Function::probe("closed"));
    let (code, stdout, stderr) = dshield(&["check", &project.write().to_string_lossy()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for word in ["open", "api.anthropic.com", "443", "inspect", "POST", "/v1/messages", "closed", "nowhere"] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    let (code, stdout, _) = dshield(&["check", "--json", &project.write().to_string_lossy()]);
    let described: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &described["ok"]), (Some(0), &json!(true)));
}

#[test]
fn check_warns_of_a_public_resolver_and_of_names_that_carry_data() {
    let rules = ["dns.google", "*.b.example", "a.example"].map(Egress::to);
    let function = rules.iter().fold(Function::probe("f"), |function, rule| function.egress(rule));
    let file = Project::new().with(&function);
    let path = file.write();
    let (code, stdout, stderr) = dshield(&["check", &path.to_string_lossy()]);
    let [resolver, wildcard] = &stderr.lines().collect::<Vec<_>>()[..] else { panic!("two warnings: {stderr}") };
    assert!(resolver.starts_with("warning: f.egress[0]: dns.google "), "{stderr}");
    assert!(wildcard.starts_with("warning: f.egress[1]: ") && wildcard.contains("b.example"), "{stderr}");
    assert!(code == Some(0) && stdout.contains("policy sha256"), "{stdout}");
    let (code, stdout, stderr) = dshield(&["check", "--json", &path.to_string_lossy()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let described: Value = serde_json::from_str(&stdout).expect("JSON");
    let warned: Vec<_> = described["warnings"].as_array().into_iter().flatten().map(|w| &w["rule"]).collect();
    assert_eq!(warned, ["f.egress[0]", "f.egress[1]"], "{described}");
}

#[test]
fn check_names_file_line_column_and_the_nearest_name() {
    let project = Project::new().with(&Function::probe("f").egress(&Egress::to("a.example").set("methd", "[\"GET\"]")));
    let file = project.write();
    let line = project.policy().lines().position(|line| line.starts_with("methd")).expect("it is there") + 1;
    let (code, stdout, stderr) = dshield(&["check", &file.to_string_lossy()]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    for word in [format!("{}:{line}:1", file.display()), "methd".into(), "methods".into()] {
        assert!(stderr.contains(&word), "{word}: {stderr}");
    }
    let (code, _, stderr) = dshield(&["check", "/no/such/file.toml"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("/no/such/file.toml"), "{stderr}");
}

#[test]
fn invoke_takes_its_event_from_the_line_a_file_or_standard_input() {
    let Some((project, agent)) = probe() else { return };
    let url = url(&agent);
    let event = json!({"do": "echo", "text": "größer"});
    let file = project.folder().join("event.json");
    std::fs::write(&file, event.to_string()).expect("the folder is ours");
    let at_file = format!("@{}", file.display());
    let said = [
        dshield(&["invoke", "native", "--data", &event.to_string(), "--url", &url]),
        dshield(&["invoke", "native", "--data", &at_file, "--url", &url]),
        dshield_with_input(&["invoke", "native", "--data", "-", "--url", &url], &event.to_string()),
    ];
    for (code, stdout, stderr) in said {
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_eq!(serde_json::from_str::<Value>(&stdout).ok(), Some(event.clone()), "{stdout}");
    }
    let (code, stdout, stderr) = dshield(&["invoke", "native", "--data", "@/no/such/file", "--url", &url]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("/no/such/file") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn invoke_tells_what_went_wrong_in_one_sentence_and_with_its_exit_code() {
    let Some((_project, agent)) = probe() else { return };
    let url = url(&agent);
    let failing =
        dshield(&["invoke", "native", "--data", r#"{"do": "fail", "message": "no such luck"}"#, "--url", &url]);
    assert_eq!(failing.0, Some(1));
    assert!(failing.1.contains("no such luck"), "the payload is on stdout: {failing:?}");
    assert!(failing.2.contains("Probe.Error") && failing.2.contains("no such luck"), "{failing:?}");

    let unknown = dshield(&["invoke", "nativ", "--url", &url]);
    assert_eq!((unknown.0, unknown.1.as_str()), (Some(1), ""));
    assert!(unknown.2.contains("nativ") && unknown.2.contains("there are: native"), "{unknown:?}");

    let (_taken, closed) = port::closed();
    for arguments in [["invoke", "native"].as_slice(), &["logs"]] {
        let url = format!("http://{closed}");
        let nobody = dshield(&[arguments, &["--url", &url]].concat());
        assert_eq!((nobody.0, nobody.1.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(nobody.2.contains(&url) && nobody.2.contains("dshield run"), "{nobody:?}");
        assert_eq!(nobody.2.lines().count(), 1, "{nobody:?}");
    }
}

#[test]
fn logs_prints_the_log_for_people_and_as_the_signed_lines() {
    let Some((_project, agent)) = probe() else { return };
    let _ = agent.call("native", &json!({"do": "resolve", "name": "attacker.example"}));
    let log = agent.log_with("the refusal", |log| !log.refused("native").is_empty());
    let (code, stdout, stderr) = dshield(&["logs", "--url", &url(&agent)]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.lines().count() >= log.lines.len(), "{stdout}");
    for word in ["boot", "policy", "REFUSED", "attacker.example", "name_not_allowed"] {
        assert!(stdout.contains(word), "{word}: {stdout}");
    }
    let advice = "to allow it, add below the function `native`: [[function.egress]] host = \"attacker.example\"";
    assert!(stdout.contains(advice), "{stdout}");
    let (code, stdout, _) = dshield(&["logs", "--json", "--from", "1", "--url", &url(&agent)]);
    assert_eq!(code, Some(0));
    let signed: Vec<_> = stdout.lines().collect();
    let expected: Vec<_> = log.lines[1..].iter().map(|line| line.text.as_str()).collect();
    assert_eq!(signed[..expected.len()], expected);
}

#[test]
fn logs_follow_prints_entries_as_they_come_and_ends_with_the_agent() {
    let Some((_project, mut agent)) = probe() else { return };
    let mut child = command(&["logs", "--follow", "--json", "--url", &url(&agent)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let stdout = child.stdout.take().expect("it was asked for");
    let mut following = Running(child);
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut next = 0;
    let mut take = |what: &str, wanted: &dyn Fn(&Event) -> bool| loop {
        let line = lines.recv_timeout(wait::scaled(wait::PATIENCE)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let entry = Line::parse(&line).unwrap_or_else(|error| panic!("{error}")).entry;
        assert_eq!(entry.seq, next, "every entry once, in order");
        next += 1;
        if wanted(&entry.record.event) {
            return;
        }
    };
    take("the policy", &|event| matches!(event, Event::Policy(_)));
    let _ = agent.call("native", &json!({"do": "echo"}));
    take("the invocation", &|event| matches!(event, Event::Invoke(_)));
    assert_eq!(agent.stop(), Some(0));
    let code = wait::until("its end", || following.0.try_wait().ok().flatten()).code();
    assert_eq!(code, Some(1), "an end that nobody asked for is a failure");
}

fn policies(log: &Log) -> Vec<&PolicyInForce> {
    log.events().filter_map(|(_, event)| if let Event::Policy(policy) = event { Some(policy) } else { None }).collect()
}

#[test]
fn dev_puts_edited_code_and_policy_in_force_and_keeps_the_last_good_one() {
    if !require_root() || !requires("python3") {
        return;
    }
    let source = |answer: &str| format!("def handler(event, context):\n    return \"{answer}\"\n");
    let project = Project::new().with(&Function::python("f", &source("one")));
    let agent =
        Agent::launch(&project, Launch { command: "dev", ..Launch::default() }).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(agent.call("f", &json!({})), "one");

    // The output of the agent is a file in the same folder, and so changes with every invocation: that must
    // neither keep the change waiting nor be taken for one.
    std::fs::write(project.folder().join("functions/f/app.py"), source("two")).expect("the folder is ours");
    // An invocation may fall into the change.
    let answered = |answer: &str| agent.invoke("f", &json!({})).json() == answer;
    wait::until("the edited code", || answered("two").then_some(()));

    let config = project.folder().join("dshield.toml");
    let edited = format!("{}\n[[function.egress]]\nhost = \"api.example\"\n", project.policy());
    std::fs::write(&config, edited).expect("the folder is ours");
    let log = agent.log_with("the edited policy", |log| {
        policies(log).last().zip(policies(log).first()).is_some_and(|(last, first)| last.sha256 != first.sha256)
    });
    assert_eq!(log.verify(), Ok(()));
    let in_force = policies(&log).last().expect("there is one").sha256.clone();
    wait::until("an answer under the edited policy", || answered("two").then_some(()));

    std::fs::write(&config, "[[function]]\nname = \"f\"\nruntim = \"python3\"\n").expect("the folder is ours");
    wait::until("the complaint", || agent.stderr().contains("dshield.toml:3:1").then_some(()));
    assert!(agent.stderr().contains("the last good version stays"), "{}", agent.stderr());
    // Whom the agent itself asks is chosen when it starts.
    let edited = format!("[attestation]\npccs = \"https://pccs.example\"\n{}", project.policy());
    std::fs::write(&config, edited).expect("the folder is ours");
    let complaint = "[attestation] cannot change while the agent runs: restart dshield";
    wait::until("the complaint", || agent.stderr().contains(complaint).then_some(()));
    assert_eq!(agent.call("f", &json!({})), "two");
    let log = agent.log();
    assert_eq!(policies(&log).last().expect("there is one").sha256, in_force, "{log}");
    assert!(agent.stdout().contains("policy"), "dev prints the log as it grows: {}", agent.stdout());
}

#[test]
fn measure_gives_the_hashes_that_the_boot_entry_has() {
    let Some((_project, agent)) = probe() else { return };
    let (code, stdout, stderr) = dshield(&["measure", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let measured: Value = serde_json::from_str(&stdout).expect("JSON");
    let log = agent.log();
    let boot = log.events().find_map(|(_, event)| if let Event::Boot(boot) = event { Some(boot) } else { None });
    assert_eq!(measured, json!(boot.expect("the first entry").sha256));
    for name in ["agent", "ebpf_cgroup", "ebpf_lsm", "ebpf_netns", "seccomp"] {
        assert!(measured[name].is_string(), "{name}: {measured}");
    }
}

/// An operator sees with the system's own tool that the enforcement is there.
#[test]
fn bpftool_shows_every_program_and_a_link_for_each_instance() {
    if !require_root() || !requires("bpftool") {
        return;
    }
    let project = Project::new().with(&Function::probe("f")).with(&Function::probe("g"));
    let agent = Agent::start(&project);
    for function in ["f", "g"] {
        let _ = agent.call(function, &json!({"do": "echo"}));
    }
    let bpftool = |arguments: &[&str]| -> Value {
        let output = Command::new("bpftool").arg("-j").args(arguments).output().expect("it is installed");
        let (_, stdout, stderr) = left(&output);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}{stderr}"))
    };
    let cgroup = cgroup2().expect("root has one").join(agent.name());
    let shown = bpftool(&["cgroup", "show", &cgroup.to_string_lossy()]);
    let mut names: Vec<_> = shown.as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    // Where the kernel takes them, those at the security hooks stand beside these.
    names.retain(|name| !name.starts_with("ds_lsm_"));
    names.sort_unstable();
    let expected =
        ["ds_connect4", "ds_connect6", "ds_egress", "ds_sendmsg4", "ds_sendmsg6", "ds_sock_create", "ds_sockops"];
    assert_eq!(names, expected, "{shown}");

    let pins = Path::new("/sys/fs/bpf").join(agent.name());
    for name in expected {
        let link = bpftool(&["link", "show", "pinned", &pins.join("links").join(name).to_string_lossy()]);
        assert_eq!(link["type"], "cgroup", "{name}: {link}");
        let program = bpftool(&["prog", "show", "pinned", &pins.join("programs").join(name).to_string_lossy()]);
        assert_eq!(link["prog_id"], program["id"], "{name}: {link}");
    }
    let log = agent.log();
    for function in ["f", "g"] {
        let begun = log.lines.iter().find_map(|line| match &line.entry.record {
            Record { subject, event: Event::Function(begun) } if subject.function.as_deref() == Some(function) => {
                Some((subject.instance.clone()?, begun.pid))
            }
            _ => None,
        });
        let (instance, pid) = begun.expect("it runs");
        let netns = std::fs::metadata(format!("/proc/{pid}/ns/net")).expect("it runs");
        let folder = pins.join("instances").join(instance);
        let link = bpftool(&["link", "show", "pinned", &folder.join("link").to_string_lossy()]);
        assert_eq!((&link["type"], &link["attach_type"]), (&json!("netns"), &json!("sk_lookup")), "{link}");
        assert_eq!(link["netns_ino"].as_u64(), Some(std::os::unix::fs::MetadataExt::ino(&netns)), "{link}");
        let program = bpftool(&["prog", "show", "pinned", &folder.join("program").to_string_lossy()]);
        assert_eq!((&program["name"], &program["id"]), (&json!("ds_sklookup"), &link["prog_id"]));
    }
    assert_private(&pins);
}

/// Nobody but root may open what is pinned.
#[track_caller]
fn assert_private(folder: &Path) {
    let mode = std::fs::metadata(folder).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700, "{}", folder.display());
    for entry in std::fs::read_dir(folder).expect("root may look").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            assert_private(&entry.path());
        }
    }
}

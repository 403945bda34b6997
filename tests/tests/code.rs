//! What is attested of a function's code is what runs: it is copied and hashed when it is put in force.
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use dshield_common::log::entry::{Event, PolicyInForce};
use dshield_tests::agent::{Agent, Code, Function, Launch, Log, Project, binary};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::{wait, workspace};
use serde_json::{Value, json};

/// A function that answers this.
fn source(answer: &str) -> String {
    format!("def handler(event, context):\n    return \"{answer}\"\n")
}

/// What `dshield measure` says of the policy and its functions' code.
#[track_caller]
fn measured(config: &Path) -> Value {
    let output = Command::new(binary()).args(["measure", "--json", "--config"]).arg(config).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What `GET /v1/functions` says, by name.
fn served(agent: &Agent) -> BTreeMap<String, String> {
    let functions = agent.get("/v1/functions").json()["functions"].clone();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    functions.as_array().expect("a list").iter().map(|one| (text(&one["name"]), text(&one["code_sha256"]))).collect()
}

fn policies(log: &Log) -> Vec<PolicyInForce> {
    let policies =
        log.events().filter_map(|(_, event)| if let Event::Policy(policy) = event { Some(policy) } else { None });
    policies.cloned().collect()
}

#[test]
fn measure_the_api_and_the_log_say_the_same_hash_of_the_code() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&Function::python("f", &source("f"))).with(&Function::probe("g"));
    let config = project.write();
    let agent = Agent::start(&project);
    let (measured, served, log) = (measured(&config), served(&agent), agent.log());
    assert_eq!(measured["code"], json!(served));
    assert_eq!(served.len(), 2);
    assert!(served["f"] != served["g"] && served.values().all(|hash| hash.len() == 64), "{served:?}");
    let [policy] = &policies(&log)[..] else { panic!("{log}") };
    assert_eq!(policy.code_sha256, served);
    assert_eq!(measured["policy"], json!(policy.sha256));
    let lines = Command::new(binary()).args(["measure", "--config"]).arg(&config).output().expect("it runs").stdout;
    let lines = String::from_utf8_lossy(&lines).into_owned();
    for line in [format!("{}  code/f\n", served["f"]), format!("{}  policy\n", policy.sha256)] {
        assert!(lines.contains(&line), "{lines}");
    }
}

#[test]
fn what_changes_in_the_folder_afterwards_neither_runs_nor_counts() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&Function::python("f", &source("attested")));
    let code = project.folder().join("functions/f");
    let agent = Agent::start(&project);
    let before = served(&agent);
    // No instance is there yet: each of these would be seen by the first one.
    fs::write(code.join("app.py"), source("changed")).expect("the folder is ours");
    fs::write(code.join("sitecustomize.py"), "import os; os._exit(1)\n").expect("the folder is ours");
    assert_eq!(agent.call("f", &json!({})), "attested");
    fs::remove_dir_all(&code).expect("the folder is ours");
    assert_eq!(agent.call("f", &json!({})), "attested");
    assert_eq!(served(&agent), before);
}

/// The wall is a copy that functions see read-only; here is what they see of it.
#[test]
fn a_function_sees_a_copy_in_memory_that_it_can_read_and_not_write() {
    if !require_root() || !requires("python3") {
        return;
    }
    let source = "import os\n\ndef handler(event, context):\n    with open('/proc/self/mountinfo') as file:\n        \
                  mounts = [line for line in file if line.split()[4] == '/var/task']\n    \
                  modes = {name: oct(os.lstat('/var/task/' + name).st_mode) for name in os.listdir('/var/task')}\n    \
                  secret = open('/var/task/secret').read()\n    \
                  return {'mounts': mounts, 'modes': modes, 'secret': secret, 'links': os.readlink('/var/task/to')}\n";
    let project = Project::new().with(&Function::python("f", source));
    let code = project.folder().join("functions/f");
    fs::create_dir(code.join("empty")).expect("the folder is ours");
    fs::write(code.join("secret"), "for the function").expect("the folder is ours");
    fs::write(code.join("tool"), "").expect("the folder is ours");
    symlink("empty", code.join("to")).expect("the folder is ours");
    let mode = |name: &str, mode| fs::set_permissions(code.join(name), fs::Permissions::from_mode(mode)).expect("ours");
    mode("secret", 0o600);
    mode("tool", 0o4710);
    let agent = Agent::start(&project);
    let seen = agent.call("f", &json!({}));
    let modes = json!({
        "app.py": "0o100644", "empty": "0o40755", "secret": "0o100644", "to": "0o120777", "tool": "0o100755"
    });
    assert_eq!(seen["modes"], modes);
    assert_eq!((&seen["secret"], &seen["links"]), (&json!("for the function"), &json!("empty")));
    let [mount] = &seen["mounts"].as_array().expect("a list")[..] else { panic!("{seen:#}") };
    let mount = mount.as_str().expect("text");
    let (point, system) = mount.split_once(" - ").expect("mountinfo");
    assert!(system.starts_with("tmpfs dshield-code "), "{mount}");
    let options: Vec<_> = point.split(' ').nth(5).expect("mountinfo").split(',').collect();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.contains(&option), "{mount}");
    }
}

#[test]
fn the_hash_tells_name_content_execution_and_links_apart_and_neither_times_nor_owners() {
    let project = Project::new().with(&Function::script("f", "#!/bin/sh\n"));
    let (config, code) = (project.write(), project.folder().join("functions/f"));
    let hash = || measured(&config)["code"]["f"].as_str().expect("text").to_owned();
    fs::write(code.join("data"), "1").expect("the folder is ours");
    symlink("data", code.join("link")).expect("the folder is ours");
    let first = hash();
    fs::File::open(code.join("data")).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH)).expect("it is ours");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(code.join("data"), Some(65534), Some(65534)).expect("root may");
    }
    assert_eq!(hash(), first);
    let mut seen = vec![first];
    let steps: [&dyn Fn(); 5] = [
        &|| fs::write(code.join("data"), "2").expect("the folder is ours"),
        &|| fs::set_permissions(code.join("data"), fs::Permissions::from_mode(0o755)).expect("the folder is ours"),
        &|| {
            fs::remove_file(code.join("link")).expect("the folder is ours");
            symlink("bootstrap", code.join("link")).expect("the folder is ours");
        },
        &|| fs::rename(code.join("data"), code.join("date")).expect("the folder is ours"),
        &|| fs::create_dir(code.join("empty")).expect("the folder is ours"),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        step();
        let hash = hash();
        assert!(!seen.contains(&hash), "step {number} does not count");
        seen.push(hash);
    }
}

/// The command on the page, run as it stands there.
#[test]
fn the_documented_script_computes_the_hash_that_measure_prints() {
    if !requires("bash") {
        return;
    }
    let page = fs::read_to_string(workspace().join("docs/reference/code-hash.md")).expect("the page is there");
    let (_, script) = page.split_once("```bash\n").expect("the page has a script");
    let (script, _) = script.split_once("```").expect("it ends");
    let project = Project::new().with(&Function::script("f", "#!/bin/sh\n"));
    let (config, code) = (project.write(), project.folder().join("functions/f"));
    let scripted = || {
        let output = Command::new("bash").args(["-c", script, "bash"]).arg(&code).output().expect("it is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(scripted(), measured(&config)["code"]["f"]);
    // What a name or a link can hold, and an order that is that of bytes.
    for name in
        ["a b", "a!", "a%20", "ä", "-x", "new\nline", "tab\t", "B", "_", "\u{7f}", "back\\slash", "glob*", "z'\""]
    {
        fs::write(code.join(name), name).expect("the folder is ours");
        fs::create_dir_all(code.join(format!("d{name}/in/empty"))).expect("the folder is ours");
        fs::write(code.join(format!("d{name}/0")), "").expect("the folder is ours");
    }
    symlink("a b", code.join("link")).expect("the folder is ours");
    symlink("../new\nline", code.join("d_/link\n")).expect("the folder is ours");
    fs::set_permissions(code.join("B"), fs::Permissions::from_mode(0o641)).expect("the folder is ours");
    assert_eq!(scripted(), measured(&config)["code"]["f"]);
}

#[test]
fn measure_says_what_is_wrong_with_a_policy() {
    let project = Project::new().with(&Function::script("f", "#!/bin/sh\n"));
    symlink("/etc", project.folder().join("functions/f/out")).expect("the folder is ours");
    let output = Command::new(binary()).args(["measure", "--config"]).arg(project.write()).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
    assert!(stderr.contains("dshield.toml:4:8") && stderr.contains("out of the code folder"), "{stderr}");
}

#[test]
fn a_killed_agents_code_is_gone_when_the_next_one_has_started() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let mut agent = Agent::start(&project);
    let _ = agent.call("native", &json!({"do": "echo"}));
    let name = agent.name().to_owned();
    let mounts = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it is mounted");
        mounts.lines().filter(|line| line.contains(&format!("/run/dshield/{name}/"))).count()
    };
    assert_eq!((agent.copies().len(), mounts()), (1, 1));
    for _ in 0..2 {
        agent.kill9();
        assert_eq!((agent.copies().len(), mounts()), (1, 1), "a kill leaves them");
        // Its handle would remove what the next one has.
        let next = Launch { name: name.clone(), ..Launch::default() };
        std::mem::forget(std::mem::replace(
            &mut agent,
            Agent::launch(&project, next).unwrap_or_else(|error| panic!("{error}")),
        ));
        assert_eq!((agent.copies().len(), mounts()), (1, 1), "there is what the second one has, and no more");
        assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    }
    assert_eq!(agent.stop(), Some(0), "{}", agent.stderr());
    assert_eq!((agent.copies().len(), mounts()), (0, 0));
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

fn dev(project: &Project) -> Agent {
    Agent::launch(project, Launch { command: "dev", ..Launch::default() }).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn dev_copies_code_that_changed_and_drops_the_copy_before() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&Function::python("f", &source("one")));
    let code = project.folder().join("functions/f");
    fs::write(code.join("library.py"), "x = 1\n".repeat(1000)).expect("the folder is ours");
    let agent = dev(&project);
    assert_eq!(agent.call("f", &json!({})), "one");
    let first = served(&agent)["f"].clone();
    fs::write(code.join("app.py"), source("two")).expect("the folder is ours");
    wait::until("the edited code", || (agent.invoke("f", &json!({})).json() == "two").then_some(()));
    let second = served(&agent)["f"].clone();
    assert_ne!(first, second);
    assert_eq!(measured(&project.folder().join("dshield.toml"))["code"]["f"], json!(second));
    let logged = policies(&agent.log());
    assert_eq!(
        [logged.first(), logged.last()].map(|one| one.map(|one| one.code_sha256["f"].clone())),
        [Some(first), Some(second)]
    );
    wait::until("the copy before to go", || (agent.copies().len() == 1).then_some(()));
}

/// The code is copied before the agent is ready: a change right after that must not be taken for part of the copy.
#[test]
fn dev_sees_a_change_that_is_made_the_moment_it_is_ready() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&Function::python("f", &source("one")));
    let agent = dev(&project);
    fs::write(project.folder().join("functions/f/app.py"), source("two")).expect("the folder is ours");
    wait::until("the edited code", || (agent.invoke("f", &json!({})).json() == "two").then_some(()));
}

/// Where code does not fit, what runs goes on, and the sentence names the sizes.
#[test]
fn code_that_does_not_fit_into_memory_leaves_the_deployment_before_and_says_so() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&Function::python("f", &source("small")));
    let code = project.folder().join("functions/f");
    let agent = dev(&project);
    let before = agent.copies();
    let folder = before[0].ancestors().nth(2).expect("it has one");
    let shrunk = Command::new("mount").args(["-o", "remount,size=8m"]).arg(folder).status().expect("it is installed");
    assert!(shrunk.success());
    fs::write(code.join("model.bin"), vec![1; 20 << 20]).expect("the folder is ours");
    let words =
        ["the code of `f` does not fit into memory", "holds 21 MiB, and of the 8 MiB", "leave out", "more memory"];
    wait::until("the complaint", || words.iter().all(|word| agent.stderr().contains(word)).then_some(()));
    assert_eq!(agent.copies(), before);
    assert_eq!(agent.call("f", &json!({})), "small");
    fs::remove_file(code.join("model.bin")).expect("the folder is ours");
    fs::write(code.join("app.py"), source("fits")).expect("the folder is ours");
    wait::until("the edited code", || (agent.invoke("f", &json!({})).json() == "fits").then_some(()));
}

/// Whatever somebody does to the folder while it is copied, the agent is up or says one sentence, and leaves nothing.
#[test]
fn a_folder_that_is_never_at_rest_is_deployed_as_it_was_copied() {
    if !require_root() || !requires("python3") {
        return;
    }
    let secret = "the machine's own";
    let project =
        Project::new().with(&Function::new("f", "python3", Code::Files(vec![("app.py".into(), SEES.into())])));
    let (code, outside) = (project.folder().join("functions/f"), project.folder().join("outside"));
    fs::create_dir(&outside).expect("the folder is ours");
    fs::write(outside.join("file"), secret).expect("the folder is ours");
    fs::create_dir(code.join("a")).expect("the folder is ours");
    fs::write(code.join("a/file"), "own").expect("the folder is ours");
    let done = AtomicBool::new(false);
    let agent = std::thread::scope(|scope| {
        let _ends = AtLast(&done);
        scope.spawn(|| {
            let (a, b) = (code.join("a"), code.join("b"));
            while !done.load(Ordering::Relaxed) {
                let _ = fs::rename(&a, &b);
                let _ = symlink(&outside, &a);
                std::thread::sleep(Duration::from_micros(50));
                let _ = fs::remove_file(&a);
                let _ = fs::rename(&b, &a);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        // It may be looked at in the moment where the link leads out, which is refused in one sentence.
        wait::until("an agent", || match Agent::launch(&project, Launch::default()) {
            Ok(agent) => Some(agent),
            Err(error) => {
                assert_eq!((error.code, &error.left), (Some(2), &Vec::new()), "{error}");
                None
            }
        })
    });
    let seen = agent.call("f", &json!({}));
    assert!(seen.is_string() && !seen.to_string().contains(secret), "{seen}");
    assert_eq!(served(&agent)["f"], policies(&agent.log())[0].code_sha256["f"]);
}

/// Set when a test ends, however it does: whoever looks at it ends too.
struct AtLast<'a>(&'a AtomicBool);

impl Drop for AtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every text below its own folder, wherever its links lead.
const SEES: &str = "\
import os

def handler(event, context):
    found = []
    for folder, _, names in os.walk('/var/task', followlinks=True):
        for path in [os.path.join(folder, name) for name in names]:
            # Copied while it led out: here it leads nowhere.
            found.append(open(path).read() if os.path.exists(path) else '')
    return '\\n'.join(found)
";

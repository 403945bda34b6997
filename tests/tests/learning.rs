//! From what a function was refused to the rules that allow it: `dshield policy suggest`.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project, binary};
use dshield_tests::nameserver::NameServer;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::{NAME, Standin};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// An address of the public internet, which here is a namespace of the test's own.
const PUBLIC: &str = "9.9.9.9";

/// Runs `test` where [`PUBLIC`] is on the loopback interface, and nothing else is anywhere.
fn on_an_internet(test: impl FnOnce() + Send) {
    if !require_root() || !["ip", "unshare", "python3"].into_iter().all(requires) {
        return;
    }
    let alone = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
        for words in [["link", "set", "lo", "up"].as_slice(), &["address", "add", PUBLIC, "dev", "lo"]] {
            assert!(Command::new("ip").args(words).status().expect("it is installed").success(), "ip {words:?}");
        }
        test();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(alone).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A server at [`PUBLIC`] that answers a request with 200 and anything else with `pong`, as long as the test runs: what
/// each connection began with.
fn serve(port: u16) -> Arc<Mutex<Vec<String>>> {
    let listener = TcpListener::bind((PUBLIC, port)).expect("the namespace is ours");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).unwrap_or(0);
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let http = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let answer = if said.contains(" HTTP/1.1\r\n") { http } else { "pong" };
            hearing.lock().expect("nobody panics with it").push(said);
            // A client that went away misses its answer, nothing else.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    heard
}

/// What `dshield` says to these arguments.
fn dshield(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    let output = command.args(arguments).env_remove("DSHIELD_LOG").stdin(Stdio::null()).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What is suggested from the agent's log for `policy`.
#[track_caller]
fn suggest(agent: &Agent, policy: &Path) -> String {
    let url = format!("http://{}", agent.address());
    let (code, text, said) = dshield(&["policy", "suggest", "--from-log", &url, "--policy", &policy.to_string_lossy()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("none is missing") && said.contains(&url), "it says what it checked: {said}");
    text
}

/// `text` without comments.
fn rules(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Writes a policy beside the project's own, which must pass `dshield check`.
#[track_caller]
fn paste(project: &Project, policy: &str) -> std::path::PathBuf {
    let file = project.folder().join("pasted.toml");
    std::fs::write(&file, policy).expect("the folder is ours");
    let (code, _, said) = dshield(&["check", &file.to_string_lossy()]);
    assert_eq!(code, Some(0), "{said}\n{policy}");
    file
}

fn launch(project: &Project, names: &NameServer, command: &'static str, config: Option<&Path>, state: &str) -> Agent {
    let launch = Launch {
        command,
        config: config.map(Path::to_owned),
        state: Some(project.folder().join(state)),
        wrapper: names.wrapper(project.folder()),
        ..Launch::default()
    };
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

/// Everything that the function does in these tests; what each came to.
const EVERYTHING: &str = "
def attempt(action):
    try:
        answer = action()
        return answer if isinstance(answer, str) else answer['status']
    except (OSError, EOFError, http.client.HTTPException):
        return 'failed'

def tcp(to):
    with socket.create_connection(to, timeout=20) as stream:
        stream.sendall(b'ping')
        return exactly(stream, 4).decode()

def proxied():
    stream = socket.create_connection(('127.0.0.1', 3128), timeout=20)
    return ask(stream, 'GET', 'http://proxied.example/p', 'proxied.example')

answer = {
    'address': attempt(lambda: ask(socket.create_connection(('9.9.9.9', 80), timeout=20), 'GET', '/a', '9.9.9.9')),
    'tcp': attempt(lambda: tcp(('9.9.9.9', 5432))),
    'proxied': attempt(proxied),
    'method': attempt(lambda: ask(secure(event['host']), 'POST', '/echo/1', event['host'], {}, 'x')),
    'path': attempt(lambda: ask(secure(event['host']), 'POST', '/echo/2', event['host'], {}, 'x')),
}
";

fn everything(agent: &Agent) -> Value {
    run_with(agent, "f", EVERYTHING, json!({ "host": NAME }))
}

fn all_allowed() -> Value {
    json!({"address": 200, "tcp": "pong", "proxied": 200, "method": 200, "path": 200})
}

/// A function that may do one thing at the stand-in, which is none of [`EVERYTHING`].
fn function(standin: &Standin) -> Function {
    script::function("f").egress(&Egress::to_standin(standin).methods(&["GET"]).paths(&["/echo"]))
}

/// Where the stand-in is trusted is a file, which a rule is not given a second time: what to change is a comment.
fn changed_by_hand(policy: &str, suggested: &str) -> String {
    for comment in
        ["add \"POST\" to `methods` of f.egress[0], and \"/echo/1\" to its `paths`", "\"/echo/2\" to its `paths`"]
    {
        assert!(suggested.contains(comment), "{comment}: {suggested}");
    }
    let policy = policy.replace("methods = [\"GET\"]", "methods = [\"GET\", \"POST\"]");
    policy.replace("paths = [\"/echo\"]", "paths = [\"/echo\", \"/echo/1\", \"/echo/2\"]")
}

#[test]
fn what_was_refused_is_allowed_by_the_rules_that_are_suggested() {
    on_an_internet(|| {
        let (web, database) = (serve(80), serve(5432));
        let names = NameServer::start(PUBLIC.parse().expect("an address"));
        let standin = Standin::start();
        let project = Project::new().with(&function(&standin));
        let agent = launch(&project, &names, "run", None, "first");
        assert_eq!(
            everything(&agent),
            json!({"address": 403, "tcp": "failed", "proxied": 403, "method": 403, "path": 403})
        );
        assert!(web.lock().unwrap().is_empty() && database.lock().unwrap().is_empty());
        let suggested = suggest(&agent, &project.write());
        assert_eq!(
            rules(&suggested),
            "[[function.egress]]\nhost = \"proxied.example\"\nports = [80]\ntls = \"none\"\n\
             [[function.egress]]\nhost = \"9.9.9.9\"\nports = [80]\ntls = \"none\"\n\
             [[function.egress]]\nhost = \"9.9.9.9\"\nports = [5432]\ntls = \"none\"\nprotocol = \"tcp\"\n"
        );
        assert!(suggested.contains("Nobody looks inside"), "{suggested}");
        assert_eq!(suggest(&agent, &project.write()), suggested, "the same log, the same text");
        drop(agent);

        let policy = changed_by_hand(&project.policy(), &suggested);
        let pasted = paste(&project, &format!("{policy}\n{suggested}"));
        let agent = launch(&project, &names, "run", Some(&pasted), "second");
        assert_eq!(everything(&agent), all_allowed());
        assert!(agent.log().refused("f").is_empty(), "{}", agent.log());
        assert_eq!(rules(&suggest(&agent, &pasted)), "");
    });
}

#[test]
fn nothing_is_suggested_from_a_log_that_was_changed_or_signed_by_another_key() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("f"));
    let agent = Agent::start(&project);
    let _ = agent.call("f", &json!({"do": "resolve", "name": "refused.example"}));
    let log = agent.log_with("the refusal", |log| !log.refused("f").is_empty());
    let file = project.folder().join("log.ndjson");
    let name = file.to_string_lossy().into_owned();
    let key = project.folder().join("key.pem");
    std::fs::write(&key, &log.key).expect("the folder is ours");
    let suggest = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).expect("the folder is ours");
        dshield(&[&["policy", "suggest", "--from-log", &name], more].concat())
    };
    let whole = log.to_string();
    let (code, text, said) = suggest(&whole, &[]);
    assert_eq!(
        (code, rules(&text)),
        (Some(0), "[[function.egress]]\nhost = \"refused.example\"\nports = [443]\n".into())
    );
    assert!(said.contains("NOT checked: whose keys these are"), "{said}");
    let (code, _, said) = suggest(&whole, &["--key", &key.to_string_lossy()]);
    assert_eq!((code, said.contains("NOT checked")), (Some(0), false), "{said}");

    let removed: String = whole.lines().skip(1).map(|line| format!("{line}\n")).collect();
    for changed in [whole.replace("refused.example", "attacker.example"), removed, String::new(), "{}\n".into()] {
        let (code, text, said) = suggest(&changed, &[]);
        assert_eq!((code, text.as_str()), (Some(1), ""), "{said}");
        assert!(said.contains("not to be trusted") && said.lines().count() == 1, "{said}");
    }
    let other = Agent::start(&Project::new().with(&Function::probe("f")));
    std::fs::write(&key, other.log().key).expect("the folder is ours");
    let (code, text, said) = suggest(&whole, &["--key", &key.to_string_lossy()]);
    assert_eq!((code, text.as_str()), (Some(1), ""), "{said}");
}

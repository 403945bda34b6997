//! From what a function was refused, or would have been, to the rules that allow it: `dshield policy suggest`, and
//! `mode = "observe"`.
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use dshield_common::log::entry::{Event, Mode};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Line, Log, Project, binary};
use dshield_tests::nameserver::NameServer;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
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
    'address': attempt(lambda: again(lambda: ask(socket.create_connection(('9.9.9.9', 80), timeout=20), 'GET', '/a', '9.9.9.9'))),
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

/// What a function can do by name only where any name is known; and an address that stays closed.
const MORE: &str = "
answer['named'] = attempt(lambda: ask(socket.create_connection(('named.example', 80), timeout=20), 'PUT', '/n', 'named.example'))
answer['metadata'] = attempt(lambda: again(lambda: ask(socket.create_connection(('169.254.169.254', 80), timeout=20), 'GET', '/', 'a')))
answer['mismatch'] = attempt(lambda: ask(secure(event['host']), 'GET', '/echo', 'other.example'))
";

fn everything_and_more(agent: &Agent) -> Value {
    run_with(agent, "f", &format!("{EVERYTHING}{MORE}"), json!({ "host": NAME }))
}

fn all_but_what_no_rule_allows() -> Value {
    let mut all = all_allowed();
    all["named"] = json!(200);
    all["metadata"] = json!(403);
    all["mismatch"] = json!(421);
    all
}

#[test]
fn what_is_only_observed_is_reached_and_its_rules_let_the_same_function_work_when_enforced() {
    on_an_internet(|| {
        let (web, database) = (serve(80), serve(5432));
        let names = NameServer::start(PUBLIC.parse().expect("an address"));
        let standin = Standin::start();
        let project = Project::new().set("mode", "\"observe\"").with(&function(&standin));
        let mut agent = launch(&project, &names, "dev", None, "observed");
        wait::until("the warning", || agent.stderr().contains("NOTHING IS ENFORCED").then_some(()));
        assert_eq!(everything_and_more(&agent), all_but_what_no_rule_allows());
        assert!(web.lock().unwrap().iter().any(|said| said.starts_with("PUT /n ")), "{web:?}");
        assert_eq!(*database.lock().unwrap(), ["ping"]);

        let log = agent.log_with("the refusals", |log| log.refused("f").len() >= 8);
        assert_eq!(log.verify(), Ok(()));
        assert!(log.lines.iter().all(|line| line.entry.mode == Some(Mode::Observe)), "{log}");
        let observed: BTreeSet<&str> = log
            .refused("f")
            .iter()
            .filter(|refused| refused.let_through)
            .map(|refused| refused.reason.as_str())
            .collect();
        let expected = ["address_not_allowed", "method_not_allowed", "name_not_allowed"];
        assert_eq!(observed, expected.into(), "{log}");
        let mut stopped: Vec<&str> = log
            .refused("f")
            .iter()
            .filter(|refused| !refused.let_through)
            .map(|refused| refused.reason.as_str())
            .collect();
        // Twice where it was asked again.
        stopped.dedup();
        assert_eq!(stopped, ["address_not_allowed", "authority_mismatch"], "{log}");
        let (_, printed, _) = dshield(&["logs", "--url", &format!("http://{}", agent.address())]);
        assert!(printed.lines().all(|line| line.contains(" observing ")) && printed.contains("OBSERVED"), "{printed}");

        let policy = project.policy().replace("mode = \"observe\"", "mode = \"enforce\"");
        let suggested = suggest(&agent, &project.write());
        assert_eq!(agent.stop(), Some(0));
        assert_eq!(
            rules(&suggested),
            "[[function.egress]]\nhost = \"named.example\"\nports = [80]\ntls = \"none\"\nmethods = [\"PUT\"]\npaths = [\"/n\"]\n\
             [[function.egress]]\nhost = \"proxied.example\"\nports = [80]\ntls = \"none\"\nmethods = [\"GET\"]\npaths = [\"/p\"]\n\
             [[function.egress]]\nhost = \"9.9.9.9\"\nports = [80]\ntls = \"none\"\nmethods = [\"GET\"]\npaths = [\"/a\"]\n\
             [[function.egress]]\nhost = \"9.9.9.9\"\nports = [5432]\ntls = \"none\"\nprotocol = \"tcp\"\n"
        );
        assert!(suggested.contains("169.254.169.254: link-local"), "{suggested}");

        let pasted = paste(&project, &format!("{}\n{suggested}", changed_by_hand(&policy, &suggested)));
        let agent = launch(&project, &names, "run", Some(&pasted), "enforced");
        assert_eq!(everything_and_more(&agent), all_but_what_no_rule_allows());
        let last = |log: &Log| log.refused("f").last().is_some_and(|refused| refused.reason == "authority_mismatch");
        let log = agent.log_with("the last refusal", last);
        let mut refused: Vec<&str> = log.refused("f").iter().map(|refused| refused.reason.as_str()).collect();
        refused.dedup();
        assert_eq!(refused, ["address_not_allowed", "authority_mismatch"], "{log}");
        assert!(log.lines.iter().all(|line| line.entry.mode.is_none()), "{log}");
        assert!(log.refused("f").iter().all(|refused| !refused.let_through), "{log}");
    });
}

#[test]
fn a_policy_that_is_enforced_again_while_dev_runs_refuses_again_and_its_entries_say_nothing_else() {
    on_an_internet(|| {
        let (web, names) = (serve(80), NameServer::start(PUBLIC.parse().expect("an address")));
        let project = Project::new().set("mode", "\"observe\"").with(&script::function("f"));
        let agent = launch(&project, &names, "dev", None, "state");
        let code = "answer = again(lambda: ask(socket.create_connection(('9.9.9.9', 80), timeout=20), 'GET', '/', '9.9.9.9'))['status']";
        let ask = || agent.invoke("f", &json!({ "code": code })).json();
        assert_eq!(ask(), 200);
        let enforced = project.policy().replace("mode = \"observe\"", "mode = \"enforce\"");
        std::fs::write(project.folder().join("dshield.toml"), enforced).expect("the folder is ours");
        wait::until("the refusal", || (ask() == 403).then_some(()));
        let arrived = web.lock().unwrap().len();
        assert_eq!(ask(), 403);
        // What the instance before had left to say says how it ran, and so does what is written beside it.
        let unmarked = |line: &Line| matches!(line.entry.record.event, Event::Refused(_)) && line.entry.mode.is_none();
        let log = wait::until("a refusal that is no more than that", || {
            let _ = ask();
            Some(agent.log()).filter(|log| log.lines.iter().any(unmarked))
        });
        assert_eq!(log.verify(), Ok(()));
        let mut modes = log.lines.iter().map(|line| line.entry.mode.is_some()).collect::<Vec<_>>();
        modes.dedup();
        assert_eq!(modes, [true, false], "from some entry on it is enforced: {log}");
        assert_eq!(web.lock().unwrap().len(), arrived);
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

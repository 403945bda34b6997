//! What the kernel side promises the log: the right destination, the right process, and no refusal uncounted; and a
//! log file from the future.
use std::path::PathBuf;

use dshield_common::log::entry::{Connect, Event, Lifecycle, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::Standin;
use dshield_tests::wait;
use redb::{Database, TableDefinition};
use serde_json::json;

/// Starts a program called `connector-<letter>` for each name, which binds the event's port on a loopback address of
/// its own, sends one request to its name, and stays until `/tmp/go` is there.
const CONNECTORS: &str = r#"
import subprocess
CHILD = '''
import os, socket, sys, time
sys.path.insert(0, "/var/task")
sys.dont_write_bytecode = True
from app import ask, ssl
source, port, host, letter = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
stream = socket.socket()
stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
stream.bind((source, port))
stream.connect((host, 443))
open("/tmp/connected-" + letter, "w").close()
while not all(os.path.exists("/tmp/connected-" + other) for other in "ab"):
    time.sleep(0.01)
stream = ssl.create_default_context().wrap_socket(stream, server_hostname=host)
print(ask(stream, "POST", "/echo/" + letter, host, body=letter)["body"], flush=True)
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
'''
children = []
for letter, source, host in event['connectors']:
    program = '/tmp/connector-' + letter
    os.symlink('/usr/bin/python3', program)
    line = [program, '-c', CHILD, source, str(event['port']), host, letter]
    children.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True))
answer = [child.communicate()[0].strip() for child in children]
"#;

/// The two connections differ in nothing but the last byte of their source, which is the only thing a map that is
/// keyed by port would forget.
#[test]
fn two_sources_with_the_same_port_keep_their_destinations_and_their_processes() {
    if !require_root() || !requires("python3") {
        return;
    }
    let names = ["a.example", "b.example"];
    let standins = names.map(|name| Standin::start_as(&[name]));
    let function =
        names.iter().zip(&standins).fold(script::function("f").timeout("60s"), |function, (name, standin)| {
            function.egress(&Egress::to(name).pinned(standin))
        });
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    let event = json!({
        "code": CONNECTORS,
        "port": 41_000,
        "connectors": [["a", "127.0.0.2", names[0]], ["b", "127.0.0.3", names[1]]],
    });
    let pending = agent.invoke_aside("f", &event);
    wait::until("both requests", || standins.iter().all(|standin| standin.seen().len() == 1).then_some(()));

    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    for (letter, name, standin) in [("a", names[0], &standins[0]), ("b", names[1], &standins[1])] {
        assert_eq!(standin.seen()[0].path, format!("/echo/{letter}"));
        assert_eq!(standin.seen()[0].host.as_deref(), Some(name));
        let [Connect { process, .. }] =
            log.connects("f").into_iter().filter(|c| c.host == name).collect::<Vec<_>>()[..]
        else {
            panic!("one connection to {name}:\n{log}")
        };
        let process = process.as_ref().unwrap_or_else(|| panic!("nobody asked for {name}:\n{log}"));
        assert_eq!(process.comm, format!("connector-{letter}"));
        assert_eq!(process.pid, pid_of(&agent, &format!("connector-{letter}")), "{letter}");
    }
    std::fs::write(tmp(&log).join("go"), "").expect("root may write there");
    pending.join().expect("the invocation ends");
}

/// The process of the agent's instances that is called so.
#[track_caller]
fn pid_of(agent: &Agent, comm: &str) -> u32 {
    let called = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == comm);
    let found: Vec<_> = agent.leftovers().processes().into_iter().filter(called).collect();
    let [pid] = found[..] else { panic!("one process called {comm}: {found:?}") };
    u32::try_from(pid).expect("process ids are positive")
}

/// The `/tmp` of the first instance.
fn tmp(log: &Log) -> PathBuf {
    let pid = log.events().find_map(|(_, event)| match event {
        Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => Some(*pid),
        _ => None,
    });
    PathBuf::from(format!("/proc/{}/root/tmp", pid.expect("an instance was started")))
}

/// A function can be refused faster than anyone could read; the log stays short and forgets none.
#[test]
fn a_flood_of_refusals_is_counted_to_the_last_and_does_not_flood_the_log() {
    const ATTEMPTS: u64 = 20_000;
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&script::function("f").timeout("60s"));
    let agent = Agent::start(&project);
    let code = "
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answer = 0
for _ in range(event['attempts']):
    try:
        sender.sendto(b'the data', ('192.0.2.1', 9))
    except PermissionError:
        answer += 1
";
    assert_eq!(run_with(&agent, "f", code, json!({"attempts": ATTEMPTS})), ATTEMPTS, "every one was refused");
    let counted = |log: &Log| -> u64 {
        let lost = log.events().map(|(_, event)| if let Event::Lost { count, .. } = event { *count } else { 0 });
        let refused = log.refused("f").into_iter().map(|refused| refused.count.unwrap_or(1));
        lost.sum::<u64>() + refused.sum::<u64>()
    };
    let log = agent.log_with("every refusal", |log| counted(log) >= ATTEMPTS);
    assert_eq!(counted(&log), ATTEMPTS, "none is counted twice");
    assert_eq!(log.verify(), Ok(()));
    let refused = log.refused("f");
    assert!(refused.iter().all(|refused| refused.reason == "udp_port" && refused.rule == "ds_sendmsg4"), "{log}");
    let process = refused[0].process.as_ref().expect("the kernel knows who asked");
    assert_eq!(process.comm, "python3");
    assert!(log.lines.len() < 1_000, "{} entries", log.lines.len());
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

#[test]
fn a_log_of_a_newer_version_is_left_alone_and_the_sentence_says_to_upgrade() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("f"));
    let mut first = Agent::start(&project);
    let _ = first.call("f", &json!({"do": "echo"}));
    let entries = first.log().lines.len();
    assert_eq!(first.stop(), Some(0));
    let file = project.state().join("log.redb");
    set_format(&file, 3);

    let Err(error) = Agent::launch(&project, Launch::default()) else { panic!("it writes what it cannot read") };
    assert_eq!((error.code, error.stdout.as_str()), (Some(1), ""), "{error}");
    for word in ["upgrade", "format 3", &file.to_string_lossy()] {
        assert!(error.stderr.contains(word), "{word}: {error}");
    }
    assert_eq!(error.stderr.trim().lines().count(), 1, "{error}");
    assert_eq!(error.left, Vec::<String>::new());

    set_format(&file, 2);
    let log = Agent::start(&project).log();
    assert_eq!(log.verify(), Ok(()));
    assert!(log.lines.len() > entries, "the old entries are still there");
}

fn set_format(file: &std::path::Path, format: u64) {
    let database = Database::open(file).expect("the agent has closed it");
    let transaction = database.begin_write().expect("nobody else writes");
    let mut table = transaction.open_table(META).expect("the table is there");
    let before = table.insert("format", format).expect("it is ours").is_some();
    drop(table);
    assert!(before, "the format is where it is documented");
    transaction.commit().expect("the disk has room");
}

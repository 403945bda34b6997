//! What an attacker tried and got: each test is a hole that was found from inside a function or beside the
//! agent, and closed.
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project, cgroup2};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::allowed_but;
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::Standin;
use dshield_tests::wait;
use serde_json::json;

/// A process in a cgroup that is not D-Shield's; both end with it.
struct Bystander {
    cgroup: std::path::PathBuf,
    process: Child,
}

impl Bystander {
    fn in_cgroup(name: &str) -> Option<Self> {
        let cgroup = cgroup2()?.join(name);
        // An agent that an earlier run killed under this name would make it D-Shield's.
        let _ = fs::remove_dir_all(std::path::Path::new("/run/dshield").join(name));
        fs::create_dir(&cgroup).expect("root makes cgroups");
        let process = Command::new("sleep").arg("600").spawn().expect("sleep is everywhere");
        fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).expect("root moves processes");
        Some(Self { cgroup, process })
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// The agent took any cgroup of its name for what a killed agent had left, and killed everything in it:
/// `--name docker` would have ended every container.
#[test]
fn a_cgroup_that_no_agent_made_is_left_alone() {
    if !require_root() {
        return;
    }
    let launch = Launch::default();
    let Some(mut bystander) = Bystander::in_cgroup(&launch.name) else { return };
    let error = match Agent::launch(&Project::new().with(&Function::probe("native")), launch) {
        Ok(agent) => panic!("it started:\n{}", agent.stderr()),
        Err(error) => error,
    };
    assert_eq!(error.code, Some(1), "{error}");
    assert!(error.stderr.contains("choose another --name"), "{error}");
    assert_eq!(error.left, Vec::<String>::new(), "{error}");
    assert!(matches!(bystander.process.try_wait(), Ok(None)), "the bystander was killed");
}

/// Sends a ClientHello for its event's name, then bytes, until that fails.
const TUNNEL: &str = r#"
import socket, ssl, time
def handler(event, context):
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=event["host"])
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    tunnel = socket.create_connection((event["host"], 443))
    tunnel.sendall(out.read())
    try:
        while True:
            tunnel.sendall(b"x" * 1024)
            time.sleep(0.02)
    except OSError:
        return "ended"
"#;

/// A tunnel that was open when the disk became full went on for as long as the function liked, and what it
/// carried was never recorded.
#[test]
fn an_open_connection_ends_when_the_log_fails() {
    if !require_root() || !requires("unshare") || !requires("python3") {
        return;
    }
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let pin = upstream.local_addr().expect("it is bound").to_string();
    let rule = Egress::to("tunnel.example").tls("passthrough").set("resolve", &format!("[\"{pin}\"]"));
    let project = Project::new().with(&Function::python("tunnel", TUNNEL).timeout("60s").egress(&rule).concurrency(2));
    fs::create_dir(project.state()).expect("the folder is ours");
    let mount = "mount -t tmpfs -o size=12m none \"$0\" && exec \"$@\"";
    let state = project.state().to_string_lossy().into_owned();
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, &state].map(str::to_owned);
    let launch = Launch { wrapper: wrapper.to_vec(), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));

    let _invocation = agent.invoke_aside("tunnel", &json!({"host": "tunnel.example"}));
    let (mut tunnel, _) = upstream.accept().expect("the function connects");
    // The ClientHello is larger, so something came through the tunnel after it.
    read_some(&mut tunnel, 4096);

    let filler = format!("/proc/{}/root{state}/filler", agent.pid());
    let _full = fs::write(filler, vec![0; 16 << 20]).expect_err("the disk is small");
    wait::until("the log to fail", || {
        let _ = agent.invoke("tunnel", &json!({"host": "refused.example"}));
        (agent.get("/readyz").status == 503).then_some(())
    });
    tunnel.set_read_timeout(Some(wait::scaled(Duration::from_secs(10)))).expect("a valid time");
    // Each read succeeds at once while the function sends; only an end ends this before the deadline.
    wait::until("the tunnel to end", || match tunnel.read(&mut [0; 4096]) {
        Ok(0) => Some(()),
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(()),
        Err(error) => panic!("{error}"),
    });
}

fn read_some(stream: &mut TcpStream, bytes: usize) {
    let mut left = bytes;
    let mut buffer = [0; 4096];
    while left > 0 {
        let read = stream.read(&mut buffer).expect("the function sends");
        assert_ne!(read, 0, "the tunnel ended early");
        left = left.saturating_sub(read);
    }
}

/// A request whose path fits no log entry was answered as if the log were broken, and left no entry.
#[test]
fn a_request_too_long_for_an_entry_is_refused_and_logged() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let agent = Agent::start(&project);
    // Canonical JSON doubles each quotation mark.
    let path = format!("/echo/{}", "\"".repeat(40_000));
    assert_eq!(agent.call("native", &allowed_but(json!({"path": path})))["status"], 414);
    let refused = |log: &dshield_tests::agent::Log| {
        log.refused("native").iter().any(|refused| refused.layer == "http" && refused.reason == "target_too_long")
    };
    let log = agent.log_with("the refusal", refused);
    assert_eq!(log.verify(), Ok(()));
    assert!(standin.seen().is_empty());
}

/// Each connection could hold 400 KiB of unfinished head in the agent, which all functions share.
#[test]
fn a_request_with_a_huge_head_gets_431_and_does_not_arrive() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let agent = Agent::start(&project);
    // Far beyond the limit: hyper looks at it between reads, so that a head of up to twice its size may still pass.
    let headers = json!({"x-filler": "x".repeat(400_000)});
    assert_eq!(agent.call("native", &allowed_but(json!({"headers": headers})))["status"], 431);
    assert!(standin.seen().is_empty());
}

/// One function that printed while nobody read the agent's stderr froze the workers that all functions share.
#[test]
fn a_function_that_prints_into_a_full_pipe_holds_up_nobody() {
    if !require_root() || !requires("mkfifo") || !requires("python3") {
        return;
    }
    let chatty =
        "def handler(event, context):\n    for _ in range(2000):\n        print('x' * 1000)\n    return 'done'\n";
    let project = Project::new().with(&Function::python("chatty", chatty)).with(&Function::probe("native"));
    let pipe = project.folder().join("stderr").to_string_lossy().into_owned();
    // Open for reading too, so that the agent can write, and nobody reads.
    let redirect = "mkfifo \"$0\" && exec 3<>\"$0\" && exec \"$@\" 2>&3";
    let wrapper = ["sh", "-c", redirect, &pipe].map(str::to_owned).to_vec();
    let launch = Launch { wrapper, ..Launch::default() };
    let mut agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    for _ in 0..2 {
        assert_eq!(agent.call("chatty", &json!({})), "done");
        assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
        assert_eq!(agent.get("/healthz").status, 200);
    }
    assert_eq!(agent.stop(), Some(0), "it still stops and cleans up");
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

/// `/usr` is the machine's: a function that watched it saw by name every program that anybody on the machine
/// started, and two functions could tell each other something by opening files.
#[test]
fn a_function_cannot_watch_which_files_others_open() {
    if !require_root() || !requires("python3") {
        return;
    }
    let agent = Agent::start(&Project::new().with(&script::function("f")));
    let code = "
import ctypes, fcntl
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    return errno.errorcode[ctypes.get_errno()] if function(*arguments) < 0 else 'allowed'
folder = os.open('/usr/bin', os.O_RDONLY)
answer = {
    'inotify_init1': call(libc.inotify_init1, 0),
    'inotify_add_watch': call(libc.inotify_add_watch, 0, b'/usr/bin', 0x20),
    # DN_ACCESS: a signal, the predecessor of inotify.
    'F_NOTIFY': failure(fcntl.fcntl, folder, fcntl.F_NOTIFY, 1),
    'F_GETFL': failure(fcntl.fcntl, folder, fcntl.F_GETFL),
}";
    let expected = json!({
        "inotify_init1": "EPERM", "inotify_add_watch": "EPERM", "F_NOTIFY": "EPERM", "F_GETFL": null,
    });
    assert_eq!(run(&agent, "f", code), expected);
}

/// Descriptor 0 was the machine's own `/dev/null`, with the machine's mount: any function could set its times, which
/// every other one reads.
#[test]
fn standard_input_carries_no_message_between_functions() {
    if !require_root() || !requires("python3") {
        return;
    }
    let agent = Agent::start(&Project::new().with(&script::function("f")));
    let code = "
import stat
answer = [failure(os.utime, 0), os.readlink('/proc/self/fd/0'), stat.S_ISCHR(os.fstat(0).st_mode), os.read(0, 1) == b'']";
    assert_eq!(run(&agent, "f", code), json!(["EROFS", "/dev/null", true, true]));
}

/// Connections that say nothing, on a port that needs no rule.
const HOLDER: &str = "
def one():
    stream = socket.socket()
    stream.setblocking(False)
    stream.connect_ex(('1.2.3.4', 53))
    return stream
held, end = [one() for _ in range(900)], time.time() + 8
while time.time() < end:
    for index, stream in enumerate(held):
        # The agent closes one that is silent for long.
        if failure(stream.recv, 1) != 'EAGAIN':
            held[index] = one()
    time.sleep(0.05)
answer = 'held'";

/// The instances of one function took all of the agent's descriptors: the API accepted nobody, no function could start.
#[test]
fn a_function_that_opens_connections_leaves_descriptors_to_the_others() {
    if !require_root() || !requires("python3") || !requires("prlimit") {
        return;
    }
    let greedy = script::function("greedy").concurrency(12).timeout("60s");
    let project = Project::new().with(&greedy).with(&Function::probe("native"));
    let wrapper = ["prlimit", "--nofile=4096:4096"].map(str::to_owned).to_vec();
    let launch = Launch { wrapper, ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    let holding: Vec<_> = (0..12).map(|_| agent.invoke_aside("greedy", &json!({"code": HOLDER}))).collect();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("it runs").count();
    wait::until("what they hold", || (descriptors() > 700).then_some(()));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(agent.get("/readyz").status, 200);
        assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    }
    assert!(descriptors() < 4000, "{} descriptors", descriptors());
    drop(holding);
}

/// One function that printed without a pause took the processors from all others: their invocations took seconds. It
/// wrote forty megabytes a second into the operator's journal.
#[test]
fn a_function_that_prints_without_a_pause_is_held_up_itself() {
    if !require_root() || !requires("python3") {
        return;
    }
    let agent = Agent::start(&Project::new().with(&script::function("f")));
    let code = "
os.set_blocking(1, False)
printed, end = 0, time.time() + event['seconds']
while time.time() < end:
    try:
        printed += os.write(1, b'\\n' * 4096)
    except BlockingIOError:
        time.sleep(0.01)
answer = printed";
    let printed = run_with(&agent, "f", code, json!({"seconds": 3})).as_u64().expect("a number");
    // The burst, three seconds, what fits into the pipe, and what the agent has read of it but not passed on.
    assert!((10_000..=10_000 + 4_000 + 65_536 + 8_192).contains(&printed), "{printed} lines");
}

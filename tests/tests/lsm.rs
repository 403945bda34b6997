//! The programs at the kernel's security hooks, where the kernel takes them: what they hold with the walls before them
//! taken away, and that the log says so.
use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Function, Launch, Project};
use dshield_tests::requires::{require_root, requires, requires_built, requires_security_hooks};
use dshield_tests::{built, script};
use serde_json::{Value, json};

/// What would refuse the attempts before these programs are asked.
const OTHERS: &str = "seccomp,sock_create,privileges,landlock,self_test";

/// What each attempt fails with.
const ATTEMPTS: &str = "
import ctypes, subprocess
libc = ctypes.CDLL(None, use_errno=True)

def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'refused')

ARRAY = struct.pack('IIII', 2, 4, 4, 1) + bytes(104)
child = subprocess.Popen(['/bin/sleep', '60'])
answer = {name: failure(socket.socket, getattr(socket, name), socket.SOCK_DGRAM)
          for name in ('AF_INET', 'AF_INET6', 'AF_UNIX', 'AF_PACKET')}
answer['AF_NETLINK'] = failure(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)
answer['AF_VSOCK'] = failure(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)
answer['bpf'] = failure(call, libc.syscall, 321, 0, ARRAY, len(ARRAY))
answer['ptrace'] = failure(call, libc.ptrace, 16, child.pid, None, None)
child.kill()
";

/// An agent without the walls before, and without those at the security hooks unless `with_them`.
fn attempts(with_them: bool) -> (Agent, Project, Value) {
    let off = if with_them { OTHERS.to_owned() } else { format!("{OTHERS},lsm") };
    let project = Project::new().with(&script::function("f").timeout("60s"));
    let wrapper = vec!["env".to_owned(), format!("DSHIELD_WALLS_OFF={off}")];
    let launch = Launch { wrapper, binary: built("dshield-unwalled"), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    let answer = script::run(&agent, "f", ATTEMPTS);
    (agent, project, answer)
}

#[track_caller]
fn bpf_lsm(agent: &Agent) -> bool {
    let log = agent.log();
    let boot = log.events().find_map(|(_, event)| if let Event::Boot(boot) = event { Some(boot) } else { None });
    boot.and_then(|boot| boot.isolation.as_ref()).expect("every log begins with one that says it").bpf_lsm
}

/// On a kernel without BPF LSM too: what is not there is not claimed.
#[test]
fn the_log_claims_security_hooks_only_where_their_links_are() {
    if !require_root() || !requires("bpftool") {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    let links = std::path::Path::new("/sys/fs/bpf").join(agent.name()).join("links");
    let there = ["ds_lsm_socket", "ds_lsm_bpf", "ds_lsm_ptrace"].map(|name| links.join(name).exists());
    assert_eq!(there, [bpf_lsm(&agent); 3], "{}", agent.stderr());
}

#[test]
fn at_the_security_hooks_other_families_bpf_and_ptrace_are_refused_and_logged() {
    let needs = require_root() && requires("python3") && requires("env") && requires_built("dshield-unwalled");
    if !needs || std::env::consts::ARCH != "x86_64" {
        return;
    }
    let (agent, _project, answer) = attempts(true);
    if !requires_security_hooks(bpf_lsm(&agent)) {
        return;
    }
    let expected = json!({
        "AF_INET": null, "AF_INET6": null, "AF_UNIX": null, "AF_NETLINK": null,
        "AF_PACKET": "EPERM", "AF_VSOCK": "EPERM", "bpf": "EPERM", "ptrace": "EPERM",
    });
    assert_eq!(answer, expected);
    let programs = ["ds_lsm_socket", "ds_lsm_bpf", "ds_lsm_ptrace"];
    let log = agent.log_with("a refusal of each program", |log| {
        programs.iter().all(|program| log.refused("f").iter().any(|refused| refused.rule == *program))
    });
    assert_eq!(log.verify(), Ok(()));

    // The walls before were gone: without these programs everything would have been done.
    let (other, _project, answer) = attempts(false);
    assert!(!bpf_lsm(&other));
    for attempt in ["AF_PACKET", "bpf", "ptrace"] {
        assert_eq!(answer[attempt], Value::Null, "{attempt}: {answer}");
    }
}

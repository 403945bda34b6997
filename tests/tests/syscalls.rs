//! The third wall by itself: what the seccomp filters do to calls made from inside a real instance.
//!
//! That a refusal is theirs, and not of the kernel programs behind them, shows in the log, where only those write, or
//! in the error, which the kernel would not give to the same call.
use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Function, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run};
use serde_json::{Value, json};

fn one() -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = Project::new().with(&script::function("f")).with(&Function::probe("native"));
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// `call(number, arguments…)`: 0 or more, or the error's name. `machine`: what numbers mean here.
const CALL: &str = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else result
";

#[test]
fn a_socket_is_tcp_udp_unix_or_route_netlink_and_nothing_else() {
    let Some((_project, agent)) = one() else { return };
    let code = "
def attempt(family, kind, protocol):
    return failure(lambda: socket.socket(family, kind, protocol).close())
families, kinds, protocols = range(0, 46), range(0, 11), (0, 1, 2, 6, 17, 33, 50, 58, 94, 115, 132, 136, 143, 255, 262)
made = [(f, k, p) for f in families for k in kinds for p in protocols if attempt(f, k, p) is None]
others = {str(why) for f in families if f not in (1, 16) for k in kinds for p in protocols
    if (why := attempt(f, k, p))}
flags = [attempt(2, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0) for kind in (1, 2)]
pair = [failure(socket.socketpair, socket.AF_UNIX, kind) for kind in (1, 2, 5)]
answer = {'made': made, 'others': sorted(others), 'flags': flags, 'pair': pair,
    'interfaces': socket.if_nameindex(), 'generic': attempt(16, 3, 16)}";
    let answer = run(&agent, "f", code);
    // Family, type, protocol: AF_UNIX 1, AF_INET 2, AF_INET6 10, AF_NETLINK 16; stream 1, datagram 2, raw 3, seqpacket 5.
    let mut expected = vec![[1, 1, 0], [1, 1, 1], [1, 2, 0], [1, 2, 1], [1, 3, 0], [1, 3, 1], [1, 5, 0], [1, 5, 1]];
    for family in [2, 10] {
        expected.extend([[family, 1, 0], [family, 1, 6], [family, 2, 0], [family, 2, 17]]);
    }
    expected.extend([[16, 2, 0], [16, 3, 0]]);
    assert_eq!(answer["made"], json!(expected));
    assert_eq!(answer["others"], json!(["EPERM"]), "not what a kernel without the family would say");
    assert_eq!((&answer["flags"], &answer["pair"]), (&json!([null, null]), &json!([null, null, null])));
    assert_eq!((&answer["interfaces"], &answer["generic"]), (&json!([[1, "lo"]]), &json!("EPERM")));
    let log = agent.log();
    assert!(log.refused("f").is_empty(), "no attempt came as far as the kernel program:\n{log}");
}

/// `int 0x80` and x32 number the calls differently, so a list of allowed numbers means nothing there.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_call_by_another_architectures_table_kills_the_process_and_nobody_else() {
    let Some((_project, agent)) = one() else { return };
    let tables = format!(
        "{CALL}
import mmap
# mov eax, 20 (getpid); int 0x80; ret
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex('b814000000cd80c3'))
int80 = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
getpid = 39
x32 = lambda: call(getpid | 1 << 30)
unknown_x32 = lambda: call(547 | 1 << 30)
"
    );
    let code = format!(
        "{tables}
def fate(action):
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
answer = [fate(action) for action in (int80, x32, unknown_x32, lambda: call(getpid), lambda: call(9999))]"
    );
    let fates = run(&agent, "f", &code);
    let sigsys = -libc::SIGSYS;
    // A kernel built without the 32-bit table ends the process by itself.
    assert!([sigsys, -libc::SIGSEGV].iter().any(|signal| fates[0] == *signal), "{fates}");
    assert_eq!(fates.as_array().map(|fates| &fates[1..]), json!([sigsys, sigsys, 0, 0]).as_array().map(|all| &all[..]));

    for table in ["int80", "x32"] {
        let answer = agent.invoke("f", &json!({"code": format!("{tables}\n{table}()\nanswer = 'alive'")}));
        assert!(answer.header("x-amz-function-error").is_some(), "{table}: {}", answer.text());
        assert_eq!(run(&agent, "f", "answer = 'a new instance'"), "a new instance");
        assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    }
    let killed = |event: &Event| match event {
        Event::Function(end) => {
            end.phase == Phase::End && end.reason.as_deref().is_some_and(|why| why.contains("signal"))
        }
        _ => false,
    };
    let both = |log: &dshield_tests::agent::Log| log.events().filter(|(_, event)| killed(event)).count() == 2;
    assert_eq!(agent.log_with("both ends by a signal", both).verify(), Ok(()));
}

#[test]
fn a_terminals_input_cannot_be_forged_and_other_ioctls_work() {
    let Some((_project, agent)) = one() else { return };
    let code = "
import array, fcntl, termios
reader, writer = os.pipe()
os.write(writer, b'four')
waiting = array.array('i', [0])
fcntl.ioctl(reader, termios.FIONREAD, waiting)
# The high half is not the kernel's business: the command is 32 bits.
answer = [failure(fcntl.ioctl, 0, command, b'x') for command in (0x5412, 0x541C, termios.TCGETS)] + [waiting[0]]";
    let high =
        format!("{CALL}\nioctl = 16 if machine == 'x86_64' else 29\nanswer = call(ioctl, 0, 0x5412 | 1 << 40, 0)");
    assert_eq!(run(&agent, "f", code), json!(["EPERM", "EPERM", "ENOTTY", 4]));
    assert_eq!(run(&agent, "f", &high), "EPERM");
}

#[test]
fn a_pair_of_sockets_is_unix_and_nothing_else() {
    let Some((_project, agent)) = one() else { return };
    let code = "
# The kernel makes pairs of very few families and says EOPNOTSUPP to the others: EPERM is the filter's.
answer = {family: sorted({str(failure(socket.socketpair, family, kind)) for kind in range(0, 11)})
    for family in range(0, 46) if family != socket.AF_UNIX}";
    for (family, outcomes) in run(&agent, "f", code).as_object().expect("an object") {
        assert_eq!(*outcomes, json!(["EPERM"]), "family {family}");
    }
    assert!(agent.log().refused("f").is_empty());
}

/// The kernel refuses these to a function too, which has no capability; that the filter has none of them is what
/// `dshield-agent/src/sandbox/seccomp.rs` asks.
#[test]
fn calls_that_load_code_into_the_kernel_are_refused() {
    let Some((_project, agent)) = one() else { return };
    let code = format!(
        "{CALL}
here = 0 if machine == 'x86_64' else 1
numbers = dict(kexec_load=(246, 104), kexec_file_load=(320, 294), init_module=(175, 105),
    finit_module=(313, 273), delete_module=(176, 106))
answer = {{name: call(number[here], 0, 0, 0, 0, 0) for name, number in numbers.items()}}"
    );
    for (name, outcome) in run(&agent, "f", &code).as_object().expect("an object") {
        assert_eq!(*outcome, "EPERM", "{name}");
    }
}

/// The arguments are such that the kernel itself would let the call succeed, or refuse it with another error.
#[test]
fn calls_that_no_runtime_needs_are_refused() {
    let Some((_project, agent)) = one() else { return };
    let code = format!(
        "{CALL}
here = 0 if machine == 'x86_64' else 1
numbers = dict(
    seccomp=(317, 277), landlock_create_ruleset=(444, 444), capset=(126, 91), process_mrelease=(448, 448),
    ioprio_set=(251, 30), sched_setattr=(314, 274), shmget=(29, 194), semget=(64, 190),
    msgget=(68, 186), mq_unlink=(241, 181), io_destroy=(207, 1), cachestat=(451, 451), tee=(276, 77),
    vmsplice=(278, 75), sync=(162, 81), syncfs=(306, 267), get_robust_list=(274, 100), unshare=(272, 97),
    ptrace=(101, 117), process_vm_readv=(310, 270), process_vm_writev=(311, 271), pidfd_getfd=(438, 438), bpf=(321, 280),
    keyctl=(250, 219), setns=(308, 268), name_to_handle_at=(303, 264),
    perf_event_open=(298, 241), kcmp=(312, 272), quotactl=(179, 60))
answer = {{name: call(number[here], 0, 0, 1) for name, number in numbers.items()}}
answer |= {{name: call(number) for name, number in dict(clone3=435, io_uring_setup=425, io_uring_enter=426,
    io_uring_register=427, io_setup=(206, 0)[here]).items()}}
prctl = (157, 167)[here]
answer['prctl PR_SET_SECCOMP'] = call(prctl, 22, 2, 0)
answer['prctl PR_SET_MM'] = call(prctl, 35, 0, 0)
answer['prctl PR_GET_DUMPABLE'] = call(prctl, 3)
answer['clone CLONE_NEWUSER'] = call((56, 220)[here], 0x10000000 | 17, 0, 0, 0, 0)
stream = socket.socket()
answer['SO_ATTACH_BPF'] = failure(stream.setsockopt, socket.SOL_SOCKET, 50, -1)
answer['TCP_ULP'] = failure(stream.setsockopt, socket.IPPROTO_TCP, 31, b'tls')
answer['TCP_NODELAY'] = failure(stream.setsockopt, socket.IPPROTO_TCP, 1, 1)
answer['SO_KEEPALIVE'] = failure(stream.setsockopt, socket.SOL_SOCKET, 9, 1)
answer['IP_TTL'] = failure(stream.setsockopt, 0, 2, 64)"
    );
    let answer = run(&agent, "f", &code);
    for (name, outcome) in answer.as_object().expect("an object") {
        let expected = match name.as_str() {
            "clone3" | "io_uring_setup" | "io_uring_enter" | "io_uring_register" | "io_setup" => json!("ENOSYS"),
            "TCP_NODELAY" | "SO_KEEPALIVE" | "IP_TTL" => Value::Null,
            "prctl PR_GET_DUMPABLE" => json!(1),
            _ => json!("EPERM"),
        };
        assert_eq!(*outcome, expected, "{name}");
    }
}

//! What a function finds around itself, seen from inside a real instance.
use std::path::{Path, PathBuf};
use std::process::Command;

use dshield_common::log::entry::{Event, Lifecycle, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Log, Project, cgroup2};
use dshield_tests::requires::{require_root, requires, requires_controllers};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use serde_json::{Value, json};

/// An agent with these functions; `None` where the machine lacks something.
fn agent(functions: &[Function]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = functions.iter().fold(Project::new(), |project, function| project.with(function));
    let agent = Agent::start(&project);
    Some((project, agent))
}

fn one() -> Option<(Project, Agent)> {
    agent(&[script::function("f")])
}

/// The instances that were started: their names and process ids.
fn instances(log: &Log) -> Vec<(String, u32)> {
    let begun = log.lines.iter().filter_map(|line| match &line.entry.record.event {
        Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => {
            Some((line.entry.record.subject.instance.clone()?, *pid))
        }
        _ => None,
    });
    begun.collect()
}

/// A field of `/proc/self/status`, for code that runs inside.
const STATUS: &str = "
def status(field):
    with open('/proc/self/status') as file:
        return next(line.split(':', 1)[1].split() for line in file if line.startswith(field + ':'))
";

#[test]
fn a_function_is_nobody_and_can_become_nobody_else() {
    let Some((_project, agent)) = agent(&[script::function("f"), script::function("g")]) else { return };
    let code = format!(
        "{STATUS}
answer = {{name: status(name) for name in (
    'Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')}}
answer['pid'] = os.getpid()
answer['setuid'] = failure(os.setuid, 0)
"
    );
    let uids = ["f", "g"].map(|function| {
        let is = run(&agent, function, &code);
        for sets in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(is[sets], json!(["0000000000000000"]), "{sets}");
        }
        assert_eq!((&is["NoNewPrivs"], &is["Seccomp"]), (&json!(["1"]), &json!(["2"])));
        assert_eq!(is["Groups"], json!([]));
        assert_eq!(is["pid"], 1, "it is the first process of its own pid namespace");
        assert_eq!(is["setuid"], "EPERM");
        for field in ["Uid", "Gid"] {
            let ids = is[field].as_array().expect("real, effective, saved and file system id");
            assert!(ids.len() == 4 && ids.iter().all(|id| *id == ids[0] && id != "0"), "{field}: {ids:?}");
        }
        is["Uid"][0].clone()
    });
    assert_ne!(uids[0], uids[1], "two functions share no user id");
}

/// The first thing that a native function does is to look; a runtime would have opened something already.
#[test]
fn only_the_three_standard_descriptors_are_open_at_the_start() {
    const BOOTSTRAP: &str = r#"#!/usr/bin/python3
import http.client, json, os

def is_open(descriptor):
    try:
        return bool(os.fstat(descriptor))
    except OSError:
        return False

# The listing itself needs a descriptor, which is closed again.
listed = [int(name) for name in os.listdir("/proc/self/fd")]
found = {number: os.readlink(f"/proc/self/fd/{number}") for number in listed if is_open(number)}
while True:
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    invocation = api.getresponse()
    number = invocation.headers["lambda-runtime-aws-request-id"]
    invocation.read()
    api.request("POST", f"/2018-06-01/runtime/invocation/{number}/response", json.dumps(found))
    api.getresponse().read()
"#;
    let Some((_project, agent)) = agent(&[Function::script("f", BOOTSTRAP)]) else { return };
    let found = agent.call("f", &json!({}));
    let numbers: Vec<_> = found.as_object().expect("an object").keys().collect();
    assert_eq!(numbers, ["0", "1", "2"], "{found}");
    assert_eq!(found["0"], "/dev/null");
}

#[test]
fn the_root_is_small_and_read_only() {
    let Some((_project, agent)) = one() else { return };
    let found = run(&agent, "f", "answer = {folder: sorted(os.listdir(folder)) for folder in ('/', '/var', '/dev')}");
    let names = |folder: &str| -> Vec<&str> {
        found[folder].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
    };
    let known = ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var"];
    let unknown: Vec<_> = names("/").into_iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(names("/var"), ["runtime", "task"]);
    let devices = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];
    assert_eq!(names("/dev"), devices);

    let code = "
answer = {}
for folder in event['folders']:
    read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    answer[folder] = [read_only, failure(open, os.path.join(folder, 'new'), 'w')]
";
    let folders = ["/", "/usr", "/usr/bin", "/etc", "/etc/ssl", "/var", "/var/task", "/var/runtime", "/dev", "/proc"];
    let folders: Vec<_> =
        folders.into_iter().filter(|folder| Path::new(folder).exists() || folder.starts_with("/var")).collect();
    let tried = run_with(&agent, "f", code, json!({"folders": folders}));
    for (folder, outcome) in tried.as_object().expect("an object") {
        assert_eq!(outcome[0], true, "{folder} is mounted read-only");
        assert!(outcome[1].is_string(), "a file could be made in {folder}");
    }
}

#[test]
fn the_code_cannot_be_changed_from_inside() {
    let Some((project, agent)) = agent(&[Function::python(
        "f",
        "def handler(event, context):\n    try:\n        open(__file__, 'a').write('#')\n    except OSError as error:\n        return str(error)\n",
    )]) else {
        return;
    };
    let original = project.folder().join("functions/f/app.py");
    let copy = agent.copies()[0].join("app.py");
    // Even where its permissions would let anybody write to it.
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    for code in [&original, &copy] {
        std::fs::set_permissions(code, open.clone()).expect("root may");
    }
    let before = std::fs::read(&original).expect("the file is ours");
    let answer = agent.call("f", &json!({}));
    assert!(answer.as_str().is_some_and(|why| why.contains("Read-only")), "{answer}");
    for code in [&original, &copy] {
        assert_eq!(std::fs::read(code).expect("root may"), before);
    }
}

#[test]
fn tmp_can_be_written_and_ends_at_its_size() {
    let Some((_project, agent)) = agent(&[script::function("f").set("memory", "\"128MiB\"")]) else { return };
    let code = "
def fill():
    with open('/tmp/big', 'wb', buffering=0) as file:
        for _ in range(256):
            file.write(b'x' * 1048576)
why = failure(fill)
size = os.path.getsize('/tmp/big')
os.remove('/tmp/big')
with open('/tmp/small', 'w') as file:
    file.write('fits')
answer = {'why': why, 'size': size, 'mode': oct(os.stat('/tmp').st_mode & 0o7777)}
";
    let answer = run(&agent, "f", code);
    assert_eq!(answer["why"], "ENOSPC", "{answer}");
    let size = answer["size"].as_u64().expect("a number");
    assert!((32 << 20..=64 << 20).contains(&size), "half of 128 MiB, not {size} bytes");
    assert_eq!(answer["mode"], "0o1777");
}

#[test]
fn the_files_of_etc_say_nothing_about_the_machine() {
    let Some((_project, agent)) = one() else { return };
    let code = "answer = {name: open('/etc/' + name).read() for name in ('resolv.conf', 'hosts', 'passwd', 'group', 'hostname')}
answer['uid'] = os.getuid()
answer['shadow'] = failure(open, '/etc/shadow')";
    let etc = run(&agent, "f", code);
    let text = |name: &str| etc[name].as_str().expect("text");
    let servers: Vec<_> = text("resolv.conf").lines().filter(|line| line.starts_with("nameserver")).collect();
    assert_eq!(servers, ["nameserver 198.18.0.1"]);
    assert_eq!(text("hosts"), "127.0.0.1 localhost\n::1 localhost\n");
    let users: Vec<_> = text("passwd").lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(users, ["root", "function"]);
    assert!(text("passwd").contains(&format!("function:x:{}:", etc["uid"])), "{etc}");
    assert_eq!(text("hostname").trim(), "f-0");
    assert_eq!(etc["shadow"], "ENOENT");
}

#[test]
fn the_inspection_ca_is_where_programs_look_for_it() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&[script::function("f").egress(&Egress::to_standin(&standin))]) else { return };
    let variables = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];
    let paths = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
        "/etc/ssl/ca-bundle.pem",
    ];
    let code = format!(
        "
def trusted(path):
    context = ssl.create_default_context(cafile=path)
    stream = socket.create_connection(('{NAME}', 443), timeout=20)
    return context.wrap_socket(stream, server_hostname='{NAME}').version()
answer = {{
    'paths': {{path: trusted(path) for path in event['paths']}},
    'variables': {{name: os.environ.get(name) for name in event['variables']}},
}}
"
    );
    let answer = run_with(&agent, "f", &code, json!({"paths": paths, "variables": variables}));
    for path in paths {
        assert_eq!(answer["paths"][path], "TLSv1.3", "{path}");
    }
    for variable in variables {
        let path = answer["variables"][variable].as_str().unwrap_or_default();
        assert!(paths.contains(&path), "{variable}={path}");
    }
}

#[test]
fn the_only_interface_is_lo() {
    let Some((_project, agent)) = one() else { return };
    let code = "
with open('/proc/net/dev') as file:
    interfaces = [line.split(':')[0].strip() for line in file if ':' in line]
answer = [interfaces, os.path.exists('/sys')]";
    assert_eq!(run(&agent, "f", code), json!([["lo"], false]));
}

/// Settings of the network namespace that stand behind the programs and the filter: no data with a SYN, no ping sockets.
#[test]
fn the_sealed_namespace_has_neither_fast_open_nor_ping_sockets() {
    if !requires("nsenter") {
        return;
    }
    let Some((_project, agent)) = one() else { return };
    assert_eq!(run(&agent, "f", "answer = 1"), 1);
    let log = agent.log();
    let (_, pid) = &instances(&log)[0];
    let setting = |name: &str| {
        let line = [format!("--net=/proc/{pid}/ns/net"), "cat".to_owned(), format!("/proc/sys/net/ipv4/{name}")];
        let read = Command::new("nsenter").args(line).output().expect("it starts");
        assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
        String::from_utf8_lossy(&read.stdout).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(setting("tcp_fastopen"), ["0"]);
    // No group: from 1 to 0.
    assert_eq!(setting("ping_group_range"), ["1", "0"]);
}

#[test]
fn no_process_but_its_own_is_visible() {
    let Some((_project, agent)) = agent(&[script::function("f"), script::function("g")]) else { return };
    assert_eq!(run(&agent, "g", "answer = 'g runs too'"), "g runs too");
    let code = "
import subprocess
child = subprocess.Popen(['/bin/sleep', '60'])
answer = {
    'pids': sorted(int(name) for name in os.listdir('/proc') if name.isdigit()),
    'own': sorted([os.getpid(), child.pid]),
    'kill': failure(os.kill, event['agent'], 0),
    'all': [failure(os.kill, pid, 0) for pid in range(2, 4000) if pid != child.pid],
}
answer['all'] = sorted(set(answer['all']))
child.kill()
child.wait()
";
    let seen = run_with(&agent, "f", code, json!({"agent": agent.pid()}));
    assert_eq!(seen["pids"], seen["own"]);
    assert_eq!((&seen["kill"], &seen["all"]), (&json!("ESRCH"), &json!(["ESRCH"])));
}

#[test]
fn nothing_of_the_hosts_files_and_environment_is_visible() {
    if !require_root() || !requires("python3") || !requires("env") {
        return;
    }
    let project = Project::new().with(&script::function("f").env(&[("OWN", "value")]));
    let wrapper = ["env", "SECRET_OF_THE_HOST=1"].map(str::to_owned).to_vec();
    let agent =
        Agent::launch(&project, Launch { wrapper, ..Launch::default() }).unwrap_or_else(|error| panic!("{error}"));
    let paths = [
        "/root",
        "/home",
        "/var/lib",
        "/var/log",
        "/sys",
        "/run",
        "/boot",
        "/srv",
        "/mnt",
        "/etc/ssh",
        "/proc/1/root/root",
    ];
    let code = "
with open('/proc/1/environ') as file:
    environ = file.read()
answer = {
    'there': [path for path in event['paths'] if os.path.lexists(path)],
    'own': os.environ.get('OWN'),
    'host': 'SECRET_OF_THE_HOST' in environ or 'SECRET_OF_THE_HOST' in os.environ,
    'project': os.path.lexists(event['project']),
    'kcore': os.path.getsize('/proc/kcore') if os.path.isfile('/proc/kcore') else 0,
}";
    let event = json!({"paths": paths, "project": project.folder().to_string_lossy()});
    let seen = run_with(&agent, "f", code, event);
    assert_eq!(seen, json!({"there": [], "own": "value", "host": false, "project": false, "kcore": 0}));
}

#[test]
fn resources_are_limited() {
    let Some((_project, agent)) = one() else { return };
    let code = "
import resource
names = ('CORE', 'NPROC', 'NOFILE', 'MEMLOCK', 'MSGQUEUE', 'RTPRIO')
answer = {name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name)) for name in names}
def refused(name, limits):
    try:
        resource.setrlimit(getattr(resource, 'RLIMIT_' + name), limits)
    except (ValueError, OSError) as error:
        return type(error).__name__
answer['raise'] = refused('NPROC', (100000, 100000))
answer['core'] = refused('CORE', (0, 1))
answer['lower'] = refused('NOFILE', (100, 1000))
";
    let limits = run(&agent, "f", code);
    for none in ["MSGQUEUE", "RTPRIO"] {
        assert_eq!(limits[none], json!([0, 0]), "{none}");
    }
    // One byte holds no core file, and keeps the kernel from piping one to a program as well (core(5)).
    assert_eq!(limits["CORE"], json!([1, 1]));
    for (name, most) in [("NPROC", 512), ("NOFILE", 1024), ("MEMLOCK", 64 << 10)] {
        let both = [limits[name][0].as_i64(), limits[name][1].as_i64()];
        assert!(both.iter().all(|limit| limit.is_some_and(|limit| (0..=most).contains(&limit))), "{name}: {both:?}");
    }
    assert!(limits["raise"].is_string(), "a function raised its own limit");
    // At 0, the kernel would pipe a crash to a program.
    assert!(limits["core"].is_string(), "a function changed its limit of core dumps");
    assert_eq!(limits["lower"], json!(null), "other limits can be lowered");
}

#[test]
fn a_fork_bomb_ends_at_its_limit_and_the_agent_goes_on() {
    let functions = [script::function("f").timeout("60s"), script::function("g")];
    let Some((_project, agent)) = agent(&functions) else { return };
    let code = "
import signal
children, why = [], None
for _ in range(2000):
    try:
        child = os.fork()
    except OSError as error:
        why = errno.errorcode[error.errno]
        break
    if child == 0:
        signal.pause()
        os._exit(0)
    children.append(child)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
answer = {'count': len(children), 'why': why}
";
    let answer = run(&agent, "f", code);
    assert_eq!(answer["why"], "EAGAIN", "{answer}");
    assert!(answer["count"].as_u64().is_some_and(|count| count < 512), "{answer}");
    assert_eq!(run(&agent, "g", "answer = 1"), 1);
}

#[test]
fn memory_and_processes_are_bounded_by_the_cgroup() {
    if !requires_controllers(&["memory", "pids"]) {
        return;
    }
    let Some((_project, agent)) = agent(&[script::function("f").set("memory", "\"128MiB\"")]) else { return };
    assert_eq!(run(&agent, "f", "answer = 1"), 1);
    let cgroup = cgroup2().expect("root has one").join(agent.name()).join("f-0");
    let read = |file: &str| std::fs::read_to_string(cgroup.join(file)).unwrap_or_default().trim().to_owned();
    assert_eq!(read("memory.max"), (128 << 20).to_string());
    assert!(read("pids.max").parse::<u32>().is_ok_and(|most| most <= 512), "{}", read("pids.max"));
}

#[test]
fn every_process_of_an_instance_is_in_its_cgroup_and_its_namespaces() {
    let Some((_project, agent)) = one() else { return };
    let code = "
import subprocess
plain = subprocess.Popen(['/bin/sleep', '300'])
# Away from parent, session and process group, as a daemon would.
detached = subprocess.Popen(['/bin/sh', '-c', '/bin/sleep 300 & exit 0'], start_new_session=True)
detached.wait()
answer = open('/proc/self/cgroup').read()";
    let inside = run(&agent, "f", code);
    assert!(inside.as_str().is_some_and(|text| text.lines().any(|line| line == "0::/")), "{inside}");
    let log = agent.log();
    let [(instance, pid)] = &instances(&log)[..] else { panic!("one instance:\n{log}") };
    let netns = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = netns(&pid.to_string()).expect("the instance runs");
    let mut sharing: Vec<i32> = std::fs::read_dir("/proc")
        .expect("root sees every process")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| netns(pid).as_ref() == Some(&own))
        .filter_map(|pid| pid.parse().ok())
        .collect();
    let cgroup = cgroup2().expect("root has one").join(agent.name()).join(instance);
    let mut members: Vec<i32> = std::fs::read_to_string(cgroup.join("cgroup.procs"))
        .expect("the instance's cgroup")
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    sharing.sort_unstable();
    members.sort_unstable();
    assert_eq!(members.len(), 3, "the function, its child and the detached one: {members:?}");
    assert_eq!(members, sharing);
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("root may look");
        assert_ne!(link(&pid.to_string()), link("self"), "{kind}");
    }
}

#[test]
fn parallel_invocations_have_instances_of_their_own() {
    let Some((_project, agent)) = agent(&[script::function("f").concurrency(2).timeout("60s")]) else { return };
    let first = json!({"code": "
open('/tmp/mine', 'w').write('first')
while not os.path.exists('/tmp/go'):
    time.sleep(0.01)
answer = 1"});
    let pending = agent.invoke_aside("f", &first);
    let log = agent.log_with("the first instance", |log| instances(log).len() == 1);
    let tmp = PathBuf::from(format!("/proc/{}/root/tmp", instances(&log)[0].1));
    wait::until("the first invocation's file", || tmp.join("mine").exists().then_some(()));

    let code = "answer = [os.listdir('/tmp'), os.getuid(), socket.gethostname()]";
    let second = run(&agent, "f", code);
    assert_eq!(second[0], json!([]), "the first one's file is not here");
    let log = agent.log();
    let both = instances(&log);
    assert_eq!(both.len(), 2, "{log}");
    let namespace = |(_, pid): &(String, u32)| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    assert_ne!(namespace(&both[0]), namespace(&both[1]));

    std::fs::write(tmp.join("go"), "").expect("root may write there");
    pending.join().expect("the first invocation ends");
    assert_eq!(run(&agent, "f", "answer = 3"), 3);
    assert_eq!(instances(&agent.log()).len(), 2, "both are warm: no third one was needed");
}

#[test]
fn a_warm_instance_keeps_its_globals_and_its_tmp() {
    let source = "count = 0\ndef handler(event, context):\n    global count\n    count += 1\n    with open('/tmp/count', 'a') as file:\n        file.write('x')\n    return [count, open('/tmp/count').read()]\n";
    let Some((_project, agent)) = agent(&[Function::python("f", source)]) else { return };
    for number in 1..=3 {
        assert_eq!(agent.call("f", &json!({})), json!([number, "x".repeat(number)]));
    }
    assert_eq!(instances(&agent.log()).len(), 1);
}

//! What keeps the agent's secrets in the agent, and functions apart from each other, seen from both sides.
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use dshield_common::log::entry::{Event, Isolation, Lifecycle, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::requires::{require_root, requires, requires_capability, requires_that};
use dshield_tests::scene::allowed;
use dshield_tests::script::{self, run};
use dshield_tests::standin::Standin;
use dshield_tests::wait;
use dshield_tests::workspace;
use serde_json::{Value, json};

/// The feature that takes walls away is for tests. Only the file that says so is compiled, with what it needs missing.
#[test]
fn a_release_build_that_could_take_walls_away_does_not_compile() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let there = Command::new(&rustc).arg("--version").output().is_ok_and(|output| output.status.success());
    if !requires_that(there, "no rustc") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = workspace().join("dshield-agent/src/walls.rs");
    let refused = |feature: &str, debug: &str| {
        let mut command = Command::new(&rustc);
        command.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--cfg", feature, "--out-dir"]);
        let output = command.arg(folder.path()).args(["-C", &format!("debug-assertions={debug}")]).arg(&file).output();
        let output = output.expect("it starts");
        assert!(!output.status.success(), "what the file needs is not there");
        String::from_utf8_lossy(&output.stderr).contains("a release build must not have it")
    };
    assert!(refused("feature=\"layers-off\"", "off"));
    assert!(!refused("feature=\"layers-off\"", "on"));
    assert!(!refused("feature=\"another\"", "off"));
}

/// A field of `/proc/PID/status` in KiB.
#[track_caller]
fn kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.unwrap_or_else(|| panic!("no {field} in {status}"));
    value.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// What Rust gives a thread, KiB.
const STACK: u64 = 2048;

/// How much of each private writable mapping of this size is in memory, in KiB; huge pages, of which one access makes two
/// MiB resident where the kernel gives them unasked, are not counted.
#[track_caller]
fn resident_of_mappings(pid: u32, size: u64) -> Vec<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may look");
    let (mut writable, mut fits, mut found) = (false, false, Vec::new());
    for line in smaps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = || words.get(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        match words.first() {
            Some(&"Size:") => fits = writable && number() == size,
            Some(&"Rss:") if fits => found.push(number()),
            Some(&"AnonHugePages:") if fits => {
                if let Some(last) = found.last_mut() {
                    *last = last.saturating_sub(number());
                }
            }
            Some(first) if !first.ends_with(':') => writable = words.get(1) == Some(&"rw-p"),
            _ => {}
        }
    }
    found
}

fn wrapped(wrapper: &[&str]) -> Launch {
    Launch { wrapper: wrapper.iter().map(|word| (*word).to_owned()).collect(), ..Launch::default() }
}

/// The boot entry's own word.
#[track_caller]
fn isolation(agent: &Agent) -> Isolation {
    let log = agent.log();
    let boot =
        log.events().find_map(|(_, event)| if let Event::Boot(boot) = event { Some(boot.clone()) } else { None });
    boot.expect("every log begins with one").isolation.expect("this version says so")
}

#[test]
fn the_agents_pages_are_locked_as_they_come_into_use_and_it_leaves_no_core() {
    if !require_root() || !requires_capability("CAP_IPC_LOCK", 14) {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    let (locked, resident) = (kib(agent.pid(), "VmLck"), kib(agent.pid(), "VmRSS"));
    assert!(locked * 10 > kib(agent.pid(), "VmSize") * 9, "{locked} KiB are locked");
    assert!(resident < 60 << 10, "{resident} KiB are in memory");
    let stacks = resident_of_mappings(agent.pid(), STACK);
    assert!(
        stacks.len() > 2 && stacks.iter().all(|resident| *resident < STACK / 2),
        "stacks of threads: {stacks:?} KiB"
    );
    assert!(agent.stderr().contains("none of it is swapped out"), "{}", agent.stderr());
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).expect("it runs");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap_or_default();
    // One byte holds no core file, and stops the kernel from piping one to a program (core(5)).
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["1", "1"]);
}

#[test]
fn an_agent_that_may_not_lock_its_memory_starts_and_says_so() {
    if !require_root() || !requires("setpriv") || !requires("prlimit") {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let wrapper = ["setpriv", "--bounding-set=-ipc_lock,-sys_resource", "prlimit", "--memlock=65536:65536"];
    let agent = Agent::launch(&project, wrapped(&wrapper)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    assert_eq!(kib(agent.pid(), "VmLck"), 0);
    assert!(agent.stderr().contains("can be swapped out"), "{}", agent.stderr());
}

/// A process that ends with its test.
struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another process of the same user with the same capabilities, all but the one to trace anybody: only that the agent
/// is not dumpable stands between them.
#[test]
fn another_process_of_the_same_user_cannot_look_into_the_agent() {
    const WITHOUT: [&str; 2] = ["setpriv", "--bounding-set=-sys_ptrace"];
    if !require_root() || !requires("setpriv") {
        return;
    }
    let look = |pid: u32, file: &str| {
        // A link is read; of the memory, opening it for writing is all that is tried.
        let read = if file == "mem" { "exec 3<>\"$0\"" } else { "exec readlink \"$0\"" };
        let mut command = Command::new(WITHOUT[0]);
        command.args(&WITHOUT[1..]).args(["sh", "-c", read, &format!("/proc/{pid}/{file}")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it starts").success()
    };
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::launch(&project, wrapped(&WITHOUT)).unwrap_or_else(|error| panic!("{error}"));
    let sleep = Command::new(WITHOUT[0]).args(&WITHOUT[1..]).args(["sleep", "600"]).spawn().expect("it starts");
    let open = Bystander(sleep);
    let name = || fs::read_to_string(format!("/proc/{}/comm", open.0.id())).ok();
    wait::until("sleep to run", || (name()?.trim() == "sleep").then_some(()));
    for file in ["mem", "exe", "cwd", "fd/0"] {
        assert!(look(open.0.id(), file), "an ordinary process shows its {file}");
        assert!(!look(agent.pid(), file), "the agent shows its {file}");
    }
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo", "it works without that capability");
}

/// Every key is made as a PKCS#8 document, which is overwritten: log key, CA, one certificate for a name.
#[test]
fn no_document_with_a_private_key_stays_in_the_agents_memory() {
    if !require_root() || !requires_capability("CAP_SYS_PTRACE", 19) {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let agent = Agent::start(&project);
    assert_eq!(agent.call("native", &allowed())["status"], 200);
    // RFC 5915: ECPrivateKey { 1, 32 bytes, [1] { the public point } }, as ring writes it.
    let (before, after) = ([0x30, 0x6b, 2, 1, 1, 4, 32], [0xa1, 0x44, 3, 0x42, 0, 4]);
    let documents = |memory: &[u8]| {
        let all = memory.windows(before.len() + 32 + after.len());
        all.filter(|bytes| bytes.starts_with(&before) && bytes.ends_with(&after)).count()
    };
    let fresh = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("there is randomness");
    assert_eq!(documents(&fresh.serialize_der()), 1, "this is what is looked for");

    let memory = File::open(format!("/proc/{}/mem", agent.pid())).expect("root may look");
    let maps = fs::read_to_string(format!("/proc/{}/maps", agent.pid())).expect("it runs");
    let (mut found, mut bytes) = (0, 0);
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).expect("an address"));
        let mut content = vec![0; usize::try_from(end - start).expect("it is mapped")];
        if memory.read_exact_at(&mut content, start).is_ok() {
            (found, bytes) = (found + documents(&content), bytes + content.len());
        }
    }
    assert!(bytes > 1 << 20, "the memory was looked at: {bytes} bytes");
    assert_eq!(found, 0, "documents with private keys");
}

#[test]
fn the_boot_entry_says_which_walls_the_machine_has() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&script::function("f"));
    let agent = Agent::start(&project);
    // landlock_create_ruleset(2): number 444 everywhere; asked for its version.
    let ask = "import ctypes; print(max(0, ctypes.CDLL(None).syscall(444, None, 0, 1)))";
    let output = Command::new("/usr/bin/python3").args(["-c", ask]).output().expect("it starts");
    let landlock_abi: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    let said = isolation(&agent);
    assert_eq!(said.landlock_abi, landlock_abi);
    let start = agent.stderr();
    let unbounded = start.lines().find(|line| line.contains("instances are not bounded by")).unwrap_or_default();
    for controller in ["memory", "pids"] {
        let works = said.controllers.iter().any(|name| name == controller);
        assert_ne!(works, unbounded.contains(controller), "{controller}: {said:?}\n{start}");
    }
}

/// Reported, never required.
#[test]
fn an_agent_on_a_kernel_without_landlock_starts_and_says_so() {
    if !require_root() || !requires("strace") {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let answer_for_the_kernel = "inject=landlock_create_ruleset:error=EOPNOTSUPP";
    let trace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=landlock_create_ruleset", "-e"];
    let agent = Agent::launch(&project, wrapped(&[trace.as_slice(), &[answer_for_the_kernel]].concat()))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    assert_eq!(isolation(&agent).landlock_abi, 0);
    assert!(agent.stderr().contains("no Landlock"), "{}", agent.stderr());
}

/// What an instance can write to, by device number, and its user.
const WRITABLE: &str = "
def mounts():
    with open('/proc/self/mountinfo') as file:
        for line in file:
            _, _, device, _, place, options = line.split()[:6]
            if 'rw' in options.split(','):
                yield place, device
status = open('/proc/self/status').read()
answer = {
    'writable': dict(mounts()), 'uid': os.getuid(), 'locked': status.split('VmLck:')[1].split()[0],
    'devices': [os.stat(place).st_dev for place in ('/tmp', '/dev/shm')],
    'null': failure(os.utime, '/dev/null'),
}
";

#[test]
fn instances_share_no_user_and_nothing_that_they_can_write_to() {
    if !require_root() || !requires("python3") {
        return;
    }
    let functions = [script::function("f").concurrency(2).timeout("60s"), script::function("g")];
    let project = functions.iter().fold(Project::new(), Project::with);
    let agent = Agent::start(&project);
    // The first one stays busy, so that the second is another instance of the same function.
    let hold = json!({"code": format!("{WRITABLE}
json.dump(answer, open('/tmp/seen', 'w'))
os.rename('/tmp/seen', '/tmp/said')
while not os.path.exists('/tmp/go'):
    time.sleep(0.01)")});
    let pending = agent.invoke_aside("f", &hold);
    let begun = |event: &Event| match event {
        Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => Some(*pid),
        _ => None,
    };
    let log = agent.log_with("the first instance", |log| log.events().any(|(_, event)| begun(event).is_some()));
    let pid = log.events().find_map(|(_, event)| begun(event)).expect("it was waited for");
    let tmp = PathBuf::from(format!("/proc/{pid}/root/tmp"));
    let said = wait::until("what the first one sees", || fs::read(tmp.join("said")).ok());
    let first: Value = serde_json::from_slice(&said).expect("JSON");
    let all = [first, run(&agent, "f", WRITABLE), run(&agent, "g", WRITABLE)];
    fs::write(tmp.join("go"), "").expect("root may write there");
    pending.join().expect("the first invocation ends");

    let (mut users, mut devices) = (BTreeSet::new(), BTreeSet::new());
    for seen in &all {
        assert_eq!(seen["locked"], "0", "the agent's lock on its memory is not inherited");
        assert_eq!(seen["null"], "EROFS", "a device's times would be a blackboard for all");
        let writable = seen["writable"].as_object().expect("an object");
        assert_eq!(writable.keys().map(String::as_str).collect::<BTreeSet<_>>(), ["/dev/shm", "/tmp"].into());
        users.insert(seen["uid"].as_u64());
        devices.extend(writable.values().map(Value::to_string));
        assert_ne!(seen["devices"][0], seen["devices"][1]);
    }
    assert_eq!(users.len(), all.len(), "{all:?}");
    assert_eq!(devices.len(), 2 * all.len(), "{all:?}");
}

/// The agent holds dozens of sockets and files. strace holds the first process up where it still is the agent's own
/// program, with root's rights.
#[test]
fn an_instances_first_process_starts_with_five_descriptors() {
    if !require_root() || !requires("strace") {
        return;
    }
    let project = Project::new().with(&Function::probe("native").timeout("60s"));
    let hold = "inject=pivot_root:delay_enter=3000000";
    let trace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=pivot_root", "-e", hold];
    let agent = Agent::launch(&project, wrapped(&trace)).unwrap_or_else(|error| panic!("{error}"));
    let pending = agent.invoke_aside("native", &json!({"do": "echo"}));
    let of = |pid: i32, file: &str| PathBuf::from(format!("/proc/{pid}/{file}"));
    let first = wait::until("the first process", || {
        let is_set_up = |pid: &i32| fs::read(of(*pid, "cmdline")).is_ok_and(|line| line.ends_with(b"\0__instance\0"));
        agent.leftovers().processes().into_iter().find(is_set_up)
    });
    // What it opens for itself comes and goes; what it was given stays.
    wait::until("its own files to be closed", || {
        let listed = fs::read_dir(of(first, "fd")).expect("it is held up").flatten();
        let mut numbers: Vec<i32> =
            listed.filter_map(|entry| entry.file_name().into_string().ok()?.parse().ok()).collect();
        numbers.sort_unstable();
        (numbers == [0, 1, 2, 3, 4]).then_some(())
    });
    pending.join().expect("the invocation ends");
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
}

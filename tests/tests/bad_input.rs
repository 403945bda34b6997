//! Whatever is wrong at the start: one clear sentence, an exit code, nothing left behind.
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dshield_tests::agent::{
    Agent, Code, Function, Launch, Leftovers, Project, StartError, binary, cgroup2, copy_executable,
};
use dshield_tests::requires::{require_root, requires};
use serde_json::json;

const USAGE: &[i32] = &[2];
const FAILURE: &[i32] = &[1];
/// The policy is both the caller's argument and a file that turned out bad.
const POLICY: &[i32] = &[1, 2];

/// The agent does not start, says these words and leaves nothing.
#[track_caller]
fn refuses_to_start(project: &Project, launch: Launch, codes: &[i32], words: &[&str]) {
    let error = match Agent::launch(project, launch) {
        Ok(agent) => panic!("it started:\n{}", agent.stderr()),
        Err(error) => error,
    };
    check(&error, codes, words);
}

#[track_caller]
fn check(error: &StartError, codes: &[i32], words: &[&str]) {
    assert!(error.code.is_some_and(|code| codes.contains(&code)), "expected one of {codes:?}: {error}");
    assert_eq!(error.stdout, "", "{error}");
    for word in words {
        assert!(error.stderr.to_lowercase().contains(&word.to_lowercase()), "it does not say {word:?}: {error}");
    }
    for noise in ["panicked", "RUST_BACKTRACE", "Os {", "Error {", "unwrap"] {
        assert!(!error.stderr.contains(noise), "not written for people: {error}");
    }
    assert!(error.stderr.trim().lines().count() <= 4, "one sentence would do: {error}");
    assert_eq!(error.left, Vec::<String>::new(), "{error}");
}

fn good() -> Project {
    Project::new().with(&Function::probe("native"))
}

fn config(project: &Project, text: &str) -> Launch {
    let path = project.folder().join("other.toml");
    std::fs::write(&path, text).expect("the folder is ours");
    Launch { config: Some(path), ..Launch::default() }
}

#[test]
fn an_unreadable_policy() {
    if !require_root() {
        return;
    }
    let launch = Launch { config: Some(PathBuf::from("/no/such/dshield.toml")), ..Launch::default() };
    refuses_to_start(&good(), launch, POLICY, &["/no/such/dshield.toml", "no such file"]);
}

#[test]
fn an_empty_policy() {
    if !require_root() {
        return;
    }
    let project = good();
    let launch = config(&project, "");
    refuses_to_start(&project, launch, POLICY, &["other.toml", "function"]);
}

#[test]
fn a_policy_that_is_not_toml() {
    if !require_root() {
        return;
    }
    let project = good();
    let launch = config(&project, "[[function]\nname = \"x\"\n");
    refuses_to_start(&project, launch, POLICY, &["other.toml:1:"]);
}

#[test]
fn an_unknown_runtime_with_the_nearest_one() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::new("f", "pyhton3", Code::Files(Vec::new())));
    refuses_to_start(&project, Launch::default(), POLICY, &["dshield.toml:3:11", "pyhton3", "python3"]);
}

#[test]
fn a_missing_code_folder() {
    if !require_root() {
        return;
    }
    let missing = Code::Folder(PathBuf::from("/no/such/code"));
    let project = Project::new().with(&Function::new("f", "native", missing));
    refuses_to_start(&project, Launch::default(), POLICY, &["/no/such/code", "f"]);
}

/// Neither the agent nor `dshield check` takes a function whose code folder `spoil` has seen; both say these words.
#[track_caller]
fn refuses_code(spoil: impl Fn(&Path), words: &[&str]) {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::script("f", "#!/bin/sh\n"));
    spoil(&project.folder().join("functions/f"));
    let output = Command::new(binary()).arg("check").arg(project.write()).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for word in words.iter().chain(&["dshield.toml:4:8"]) {
        assert!(stderr.contains(word), "`dshield check` does not say {word:?}: {stderr}");
    }
    refuses_to_start(&project, Launch::default(), USAGE, &[words, &["dshield.toml:4:8", "; "]].concat());
}

#[test]
fn a_link_that_leads_out_of_the_code_folder() {
    let linked = |target: &'static str| {
        move |code: &Path| {
            fs::create_dir_all(code.join("sub/deep")).expect("the folder is ours");
            // Inside, and yet a step on the way out for whoever reads `..` as text.
            symlink("..", code.join("sub/up")).expect("the folder is ours");
            symlink(target, code.join("sub/link")).expect("the folder is ours");
        }
    };
    for target in ["/etc/passwd", "../../../secret", "../..", "up/../secret", "deep/../up/../..", "/proc/self/root"] {
        refuses_code(linked(target), &["sub/link", target, "out of the code folder", "link relatively"]);
    }
    refuses_code(linked("gone"), &["sub/link", "gone", "leads nowhere", "correct it"]);
    refuses_code(linked("../bootstrap/x"), &["sub/link", "leads nowhere"]);
    refuses_code(linked("link"), &["sub/link", "circle"]);
    let chain = |code: &Path| {
        symlink("second", code.join("first")).expect("the folder is ours");
        symlink("third", code.join("second")).expect("the folder is ours");
        symlink("/etc", code.join("third")).expect("the folder is ours");
    };
    refuses_code(chain, &["out of the code folder"]);
}

#[test]
fn links_within_the_code_folder_are_not_bad_input() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let code = project.folder().join("functions/native");
    fs::create_dir_all(code.join("bin")).expect("the folder is ours");
    fs::rename(code.join("bootstrap"), code.join("bin/probe")).expect("the folder is ours");
    symlink("bin/../bin/probe", code.join("bootstrap")).expect("the folder is ours");
    symlink("../bootstrap", code.join("bin/back")).expect("the folder is ours");
    // Two names, one file: it counts once.
    File::create(code.join("half")).and_then(|file| file.set_len(600 << 20)).expect("holes take no room");
    fs::hard_link(code.join("half"), code.join("other half")).expect("the folder is ours");
    let agent = Agent::start(&project);
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
}

#[test]
fn what_is_neither_file_nor_folder_in_the_code() {
    let device = |code: &Path| {
        let status = Command::new("mknod").arg(code.join("null")).args(["c", "1", "3"]).status();
        assert!(status.expect("coreutils are there").success());
    };
    let pipe = |code: &Path| {
        nix::unistd::mkfifo(&code.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("the folder is ours");
    };
    let socket = |code: &Path| drop(UnixListener::bind(code.join("socket")).expect("the folder is ours"));
    refuses_code(device, &["f/null", "a device", "remove it"]);
    refuses_code(pipe, &["f/pipe", "a named pipe", "remove it"]);
    refuses_code(socket, &["f/socket", "a socket", "remove it"]);
}

/// Refused by what the file system says of it: ten gigabytes of holes are not read, and take no time.
#[test]
fn a_code_folder_that_is_too_large() {
    let sized = |gibibytes: u64| {
        move |code: &Path| {
            let file = File::create(code.join("model.bin")).expect("the folder is ours");
            file.set_len(gibibytes << 30).expect("holes take no room");
        }
    };
    let begun = Instant::now();
    refuses_code(sized(10), &["larger than 1 GiB", "model.bin", "10737418", "leave out"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
    let many = |code: &Path| {
        let (sum, name) = ((1 << 30) / 4, |number| format!("part{number}"));
        for number in 0..5 {
            File::create(code.join(name(number))).and_then(|file| file.set_len(sum)).expect("the folder is ours");
        }
    };
    refuses_code(many, &["larger than 1 GiB", "leave out"]);
}

#[test]
fn a_code_folder_with_too_many_files() {
    let crowd = |code: &Path| {
        for folder in 0..101 {
            let folder = code.join(folder.to_string());
            fs::create_dir(&folder).expect("the folder is ours");
            let first = folder.join("0");
            fs::write(&first, "").expect("the folder is ours");
            // Names count, not files: each is looked at.
            (1..1000)
                .for_each(|name| fs::hard_link(&first, folder.join(name.to_string())).expect("the folder is ours"));
        }
    };
    refuses_code(crowd, &["more than 100000 files", "functions/f", "leave out"]);
}

#[test]
fn a_code_folder_that_is_a_file_or_cannot_be_read() {
    let file = |code: &Path| {
        fs::remove_dir_all(code).expect("the folder is ours");
        fs::write(code, "").expect("the folder is ours");
    };
    refuses_code(file, &["functions/f", "not a folder", "`code` names the folder"]);
    if !require_root() || !requires("setpriv") {
        return;
    }
    // Root reads everything, so somebody else checks.
    let project = Project::new().with(&Function::script("f", "#!/bin/sh\n"));
    let (config, secret) = (project.write(), project.folder().join("functions/f/secret"));
    let own = project.folder().join("dshield");
    copy_executable(&binary(), &own);
    fs::create_dir(&secret).expect("the folder is ours");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    mode(project.folder(), 0o755);
    mode(&own, 0o755);
    mode(&secret, 0o700);
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let output = Command::new("setpriv").args(words).arg(&own).arg("check").arg(&config).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for word in [&*secret.to_string_lossy(), "cannot be read: Permission denied", "let the user"] {
        assert!(stderr.contains(word), "it does not say {word:?}: {stderr}");
    }
}

#[test]
fn a_handler_that_leads_out_of_the_code_folder() {
    if !require_root() {
        return;
    }
    for (handler, reason) in [
        ("../app.handler", "`..` leads out of the code folder"),
        ("api/../../app.handler", "`..` leads out of the code folder"),
        ("/etc/app.handler", "absolute path"),
        ("app\0.handler", "NUL byte"),
        ("äpp.handler", "is not a handler"),
    ] {
        let project = Project::new().with(&Function::new("f", "python3", Code::Files(Vec::new())).handler(handler));
        refuses_to_start(&project, Launch::default(), USAGE, &["dshield.toml:5:11", reason, "write module.function"]);
        let output = Command::new(binary()).arg("check").arg(project.write()).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{handler:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{handler:?}");
    }
}

#[test]
fn a_function_name_that_is_not_one() {
    if !require_root() {
        return;
    }
    let config = |name: &str| {
        let name = json!(name);
        format!("[[function]]\nname = {name}\nruntime = \"native\"\ncode = \"functions/native\"\n")
    };
    let project = good();
    let long = "x".repeat(65);
    for name in ["", "a/b", "../f", "/f", "a b", "zusammenfässen", "要約", "f\u{200b}", "f\0", "a.b", &long] {
        let file = project.folder().join("other.toml");
        fs::write(&file, config(name)).expect("the folder is ours");
        let words = ["other.toml:2:8", "cannot be a name", "1 to 64 ASCII letters"];
        let launch = Launch { config: Some(file.clone()), ..Launch::default() };
        refuses_to_start(&project, launch, USAGE, &words);
        let output = Command::new(binary()).arg("check").arg(&file).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{name:?}");
    }
    // The longest one is as good as any: as a cgroup, a folder of pins and a host name too.
    let (file, longest) = (project.folder().join("other.toml"), "X".repeat(64));
    fs::write(&file, config(&longest)).expect("the folder is ours");
    let agent = Agent::launch(&project, Launch { config: Some(file), ..Launch::default() }).expect("it starts");
    assert_eq!(agent.call(&longest, &json!({"do": "echo"}))["do"], "echo");
}

#[test]
fn native_code_without_a_bootstrap() {
    if !require_root() {
        return;
    }
    let code = Code::Files(vec![("main.txt".into(), "nothing".into())]);
    let project = Project::new().with(&Function::new("f", "native", code));
    refuses_to_start(&project, Launch::default(), POLICY, &["bootstrap"]);
}

#[test]
fn a_port_in_use() {
    if !require_root() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("it is bound").to_string();
    let launch = Launch { listen: listen.clone(), ..Launch::default() };
    refuses_to_start(&good(), launch, FAILURE, &[&listen, "in use"]);
}

#[test]
fn a_state_folder_that_is_a_file() {
    if !require_root() {
        return;
    }
    let project = good();
    let file = project.folder().join("file");
    std::fs::write(&file, "").expect("the folder is ours");
    let launch = Launch { state: Some(file.clone()), ..Launch::default() };
    refuses_to_start(&project, launch, FAILURE, &[&file.to_string_lossy()]);
}

#[test]
fn not_root() {
    if !require_root() || !requires("setpriv") {
        return;
    }
    // A copy, because `nobody` may not look into every folder above the build.
    let project = good();
    let folder = project.folder();
    let own = folder.join("dshield");
    copy_executable(&binary(), &own);
    let state = folder.join("nobodys");
    std::fs::create_dir(&state).expect("the folder is ours");
    for path in [folder, own.as_path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).expect("ours");
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
    let launch = Launch { binary: Some(own), wrapper, state: Some(state), ..Launch::default() };
    refuses_to_start(&project, launch, FAILURE, &["root"]);
}

#[test]
fn no_cgroup2() {
    if !require_root() || !requires("unshare") {
        return;
    }
    let mounted = cgroup2().expect("this machine has cgroup2").to_string_lossy().into_owned();
    let hide = "umount -R -l \"$0\" && exec \"$@\"";
    let wrapper =
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, &mounted].map(str::to_owned).to_vec();
    let launch = Launch { wrapper, ..Launch::default() };
    refuses_to_start(&good(), launch, FAILURE, &["cgroup"]);
}

#[test]
fn a_kernel_that_refuses_the_programs() {
    if !require_root() || !requires("strace") {
        return;
    }
    // No kernel without the feature is at hand, so strace answers for one: from some call of bpf(2) on, at every
    // stage of loading, pinning and attaching, until the agent gets through because it needs no more calls.
    let mut refused = 0;
    for first in (1..600).step_by(17) {
        let inject = format!("inject=bpf:error=EPERM:when={first}+");
        let words = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=bpf", "-e", &inject];
        let launch = Launch { wrapper: words.map(str::to_owned).to_vec(), ..Launch::default() };
        match Agent::launch(&good(), launch) {
            Ok(_) => break,
            Err(error) => check(&error, FAILURE, &["dshield:", "not permitted"]),
        }
        refused += 1;
    }
    assert!((5..30).contains(&refused), "refused from {refused} different calls on");
}

#[test]
fn a_corrupt_log_is_not_started_upon_and_not_overwritten() {
    if !require_root() {
        return;
    }
    let project = good();
    let mut agent = Agent::start(&project);
    let _ = agent.call("native", &json!({"do": "echo"}));
    assert_eq!(agent.stop(), Some(0));
    let databases: Vec<_> = files(&project.state()).into_iter().filter(|path| is_redb(path.as_path())).collect();
    let [database] = &databases[..] else { panic!("one log: {databases:?}") };
    let whole = std::fs::read(database).expect("root reads everything");

    let mut headless = whole.clone();
    headless[..512].fill(0xA5);
    let mut hollow = whole.clone();
    let length = hollow.len();
    hollow[4096..length.min(4096 + 64 * 1024)].fill(0xA5);
    for damaged in [headless, hollow, whole[..whole.len() / 2].to_vec(), b"not a database".to_vec()] {
        std::fs::write(database, &damaged).expect("the folder is ours");
        refuses_to_start(&project, Launch::default(), FAILURE, &["log", &database.to_string_lossy()]);
        assert_eq!(std::fs::read(database).expect("it is still there").len(), damaged.len(), "evidence was changed");
    }
    std::fs::write(database, &whole).expect("the folder is ours");
    assert_eq!(Agent::start(&project).log().verify(), Ok(()));
}

#[test]
fn wrong_arguments_exit_with_2() {
    let cases: [(&[&str], &str); 4] = [
        (&["run"], "--config"),
        (&["run", "--confg", "x"], "--config"),
        (&["fly"], "fly"),
        (&["run", "--config", "x", "--listen", "nowhere"], "nowhere"),
    ];
    for (arguments, word) in cases {
        let output = Command::new(binary()).args(arguments).output().expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE[0]), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
        assert!(stderr.contains(word), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_name_that_is_not_one_for_a_folder() {
    if !require_root() {
        return;
    }
    for name in ["", "..", "a/b", "a b", &"x".repeat(300)] {
        let project = good();
        let output = Command::new(binary())
            .args(["run", "--listen", "127.0.0.1:0", "--name", name, "--config"])
            .arg(project.write())
            .arg("--state")
            .arg(project.state())
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name:?}: {stderr}");
        assert!(stderr.contains("name"), "{name:?}: {stderr}");
    }
    assert_eq!(Leftovers::of("a b").found(), Vec::<String>::new());
}

fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// redb files begin with this magic number.
fn is_redb(path: &std::path::Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"redb\x1A\x0A\xA9\x0D\x0A"))
}

//! The languages that people write functions in start, work and reach what is allowed, behind every wall.
use std::process::Command;

use dshield_tests::agent::{Agent, Code, Egress, Function, Project, copy_executable};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run};
use dshield_tests::standin::Standin;
use dshield_tests::workspace;
use serde_json::{Value, json};

/// The function gets an answer from the Messages API, twice, and nothing was refused on its way.
fn check(function: &Function) {
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/v1/messages"]);
    let project = Project::new().with(&function.clone().timeout("60s").egress(&rule));
    let agent = Agent::start(&project);
    let message = json!({"role": "user", "content": "one two three"});
    let event = json!({"model": "claude", "max_tokens": 64, "messages": [message], "stream": false});
    for _ in 0..2 {
        let answer = agent.call(function.name(), &event);
        let text = &answer["content"][0]["text"];
        assert_eq!(*text, "A text of 3 words that begins with: one two three", "{answer}\n{}", agent.stderr());
    }
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused(function.name()).is_empty(), "{log}");
}

#[test]
fn a_jvm_works() {
    if !require_root() || !requires("java") || !requires("javac") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = workspace().join("tests/functions/java");
    // What an instance's user may read, which the temporary folder itself is not.
    let code = folder.path().join("code");
    std::fs::create_dir(&code).expect("the folder is ours");
    let built = Command::new("javac").arg("-d").arg(&code).arg(source.join("Main.java")).output().expect("it starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    copy_executable(&source.join("bootstrap"), &code.join("bootstrap"));
    // The two collectors that ask most of the kernel: threads, and one memory mapped several times.
    for flags in ["-XX:+UseG1GC", "-XX:+UseZGC"] {
        let code = Code::Folder(code.clone());
        check(&Function::new("java", "native", code).env(&[("JAVA_FLAGS", flags)]).set("memory", "\"512MiB\""));
    }
}

#[test]
fn a_static_go_program_works() {
    if !require_root() || !requires("go") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bootstrap = folder.path().join("bootstrap");
    let source = workspace().join("tests/functions/go/main.go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&bootstrap).arg(source).current_dir(folder.path());
    build.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder.path().join("cache"));
    let built = build.output().expect("it starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    check(&Function::new("go", "native", Code::Executable(bootstrap)));
}

#[test]
fn pythons_own_library_works() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new().with(&script::function("f").timeout("60s"));
    let agent = Agent::start(&project);
    let code = "
import asyncio, concurrent.futures, fcntl, mmap, multiprocessing, resource, shutil, signal, sqlite3, subprocess
import sys, tempfile, threading
answer = {}
with multiprocessing.Pool(2) as pool:
    answer['pool'] = pool.map(abs, [-1, -2])
with concurrent.futures.ThreadPoolExecutor(8) as threads:
    answer['threads'] = sum(threads.map(abs, range(-10, 0)))
with tempfile.TemporaryDirectory() as folder:
    shutil.copytree('/var/task', folder + '/copy')
    shutil.move(folder + '/copy', folder + '/moved')
    answer['copied'] = sorted(os.listdir(folder + '/moved'))
    base = sqlite3.connect(folder + '/base')
    base.execute('create table t (x)')
    base.execute('insert into t values (7)')
    base.commit()
    answer['sqlite'] = base.execute('select x from t').fetchone()[0]
    with open(folder + '/lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fsync(file.fileno())
    tools = 'cd $0 && cp -a /var/task tools && mv tools /dev/shm/ && tar cf t.tar lock && xz t.tar && tar xf t.tar.xz'
    answer['tools'] = subprocess.run(['/bin/sh', '-c', tools, folder], capture_output=True, text=True).stderr
async def several():
    child = await asyncio.create_subprocess_exec('/bin/echo', 'said', stdout=subprocess.PIPE)
    return (await child.communicate())[0].decode()
answer['asyncio'] = asyncio.run(several())
answer['stdout'] = subprocess.run(['/bin/sh', '-c', 'echo said > /dev/stdout; echo > /dev/null'],
    capture_output=True, text=True).stdout
answer['comm'] = open('/proc/self/comm').read()
# The whole run may be under nice(1) already.
answer['nice'] = -os.nice(0) + os.nice(1)
answer['shared'] = len(mmap.mmap(-1, 1 << 20))
answer['memfd'] = os.write(os.memfd_create('x'), b'four')
os.kill(os.spawnl(os.P_NOWAIT, '/bin/sleep', 'sleep', '60'), signal.SIGKILL)
answer['killed'] = os.wait()[1]";
    let mut answer = run(&agent, "f", code);
    let comm = answer["comm"].take();
    assert!(comm.as_str().is_some_and(|comm| comm.starts_with("python3")), "{comm}");
    let expected = json!({
        "pool": [1, 2], "threads": 55, "copied": ["app.py"], "sqlite": 7, "tools": "", "asyncio": "said\n",
        "stdout": "said\n", "comm": null, "nice": 1, "shared": 1 << 20, "memfd": 4, "killed": 9,
    });
    // What Python caches beside the code when it runs outside.
    if let Some(copied) = answer["copied"].as_array_mut() {
        copied.retain(|name| name != "__pycache__");
    }
    assert_eq!(answer, expected);
}

const NODE: &str = "
const { Worker } = require('worker_threads')
const { execFileSync, fork } = require('child_process')
const { once } = require('events')
const fs = require('fs')
const os = require('os')
const crypto = require('crypto')
const zlib = require('zlib')

exports.handler = async () => {
  const answer = {}
  const worker = new Worker('require(\"worker_threads\").parentPort.postMessage(6 * 7)', { eval: true })
  answer.worker = (await once(worker, 'message'))[0]
  answer.child = execFileSync('/bin/echo', ['said']).toString()
  fs.writeFileSync('/tmp/forked.js', 'process.send(process.argv[2])')
  answer.fork = (await once(fork('/tmp/forked.js', ['sent']), 'message'))[0]
  answer.interfaces = Object.keys(os.networkInterfaces())
  const wasm = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0,
    10, 6, 1, 4, 0, 65, 42, 11])
  answer.wasm = (await WebAssembly.instantiate(wasm)).instance.exports.f()
  answer.scrypt = crypto.scryptSync('a', 'b', 8).length
  answer.gzip = zlib.gunzipSync(zlib.gzipSync('zipped')).toString()
  answer.copied = (await fs.promises.cp('/var/task', '/tmp/copy', { recursive: true }), fs.readdirSync('/tmp/copy'))
  return answer
}
";

#[test]
fn nodes_own_library_works() {
    if !require_root() || !requires("node") {
        return;
    }
    let project = Project::new().with(&Function::node("f", NODE).timeout("60s"));
    let agent = Agent::start(&project);
    let expected = json!({
        "worker": 42, "child": "said\n", "fork": "sent", "interfaces": ["lo"], "wasm": 42,
        "scrypt": 8, "gzip": "zipped", "copied": ["index.js"],
    });
    assert_eq!(agent.call("f", &json!({})), expected);
}

#[test]
fn perl_and_ruby_work() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = Agent::start(&project);
    let scripts = [
        (
            "perl",
            "open(F, '>', '/tmp/p') or die; print F `echo said`; close F; exit(fork() ? (wait() > 0 ? 7 : 1) : 0)",
        ),
        (
            "ruby",
            "t = (1..8).map { |n| Thread.new { n } }.map(&:value); File.write('/tmp/r', `echo said`); exit(t.sum == 36 ? 7 : 1)",
        ),
    ];
    for (language, script) in scripts {
        if requires(language) {
            let argv: Value = json!([format!("/usr/bin/{language}"), "-e", script]);
            let ran = agent.call("native", &json!({"do": "run", "argv": argv}));
            assert_eq!(ran["code"], 7, "{language}: {ran}");
        }
    }
}

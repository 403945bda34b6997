//! Real functions in real processes for tests: on loopback, without a sandbox.
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dshield_common::policy::{Function, FunctionName, FunctionPolicy, Mode, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::{LaunchError, Launcher, Pool, command, environment};
use crate::instance::{Exit, Instance, Running};
use crate::log::{BootFacts, Log, Storage};
use crate::snapshot::FrozenFunction;

/// A function's code in a folder of its own.
pub(crate) struct Source {
    folder: tempfile::TempDir,
    runtime: Runtime,
    handler: Option<String>,
}

impl Source {
    pub fn python(module: &str, code: &str) -> Self {
        Self::new(Runtime::Python3, &format!("{module}.py"), code, Some(format!("{module}.handler")))
    }

    pub fn node(file: &str, code: &str) -> Self {
        let (module, _) = file.rsplit_once('.').unwrap();
        Self::new(Runtime::Node, file, code, Some(format!("{module}.handler")))
    }

    pub fn native(script: &str) -> Self {
        Self::new(Runtime::Native, "bootstrap", script, None)
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub fn handler(mut self, handler: &str) -> Self {
        self.handler = Some(handler.to_owned());
        self
    }

    fn new(runtime: Runtime, file: &str, code: &str, handler: Option<String>) -> Self {
        let source = Self { folder: tempfile::tempdir().unwrap(), runtime, handler }.file(file, code);
        let path = source.folder.path().join(file);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        source
    }

    /// Why the runtime cannot be tested here.
    pub fn unavailable(&self) -> Option<String> {
        let program = command(self.runtime).argv[0].clone();
        let missing = self.runtime != Runtime::Native && !Path::new(&program).exists();
        missing.then(|| format!("{program} does not exist"))
    }
}

/// A function with one instance, 128 MiB and 10 s.
pub(crate) fn function(name: &str, source: &Source) -> FrozenFunction {
    let name = FunctionName::parse(name).unwrap();
    FrozenFunction {
        spec: Function {
            name: name.clone(),
            runtime: source.runtime,
            code: source.folder.path().to_owned(),
            handler: source.handler.clone(),
            timeout: Duration::from_secs(10),
            memory: 128 << 20,
            concurrency: 1,
            env: std::collections::BTreeMap::new(),
        },
        code: source.folder.path().to_owned(),
        policy: Arc::new(FunctionPolicy { name, mode: Mode::Enforce, egress: Vec::new() }),
        // Nobody measures what is not in a sandbox.
        code_sha256: "e3b0c442".to_owned(),
    }
}

/// The invocations in a log: instance, request id, phase and outcome of each entry.
pub(crate) async fn invocations(log: &Log) -> Vec<[String; 4]> {
    let mut found = Vec::new();
    for line in log.read(0, 1000).await.unwrap() {
        let entry = serde_json::from_str::<serde_json::Value>(&line).unwrap()["entry"].clone();
        if entry["kind"] == "invoke" {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            found.push([text("instance"), text("request_id"), text("phase"), text("outcome")]);
        }
    }
    found
}

/// A log in memory.
pub(crate) fn log() -> Log {
    Log::open(Storage::Memory, BootFacts::default()).unwrap()
}

/// A log that takes no entries.
pub(crate) async fn closed_log() -> Log {
    let log = log();
    log.close().await;
    log
}

/// Counts what a launcher did.
#[derive(Clone, Default)]
pub(crate) struct Count {
    pub launched: Arc<AtomicUsize>,
    pub alive: Arc<AtomicUsize>,
}

impl Count {
    pub fn launched(&self) -> usize {
        self.launched.load(Ordering::SeqCst)
    }

    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// Waits until so many instances are left.
    pub async fn until_alive(&self, count: usize) {
        until(|| self.alive() == count).await;
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the condition holds in time");
}

/// A pool whose instances are real processes.
pub(crate) fn pool(function: FrozenFunction, log: &Log) -> (Pool, Count) {
    let count = Count::default();
    (Pool::new(Arc::new(function), processes(count.clone()), log.clone()), count)
}

/// Launches processes as the sandbox would, with paths and port of this test in place of its own.
pub(crate) fn processes(count: Count) -> Launcher {
    Arc::new(move |function| {
        let count = count.clone();
        Box::pin(async move {
            let runtime_api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let number = count.launched.fetch_add(1, Ordering::SeqCst);
            count.alive.fetch_add(1, Ordering::SeqCst);

            let bootstraps = tempfile::tempdir().unwrap();
            let command = command(function.spec.runtime);
            for (name, content) in &command.files {
                std::fs::write(bootstraps.path().join(name), content).unwrap();
            }
            let code = function.code.to_str().unwrap();
            let here = |word: &str| {
                word.replace("/var/runtime", bootstraps.path().to_str().unwrap()).replace("/var/task", code)
            };
            let mut process = tokio::process::Command::new(here(&command.argv[0]));
            process.args(command.argv[1..].iter().map(|word| here(word)));
            process.env_clear().envs(environment(&function)).env("LAMBDA_TASK_ROOT", code);
            process.env("AWS_LAMBDA_RUNTIME_API", runtime_api.local_addr().unwrap().to_string());
            process.kill_on_drop(true);
            let mut child = loop {
                match process.spawn() {
                    // Until it executes, a child that another test starts has the file open that was just written.
                    Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    spawned => break spawned.unwrap(),
                }
            };

            let (ended, exit) = watch::channel(None);
            let (kill, killed) = oneshot::channel::<()>();
            let (gone, is_gone) = oneshot::channel::<()>();
            tokio::spawn(async move {
                let status = tokio::select! {
                    status = child.wait() => Some(status.unwrap()),
                    _ = killed => None,
                };
                match status {
                    Some(status) => {
                        let signal = || Exit::Signal(status.signal().unwrap_or_default());
                        ended.send_replace(Some(status.code().map_or_else(signal, Exit::Code)));
                    }
                    None => child.kill().await.unwrap(),
                }
                drop(bootstraps);
                gone.send(()).unwrap_or_default();
            });
            Ok(Running {
                instance: Arc::new(Instance::new(format!("i-{number}"), function.policy.clone(), number as u64)),
                runtime_api,
                exit,
                stop: Box::new(move || {
                    Box::pin(async move {
                        drop(kill);
                        is_gone.await.unwrap_or_default();
                        count.alive.fetch_sub(1, Ordering::SeqCst);
                    })
                }),
            })
        })
    })
}

/// An instance without a process: the test speaks to its Runtime API, and says when it has ended.
pub(crate) struct Puppet {
    pub address: SocketAddr,
    pub exit: watch::Sender<Option<Exit>>,
}

impl Puppet {
    /// One call on a connection of its own: status and body.
    pub async fn call(&self, request: &str) -> (u16, String) {
        exchange(self.address, request.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        self.call(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.call(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

/// Sends raw bytes and reads the response to its end: status and body, or 0 when there is none.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    // The server may answer, and close, before it has read everything.
    let write = async {
        let _ = write.write_all(request).await;
        write
    };
    let mut bytes = Vec::new();
    let (_, _write) = tokio::join!(read.read_to_end(&mut bytes), write);
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, text.into_owned()) };
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// A pool whose instances are puppets.
pub(crate) fn puppets(name: &str, adjust: impl FnOnce(&mut Function)) -> (Pool, mpsc::UnboundedReceiver<Puppet>, Log) {
    let source = Source::native("");
    let mut function = function(name, &source);
    adjust(&mut function.spec);
    let (sender, receiver) = mpsc::unbounded_channel();
    let launcher: Launcher = Arc::new(move |function| {
        let sender = sender.clone();
        Box::pin(async move {
            let runtime_api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (ended, exit) = watch::channel(None);
            let puppet = Puppet { address: runtime_api.local_addr().unwrap(), exit: ended };
            sender.send(puppet).map_err(|_| LaunchError::Sandbox {
                function: function.spec.name.to_string(),
                source: "the test has ended".into(),
            })?;
            let instance = Arc::new(Instance::new("i".to_owned(), function.policy.clone(), 0));
            Ok(Running { instance, runtime_api, exit, stop: Box::new(|| Box::pin(std::future::ready(()))) })
        })
    });
    let log = log();
    (Pool::new(Arc::new(function), launcher, log.clone()), receiver, log)
}

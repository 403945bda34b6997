//! Drives the real `dshield` binary.
//!
//! A [`Project`] flows in; answers to invocations and the signed [`Log`] flow out. Each agent has a name of
//! its own, so that tests run side by side, and what a killed agent leaves is removed when its handle drops.
mod cleanup;
mod footprint;
mod log;
mod process;
mod project;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

pub use cleanup::{Leftovers, cgroup2};
pub use footprint::{Footprint, resident_kib};
pub use log::{Line, Log, in_words};
pub use process::{StartError, binary, copy_executable};
pub use project::{Code, Egress, Function, Project};

use crate::client::{self, Answer};
use crate::wait;
pub(crate) use process::Process;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(180);

/// How to start an agent; see [`Agent::start`] for the ordinary way.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `run` or `dev`.
    pub command: &'static str,
    /// `--name`.
    pub name: String,
    /// `--listen`.
    pub listen: String,
    /// `--config`, instead of the project's own.
    pub config: Option<PathBuf>,
    /// `--state`, instead of the project's own.
    pub state: Option<PathBuf>,
    /// The binary, instead of the workspace's own.
    pub binary: Option<PathBuf>,
    /// A command that runs the agent, such as `setpriv …`; the agent's own command line is appended.
    pub wrapper: Vec<String>,
    /// `--tls`, or what the command does without it. Off unless a test is about TLS: the others write their requests
    /// themselves.
    pub tls: Option<bool>,
    /// `--attestation`, or what the command does without it.
    pub attestation: Option<&'static str>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Environment variables, beside those of this process.
    pub environment: Vec<(&'static str, String)>,
}

impl Default for Launch {
    /// A name that no other test uses, and a free port of 127.0.0.1.
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dst-{}-{number}", std::process::id());
        let listen = "127.0.0.1:0".into();
        Self {
            command: "run",
            name,
            listen,
            config: None,
            state: None,
            binary: None,
            wrapper: Vec::new(),
            tls: Some(false),
            attestation: None,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A running agent. Dropping it kills it and removes what it leaves.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    address: SocketAddr,
    tls: bool,
    name: String,
    leftovers: Leftovers,
}

impl Agent {
    /// Starts an agent for `project` and waits until it is ready. Panics with its output when it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(project: &Project) -> Self {
        Self::launch(project, Launch::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts an agent.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub fn launch(project: &Project, launch: Launch) -> Result<Self, StartError> {
        let config = launch.config.clone().unwrap_or_else(|| project.write());
        let state = launch.state.clone().unwrap_or_else(|| project.state());
        let leftovers = Leftovers::of(&launch.name);
        // Another agent's, or a killed one's: not ours to remove should this one not come up.
        let before = leftovers.found();
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let mut arguments = vec![
            launch.command.into(),
            "--config".into(),
            path(&config),
            "--listen".into(),
            launch.listen.clone(),
            "--state".into(),
            path(&state),
            "--name".into(),
            launch.name.clone(),
        ];
        if let Some(tls) = launch.tls {
            arguments.extend(["--tls".into(), if tls { "on" } else { "off" }.into()]);
        }
        if let Some(provider) = launch.attestation {
            arguments.extend(["--attestation".into(), provider.into()]);
        }
        arguments.extend(launch.arguments.iter().cloned());
        let binary = launch.binary.clone().unwrap_or_else(process::binary);
        let line: Vec<String> = [launch.wrapper.clone(), vec![path(&binary)], arguments].concat();
        let started = Process::start(&line, &launch.environment, project.folder());
        let (process, ready) = match started {
            Ok(started) => started,
            Err(error) => {
                let left = leftovers.found().into_iter().filter(|found| !before.contains(found)).collect();
                if !before.is_empty() {
                    std::mem::forget(leftovers);
                }
                return Err(StartError { left, ..error });
            }
        };
        let (tls, address, name) = parse_ready(&ready).ok_or_else(|| process.unexpected(&ready))?;
        if name != launch.name || launch.tls.is_some_and(|asked| asked != tls) {
            return Err(process.unexpected(&ready));
        }
        Ok(Self { process, address, tls, name, leftovers })
    }

    /// Where its API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Its name: the cgroup and the folder of pins are called so.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What carries its name in the kernel.
    #[must_use]
    pub fn leftovers(&self) -> &Leftovers {
        &self.leftovers
    }

    /// The copies of code folders that it has in memory: two functions with one folder have one.
    #[must_use]
    pub fn copies(&self) -> Vec<PathBuf> {
        let store = Path::new("/run/dshield").join(&self.name).join("code");
        let below = |folder: PathBuf| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let mut copies: Vec<_> = below(store).into_iter().flat_map(below).collect();
        copies.sort();
        copies
    }

    /// What it has written to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// What it has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Waits until it has said this on stderr: that is written by a thread of its own. Panics when it does not come.
    #[track_caller]
    pub fn says(&self, words: &str) {
        let said = wait::within(wait::PATIENCE, || self.stderr().contains(words).then_some(()));
        assert!(said.is_some(), "it never said {words:?}: {}", self.stderr());
    }

    /// Invokes a function with this event. Panics when there is no answer.
    #[must_use]
    #[track_caller]
    pub fn invoke(&self, function: &str, event: &Value) -> Answer {
        self.post(function, event.to_string())
    }

    /// Invokes a function and returns its value. Panics when the invocation or the function fails.
    #[must_use]
    #[track_caller]
    pub fn call(&self, function: &str, event: &Value) -> Value {
        let answer = self.invoke(function, event);
        let failed = answer.status != 200 || answer.header("x-amz-function-error").is_some();
        assert!(!failed, "{function} failed with status {}: {}", answer.status, answer.text());
        answer.json()
    }

    /// Invokes a function with any bytes as its event. Panics when there is no answer.
    #[must_use]
    #[track_caller]
    pub fn post(&self, function: &str, body: impl Into<Bytes>) -> Answer {
        self.request("POST", &format!("/2015-03-31/functions/{function}/invocations"), body)
    }

    /// Any GET of the API. Panics when there is no answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, Bytes::new())
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        ask(self.address, self.tls, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Invokes without looking at the answer, for events that end with the agent or never.
    pub fn invoke_aside(&self, function: &str, event: &Value) -> std::thread::JoinHandle<()> {
        let (address, tls, body) = (self.address, self.tls, event.to_string());
        let path = format!("/2015-03-31/functions/{function}/invocations");
        std::thread::spawn(move || {
            let _ = ask(address, tls, "POST", &path, body);
        })
    }

    /// The whole log as it stands now.
    #[must_use]
    #[track_caller]
    pub fn log(&self) -> Log {
        let get = |path: &str| ask(self.address, self.tls, "GET", path, "");
        Log::fetch(get).unwrap_or_else(|error| panic!("the log cannot be read: {error}"))
    }

    /// The log, once it has what `wanted` looks for: kernel refusals and endings come a moment later.
    #[track_caller]
    pub fn log_with(&self, what: &str, wanted: impl Fn(&Log) -> bool) -> Log {
        let found = wait::within(Duration::from_secs(10), || Some(self.log()).filter(|log| wanted(log)));
        found.unwrap_or_else(|| panic!("the log never got {what}:\n{}", self.log()))
    }

    /// Stops it with SIGTERM, waits, and returns its exit code; `None` when a signal ended it.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.terminate()
    }

    /// Kills it at once. It is gone when this returns.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }
}

fn ask(
    address: SocketAddr,
    tls: bool,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
) -> Result<Answer, client::Error> {
    let patience = wait::scaled(ANSWER);
    match tls {
        true => client::request_tls(address, method, path, body, patience).map(|(answer, _)| answer),
        false => client::request(address, method, path, body, patience),
    }
}

/// `dshield ready http://ADDR name=NAME`, or with https: whether it speaks TLS, where, and its name.
fn parse_ready(line: &str) -> Option<(bool, SocketAddr, String)> {
    let (url, name) = line.trim_end().strip_prefix("dshield ready ")?.split_once(" name=")?;
    let (scheme, address) = url.split_once("://")?;
    let tls = matches!(scheme, "https");
    (tls || scheme == "http").then_some(())?;
    Some((tls, address.parse().ok()?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_gives_address_and_name() {
        for (scheme, tls) in [("http", false), ("https", true)] {
            let ready = parse_ready(&format!("dshield ready {scheme}://127.0.0.1:4711 name=dst-1-0\n"));
            assert_eq!(ready, Some((tls, SocketAddr::from(([127, 0, 0, 1], 4711)), "dst-1-0".to_owned())));
        }
        assert_eq!(parse_ready("dshield ready"), None);
        assert_eq!(parse_ready("dshield ready ftp://127.0.0.1:4711 name=x"), None);
    }
}

//! The agent's process: started with its output in files, so that a failing test can show it.
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// How long an agent may take to be ready, in a debug build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Why an agent did not come up.
#[derive(Clone, Debug)]
pub struct StartError {
    /// What went wrong, seen from outside.
    pub cause: String,
    /// Its exit code, when it ended by itself.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// What it left in the kernel; see [`super::Leftovers::found`].
    pub left: Vec<String>,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the agent {}", self.cause)?;
        if let Some(code) = self.code {
            write!(f, " with exit code {code}")?;
        }
        write!(f, "\n--- its stdout\n{}--- its stderr\n{}", self.stdout, self.stderr)
    }
}

impl std::error::Error for StartError {}

/// A started process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Runs this command line and waits for the first line on its stdout.
    pub(crate) fn start(
        line: &[String],
        environment: &[(&'static str, String)],
        folder: &Path,
    ) -> Result<(Self, String), StartError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let output = |stream: &str| folder.join(format!("agent-{number}.{stream}"));
        let (stdout, stderr) = (output("stdout"), output("stderr"));
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            // Whoever runs the tests may have a guest agent of their own.
            .env_remove("DSTACK_SIMULATOR_ENDPOINT")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).expect("the project's folder is ours"))
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", line[0]));
        let lines = BufReader::new(child.stdout.take().expect("stdout was asked for")).lines();
        let mut copy = File::create(&stdout).expect("the project's folder is ours");
        let (sender, first) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The copy is for failing tests only; the receiver listens to the first line only.
                let _ = writeln!(copy, "{line}");
                let _ = sender.send(line);
            }
        });
        let mut process = Self { child, ended: None, stdout, stderr };
        let patience = wait::scaled(START);
        match first.recv_timeout(patience) {
            Ok(line) => Ok((process, line)),
            Err(RecvTimeoutError::Timeout) => Err(process.error(&format!("was not ready within {patience:?}"), None)),
            Err(RecvTimeoutError::Disconnected) => {
                let code = process.wait().and_then(|status| status.code());
                Err(process.error("ended before it was ready", code))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn unexpected(&self, line: &str) -> StartError {
        self.error(&format!("said {line:?} instead of the ready line"), None)
    }

    pub(crate) fn terminate(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            let pid = Pid::from_raw(i32::try_from(self.pid()).expect("process ids are below 2^22"));
            // It may have ended by itself, which the exit code will tell.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let ended = self.wait();
        let patience = wait::scaled(wait::PATIENCE);
        assert!(ended.is_some(), "the agent did not end within {patience:?} after SIGTERM\n{}", self.stderr());
        ended.and_then(|status| status.code())
    }

    pub(crate) fn kill9(&mut self) {
        if self.ended.is_none() {
            // Fails only when it has ended already.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = wait::within(wait::PATIENCE, || self.child.try_wait().ok().flatten());
        }
        self.ended
    }

    fn error(&self, cause: &str, code: Option<i32>) -> StartError {
        StartError { cause: cause.to_owned(), code, stdout: self.stdout(), stderr: self.stderr(), left: Vec::new() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("{}", self.error("of this test said:", None));
        }
    }
}

/// The agent's binary: `DSHIELD_BIN`, or the workspace's own build.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DSHIELD_BIN") {
        return PathBuf::from(path);
    }
    crate::built("dshield")
        .expect("no `dshield` beside this test: run `cargo build` first (`cargo xtask test` does), or set DSHIELD_BIN")
}

/// Copies a program that will be run as `to`.
///
/// Another process does it: a child that another thread starts meanwhile has, until it executes, every file that this
/// process is writing, and whoever runs a file that somebody may write gets ETXTBSY (execve(2)).
///
/// # Panics
/// When it cannot be copied.
#[track_caller]
pub fn copy_executable(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("coreutils are there");
    assert!(copied.success(), "{} cannot be copied to {}", from.display(), to.display());
}

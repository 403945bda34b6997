//! Somebody who verifies: a folder with what they know and remember, and runs of `dshield-verify` in it.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::agent::binary;
use crate::command::Left;

/// One verifier. What it saw is remembered until it is dropped.
#[derive(Debug)]
pub struct Verifier {
    folder: TempDir,
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Verifier {
    /// Who has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("dshield-verifier-").tempdir().expect("a temporary folder") }
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// The text of one of its files. Panics when there is no such file.
    #[must_use]
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.file(name), text).expect("the folder is ours");
        self.file(name)
    }

    /// Runs `dshield-verify`.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Left {
        self.command(Command::new(program()), arguments)
    }

    /// Runs `dshield verify`.
    #[must_use]
    pub fn run_as_dshield<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Left {
        let mut dshield = Command::new(binary());
        dshield.arg("verify");
        self.command(dshield, arguments)
    }

    /// Its exit code and its verdict. Panics when it prints no JSON.
    #[must_use]
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> (Option<i32>, Value) {
        let mut command = Command::new(program());
        command.arg("--json");
        let left = self.command(command, arguments);
        let verdict = serde_json::from_str(&left.stdout);
        (left.code, verdict.unwrap_or_else(|error| panic!("{error}: {left:?}")))
    }

    /// What is there now, kept as `expect.toml`: its path. Panics when nothing could be seen.
    #[must_use]
    #[track_caller]
    pub fn keep(&self, url: &str) -> String {
        let file = self.file("expect.toml");
        // Not with the memory: this is no look that counts.
        let elsewhere = self.file("kept");
        let arguments =
            [url, "--offline", "--insecure-development", "--save-expect", &file, "--state", &elsewhere, "--forget"];
        let left = self.run(arguments);
        assert_eq!(left.code, Some(20), "{left:?}");
        file
    }

    fn command<S: AsRef<OsStr>>(&self, mut command: Command, arguments: impl IntoIterator<Item = S>) -> Left {
        command
            .args(arguments)
            // Where the memory is, unless --state says otherwise.
            .env("XDG_STATE_HOME", self.folder.path().join("memory"))
            .env_remove("HOME")
            .current_dir(self.folder.path());
        Left::of(command)
    }
}

/// `dshield-verify`, beside the `dshield` under test. Panics when it is not built.
fn program() -> PathBuf {
    let beside = binary().with_file_name("dshield-verify");
    assert!(beside.is_file(), "no {}: run `cargo build --workspace --bins` first", beside.display());
    beside
}

//! One run of the `dshield` command, and what it left.
use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::agent::binary;

/// What a command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// Runs `dshield` with these arguments until it ends. Panics when there is no such binary.
#[must_use]
pub fn dshield<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Left {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("DSHIELD_URL").env_remove("DSHIELD_LOG");
    Left::of(command)
}

impl Left {
    /// What a command leaves that is given no input. Panics when it cannot be started.
    #[must_use]
    pub fn of(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// That it ended with this code, having printed or said these words, however its lines are broken.
    #[track_caller]
    pub fn ended(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let whole = format!("{} {}", self.stdout, self.stderr);
        let whole = whole.split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(whole.contains(word), "it does not say {word:?}: {}{}", self.stdout, self.stderr);
        }
    }

    /// Its standard output, when it succeeded and said nothing. Panics otherwise.
    #[must_use]
    #[track_caller]
    pub fn printed(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// That it failed as an ordinary failure does, in one line with these words, and printed nothing.
    #[track_caller]
    pub fn failed_saying(&self, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "it does not say {word:?}: {}", self.stderr);
        }
    }
}

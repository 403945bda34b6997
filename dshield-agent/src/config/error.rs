//! Why a deployment cannot be loaded: whose fault, and what to do.
use std::fmt;
use std::io;
use std::path::PathBuf;

use dshield_common::policy::Diagnostic;

/// Why [`load`](super::load) gave nothing. Each is for the writer of the policy to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The operating system would not give us the file.
    #[error("cannot read the policy {}: {source}; {}", path.display(), unreadable_hint(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not UTF-8.
    #[error("{}:{line}: this is not UTF-8 text; save the policy as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first line that is not.
        line: usize,
    },
    /// Nothing but white space.
    #[error("the policy {} is empty; no policy means no function, so add one, or make a new file with `dshield init`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Something in the file, or in what it names, is wrong.
    #[error("{0}")]
    Invalid(Invalid),
}

/// What is wrong in a policy: one line each when shown, as `file:line:column: problem; what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Its text, for quoting.
    pub text: String,
    /// Every problem, in the order of the text; at least one.
    pub problems: Vec<Diagnostic>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{}:{problem}", self.path.display())?;
        }
        Ok(())
    }
}

fn unreadable_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "name it with --config, or make one with `dshield init`",
        io::ErrorKind::PermissionDenied => "give this user the right to read it",
        io::ErrorKind::IsADirectory => "name the file, not its folder",
        _ => "name a dshield.toml",
    }
}

//! What can go wrong with the log, in the words the operator gets.
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dshield_common::canonical::CanonicalError;
use dshield_common::log::MAX_ENTRY;

/// Why the log did not open, take a record or give its entries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A checkpoint could not be made. A fault of the code that made it.
    #[error("no checkpoint can be made: {0}; please report this as a bug")]
    Checkpoint(String),
    /// The agent is stopping; the record was not written.
    #[error("the log is closed because the agent is stopping")]
    Closed,
    /// The file is not a log, or was changed or damaged after it was written. The disk, or whoever owns it.
    #[error(
        "the log file {path} is damaged or not a D-Shield log ({detail}); restore it from a copy, or move it \
         away to start a new log"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// An earlier write failed. Nothing is accepted until the disk takes writes again, so nothing can leave unlogged.
    #[error(
        "the log stopped accepting entries ({cause}); no egress is possible until the disk is in order (free \
         space, no errors), which is tried all the time"
    )]
    Failed {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The system refused an operation on the file: permissions, space, a folder in its place.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process has the file open.
    #[error(
        "the log file {path} is in use by another process; stop the other dshield, or give this one its own \
         --state folder"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A newer D-Shield wrote the file.
    #[error(
        "the log file {path} has format {found}, this dshield knows formats up to {supported}; upgrade dshield, \
         or move the file away to start a new log"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this build reads.
        supported: u64,
    },
    /// Whoever asked wants an entry that the log does not have.
    #[error("the log has no entry {seq}: it has {size} so far, numbered from 0")]
    NoSuchEntry {
        /// What was asked for.
        seq: u64,
        /// How many there are.
        size: u64,
    },
    /// The record cannot be written as canonical JSON; it took no number. A fault of the code that made it.
    #[error("a log record has no canonical form: {0}; please report this as a bug")]
    NotCanonical(#[source] CanonicalError),
    /// The entries asked for are not kept any more.
    #[error("the entries before number {first} are not kept any more; their hashes are, and prove those that follow")]
    Pruned {
        /// The number of the first entry that is.
        first: u64,
    },
    /// The system gives no randomness, so there can be no key.
    #[error("the system gives no random numbers, so no log key can be made; check getrandom(2)")]
    Random,
    /// The storage engine could not do a read or start a thread.
    #[error("the log could not be read: {0}")]
    Read(String),
    /// The entry would be longer than an entry may be; it took no number.
    #[error("the log entry would have {size} bytes, more than the {MAX_ENTRY} an entry may have")]
    TooLarge {
        /// The length in bytes it would have.
        size: usize,
    },
}

impl LogError {
    /// Why nothing is accepted any more, when this is what happened.
    pub(super) fn cause(&self) -> Arc<str> {
        match self {
            Self::Failed { cause } => cause.clone(),
            other => other.to_string().into(),
        }
    }
}

//! `dshield log`: the stored log, for whoever keeps it, and any copy of it, for whoever checks it.
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::log::LogError;
use crate::log::stored::StoredLog;
use dshield_verify::client::printable;

mod export;
mod fsck;
mod prune;
mod verify;

/// Where `dshield run` keeps its log unless told otherwise.
const DEFAULT_STATE: &str = "/var/lib/dshield";

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Check a log that somebody gave you: a file, an exported folder, or a running agent.
    Verify(verify::VerifyArgs),
    /// Check the stored log of an agent that is stopped, and say which entries are wrong.
    Fsck(fsck::FsckArgs),
    /// Copy the stored log of an agent that is stopped into a folder that anybody can check or serve.
    Export(export::ExportArgs),
    /// Remove old entries from the stored log of an agent that is stopped; what follows stays provable.
    Prune(prune::PruneArgs),
}

/// Which stored log.
#[derive(Clone, Debug, clap::Args)]
struct State {
    /// The agent's folder.
    #[arg(long = "state", value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
}

impl State {
    fn open(&self) -> Result<StoredLog, LogError> {
        StoredLog::open(&self.file())
    }

    /// For whoever looks at a damaged one too.
    fn open_damaged(&self) -> Result<StoredLog, LogError> {
        StoredLog::open_damaged(&self.file())
    }

    fn file(&self) -> PathBuf {
        self.state.join(crate::agent::LOG_FILE)
    }
}

pub(super) async fn run(command: LogCommand) -> ExitCode {
    match command {
        LogCommand::Verify(args) => verify::run(args).await,
        LogCommand::Fsck(args) => fsck::run(&args),
        LogCommand::Export(args) => export::run(&args),
        LogCommand::Prune(args) => prune::run(&args),
    }
}

/// Says why it failed.
fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("dshield: {}", printable(&error.to_string()));
    ExitCode::FAILURE
}

/// Prints a result. A reader that went away is no reason for another exit code.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

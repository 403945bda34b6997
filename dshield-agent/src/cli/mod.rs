//! What the terminal sees; nothing else in the agent knows about it.
//!
//! Results go to stdout, talk to stderr. Exit codes: 0 it worked, 1 it failed, 2 the input was wrong.
use std::ffi::OsStr;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dshield_common::policy::Runtime;
use tracing_subscriber::EnvFilter;

use crate::sandbox;

pub mod check;
pub mod client;
mod dev;
pub mod init;
pub mod invoke;
pub mod logs;
mod measure;
mod run;
mod talk;

/// Runs serverless functions and proves where their data can go.
#[derive(Debug, Parser)]
#[command(name = "dshield", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: enforce a policy, serve its functions, keep the log.
    Run(run::RunArgs),
    /// Run the agent for development: reload on changes, print the log as it grows.
    Dev(dev::DevArgs),
    /// Invoke a function.
    Invoke(invoke::InvokeArgs),
    /// Print the log.
    Logs(logs::LogsArgs),
    /// Check a policy file and show what it allows.
    Check {
        /// The policy file.
        #[arg(default_value = "dshield.toml")]
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a first policy and function into a folder.
    Init {
        /// The folder.
        dir: PathBuf,
        /// The function's runtime: python3, node or native.
        #[arg(long, default_value = "python3")]
        runtime: Runtime,
    },
    /// Print the SHA-256 of what this program loads: agent, eBPF objects, seccomp filters.
    Measure {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: an instance's first process must not read configuration or start threads.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(sandbox::INIT_COMMAND)) {
        return sandbox::init::run();
    }
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("DSHIELD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // no-color.org
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let talk = match talk::Talk::to(io::stderr()) {
        Ok(talk) => talk,
        Err(error) => {
            eprintln!("dshield: cannot start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(color).with_writer(talk.clone()).init();
    crate::log::install_panic_hook();
    let code = execute(cli.command);
    talk.flush();
    code
}

fn execute(command: Command) -> ExitCode {
    match command {
        Command::Run(args) => block_on(run::run(args)),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Invoke(args) => block_on(invoke::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Check { file, json } => check::run(&file, json),
        Command::Init { dir, runtime } => init::run(&dir, runtime),
        Command::Measure { json } => measure::run(json),
    }
}

fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("dshield: cannot start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

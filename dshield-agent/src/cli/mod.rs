//! What the terminal sees; nothing else in the agent knows about it.
//!
//! Results go to stdout, talk to stderr. Exit codes: 0 it worked, 1 it failed, 2 the input was wrong.
use std::ffi::OsStr;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dshield_common::policy::Runtime;
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::EnvFilter;

use crate::sandbox;

pub mod check;
mod dev;
mod doctor;
pub mod init;
mod inspect;
pub mod invoke;
mod log;
pub mod logs;
mod measure;
mod run;
mod suggest;
mod table;
pub mod whom;

const AFTER_HELP: &str = "\
Exit codes: 0 it worked, 1 it failed or the machine is unfit, 2 wrong usage or a policy with mistakes.
DSHIELD_LOG sets how much the agent says on stderr: info (the default), debug, dshield_agent::proxy=trace, ….";

/// Lines of talk that may wait to be written.
const TALK_LINES: usize = 8192;

/// Runs serverless functions and proves where their data can go.
#[derive(Debug, Parser)]
#[command(name = "dshield", version, propagate_version = true, after_help = AFTER_HELP)]
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
    /// Check a deployment, as a stranger would: machine, policy and log. The same as `dshield-verify`.
    Verify(dshield_verify::cli::VerifyArgs),
    /// Check, copy or shorten a log.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Check a policy file and show what it allows.
    Check {
        /// The policy file.
        #[arg(default_value = "dshield.toml")]
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Work on a policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Say whether this machine is fit: probe the kernel, and try to get out of a throw-away instance.
    Doctor(doctor::DoctorArgs),
    /// Write a first policy and function into a folder.
    Init {
        /// The folder.
        dir: PathBuf,
        /// The function's runtime: python3, node or native.
        #[arg(long, default_value = "python3")]
        runtime: Runtime,
    },
    /// Show what a running agent has in the kernel: programs, links, maps, and each instance.
    Inspect(inspect::InspectArgs),
    /// Print the SHA-256 of what this program loads: agent, eBPF objects, seccomp filters; policy and functions.
    Measure(measure::MeasureArgs),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: an instance's first process must not read configuration or start threads.
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(sandbox::INIT_COMMAND)) {
        return sandbox::init::run();
    }
    let cli = Cli::parse();
    let filter = match std::env::var("DSHIELD_LOG").ok().filter(|text| !text.is_empty()) {
        None => EnvFilter::new("info"),
        Some(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => filter,
            Err(error) => {
                eprintln!(
                    "dshield: DSHIELD_LOG={text:?} is not understood ({error}); write it as info, debug or dshield_agent::proxy=trace"
                );
                return ExitCode::from(2);
            }
        },
    };
    // A thread of its own writes: a function that prints a lot must not stall the proxy behind a full pipe.
    // What does not fit is dropped; the record is the signed log, not this talk.
    let talk = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(TALK_LINES);
    let (writer, _flushed_at_the_end) = talk.thread_name("talk").finish(io::stderr());
    // no-color.org
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(writer)
        // It would be told on stderr, which panics when nobody reads there any more: then nothing is cleaned up.
        .log_internal_errors(false)
        .init();
    crate::log::install_panic_hook();
    match cli.command {
        Command::Run(args) => block_on(run::run(args)),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Invoke(args) => block_on(invoke::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Verify(args) => block_on(dshield_verify::cli::run(args)),
        Command::Log(command) => block_on(log::run(command)),
        Command::Check { file, json } => check::run(&file, json),
        Command::Policy(PolicyCommand::Suggest(args)) => block_on(suggest::run(args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Inspect(args) => inspect::run(&args),
        Command::Init { dir, runtime } => init::run(&dir, runtime),
        Command::Measure(args) => measure::run(&args),
    }
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Turn what a log says was refused into the smallest rules that would allow it.
    Suggest(suggest::SuggestArgs),
}

/// An address for `--listen`: an IP address with a port.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080".to_owned())
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

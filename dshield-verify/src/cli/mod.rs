//! `dshield-verify`, also as `dshield verify`: a deployment's URL or evidence in a file flows in, a verdict flows out.
//!
//! * `look`: what is asked in which order; `deployment`: who is asked; `memory`: what was seen of it before
//! * `print`: the verdict for a person
//! * `serve`: the same verdicts over HTTP, for whoever asks
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use dshield_common::attestation::Nonce;

use self::look::{Found, Look, LookError};
use self::memory::Memory;
use crate::expect::{Entries, Expect};
use crate::judge::Options;
use crate::quote::Root;
use crate::time;
use crate::verdict::Outcome;

mod collateral;
mod deployment;
mod look;
mod memory;
mod print;
mod serve;

/// Where collateral is fetched that evidence lacks, unless told otherwise.
const DEFAULT_PCCS: &str = "https://pccs.phala.network";

const AFTER_HELP: &str = "\
Exit codes: 0 verified, 1 internal error, 2 wrong usage, 10 not a genuine machine (or not this one), 11 another policy,
release or measurement than expected, 12 the log does not hold, 13 stale, replayed or rolled back, 20 could not check.

Examples:
  dshield-verify https://HOST:8080 > seen.txt          what is there, and an expect.toml to start with
  dshield-verify https://HOST:8080 --expect expect.toml
  dshield-verify evidence.json --offline --at 2026-11-28T06:40:00Z --expect expect.toml
  dshield-verify serve --deployments deployments.toml  verdicts, badges and pages for others";

/// What to verify, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct VerifyArgs {
    #[command(subcommand)]
    command: Option<VerifyCommand>,
    /// A deployment (https://HOST:PORT), or a file with what its /v1/attestation answered.
    #[arg(value_name = "URL|FILE", required = true)]
    subject: Option<String>,
    /// What is expected (docs/reference/expect-toml.md); without it nothing can be verified, only shown.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// For evidence in a file: the nonce that it was asked for with.
    #[arg(long, value_name = "HEX")]
    nonce: Option<Nonce>,
    /// For evidence in a file: the log, as `dshield log export` made it, or its lines.
    #[arg(long, value_name = "DIR|FILE")]
    log: Option<PathBuf>,
    /// How many entries of the log are looked at: all, sample or none. Overrides log.entries of the expectations.
    #[arg(long, value_name = "HOW MANY")]
    entries: Option<Entries>,
    /// The folder that remembers what was seen of logs, so that a rollback is noticed.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Forget what was seen of this deployment's log: it was set up anew.
    #[arg(long)]
    forget: bool,
    /// Ask nobody but the deployment itself: collateral must be in the evidence.
    #[arg(long)]
    offline: bool,
    /// Where collateral (Intel's data about platforms) is fetched that the evidence lacks.
    #[arg(long, value_name = "URL", default_value = DEFAULT_PCCS)]
    pccs: String,
    /// Judge also for this moment (RFC 3339, or seconds since 1970), such as when the log was written. The exit code is
    /// that of this judgement; today's is shown beside it.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
    /// Keep the evidence that was judged in a file.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write what was seen as an expect.toml.
    #[arg(long, value_name = "FILE")]
    save_expect: Option<PathBuf>,
    /// Take evidence that was made for development, which proves nothing.
    #[arg(long)]
    insecure_development: bool,
    /// Take what is not expected, whatever it is: any machine, release and policy.
    #[arg(long)]
    insecure_any_measurement: bool,
}

/// What can be asked for instead of one verdict.
#[derive(Debug, clap::Subcommand)]
enum VerifyCommand {
    /// Serve verdicts, badges and pages about configured deployments over HTTP.
    Serve(serve::ServeArgs),
}

/// Verifies.
pub async fn run(mut args: VerifyArgs) -> ExitCode {
    if let Some(VerifyCommand::Serve(args)) = args.command {
        return serve::run(args).await;
    }
    let (json, save, save_expect) = (args.json, args.save.take(), args.save_expect.take());
    // Without a subcommand clap has asked for it.
    let subject = args.subject.clone().unwrap_or_default();
    let look = match prepared(args, subject.clone()) {
        Ok(look) => look,
        Err(error) => {
            for line in format!("dshield-verify: {error}").lines() {
                eprintln!("{}", crate::client::printable(line));
            }
            return ExitCode::from(2);
        }
    };
    let found = match look.run().await {
        Ok(found) => found,
        Err(error) => {
            eprintln!("dshield-verify: {}", crate::client::printable(&error.to_string()));
            return ExitCode::from(match error {
                LookError::Memory(_) | LookError::Random(_) => 1,
                _ => Outcome::NotChecked.exit_code(),
            });
        }
    };
    for (path, text) in [(save, Some(&found.evidence)), (save_expect, found.verdict.saw.as_ref())] {
        if let (Some(path), Some(text)) = (path, text)
            && let Err(error) = fs::write(&path, text)
        {
            eprintln!("dshield-verify: {}: {error}", path.display());
            return ExitCode::from(1);
        }
    }
    let Found { verdict, then, .. } = &found;
    let decides = then.as_ref().unwrap_or(verdict);
    if json {
        let value = match then {
            Some(then) => serde_json::json!({ "now": verdict, "at": then }),
            None => serde_json::json!(verdict),
        };
        println!("{value}");
    } else {
        print!("{}", print::verdict(&subject, decides));
        if then.is_some() {
            println!("judged for {}; for now: {}", time::rfc3339(decides.at), print::conclusion(verdict));
        }
        if let Some(saw) = decides.saw.as_ref().filter(|_| decides.outcome == Outcome::NotChecked) {
            println!("\nWhat was seen, to compare and keep as expect.toml:\n\n{saw}");
        }
    }
    ExitCode::from(decides.outcome.exit_code())
}

/// The arguments, once they make sense.
fn prepared(args: VerifyArgs, subject: String) -> Result<Look, String> {
    let url = crate::client::is_url(&subject);
    if !url && !Path::new(&subject).exists() && subject.contains(':') {
        return Err(format!("{subject} is no file here; write a deployment with its scheme: https://{subject}"));
    }
    if url && (args.nonce.is_some() || args.log.is_some()) {
        return Err(
            "--nonce and --log are for evidence in a file: a deployment is asked with a new nonce, and for its log"
                .to_owned(),
        );
    }
    let mut expect = match &args.expect {
        Some(path) => read_expect(path)?,
        None => Expect::default(),
    };
    if let Some(entries) = args.entries {
        expect.log.entries = entries;
    }
    let at = args.at.as_deref().map(|at| {
        time::parse(at).ok_or_else(|| {
            format!("--at {at:?} is no moment: write it like 2026-11-28T06:40:00Z, or in seconds since 1970")
        })
    });
    let memory = if url {
        let memory = Memory::new(args.state).map_err(|error| error.to_string())?;
        if args.forget {
            memory.forget(&subject).map_err(|error| error.to_string())?;
        }
        Some(memory)
    } else {
        None
    };
    let options = Options {
        now: now(),
        root: Root::Intel,
        insecure_development: args.insecure_development,
        insecure_any_measurement: args.insecure_any_measurement,
    };
    Ok(Look {
        subject,
        expect,
        options,
        at: at.transpose()?,
        nonce: args.nonce,
        log: args.log,
        memory,
        pccs: (!args.offline).then_some(args.pccs),
    })
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads an `expect.toml`, and the files that it names, which lie beside it.
fn read_expect(path: &Path) -> Result<Expect, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    let mut read = |name: &str| fs::read(folder.join(name)).map_err(|error| error.to_string());
    Expect::parse(&text, &mut read).map_err(|error| format!("{}: {error}", path.display()))
}

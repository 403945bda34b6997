//! `dshield log fsck`.
use std::process::ExitCode;

use super::State;
use crate::log::check::Signatures;
use crate::log::fsck::{Finding, Report, fsck};
use dshield_verify::client::printable;

/// What `dshield log fsck` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is, or the log cannot be opened.")]
pub(in crate::cli) struct FsckArgs {
    #[command(flatten)]
    state: State,
    /// Leave the entries' signatures out, which take most of the time.
    #[arg(long)]
    hashes_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &FsckArgs) -> ExitCode {
    let signatures = if args.hashes_only { Signatures::None } else { Signatures::All };
    let report = args.state.open_damaged().and_then(|log| {
        let report = fsck(&log, signatures)?;
        log.close()?;
        Ok(report)
    });
    let report = match report {
        Ok(report) => report,
        Err(error) => return super::failed(&error),
    };
    if args.json {
        // Numbers and texts always have a JSON form.
        super::print(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        super::print(&told(&report, signatures));
    }
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn told(report: &Report, signatures: Signatures) -> String {
    let Report { log_id, first, next, good, boots, closed, checkpoint, findings, .. } = report;
    let mut text = format!("log {log_id}: {} entries", next - first);
    if *first > 0 {
        text.push_str(&format!(", {first} to {} (those before were pruned)", next.saturating_sub(1)));
    }
    let end =
        if *closed { "closed in order" } else { "not closed in order: the agent was killed, or the machine stopped" };
    text.push_str(&format!("; {end}\n"));
    for Finding { seq, what } in findings {
        let at = seq.map_or_else(String::new, |seq| format!("entry {seq}: "));
        text.push_str(&printable(&format!("WRONG  {at}{what}")));
        text.push('\n');
    }
    let what = match signatures {
        Signatures::All => "numbers, hashes, signatures and tree",
        Signatures::None => "numbers, hashes and tree (signatures were not checked)",
    };
    text.push_str(&format!("{good} entries of {boots} boots are good: {what}\n"));
    match checkpoint {
        Some(true) => text.push_str("the closing checkpoint is the log's\n"),
        Some(false) => {}
        None => text.push_str("there is no closing checkpoint\n"),
    }
    text
}

//! `dshield doctor`: what the examination found, as tables or as one JSON object.
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::table::table;
use crate::attest::configfs_tsm;
use crate::doctor::{self, Check, Report, Status};
use crate::kernel::KernelError;

/// What `dshield doctor` takes.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Names what is made for the moment: cgroup, pins and run-time folder.
    #[arg(long, value_name = "NAME", default_value = "dshield-doctor")]
    name: String,
    /// Where the kernel makes quotes.
    #[arg(long, value_name = "DIR", default_value = configfs_tsm::ROOT, hide = true)]
    tsm_report: PathBuf,
}

/// Examines the machine. Exit code 0: fit, 1: unfit.
pub(super) async fn run(args: DoctorArgs) -> ExitCode {
    let DoctorArgs { json, name, tsm_report } = args;
    let report = match doctor::examine(name, tsm_report).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("dshield: {error}");
            let usage = matches!(error, KernelError::BadName { .. });
            return if usage { ExitCode::from(2) } else { ExitCode::FAILURE };
        }
    };
    let text = if json { format!("{:#}\n", describe(&report)) } else { explain(&report) };
    // A reader that went away is no reason for another exit code.
    let _ = io::stdout().write_all(text.as_bytes());
    if report.fit() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Missing => "MISSING",
        Status::Optional => "optional",
    }
}

/// What a person reads.
fn explain(report: &Report) -> String {
    let rows: Vec<_> = report.checks.iter().map(row).collect();
    let mut out = table(0, ["FEATURE", "STATUS", "WHAT IT MEANS"], &rows);
    out.push('\n');
    match &report.self_test {
        Ok(test) => {
            let rows: Vec<_> = test
                .verdicts
                .iter()
                .map(|verdict| {
                    let held = if verdict.held { "held" } else { "NOT HELD" };
                    [verdict.what.clone(), held.to_owned(), verdict.detail.clone()]
                })
                .collect();
            out.push_str(&table(0, ["A THROW-AWAY INSTANCE TRIED", "VERDICT", "WHAT CAME OF IT"], &rows));
        }
        Err(why) => out.push_str(&format!("A throw-away instance trying to get out: {why}\n")),
    }
    out.push('\n');
    out.push_str(&conclusion(report));
    out
}

fn row(check: &Check) -> [String; 3] {
    let fix = check.fix.map(|fix| format!("\nfix: {fix}")).unwrap_or_default();
    [check.name.replace('_', " "), word(check.status).to_owned(), format!("{}{fix}", check.detail)]
}

fn conclusion(report: &Report) -> String {
    let missing = report.checks.iter().filter(|check| check.status == Status::Missing);
    let missing: Vec<_> = missing.map(|check| check.name.replace('_', " ")).collect();
    let mut reasons = Vec::new();
    if !missing.is_empty() {
        reasons.push(format!("it lacks {}", missing.join(", ")));
    }
    match &report.self_test {
        Ok(test) => match test.verdicts.iter().filter(|verdict| !verdict.held).count() {
            0 => {}
            count => reasons.push(format!("{count} of {} attempts were not held", test.verdicts.len())),
        },
        Err(_) => reasons.push("the self-test did not run".to_owned()),
    }
    match (&report.self_test, reasons.is_empty()) {
        (Ok(test), true) => {
            format!("fit: all {} attempts were held, in {} ms\n", test.verdicts.len(), test.took.as_millis())
        }
        _ => format!("UNFIT: {}; `dshield run` would not serve here\n", reasons.join("; ")),
    }
}

/// What a program reads.
fn describe(report: &Report) -> Value {
    let self_test = match &report.self_test {
        Ok(test) => json!({
            "error": null,
            "held": test.verdict().is_ok(),
            "milliseconds": test.took.as_secs_f64() * 1e3,
            "attempts": test.verdicts,
        }),
        Err(why) => json!({ "error": why, "held": false, "milliseconds": null, "attempts": [] }),
    };
    json!({
        "fit": report.fit(),
        "version": env!("CARGO_PKG_VERSION"),
        "checks": report.checks,
        "self_test": self_test,
    })
}

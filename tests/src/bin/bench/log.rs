//! `bench log`: what appending to, checking and proving the log costs, beside what the disk and the signatures cost alone.
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use dshield_tests::built;
use dshield_tests::client::Error;
use serde_json::Value;

use crate::Effort;
use crate::table::{self, Row};

/// Entries of the log that is checked.
const ENTRIES: u64 = 1_000_000;
const QUICK_ENTRIES: u64 = 100_000;

/// Prints everything about the log.
pub fn run(effort: Effort, quick: bool) -> ExitCode {
    let measured = durable(effort, &[1, 64, 1024]).and_then(|mut rows| {
        rows.extend(checked(if quick { QUICK_ENTRIES } else { ENTRIES })?);
        Ok(rows)
    });
    match measured {
        Ok(rows) => {
            table::print(&rows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the log could not be measured: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Durable appends by so many writers, against what one `fdatasync` costs on the same disk.
pub fn durable(effort: Effort, writers: &[u32]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for writers in writers {
        let seconds = effort.load.as_secs().max(1).to_string();
        let report = example("log_appends", &["--writers", &writers.to_string(), "--seconds", &seconds])?;
        let figure = |field: &str| figure(&report, field);
        let (sync, sign) = (figure("fdatasync_4k_p50_us")?, figure("sign_us")?);
        rows.push(Row {
            what: format!("durable appends, {writers} writer(s)"),
            with: figure("appends_per_second")?,
            without: 1e6 / sync,
            unit: "1/s",
            peer: "fdatasync of 4 KiB, one after the other",
        });
        for (name, field) in [("p50", "append_p50_us"), ("p99", "append_p99_us")] {
            let peer = if name == "p50" { "one fdatasync of 4 KiB" } else { "one fdatasync of 4 KiB, p99" };
            let sync = figure(&format!("fdatasync_4k_{name}_us"))?;
            rows.push(Row {
                what: format!("durable append, {writers} writer(s), {name}"),
                with: figure(field)? / 1000.0,
                without: sync / 1000.0,
                unit: "ms",
                peer,
            });
        }
        if *writers == 1 {
            rows.push(Row {
                what: "one P-256 signature, of which each entry has one".to_owned(),
                with: sign,
                without: 0.0,
                unit: "us",
                peer: "",
            });
        }
    }
    rows.extend(fio()?);
    Ok(rows)
}

/// What it costs to check and to prove a log of so many entries.
fn checked(entries: u64) -> Result<Vec<Row>, Error> {
    let report = example("log_check", &["--entries", &entries.to_string()])?;
    let row = |what: String, field: &str, unit| {
        Ok::<_, Error>(Row { what, with: figure(&report, field)?, without: 0.0, unit, peer: "" })
    };
    Ok(vec![
        row(format!("{entries} entries: written by one task that does not wait"), "written_per_second", "1/s")?,
        row(format!("{entries} entries: memory of the writer"), "resident_kib", "KiB")?,
        row(format!("{entries} entries: database"), "bytes_per_entry", "B each")?,
        row(format!("{entries} entries: check by hashes"), "check_hashes_s", "s")?,
        row(format!("{entries} entries: check with signatures"), "check_signatures_s", "s")?,
        row("receipt with its checkpoint, p50".to_owned(), "receipt_us", "us")?,
        row(format!("proof in a tree of {entries}, p50"), "proof_us", "us")?,
        row(format!("proof in a tree of {}, p50", 10 * entries), "proof_of_ten_times_us", "us")?,
    ])
}

/// fio's own word on the disk, where Debian's package fio is installed.
fn fio() -> Result<Vec<Row>, Error> {
    let Ok(probe) = Command::new("fio").arg("--version").output() else {
        eprintln!("skipped: fio is not installed");
        return Ok(Vec::new());
    };
    if !probe.status.success() {
        return Ok(Vec::new());
    }
    let folder = folder()?;
    let output = Command::new("fio")
        .args(["--name=sync", "--rw=write", "--bs=4k", "--size=16m", "--fdatasync=1", "--output-format=json"])
        .arg(format!("--directory={}", folder.path().display()))
        .stdin(Stdio::null())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let job = &report["jobs"][0];
    let sync = job["sync"]["lat_ns"]["percentile"]["50.000000"].as_f64().unwrap_or_default() / 1e6;
    let rate = job["write"]["iops"].as_f64().unwrap_or_default();
    Ok(vec![
        Row { what: "fio: 4 KiB writes with fdatasync".to_owned(), with: rate, without: 0.0, unit: "1/s", peer: "" },
        Row { what: "fio: one fdatasync, p50".to_owned(), with: sync, without: 0.0, unit: "ms", peer: "" },
    ])
}

/// Runs an example of the agent's crate in a folder of its own: what it reports.
fn example(name: &str, arguments: &[&str]) -> Result<Value, Error> {
    let program = built(&format!("examples/{name}"))
        .ok_or_else(|| format!("{name} is not built; run `cargo build --release -p dshield-agent --examples`"))?;
    let folder = folder()?;
    let output = Command::new(&program)
        .args(arguments)
        .arg("--dir")
        .arg(folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("{name} reported nothing: {}", output.status).into())
}

/// Beside the programs: /tmp may be memory, where nothing is durable.
fn folder() -> Result<tempfile::TempDir, Error> {
    let program = built("dshield").ok_or("dshield is not built")?;
    let beside = program.parent().unwrap_or(Path::new("."));
    Ok(tempfile::Builder::new().prefix("bench-log-").tempdir_in(beside)?)
}

fn figure(report: &Value, field: &str) -> Result<f64, Error> {
    report[field].as_f64().ok_or_else(|| format!("no {field:?} in {report}").into())
}

//! Durable log appends with 1 and 64 writers, against what one `fdatasync` costs on the same disk.
use std::process::{Command, Stdio};

use dshield_tests::built;
use dshield_tests::client::Error;
use serde_json::Value;

use crate::Effort;
use crate::table::Row;

/// Runs `log_appends` of the agent's crate, which measures both.
pub fn durable(effort: Effort) -> Result<Vec<Row>, Error> {
    let program = built("examples/log_appends")
        .ok_or("log_appends is not built; run `cargo build --release -p dshield-agent --examples`")?;
    let beside = program.parent().ok_or("a program lies in a folder")?;
    let mut rows = Vec::new();
    for writers in [1_u32, 64] {
        // Beside the program: /tmp may be memory, where nothing is durable.
        let folder = tempfile::Builder::new().prefix("bench-log-").tempdir_in(beside)?;
        let output = Command::new(&program)
            .args(["--writers", &writers.to_string(), "--seconds", &effort.load.as_secs().max(1).to_string(), "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let figure = |field: &str| report[field].as_f64().ok_or_else(|| format!("no {field:?} in {report}"));
        let sync = figure("fdatasync_4k_p50_us")?;
        rows.push(Row {
            what: format!("durable appends, {writers} writer(s)"),
            with: figure("appends_per_second")?,
            without: 1e6 / sync,
            unit: "1/s",
            peer: "fdatasync of 4 KiB, one after the other",
        });
        rows.push(Row {
            what: format!("durable append, {writers} writer(s), p50"),
            with: figure("append_p50_us")? / 1000.0,
            without: sync / 1000.0,
            unit: "ms",
            peer: "one fdatasync of 4 KiB",
        });
    }
    Ok(rows)
}

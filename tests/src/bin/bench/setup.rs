//! Setting up an instance until the function's first instruction, against what bubblewrap needs for a sandbox.
use std::process::{Command, Stdio};
use std::time::Instant;

use dshield_tests::client::Error;
use dshield_tests::load::percentile;
use dshield_tests::{built, requires};
use serde_json::Value;

use crate::Effort;
use crate::table::Row;

const PEER: &str = "bwrap --unshare-all with /bin/true, to its end";

/// Runs `instance_setup` of the agent's crate with `/bin/true` as the function, and bubblewrap with the same.
pub fn instance(effort: Effort) -> Result<Vec<Row>, Error> {
    let program = built("examples/instance_setup")
        .ok_or("instance_setup is not built; run `cargo build --release -p dshield-agent --examples`")?;
    let output = Command::new(&program)
        .args(["--count", &effort.setups.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let mut peer = if requires::requires("bwrap") { Some(bubblewrap(effort.setups)?) } else { None };
    let mut rows = Vec::new();
    for kind in ["prepared", "unprepared"] {
        for percent in [50, 99] {
            let figure = report[kind][format!("p{percent}_us")].as_f64();
            rows.push(Row {
                what: format!("instance set-up, {kind}, p{percent}"),
                with: figure.ok_or_else(|| format!("no {kind:?} in {report}"))? / 1000.0,
                without: peer.as_mut().map_or(0.0, |times| percentile(times, percent) as f64 / 1000.0),
                unit: "ms",
                peer: if peer.is_some() { PEER } else { "skipped: bwrap is not installed" },
            });
        }
    }
    Ok(rows)
}

/// Microseconds of each of `count` sandboxes: every namespace, a read-only root, its own /proc, /dev and /tmp.
fn bubblewrap(count: usize) -> Result<Vec<u64>, Error> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        let begun = Instant::now();
        if !command.arg("/bin/true").stdin(Stdio::null()).status()?.success() {
            return Err("bwrap cannot make a sandbox on this machine".into());
        }
        times.push(u64::try_from(begun.elapsed().as_micros())?);
    }
    Ok(times)
}

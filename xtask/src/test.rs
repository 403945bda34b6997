//! `cargo xtask test`: what CI runs. The sources flow in; each step's verdict and time, and every check that a
//! test had to skip, flow out. Stops at the first failure, and ends by itself.
use crate::{
    cargo::{self, EVERYTHING, UNWALLED, cargo},
    reproduce, setup,
    shell::{self, Error},
    vm, wasm,
};
use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// Names the file to which a test appends `name: why` when it cannot check something on this machine.
const SKIP_FILE: &str = "DSHIELD_SKIP_FILE";

/// A heading and what is done under it.
type Step<'a> = (&'a str, &'a dyn Fn() -> Result<(), Error>);

/// Runs the task.
pub fn run() -> Result<(), Error> {
    let target = cargo::target()?;
    let skips = target.join("skipped.txt");
    fs::write(&skips, "").map_err(Error::file(&skips))?;
    let steps: [Step<'_>; 9] = [
        ("setup", &setup::run),
        ("format", &|| {
            within(2, &["fmt", "--all", "--check"], &skips)?;
            within(2, &["fmt", "--all", "--check", "--manifest-path", "dshield-ebpf/Cargo.toml"], &skips)
        }),
        ("lints", &|| {
            within(15, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &skips)?;
            let unwalled = ["--features", "dshield-agent/layers-off", "--bins", "--locked", "--", "-D", "warnings"];
            within(15, &[["clippy", "--workspace"].as_slice(), &unwalled].concat(), &skips)
        }),
        ("build", &|| {
            within(15, &[EVERYTHING.as_slice(), &["--locked"]].concat(), &skips)?;
            within(15, &[UNWALLED.as_slice(), &["--locked"]].concat(), &skips)
        }),
        ("tests", &|| within(25, &["test", "--workspace", "--locked"], &skips)),
        ("verifier for browsers", &|| wasm::step(&skips)),
        ("quotes by a TPM", &|| tpm(&skips)),
        ("reproducible kernel objects", &reproduce::run),
        ("virtual machines", &|| vm::step(&skips)),
    ];
    let mut times = Vec::new();
    for (number, (name, step)) in steps.iter().enumerate() {
        eprintln!("\n=== {}/{} {name}", number + 1, steps.len());
        let started = Instant::now();
        let done = step();
        let seconds = started.elapsed().as_secs_f64();
        times.push((*name, seconds));
        if let Err(error) = done {
            summary(&times, &skips, "failed");
            return Err(error);
        }
        eprintln!("--- {name}: ok, {seconds:.1} s");
    }
    summary(&times, &skips, "ok");
    Ok(())
}

/// The feature `tpm` links to libraries that not every machine has, so nothing else is built with it. With `--workspace`,
/// for the same reason as [`EVERYTHING`]: but for what only the feature needs, the agent alone is built again.
fn tpm(skips: &Path) -> Result<(), Error> {
    if let Some(missing) = setup::missing_for_tpm() {
        let why =
            format!("quotes by a TPM: {missing} is not installed; run `cargo xtask setup` where packages can be had");
        eprintln!("skipped: {why}");
        let mut file = fs::OpenOptions::new().append(true).open(skips).map_err(Error::file(skips))?;
        return writeln!(file, "{why}").map_err(Error::file(skips));
    }
    let feature = ["--workspace", "--features", "dshield-agent/tpm", "--locked"];
    within(15, &[["clippy"].as_slice(), &feature, &["--all-targets", "--", "-D", "warnings"]].concat(), skips)?;
    within(15, &[["test"].as_slice(), &feature, &["--lib", "attest::tpm"]].concat(), skips)
}

fn within(minutes: u64, arguments: &[&str], skips: &Path) -> Result<(), Error> {
    shell::run_within(cargo().env(SKIP_FILE, skips).args(arguments), Duration::from_secs(60 * minutes))
}

/// Times, then every skip by name: a run that skipped something has not shown everything.
fn summary(times: &[(&str, f64)], skips: &Path, last: &str) {
    eprintln!("\n=== summary");
    for (index, (name, seconds)) in times.iter().enumerate() {
        let verdict = if index + 1 == times.len() { last } else { "ok" };
        eprintln!("{seconds:>8.1} s  {name}: {verdict}");
    }
    eprintln!("{:>8.1} s  in all", times.iter().map(|(_, seconds)| seconds).sum::<f64>());
    let skipped = fs::read_to_string(skips).unwrap_or_default();
    for line in skipped.lines() {
        eprintln!("skipped: {line}");
    }
    eprintln!("skipped: {} in all", skipped.lines().count());
}

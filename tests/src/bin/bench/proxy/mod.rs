//! `bench proxy`: the proxy beside the proxies that people use, in the same run.
//!
//! All lead to one upstream ([`upstream`]) and are asked by one client (`probe`, with [`dshield_tests::load`]); each
//! task is done by all subjects in turn, again and again, so that whatever else the machine does hits all alike.
//! Options flow in, tables flow out: to stdout, and with `--write` into docs/reference/benchmarks.md.
mod config;
mod disk;
mod lineup;
mod options;
mod peers;
mod pki;
mod report;
mod subject;
mod target;
mod task;
mod upstream;
mod usage;

use std::collections::BTreeMap;
use std::process::ExitCode;

use dshield_tests::client::Error;
use dshield_tests::workspace;

use lineup::Lineup;
use options::Options;
use pki::Pki;
use subject::Kind;
use task::{Effort, Task};
use upstream::Upstream;

/// What was measured.
#[derive(Debug, Default)]
struct Samples {
    /// Of each subject (by its place) and task, the figures of each round; empty where it failed.
    figures: BTreeMap<(usize, usize), Vec<Vec<f64>>>,
    /// What failed, in words.
    failures: Vec<String>,
    /// What the disk took for one fdatasync after each round, in milliseconds.
    syncs: Vec<f64>,
}

impl Samples {
    fn of(&self, subject: usize, task: usize) -> &[Vec<f64>] {
        self.figures.get(&(subject, task)).map_or(&[], Vec::as_slice)
    }
}

/// Runs it with the words behind `proxy`.
pub fn run(arguments: &[&str]) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("{why}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    if !crate::ready() {
        return ExitCode::FAILURE;
    }
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Error> {
    let folder = tempfile::Builder::new().prefix("dshield-bench-").tempdir()?;
    // Squid reads it as somebody else.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everybody)?;
    let pki = Pki::make(folder.path(), &Kind::ALL.map(Kind::host))?;
    let upstream = Upstream::new(&pki)?;
    let lineup = Lineup::start(folder.path(), &pki, &upstream, options)?;
    let mut samples = Samples::default();
    let logs = disk::of_logs()?;
    for (place, task) in Task::ALL.into_iter().enumerate() {
        if !options.wants(&task.title()) {
            continue;
        }
        eprint!("{} …", task.title());
        for _ in 0..task.rounds(options.effort) {
            for (index, subject) in lineup.subjects.iter().enumerate() {
                // What is not whole is not compared.
                let figures = task.run(options.effort, subject, &upstream).unwrap_or_else(|error| {
                    let failure = format!("{}, {}, {}: {error}", subject.name, subject.kind.word(), task.title());
                    eprintln!("\nfailed in one round: {failure}");
                    samples.failures.push(failure);
                    Vec::new()
                });
                samples.figures.entry((index, place)).or_default().push(figures);
            }
            samples.syncs.push(disk::sync_ms(&logs)?);
            eprint!(".");
        }
        eprintln!();
    }
    print!("{}", report::tables(&lineup, &samples));
    if options.write {
        let path = workspace().join("docs/reference/benchmarks.md");
        std::fs::write(&path, report::page(&lineup, &samples, options))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

//! `cargo xtask bench`: each figure beside the same work without D-Shield, measured in the same run.
mod egress;
mod invoke;
mod log;
mod proxy;
mod setup;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use dshield_tests::client::Error;
use table::Row;

const USAGE: &str = "usage: bench [--quick]
       bench log [--quick]
       bench proxy [option]...

Measures warm invocations, cold starts, setting up an instance, inspected keep-alive traffic and durable log
appends, each beside the same work without D-Shield; setting up an instance beside bubblewrap, where Debian's package
bubblewrap is installed. Needs root. About a minute and a half; with --quick about twenty seconds.

`bench log` measures what appending to, checking and proving the log costs; about two minutes.
`bench proxy` measures the proxy beside other proxies; `bench proxy --help` says more.";

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Invocations of a warm function.
    warm: usize,
    /// Cold starts of each runtime.
    cold: usize,
    /// Instances set up without a runtime, of each kind.
    setups: usize,
    /// How long each load runs.
    load: Duration,
}

const QUICK: Effort = Effort { warm: 200, cold: 5, setups: 40, load: Duration::from_secs(1) };
const FULL: Effort = Effort { warm: 2000, cold: 15, setups: 300, load: Duration::from_secs(8) };

/// One measurement: rows for the table.
type Measure = fn(Effort) -> Result<Vec<Row>, Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => all(FULL),
        ["--quick"] => all(QUICK),
        ["log"] => log::run(FULL, false),
        ["log", "--quick"] => log::run(QUICK, true),
        ["proxy", ref rest @ ..] => proxy::run(rest),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Whether measuring can begin; says why not, and what to make of the figures.
fn ready() -> bool {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: the figures say little; use `cargo xtask bench`");
    }
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("the benchmarks run the real agent, which takes root; run them with sudo");
    }
    root
}

/// Everything but the comparison with other proxies.
fn all(effort: Effort) -> ExitCode {
    if !ready() {
        return ExitCode::FAILURE;
    }
    let measures: [(&str, Measure); 5] = [
        ("warm invocations", invoke::warm),
        ("cold starts", invoke::cold),
        ("instance set-up", setup::instance),
        ("inspected keep-alive requests", egress::keep_alive),
        ("durable log appends", |effort| log::durable(effort, &[1, 64])),
    ];
    let (mut rows, mut failed) = (Vec::new(), false);
    for (what, measure) in measures {
        let started = Instant::now();
        eprint!("{what} …");
        match measure(effort) {
            Ok(measured) => {
                eprintln!(" {:.0} s", started.elapsed().as_secs_f64());
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!(" failed: {error}");
                failed = true;
            }
        }
    }
    table::print(&rows);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

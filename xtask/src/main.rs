//! The project's tasks: `cargo xtask setup|test|vm|demo|bench|walls|measure|wasm`.
//!
//! A command line flows in; other programs are run, and their exit code flows out. Talk goes to stderr,
//! results to stdout. No dependencies, so that it starts at once on a machine that has nothing yet.
#![forbid(unsafe_code)]

mod apt;
mod cargo;
mod clients;
mod launch;
mod measure;
mod peers;
mod reproduce;
mod setup;
mod shell;
mod test;
mod vm;
mod wasm;

#[path = "../../dshield-ebpf/build_object.rs"]
#[allow(dead_code, reason = "xtask only looks for the tools; the agent's build script is what builds with them")]
mod build_object;

use std::{env, process::ExitCode};

const USAGE: &str = "\
usage: cargo xtask <task>

  setup [--vm]     install what building and testing need and the machine lacks; asks nothing; with --vm also
                   what `vm` needs
  demo [--live]    build, then show one function whose egress is enforced, told as a story
  test             everything CI runs: format, lints, build, tests, the verifier for browsers, reproducible
                   kernel objects, other kernels
  vm [--kernel 6.1|6.12] [test]...
                   run the tests on Debian's kernels in emulated machines (test does this too, where it can);
                   a test is the name of a test file or part of a test's name
  bench [args]     build optimised, then print timings beside the same work done without D-Shield
  bench proxy [--install] [args]
                   build optimised, then compare the proxy with HAProxy, nginx, Squid and mitmproxy; with --install
                   install those first
  walls            attack an instance with each wall alone, in a guest, and write docs/explanation/walls.md
  reproduce        build the kernel objects in two more folders and compare (test does this too)
  measure [--json] SHA-256 of kernel objects, seccomp filters and agent
  wasm             build the verifier for browsers: target/wasm/dshield_verify.wasm and what loads it

Exit codes: 0 done, 1 something failed, 2 wrong usage; demo and bench pass their program's code through.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["setup"] => setup::run().map(|()| 0),
        ["setup", "--vm"] => setup::run().and_then(|()| setup::vm()).map(|()| 0),
        ["vm", rest @ ..] => vm::run(rest),
        ["test"] => test::run().map(|()| 0),
        ["reproduce"] => reproduce::run().map(|()| 0),
        ["demo", rest @ ..] => launch::demo(rest),
        ["bench", rest @ ..] => launch::bench(rest),
        ["walls"] => vm::walls(),
        ["measure"] => measure::run(false).map(|()| 0),
        ["measure", "--json"] => measure::run(true).map(|()| 0),
        ["wasm"] => wasm::run().map(|()| 0),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(0)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(2)
        }
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

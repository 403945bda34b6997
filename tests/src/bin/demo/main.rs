//! `cargo xtask demo`: the same function allowed to summarize, and refused when it leaks.
//!
//! Starts the stand-in and a real agent, tells what happens, and exits 0 only when every expectation held.
mod acts;
mod story;

use std::process::ExitCode;

use acts::Stage;
use story::Story;

const USAGE: &str = "usage: demo [--live]

Runs examples/summarize in D-Shield against a local stand-in for api.anthropic.com.
  --live   use the real api.anthropic.com, with the key in ANTHROPIC_API_KEY";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let live = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--live"] => true,
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => return fail(2, USAGE),
    };
    if !nix::unistd::geteuid().is_root() {
        return fail(1, "the demo enforces with the kernel, which takes root; run it with sudo");
    }
    let key = std::env::var("ANTHROPIC_API_KEY").unwrap_or_default();
    if live && key.is_empty() {
        return fail(2, "--live needs a key for api.anthropic.com; set ANTHROPIC_API_KEY");
    }
    let mut story = Story::to_stdout();
    match Stage::set(&mut story, live.then_some(key.as_str())) {
        Ok(stage) => stage.play(&mut story),
        Err(error) => return fail(1, &error.to_string()),
    }
    if story.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(code: u8, why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(code)
}

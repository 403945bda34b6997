//! `cargo xtask demo` and `cargo xtask bench`: arguments flow in, a built program runs in our place, and its
//! exit code flows out.
use crate::{
    cargo, peers, setup,
    shell::{self, Error},
};
use std::process::Command;

/// Sets up, builds, and tells the story.
pub fn demo(arguments: &[&str]) -> Result<u8, Error> {
    setup::run()?;
    program(&[], "debug", "demo", arguments)
}

/// Sets up, builds optimised, and measures; `proxy --install` is ours, all else the program's.
pub fn bench(arguments: &[&str]) -> Result<u8, Error> {
    setup::run()?;
    let mut arguments = arguments.to_vec();
    if let ["proxy", rest @ ..] = &arguments[..]
        && let Some(place) = rest.iter().position(|argument| *argument == "--install")
    {
        arguments.remove(1 + place);
        peers::install()?;
    }
    program(&["--release"], "release", "bench", &arguments)
}

fn program(options: &[&str], profile: &str, name: &str, arguments: &[&str]) -> Result<u8, Error> {
    eprintln!("\nBuilding (the first time takes minutes)");
    shell::run(cargo::cargo().args(cargo::EVERYTHING).args(options))?;
    let folder = cargo::target()?.join(profile);
    let mut command = Command::new(folder.join(name));
    // Not through `run`: the program's input, output and terminal are ours.
    command.args(arguments).current_dir(cargo::workspace()).env("DSHIELD_BIN", folder.join("dshield"));
    let shown = shell::show(&command);
    let status = command.status().map_err(|cause| Error::Start { command: shown, cause })?;
    Ok(shell::exit_code(status))
}

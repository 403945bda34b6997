//! `cargo xtask demo`, `bench` and `walls`: arguments flow in, a built program runs in our place, and its exit code
//! flows out.
use crate::{
    cargo, setup,
    shell::{self, Error},
};
use std::process::Command;

/// Sets up, builds, and tells the story.
pub fn demo(arguments: &[&str]) -> Result<u8, Error> {
    setup::run()?;
    program(&[], "debug", "demo", arguments)
}

/// Sets up, builds optimised, and measures.
pub fn bench(arguments: &[&str]) -> Result<u8, Error> {
    setup::run()?;
    program(&["--release"], "release", "bench", arguments)
}

/// Sets up, builds, attacks, and writes what each wall held alone into the docs.
pub fn walls() -> Result<u8, Error> {
    setup::run()?;
    shell::run(cargo::cargo().args(cargo::EVERYTHING))?;
    shell::run(cargo::cargo().args(cargo::UNWALLED))?;
    let page = cargo::workspace().join("docs/explanation/walls.md");
    let test = ["test", "--workspace", "--test", "security", "each_wall_holds_alone", "--", "--nocapture"];
    shell::run(cargo::cargo().args(test).env("DSHIELD_WALLS_PAGE", &page))?;
    eprintln!("wrote {}", page.display());
    Ok(0)
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

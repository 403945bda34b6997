//! `cargo xtask measure`: the sources flow in; out flows what an optimised agent says of itself: the SHA-256 of
//! the kernel objects it embeds, of its seccomp filters and of its own executable, as in the log's boot entry.
use crate::{
    build_object, cargo,
    shell::{self, Error},
};
use std::process::Command;

/// Runs the task.
pub fn run(json: bool) -> Result<(), Error> {
    build_object::find_toolchain().map_err(Error::Unfit)?;
    shell::run(cargo::cargo().args(["build", "--release", "--locked", "--package", "dshield-agent"]))?;
    let mut measure = Command::new(cargo::target()?.join("release/dshield"));
    measure.arg("measure");
    if json {
        measure.arg("--json");
    }
    shell::run(&mut measure)
}

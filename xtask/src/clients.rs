//! Clients that tests run inside functions: pinned lists of Python and npm packages flow in, and folders with them below
//! `target/clients/` flow out. They are no part of D-Shield, so where they cannot be had, setup goes on and says so, and
//! their tests are skipped.
use crate::{
    cargo,
    shell::{self, Error},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The interpreter that functions get.
const PYTHON: &str = "/usr/bin/python3";
/// Written last, with the list in it: a folder without it is not whole, one with another list is old.
const STAMP: &str = ".installed-from";

/// Installs both where they are missing or another list was installed: what was found or done, by name.
pub fn install() -> Result<[(&'static str, String); 2], Error> {
    let lists = cargo::workspace().join("tests/clients");
    let folders = cargo::target()?.join("clients");
    let done = |name, list: &str, install: fn(&Path, &Path) -> Result<(), Error>| {
        let said = match one(&lists.join(list), &folders.join(name), install) {
            Ok(()) => folders.join(name).display().to_string(),
            Err(error) => format!("not installed, so their tests are skipped: {error}"),
        };
        (name, said)
    };
    Ok([done("python", "requirements.txt", pip), done("node", "package-lock.json", npm)])
}

fn one(list: &Path, folder: &Path, install: fn(&Path, &Path) -> Result<(), Error>) -> Result<(), Error> {
    let wanted = fs::read_to_string(list).map_err(Error::file(list))?;
    let stamp = folder.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(Error::file(folder))?;
    }
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    install(list, folder)?;
    fs::write(&stamp, wanted).map_err(Error::file(&stamp))
}

fn pip(list: &Path, folder: &Path) -> Result<(), Error> {
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"];
    // The list is whole; wheels alone, because setup compiles nothing of strangers'.
    let exactly = ["--no-deps", "--only-binary", ":all:", "--no-compile"];
    shell::run(
        Command::new(PYTHON).args(quiet).args(exactly).arg("--target").arg(folder).arg("--requirement").arg(list),
    )
}

fn npm(list: &Path, folder: &Path) -> Result<(), Error> {
    let beside = list.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    for file in ["package.json", "package-lock.json"] {
        fs::copy(beside.join(file), folder.join(file)).map_err(Error::file(&folder.join(file)))?;
    }
    // No scripts: a package that wants to run something here is not wanted.
    let quiet = ["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"];
    shell::run(Command::new("npm").args(quiet).current_dir(folder))
}

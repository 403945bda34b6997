//! `cargo xtask measure`: the sources flow in; the SHA-256 of everything whose hash a statement names flows
//! out, taken from the bytes that an optimised agent embeds and from that agent.
use crate::{
    build_object,
    cargo::{self, BuildScript},
    shell::{self, Error},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Runs the task.
pub fn run(json: bool) -> Result<(), Error> {
    build_object::find_toolchain().map_err(Error::Unfit)?;
    let script = BuildScript::of(&["build", "--release", "--package", "dshield-agent"])?;
    let mut measured = Vec::new();
    for object in build_object::OBJECTS {
        measured.push((object.replace("dshield-", "ebpf_"), shell::sha256(&script.out.join(object))?));
    }
    for filter in seccomp_filters(&cargo::workspace().join("dshield-agent/src"))? {
        measured.push(("seccomp".to_owned(), shell::sha256(&filter)?));
    }
    measured.push(("agent".to_owned(), shell::sha256(&cargo::target()?.join("release/dshield"))?));
    if json {
        let fields: Vec<String> = measured.iter().map(|(name, sum)| format!("\"{name}\":\"{sum}\"")).collect();
        println!("{{{}}}", fields.join(","));
    } else {
        for (name, sum) in measured {
            println!("{sum}  {name}");
        }
    }
    Ok(())
}

/// The filter is kept as data beside the code that installs it.
fn seccomp_filters(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let path = entry.map_err(Error::file(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            found.extend(seccomp_filters(&path)?);
        } else if name.starts_with("seccomp") && name.ends_with(".json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

//! That the kernel objects do not depend on where they are built: the sources are copied to two folders, the
//! agent's own build script runs in each, and the objects must equal each other and the embedded ones byte for byte.
use crate::{
    build_object,
    cargo::{self, BuildScript},
    shell::{self, Error},
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

/// Two folders whose names differ in length and depth.
const FOLDERS: [&str; 2] = ["one", "another/folder further down"];

/// Longest that one build of the objects may take.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Builds twice more and compares.
pub fn run() -> Result<(), Error> {
    let script = BuildScript::of(&cargo::EVERYTHING)?;
    let scratch = Scratch::new()?;
    let mut sums = vec![("embedded in the agent".to_owned(), objects(&script.out)?)];
    for folder in FOLDERS {
        let copy = scratch.0.join(folder);
        copy_sources(&cargo::workspace(), &copy)?;
        // The build script finds its target folder four levels above OUT_DIR.
        let out = copy.join("target/debug/build/dshield-agent/out");
        fs::create_dir_all(&out).map_err(Error::file(&out))?;
        let mut build = Command::new(&script.program);
        build.env("CARGO_MANIFEST_DIR", copy.join("dshield-agent")).env("OUT_DIR", &out);
        // What it prints on stdout is meant for cargo.
        build.current_dir(copy.join("dshield-agent")).stdout(process::Stdio::null());
        shell::run_within(&mut build, DEADLINE)?;
        sums.push((format!("built in {}", copy.display()), objects(&out)?));
    }
    for (place, sum) in &sums {
        eprintln!("{}  {place}", sum.join(" "));
    }
    if sums.iter().all(|(_, sum)| *sum == sums[0].1) {
        Ok(())
    } else {
        Err(Error::Unfit(
            "the kernel objects depend on the folder they are built in: look for a path in them with `strings`, and for \
             a dependency outside dshield-ebpf/, whose folder cargo hashes into symbol names"
                .into(),
        ))
    }
}

fn objects(out: &Path) -> Result<Vec<String>, Error> {
    build_object::OBJECTS.iter().map(|name| shell::sha256(&out.join(name))).collect()
}

/// The files that git tracks or would track; without git, everything outside target folders.
fn copy_sources(from: &Path, to: &Path) -> Result<(), Error> {
    let mut git = Command::new("git");
    git.current_dir(from).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = match shell::ask(&mut git).filter(|files| !files.is_empty()) {
        Some(files) => files.split('\0').filter(|file| !file.is_empty()).map(PathBuf::from).collect(),
        None => walk(from, Path::new(""))?,
    };
    for file in files {
        let (source, copy) = (from.join(&file), to.join(&file));
        // A file deleted from the work tree but not yet from the index.
        if !source.is_file() {
            continue;
        }
        let folder = copy.parent().unwrap_or(to);
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        fs::copy(&source, &copy).map_err(Error::file(&source))?;
    }
    Ok(())
}

fn walk(root: &Path, below: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
        let entry = entry.map_err(Error::file(&folder))?;
        let (name, path) = (entry.file_name(), below.join(entry.file_name()));
        let kind = entry.file_type().map_err(Error::file(&folder))?;
        if kind.is_dir() && name != "target" && name != ".git" {
            files.extend(walk(root, &path)?);
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path = env::temp_dir().join(format!("dshield-reproduce-{}", process::id()));
        fs::create_dir(&path).map_err(Error::file(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: {} stays behind: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_without_git_holds_the_sources_and_no_build_output() {
        let scratch = env::temp_dir().join(format!("xtask-walk-{}", process::id()));
        let (from, to) = (scratch.join("from"), scratch.join("to"));
        for file in ["Cargo.toml", "a/src/lib.rs", "target/debug/x", "a/target/y", ".git/config"] {
            let path = from.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        copy_sources(&from, &to).unwrap();
        let mut copied = walk_all(&to);
        copied.sort();
        assert_eq!(copied, [to.join("Cargo.toml"), to.join("a/src/lib.rs")]);
        fs::remove_dir_all(scratch).unwrap();
    }

    fn walk_all(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk_all(&path) } else { vec![path] }).collect()
    }
}

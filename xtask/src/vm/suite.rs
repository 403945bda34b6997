//! What runs in the guest: the workspace flows in; the compiled tests, each with its folder and the filters it gets,
//! flow out.
use crate::{
    cargo::{self, EVERYTHING, UNWALLED, cargo},
    shell::{self, Error},
};
use std::path::{Path, PathBuf};

/// The test files that ask the kernel for what differs between kernels. The others run when they are asked for by
/// name: they show nothing more about a kernel, and take long under emulation.
const ABOUT_THE_KERNEL: [&str; 8] =
    ["dshield_agent", "hardening", "instance", "kernel", "lsm", "security", "syscalls", "watch"];

/// Of the agent's own tests, those that ask the kernel.
const OF_THE_AGENT: [&str; 3] = ["agent::", "kernel::", "sandbox::"];

/// One compiled test.
#[derive(Debug, PartialEq, Eq)]
pub struct Test {
    /// The file below `tests/tests`, or `dshield_agent`.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Where cargo would start it.
    pub folder: PathBuf,
    /// Which of its tests run; empty for all.
    pub filters: Vec<String>,
}

/// Builds everything, and picks. A filter is the name of a test file, or part of a test's name.
pub fn build(filters: &[&str]) -> Result<Vec<Test>, Error> {
    for build in [EVERYTHING.as_slice(), UNWALLED.as_slice()] {
        shell::run(cargo().args(build).arg("--locked"))?;
    }
    let mut compile = cargo();
    compile.args(["test", "--workspace", "--no-run", "--locked", "--message-format=json-render-diagnostics"]);
    let all = parse(&shell::read(&mut compile)?);
    if all.is_empty() {
        return Err(Error::Unfit("cargo did not say where it put the tests".into()));
    }
    Ok(choose(all, filters))
}

fn choose(mut all: Vec<Test>, filters: &[&str]) -> Vec<Test> {
    let (files, parts): (Vec<&str>, Vec<&str>) =
        filters.iter().partition(|filter| all.iter().any(|test| test.name == **filter));
    if files.is_empty() {
        all.retain(|test| ABOUT_THE_KERNEL.contains(&&*test.name));
    } else {
        all.retain(|test| files.contains(&&*test.name));
    }
    for test in &mut all {
        if !parts.is_empty() {
            test.filters = parts.iter().map(|part| (*part).to_owned()).collect();
        } else if test.name == "dshield_agent" && files.is_empty() {
            test.filters = OF_THE_AGENT.map(str::to_owned).to_vec();
        }
    }
    all
}

fn parse(said: &str) -> Vec<Test> {
    let of_interest = said.lines().filter_map(|line| {
        let program = Path::new(cargo::after(line, r#""executable":""#)?);
        let manifest = Path::new(cargo::after(line, r#""manifest_path":""#)?);
        let target = &line[line.find(r#""target":{"#)?..];
        let (name, folder) = (cargo::after(target, r#""name":""#)?, manifest.parent()?);
        // The profile's, not the target's.
        let is_test = line.contains(r#""test":true},"features""#);
        let wanted = target.contains(r#""kind":["test"]"#) || name == "dshield_agent";
        (is_test && wanted).then(|| Test {
            name: name.to_owned(),
            program: program.to_path_buf(),
            folder: folder.to_path_buf(),
            filters: Vec::new(),
        })
    });
    let mut all: Vec<_> = of_interest.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Test> {
        let test = |name: &&str| Test {
            name: (*name).to_owned(),
            program: "/p".into(),
            folder: "/f".into(),
            filters: Vec::new(),
        };
        names.iter().map(test).collect()
    }

    #[test]
    fn compiled_tests_are_found_among_what_cargo_says() {
        let said = r#"{"reason":"compiler-artifact","manifest_path":"/s/tests/Cargo.toml","target":{"kind":["test"],"name":"kernel","test":true},"profile":{"test":true},"features":[],"executable":"/s/target/debug/deps/kernel-1"}
{"reason":"compiler-artifact","manifest_path":"/s/tests/Cargo.toml","target":{"kind":["bin"],"name":"probe","test":true},"profile":{"test":true},"features":[],"executable":"/s/target/debug/deps/probe-1"}
{"reason":"compiler-artifact","manifest_path":"/s/tests/Cargo.toml","target":{"kind":["bin"],"name":"probe","test":true},"profile":{"test":false},"features":[],"executable":"/s/target/debug/probe"}
{"reason":"compiler-artifact","manifest_path":"/s/dshield-agent/Cargo.toml","target":{"kind":["lib"],"name":"dshield_agent","test":true},"profile":{"test":true},"features":[],"executable":"/s/target/debug/deps/dshield_agent-1"}
{"reason":"compiler-artifact","manifest_path":"/s/dshield-agent/Cargo.toml","target":{"kind":["lib"],"name":"dshield_agent","test":true},"profile":{"test":false},"features":[],"executable":null}"#;
        let found = parse(said);
        let found: Vec<_> = found.iter().map(|test| (&*test.name, test.folder.as_path())).collect();
        assert_eq!(found, [("dshield_agent", Path::new("/s/dshield-agent")), ("kernel", Path::new("/s/tests"))]);
    }

    #[test]
    fn a_filter_is_a_file_or_part_of_a_name() {
        let names = ["clients", "dshield_agent", "kernel"];
        let chosen = |filters: &[&str]| -> Vec<(String, Vec<String>)> {
            choose(named(&names), filters).into_iter().map(|test| (test.name, test.filters)).collect()
        };
        let agent = OF_THE_AGENT.map(str::to_owned).to_vec();
        assert_eq!(chosen(&[]), [("dshield_agent".to_owned(), agent), ("kernel".to_owned(), vec![])]);
        assert_eq!(chosen(&["clients"]), [("clients".to_owned(), vec![])]);
        let part = vec!["flood".to_owned()];
        assert_eq!(chosen(&["kernel", "flood"]), [("kernel".to_owned(), part.clone())]);
        assert_eq!(chosen(&["flood"]), [("dshield_agent".to_owned(), part.clone()), ("kernel".to_owned(), part)]);
    }
}

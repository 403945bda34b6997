//! The cargo that runs us, and what it says about its builds.
use crate::shell::{self, Error};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What every build of the whole workspace is asked for. Always the same, so that no step makes cargo choose
/// other features for a dependency and build it again.
pub const EVERYTHING: [&str; 4] = ["build", "--workspace", "--bins", "--examples"];

/// The second program of the agent, which the escape suite takes walls away from. In the same folders, with the same
/// dependencies: only the agent itself is built once more.
pub const UNWALLED: [&str; 6] =
    ["build", "--workspace", "--bin", "dshield-unwalled", "--features", "dshield-agent/layers-off"];

/// A cargo command in the workspace's root.
pub fn cargo() -> Command {
    that(Path::new(&env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// As [`cargo`], but that one.
pub fn that(cargo: &Path) -> Command {
    let mut command = Command::new(cargo);
    // What cargo set for us as a program it runs: build scripts that watch such a variable would run again.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
    command.current_dir(workspace());
    command
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The target folder: we are its `debug/xtask`.
pub fn target() -> Result<PathBuf, Error> {
    let us = env::current_exe().map_err(Error::file(Path::new("/proc/self/exe")))?;
    let target = us.parent().and_then(Path::parent);
    target.map(Path::to_path_buf).ok_or_else(|| Error::Unfit(format!("{} is not in a target folder", us.display())))
}

/// What a build left of the agent's build script, which builds and embeds the kernel objects.
#[derive(Debug, PartialEq, Eq)]
pub struct BuildScript {
    /// The script itself, compiled.
    pub program: PathBuf,
    /// Its `OUT_DIR`, where the embedded objects are.
    pub out: PathBuf,
}

impl BuildScript {
    /// Builds with `arguments`, which must cover the agent, and reads what cargo says of its build script.
    pub fn of(arguments: &[&str]) -> Result<Self, Error> {
        let said = shell::read(cargo().args(arguments).arg("--message-format=json-render-diagnostics"))?;
        Self::parse(&said).ok_or_else(|| Error::Unfit("cargo did not say where the agent's build script is".into()))
    }

    fn parse(said: &str) -> Option<Self> {
        let program = said.lines().find(|line| {
            line.contains(r#""reason":"compiler-artifact""#)
                && line.contains(r#""kind":["custom-build"]"#)
                && line.contains(r#"/dshield-agent/build.rs""#)
        })?;
        let out = said.lines().find(|line| {
            line.contains(r#""reason":"build-script-executed""#) && line.contains("/build/dshield-agent-")
        })?;
        Some(Self { program: after(program, r#""filenames":[""#)?.into(), out: after(out, r#""out_dir":""#)?.into() })
    }
}

/// The major version of the LLVM that a rustc is built on.
pub fn llvm_of(rustc: &Path) -> Result<u32, Error> {
    let about = shell::read(Command::new(rustc).arg("-vV"))?;
    parse_llvm(&about).ok_or_else(|| Error::Unfit(format!("{} does not name its LLVM", rustc.display())))
}

fn parse_llvm(about: &str) -> Option<u32> {
    about.lines().find_map(|line| line.strip_prefix("LLVM version:"))?.trim().split('.').next()?.parse().ok()
}

/// The JSON string that follows `key`. A path with a quote or a backslash in it is not found; cargo's own
/// target folders have none.
pub fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = &line[line.find(key)? + key.len()..];
    let value = &rest[..rest.find('"')?];
    (!value.contains('\\')).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_names_its_llvm() {
        assert_eq!(parse_llvm("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(parse_llvm("gcc 12"), None);
    }

    #[test]
    fn the_build_script_is_found_among_what_cargo_says() {
        let said = r#"{"reason":"compiler-artifact","package_id":"path+file:///s/dshield-agent#0.1.0","manifest_path":"/s/dshield-agent/Cargo.toml","target":{"kind":["lib"],"src_path":"/s/dshield-agent/src/lib.rs"},"filenames":["/s/target/debug/libdshield_agent.rlib"]}
{"reason":"compiler-artifact","package_id":"path+file:///s/dshield-agent#0.1.0","manifest_path":"/s/dshield-agent/Cargo.toml","target":{"kind":["custom-build"],"src_path":"/s/dshield-agent/build.rs"},"filenames":["/s/target/debug/build/dshield-agent-1/build-script-build"]}
{"reason":"build-script-executed","package_id":"registry+x#ring@0.17","env":[],"out_dir":"/s/target/debug/build/ring-2/out"}
{"reason":"build-script-executed","package_id":"path+file:///s/dshield-agent#0.1.0","env":[],"out_dir":"/s/target/debug/build/dshield-agent-3/out"}"#;
        let expected = BuildScript {
            program: "/s/target/debug/build/dshield-agent-1/build-script-build".into(),
            out: "/s/target/debug/build/dshield-agent-3/out".into(),
        };
        assert_eq!(BuildScript::parse(said), Some(expected));
        assert_eq!(BuildScript::parse("{}"), None);
    }
}

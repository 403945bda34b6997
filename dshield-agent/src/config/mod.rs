//! `dshield.toml` on disk to a deployment that can be started.
//!
//! A path flows in; out flows either every problem, each with file, line and column, or functions whose code folder
//! exists, is of reasonable size, leads nowhere else and holds what their runtime needs. Blocks on the disk: call it from a thread that may.
mod code;
pub(crate) mod contents;
mod error;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dshield_common::policy::{Deployment, Function, FunctionPolicy};

pub use self::error::{ConfigError, Invalid};

/// A policy is written by hand, a certificate bundle at most collected: more is a mistake, not a file to read.
const LARGEST_FILE: u64 = 4 << 20;

/// A deployment whose code is there.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The file's contents.
    pub deployment: Deployment,
    /// Its functions, in the order of the file.
    pub functions: Vec<Arc<LoadedFunction>>,
    /// The file, absolute.
    pub path: PathBuf,
}

/// A function whose code is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedFunction {
    /// How it is to be run.
    pub spec: Function,
    /// Its code folder: absolute, without symbolic links. Instances see a copy of it, made by
    /// [`crate::snapshot`], so that what was hashed is what runs.
    pub code: PathBuf,
    /// Where its data may go.
    pub policy: Arc<FunctionPolicy>,
}

/// Reads the policy file at `path`, the certificate files that it names and looks at the code folders, all relative to it.
///
/// # Errors
/// When the file cannot be read, is empty, or anything in it is wrong; see [`ConfigError`].
pub fn load(path: &Path) -> Result<LoadedConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotText { path: path.to_owned(), line }
    })?;
    if text.trim().is_empty() {
        return Err(ConfigError::Empty { path: path.to_owned() });
    }
    let absolute = path.canonicalize().map_err(unreadable)?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));

    let mut read_ca = |name: &str| read(&folder.join(name)).map_err(|error| error.to_string());
    let parsed = Deployment::parse_with_positions(&text, &mut read_ca);
    let invalid = |problems| ConfigError::Invalid(Invalid { path: path.to_owned(), text: text.clone(), problems });
    let (deployment, positions) = parsed.map_err(invalid)?;

    let mut functions = Vec::with_capacity(deployment.functions.len());
    let mut problems = Vec::new();
    let specs = deployment.functions.iter().zip(&deployment.policy.functions);
    for ((spec, policy), positions) in specs.zip(&positions) {
        match code::locate(folder, spec, positions) {
            Ok(code) => {
                functions.push(Arc::new(LoadedFunction { spec: spec.clone(), code, policy: Arc::clone(policy) }));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    Ok(LoadedConfig { deployment, functions, path: absolute })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const GOOD: &str = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"code\"\n";

    fn project(policy: &str) -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("dshield.toml"), policy).unwrap();
        fs::create_dir(dir.path().join("code")).unwrap();
        fs::write(dir.path().join("code/app.py"), "def handler(event, context): pass\n").unwrap();
        dir
    }

    fn load_from(dir: &TempDir) -> Result<LoadedConfig, ConfigError> {
        load(&dir.path().join("dshield.toml"))
    }

    /// The error's lines, with the project's folder as `DIR`.
    fn complaint(dir: &TempDir) -> String {
        let real = dir.path().canonicalize().unwrap();
        let text = load_from(dir).unwrap_err().to_string();
        text.replace(real.to_str().unwrap(), "DIR").replace(dir.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn code_and_certificates_are_found_beside_the_file() {
        let ca = "-----BEGIN CERTIFICATE-----\nMAMBAgM=\n-----END CERTIFICATE-----\n";
        let dir = project(&format!("{GOOD}[[function.egress]]\nhost = \"a.com\"\nca = \"certs/ca.pem\"\n"));
        fs::create_dir(dir.path().join("certs")).unwrap();
        fs::write(dir.path().join("certs/ca.pem"), ca).unwrap();
        let config = load_from(&dir).unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(config.path, real.join("dshield.toml"));
        let function = &config.functions[0];
        assert_eq!(function.code, real.join("code"));
        assert_eq!(function.spec, config.deployment.functions[0]);
        assert!(Arc::ptr_eq(&function.policy, &config.deployment.policy.functions[0]));
        assert_eq!(function.policy.egress[0].ca.len(), 1);
    }

    #[test]
    fn a_missing_file_names_the_way_to_one() {
        let dir = TempDir::new().unwrap();
        assert_eq!(
            complaint(&dir),
            "cannot read the policy DIR/dshield.toml: No such file or directory (os error 2); name it with --config, or make one with `dshield init`"
        );
    }

    #[test]
    fn an_empty_or_binary_or_huge_file_is_refused_with_the_reason() {
        let dir = project(" \n\n");
        assert_eq!(
            complaint(&dir),
            "the policy DIR/dshield.toml is empty; no policy means no function, so add one, or make a new file with `dshield init`"
        );
        fs::write(dir.path().join("dshield.toml"), b"[policy]\n\xff\n").unwrap();
        assert_eq!(complaint(&dir), "DIR/dshield.toml:2: this is not UTF-8 text; save the policy as UTF-8");
        fs::write(dir.path().join("dshield.toml"), vec![b'#'; (4 << 20) + 1]).unwrap();
        assert!(complaint(&dir).contains("it is larger than 4 MiB"));
    }

    #[test]
    fn each_problem_is_one_line_with_file_line_and_column() {
        let dir = project(&format!("[polcy]\n{GOOD}[[function.egress]]\nhost = \"a.com\"\nca = \"gone.pem\"\n"));
        assert_eq!(
            complaint(&dir),
            "DIR/dshield.toml:1:2: dshield.toml has no field \"polcy\"; did you mean `policy`?\n\
             DIR/dshield.toml:8:6: the certificate file \"gone.pem\" cannot be read: No such file or directory (os error 2); name a PEM file, relative to this one"
        );
    }

    #[test]
    fn code_that_is_not_there_is_found_before_anything_starts() {
        let function = |name: &str, runtime: &str, rest: &str| {
            format!("[[function]]\nname = \"{name}\"\nruntime = \"{runtime}\"\n{rest}\n")
        };
        let text = [
            function("a", "python3", "code = \"gone\""),
            function("b", "python3", "code = \"code/app.py\""),
            function("c", "python3", "code = \"code\"\nhandler = \"api/main.run\""),
            function("d", "node", "code = \"code\""),
            function("e", "native", "code = \"code\""),
        ];
        let dir = project(&text.concat());
        assert_eq!(
            complaint(&dir),
            "DIR/dshield.toml:4:8: the code folder \"gone\" does not exist; make it, or correct `code`, which is relative to this file\n\
             DIR/dshield.toml:8:8: \"code/app.py\" is not a folder; `code` names the folder with the function's files\n\
             DIR/dshield.toml:13:11: the handler \"api/main.run\" needs one of the files api/main.py, api/main/__init__.py, but none is in DIR/code; write it, or correct `handler`\n\
             DIR/dshield.toml:17:8: the handler \"app.handler\" needs one of the files app.js, app.mjs, app.cjs, but none is in DIR/code; write it, or correct `handler`\n\
             DIR/dshield.toml:21:8: a native function needs the file `bootstrap`, which is not in DIR/code; put the executable there under that name"
        );
    }

    #[test]
    fn each_runtime_finds_its_entry() {
        use std::os::unix::fs::PermissionsExt;

        let dir = project(
            "[[function]]\nname = \"n\"\nruntime = \"native\"\ncode = \"code\"\n\
             [[function]]\nname = \"j\"\nruntime = \"node\"\ncode = \"code\"\n\
             [[function]]\nname = \"p\"\nruntime = \"python3\"\ncode = \"code\"\nhandler = \"pkg.main\"\n",
        );
        let code = dir.path().join("code");
        fs::write(code.join("app.mjs"), "export const handler = async () => 1\n").unwrap();
        fs::create_dir(code.join("pkg")).unwrap();
        fs::write(code.join("pkg/__init__.py"), "def main(event, context): pass\n").unwrap();
        let bootstrap = code.join("bootstrap");
        fs::write(&bootstrap, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&bootstrap, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(complaint(&dir), "DIR/dshield.toml:4:8: DIR/code/bootstrap is not executable; run chmod +x on it");
        fs::set_permissions(&bootstrap, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(load_from(&dir).unwrap().functions.len(), 3);
    }
}

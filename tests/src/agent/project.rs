//! What an agent is started with: a `dshield.toml` and folders of function code, in a temporary folder.
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::standin::{NAME, Standin};
use crate::wait;

/// A function's timeout, unless its policy has another.
const TIMEOUT: &str = "30s";

/// A temporary folder with everything an agent needs; removed when dropped.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
    policy: String,
    functions: String,
}

impl Default for Project {
    fn default() -> Self {
        Self::new()
    }
}

impl Project {
    /// A project without functions.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dshield-test-").tempdir().expect("a temporary folder");
        Self { folder, policy: String::new(), functions: String::new() }
    }

    /// Any setting of `[policy]`, its value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        if self.policy.is_empty() {
            self.policy.push_str("[policy]\n");
        }
        // Writing into a String cannot fail.
        let _ = writeln!(self.policy, "{key} = {value}");
        self
    }

    /// Adds a function: writes its code and its part of the policy.
    #[must_use]
    pub fn with(mut self, function: &Function) -> Self {
        let code = function.code.put(self.folder.path().join("functions").join(&function.name));
        let mut function = function.clone();
        // What the policy means where it says nothing is not enough where deadlines are longer.
        if patient(TIMEOUT) != TIMEOUT && !function.settings.contains("timeout = ") {
            function = function.timeout(TIMEOUT);
        }
        let _ = write!(
            self.functions,
            "\n[[function]]\nname = {}\nruntime = {}\ncode = {}\n{}{}",
            quote(&function.name),
            quote(&function.runtime),
            quote(&code.to_string_lossy()),
            function.settings,
            function.egress
        );
        self
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the agent keeps its log.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The text of `dshield.toml`.
    #[must_use]
    pub fn policy(&self) -> String {
        format!("{}{}", self.policy, self.functions).trim_start().to_owned()
    }

    /// Writes `dshield.toml` and returns its path.
    #[must_use]
    pub fn write(&self) -> PathBuf {
        let path = self.folder.path().join("dshield.toml");
        std::fs::write(&path, self.policy()).expect("the folder is ours");
        path
    }
}

/// One `[[function]]`.
#[derive(Clone, Debug)]
pub struct Function {
    name: String,
    runtime: String,
    code: Code,
    settings: String,
    egress: String,
}

/// Where a function's code comes from.
#[derive(Clone, Debug)]
pub enum Code {
    /// A folder that is used in place.
    Folder(PathBuf),
    /// Files to write, by name; `bootstrap` becomes executable.
    Files(Vec<(String, String)>),
    /// An executable to copy as `bootstrap`.
    Executable(PathBuf),
}

impl Code {
    /// Writes the code into `folder`, unless it has a folder already; says which it is.
    fn put(&self, folder: PathBuf) -> PathBuf {
        if let Self::Folder(given) = self {
            return given.clone();
        }
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        match self {
            Self::Folder(_) => {}
            Self::Files(files) => {
                for (name, text) in files {
                    std::fs::write(folder.join(name), text).expect("the folder is ours");
                }
            }
            Self::Executable(from) => super::copy_executable(from, &folder.join("bootstrap")),
        }
        let bootstrap = folder.join("bootstrap");
        if bootstrap.exists() {
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&bootstrap, executable).expect("the file is ours");
        }
        folder
    }
}

impl Function {
    /// A function of this runtime with this code.
    #[must_use]
    pub fn new(name: &str, runtime: &str, code: Code) -> Self {
        Self { name: name.into(), runtime: runtime.into(), code, settings: String::new(), egress: String::new() }
    }

    /// A Python function from the text of `app.py`, with `handler` in it.
    #[must_use]
    pub fn python(name: &str, source: &str) -> Self {
        let code = Code::Files(vec![("app.py".into(), source.into())]);
        Self::new(name, "python3", code).handler("app.handler")
    }

    /// A Node function from the text of `index.js`, with `exports.handler` in it.
    #[must_use]
    pub fn node(name: &str, source: &str) -> Self {
        let code = Code::Files(vec![("index.js".into(), source.into())]);
        Self::new(name, "node", code).handler("index.handler")
    }

    /// A shell script as `bootstrap`.
    #[must_use]
    pub fn script(name: &str, source: &str) -> Self {
        Self::new(name, "native", Code::Files(vec![("bootstrap".into(), source.into())]))
    }

    /// The `probe` binary of this crate, which does what its event says.
    #[must_use]
    pub fn probe(name: &str) -> Self {
        let probe = crate::built("probe").expect("cargo builds this crate's `probe` before its tests");
        Self::new(name, "native", Code::Executable(probe))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `handler`.
    #[must_use]
    pub fn handler(self, handler: &str) -> Self {
        self.set("handler", &quote(handler))
    }

    /// `timeout`, in whole seconds or minutes such as `3s`; [`wait::scaled`], as far as a policy allows.
    #[must_use]
    pub fn timeout(self, timeout: &str) -> Self {
        self.set("timeout", &quote(&patient(timeout)))
    }

    /// `concurrency`.
    #[must_use]
    pub fn concurrency(self, instances: u32) -> Self {
        self.set("concurrency", &instances.to_string())
    }

    /// `env`, all of it.
    #[must_use]
    pub fn env(self, variables: &[(&str, &str)]) -> Self {
        let pairs: Vec<_> =
            variables.iter().map(|(name, value)| format!("{} = {}", quote(name), quote(value))).collect();
        self.set("env", &format!("{{ {} }}", pairs.join(", ")))
    }

    /// Any setting, its value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let _ = writeln!(self.settings, "{key} = {value}");
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn egress(mut self, rule: &Egress) -> Self {
        let _ = write!(self.egress, "\n[[function.egress]]\n{}", rule.0);
        self
    }
}

/// One `[[function.egress]]`.
#[derive(Clone, Debug)]
pub struct Egress(String);

impl Egress {
    /// A rule for this host, with every default.
    #[must_use]
    pub fn to(host: &str) -> Self {
        Self(format!("host = {}\n", quote(host)))
    }

    /// A rule for the name that the stand-in plays, pinned to it.
    #[must_use]
    pub fn to_standin(standin: &Standin) -> Self {
        Self::to(NAME).pinned(standin)
    }

    /// `resolve` and `ca`: the stand-in is where this name lives.
    #[must_use]
    pub fn pinned(self, standin: &Standin) -> Self {
        let ca = quote(&standin.ca_file().to_string_lossy());
        self.resolve(standin).set("ca", &ca)
    }

    /// `resolve` alone, for what is not decrypted.
    #[must_use]
    pub fn resolve(self, standin: &Standin) -> Self {
        self.strings("resolve", &[&standin.addr().to_string()])
    }

    /// `methods`.
    #[must_use]
    pub fn methods(self, methods: &[&str]) -> Self {
        self.strings("methods", methods)
    }

    /// `paths`.
    #[must_use]
    pub fn paths(self, paths: &[&str]) -> Self {
        self.strings("paths", paths)
    }

    /// `tls`.
    #[must_use]
    pub fn tls(self, mode: &str) -> Self {
        self.set("tls", &quote(mode))
    }

    /// Any setting, its value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let _ = writeln!(self.0, "{key} = {value}");
        self
    }

    fn strings(self, key: &str, values: &[&str]) -> Self {
        let values: Vec<_> = values.iter().map(|value| quote(value)).collect();
        self.set(key, &format!("[{}]", values.join(", ")))
    }
}

/// A function's timeout where deadlines are longer; as it was given where they are not.
fn patient(timeout: &str) -> String {
    let longest = Duration::from_secs(15 * 60);
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let seconds: u64 = number.parse().unwrap_or_else(|_| panic!("{timeout:?} is not in whole seconds or minutes"));
    let given = Duration::from_secs(if unit == "m" { 60 * seconds } else { seconds });
    let scaled = wait::scaled(given);
    if scaled == given { timeout.to_owned() } else { format!("{}s", scaled.min(longest).as_secs()) }
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_reads_like_one_written_by_hand() {
        let rule = Egress::to("api.anthropic.com").methods(&["POST"]).paths(&["/v1/messages", "/v1/x*"]);
        let function = Function::python("f", "").timeout("3s").env(&[("A", "say \"b\"")]).egress(&rule);
        let project = Project::new().with(&function);
        let code = project.folder().join("functions/f");
        assert!(code.join("app.py").is_file());
        let timeout = patient("3s");
        let expected = format!(
            "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"{}\"\nhandler = \"app.handler\"\n\
             timeout = \"{timeout}\"\nenv = {{ \"A\" = \"say \\\"b\\\"\" }}\n\n[[function.egress]]\n\
             host = \"api.anthropic.com\"\nmethods = [\"POST\"]\npaths = [\"/v1/messages\", \"/v1/x*\"]\n",
            code.display()
        );
        assert_eq!(project.policy(), expected);
    }
}

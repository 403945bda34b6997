//! What an instance runs: its command, the files below `/var/runtime`, and its environment.
//!
//! In: a function. Out: what the launcher puts into the sandbox.
use std::collections::BTreeMap;

use dshield_common::policy::Runtime;

use crate::snapshot::FrozenFunction;

/// The address of the Runtime API inside every instance's network namespace.
const RUNTIME_API: &str = "127.0.0.1:9001";

/// How to start a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Program and arguments, as paths inside the sandbox.
    pub argv: Vec<String>,
    /// Files that must exist inside the sandbox: name below `/var/runtime`, and content.
    pub files: Vec<(&'static str, &'static str)>,
}

/// The command of a runtime.
#[must_use]
pub fn command(runtime: Runtime) -> Command {
    let (argv, files): (&[&str], _) = match runtime {
        Runtime::Python3 => (
            &["/usr/bin/python3", "/var/runtime/bootstrap.py"],
            vec![("bootstrap.py", include_str!("bootstrap/python3.py"))],
        ),
        Runtime::Node => (
            &["/usr/bin/node", "/var/runtime/bootstrap.cjs"],
            vec![("bootstrap.cjs", include_str!("bootstrap/node.cjs"))],
        ),
        // `native`: the function brings its own runtime.
        _ => (&["/var/task/bootstrap"], vec![]),
    };
    Command { argv: argv.iter().map(|&word| word.to_owned()).collect(), files }
}

/// The environment of an instance, each name once. What the Runtime API needs cannot be overridden by the
/// function's own variables; what is mere convention (`PATH`, `LANG`, …) can.
#[must_use]
pub fn environment(function: &FrozenFunction) -> Vec<(String, String)> {
    let spec = &function.spec;
    let name = spec.name.as_str();
    // Lambda's own custom runtimes are configured with this placeholder, and clients insist on a value.
    let native = if spec.runtime == Runtime::Native { "bootstrap" } else { "" };
    let handler = spec.handler.as_deref().unwrap_or(native);
    let memory = (spec.memory / (1024 * 1024)).max(1).to_string();
    let log_group = format!("/aws/lambda/{name}");

    let mut env: BTreeMap<&str, &str> = BTreeMap::from([
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TMPDIR", "/tmp"),
        ("TZ", "UTC"),
    ]);
    env.extend(spec.env.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    env.extend([
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory.as_str()),
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", log_group.as_str()),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "$LATEST"),
        ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("_HANDLER", handler),
    ]);
    env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The name by which Lambda's clients know a function. Account and region stand for nothing; they are the
/// ones that AWS's own local emulator uses.
#[must_use]
pub fn arn(function: &str) -> String {
    format!("arn:aws:lambda:us-east-1:012345678912:function:{function}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::runtime::testing::{Source, function};

    #[test]
    fn a_function_cannot_redirect_its_own_runtime_api() {
        let mut function = function("f", &Source::python("app", ""));
        let own = [("AWS_LAMBDA_RUNTIME_API", "10.0.0.1:1"), ("TZ", "Asia/Tokyo"), ("MODEL", "a=b")];
        function.spec.env = own.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let env: BTreeMap<_, _> = environment(&function).into_iter().collect();
        assert_eq!(env["AWS_LAMBDA_RUNTIME_API"], "127.0.0.1:9001");
        assert_eq!(env["TZ"], "Asia/Tokyo");
        assert_eq!(env["MODEL"], "a=b");
        assert_eq!(env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "128");
        assert_eq!(env.len(), environment(&function).len(), "no name twice");
    }
}

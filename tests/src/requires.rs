//! What a test needs from the machine. A missing thing skips the test with a line that says so;
//! with `DSHIELD_TEST_NO_SKIP=1`, as in CI, it fails the test instead.
use std::process::{Command, Stdio};

/// True when running as root.
#[must_use]
pub fn require_root() -> bool {
    have(nix::unistd::geteuid().is_root(), "not root: enforcement needs root; run the tests with sudo")
}

/// True when `program` is in a folder that the sandbox shows to functions.
#[must_use]
pub fn requires(program: &str) -> bool {
    let found =
        ["/usr/bin", "/bin", "/usr/local/bin"].iter().any(|dir| std::path::Path::new(dir).join(program).exists());
    have(found, &format!("{program} is not installed system-wide"))
}

/// True when the system's Python has this module.
#[must_use]
pub fn requires_python_module(module: &str) -> bool {
    let import = Command::new("/usr/bin/python3")
        .args(["-c", &format!("import {module}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let found = import.is_ok_and(|status| status.success());
    have(found, &format!("Python has no module {module}; apt-get install python3-{module}"))
}

fn have(found: bool, why_not: &str) -> bool {
    if !found {
        let strict = std::env::var_os("DSHIELD_TEST_NO_SKIP").is_some_and(|value| value != "0");
        assert!(!strict, "{why_not}, and DSHIELD_TEST_NO_SKIP forbids to skip the test");
        eprintln!("skipped: {why_not}");
    }
    found
}

//! Where `core_pattern` names a program, the kernel runs it as root, outside, with the memory of what crashed.
use std::fs;
use std::path::Path;

use dshield_tests::agent::{Agent, Project};
use dshield_tests::requires::{require_root, requires, requires_that};
use dshield_tests::script;
use serde_json::json;

/// What the catcher of the virtual machines' `core_pattern` writes for each crash (`vm-images/init`).
const CAUGHT: &str = "/run/core-caught";

#[test]
fn the_memory_of_a_function_that_crashes_is_handed_to_no_program() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let caught = pattern.starts_with('|') && Path::new(CAUGHT).exists();
    if !requires_that(caught, "core_pattern is not the catcher of the virtual machines") || !require_root() {
        return;
    }
    if !requires("python3") {
        return;
    }
    let crashes = || fs::read_to_string(CAUGHT).map(|text| text.lines().count()).unwrap_or_default();
    let before = crashes();
    // Outside, a crash is caught: that none is inside means something.
    let crashed = std::process::Command::new("/bin/sh").args(["-c", "ulimit -c 0; kill -SEGV $$"]).status();
    assert!(crashed.is_ok_and(|status| status.code().is_none()));
    assert_eq!(crashes(), before + 1, "a limit of 0 does not stop the kernel");

    let project = Project::new().with(&script::function("f"));
    let agent = Agent::start(&project);
    let code = "
import resource
def limit(soft):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, 1))
    except (ValueError, OSError):
        pass
limit(0)
child = os.fork()
if child == 0:
    os.abort()
answer = os.waitpid(child, 0)[1] & 127
";
    assert_eq!(script::run_with(&agent, "f", code, json!({})), 6, "it died of SIGABRT");
    assert_eq!(crashes(), before + 1);
}

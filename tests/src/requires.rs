//! What a test needs from the machine. A missing thing skips the test with a line that says so, and, where
//! `DSHIELD_SKIP_FILE` names a file, with a line `test: why` in it: a run that skipped something must show it.
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::agent::cgroup2;

/// True when running as root.
#[must_use]
pub fn require_root() -> bool {
    have(nix::unistd::geteuid().is_root(), "not root: enforcement needs root; run the tests with sudo")
}

/// True when `program` is where Debian puts it: in a folder that the sandbox shows to functions too.
#[must_use]
pub fn requires(program: &str) -> bool {
    let found = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"]
        .iter()
        .any(|dir| std::path::Path::new(dir).join(program).exists());
    have(found, &format!("{program} is not installed system-wide"))
}

/// The folder of the clients that `cargo xtask setup` installs for this language: `python` or `node`.
#[must_use]
pub fn requires_clients(language: &str) -> Option<std::path::PathBuf> {
    let running = std::env::current_exe().unwrap_or_default();
    // target/<profile>/deps/<test>
    let folder = running.ancestors().nth(3).map(|target| target.join("clients").join(language));
    let found = folder.filter(|folder| folder.join(".installed-from").is_file());
    let _ = have(found.is_some(), &format!("no {language} clients: run `cargo xtask setup` where packages can be had"));
    found
}

/// True when the machine has these controllers in cgroup v2, where they can bound instances.
#[must_use]
pub fn requires_controllers(names: &[&str]) -> bool {
    let file = cgroup2().map(|root| root.join("cgroup.controllers"));
    let listed = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let missing: Vec<_> = names.iter().filter(|name| !listed.split_whitespace().any(|one| one == **name)).collect();
    have(missing.is_empty(), &format!("cgroup v2 lacks the controllers {missing:?}"))
}

/// True when this process, and so the agents that it starts, has the capability with this number (capabilities(7)).
#[must_use]
pub fn requires_capability(name: &str, number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    have(bits & (1 << number) != 0, &format!("no {name}"))
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

/// True when the kernel's version of Landlock is at least this one.
#[must_use]
pub fn requires_landlock(abi: u32, least: u32) -> bool {
    have(abi >= least, &format!("the kernel's Landlock has ABI {abi} (0: none), not {least}"))
}

/// True when something holds that only the test knows how to ask for.
#[must_use]
pub fn requires_that(holds: bool, why_not: &str) -> bool {
    have(holds, why_not)
}

/// True when two network namespaces can be joined with a cable, as [`crate::world::World`] does.
#[must_use]
pub fn requires_veth() -> bool {
    let line = ["--net", "ip", "link", "add", "out0", "type", "veth", "peer", "name", "in0"];
    let made = Command::new("unshare").args(line).stdin(Stdio::null()).stderr(Stdio::null()).status();
    have(made.is_ok_and(|status| status.success()), "this kernel makes no veth interfaces")
}

/// True when this program of the workspace is built; what a test takes from a second build may not be.
#[must_use]
pub fn requires_built(name: &str) -> bool {
    have(crate::built(name).is_some(), &format!("{name} is not built; `cargo xtask test` builds it"))
}

/// True when the agent has its programs at the kernel's security hooks. `DSHIELD_EXPECT_LSM` says that this kernel takes
/// them, as the machines of `cargo xtask vm` do: then their absence is a failure.
///
/// # Panics
/// They are expected and not there.
#[must_use]
pub fn requires_security_hooks(there: bool) -> bool {
    assert!(
        there || std::env::var_os("DSHIELD_EXPECT_LSM").is_none(),
        "the agent has no programs at the security hooks"
    );
    have(there, "this kernel takes no programs at its security hooks (`cargo xtask vm` has one that does)")
}

fn have(found: bool, why_not: &str) -> bool {
    if !found {
        eprintln!("skipped: {why_not}");
        if let Some(path) = std::env::var_os("DSHIELD_SKIP_FILE") {
            let thread = std::thread::current();
            let line = format!("{}: {why_not}\n", thread.name().unwrap_or("a test"));
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
            // One write, so that lines of tests that run side by side stay whole.
            let kept = file.and_then(|mut file| file.write_all(line.as_bytes()));
            kept.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    found
}

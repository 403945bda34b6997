//! The instance's first process, between `clone3` and the function: root, alone, and short-lived.
//!
//! Every failure is written to the status descriptor; the agent then refuses to use the instance. Of a throw-away
//! instance the first process goes the same way, and at its end tries to break out instead of becoming a function.
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, dup2_stdin, execve, sethostname, setsid};

use super::spawn::{SPEC_FD, STATUS_FD};
use super::step::{StepError, step};
use super::{Probe, Spec, privileges, rootfs};

/// Becomes the function, or says why not; or probes the walls. Never to be called but by the agent's `clone3` child.
#[must_use]
pub fn run() -> ExitCode {
    // SAFETY: the agent put these two descriptors there, and nothing else in this process uses them.
    let (spec, mut status) = unsafe { (File::from_raw_fd(SPEC_FD), File::from_raw_fd(STATUS_FD)) };
    match become_function(spec, &status) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write!(status, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns after a probe only.
fn become_function(mut spec: File, status: &File) -> Result<(), StepError> {
    let mut json = Vec::new();
    spec.read_to_end(&mut json).map_err(step("read the specification"))?;
    let (spec, probe): (Spec, Option<Probe>) = serde_json::from_slice(&json).map_err(step("read the specification"))?;
    let argv = c_strings(spec.argv.iter().cloned())?;
    let env = c_strings(spec.env.iter().map(|(name, value)| format!("{name}={value}")))?;

    // Here, not in clone3: the namespace's root is the cgroup that the caller is in.
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(step("unshare the cgroup namespace"))?;
    rootfs::enter(&spec)?;
    own_stdin()?;
    sethostname(&spec.hostname).map_err(step("set the host name"))?;
    setsid().map_err(step("setsid"))?;
    chdir("/var/task").map_err(step("enter /var/task"))?;
    privileges::give_up(&spec)?;
    if let Some(probe) = probe {
        return probe.run(status).map_err(step("report"));
    }
    let program = argv.first().ok_or_else(|| step("argv")(io::Error::other("no command")))?;
    let Err(errno) = execve(program, &argv, &env);
    Err(step(format!("execute {}", program.to_string_lossy()))(errno))
}

/// Standard input from the instance's own `/dev/null`: on the agent's, which is not mounted read-only, a function could
/// set the times that every other function sees.
fn own_stdin() -> Result<(), StepError> {
    let null = File::open("/dev/null").map_err(step("open /dev/null"))?;
    dup2_stdin(null).map_err(step("set standard input"))
}

fn c_strings(strings: impl Iterator<Item = String>) -> Result<Vec<CString>, StepError> {
    strings.map(|string| CString::new(string).map_err(step("a NUL byte in the command or its environment"))).collect()
}

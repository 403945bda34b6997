//! Debian's packages: what is asked for flows in, and is installed, or a sentence says what to do instead.
use crate::shell::{self, Error};
use std::{fs, os::unix::fs::MetadataExt, process::Command};

/// Installs packages with everything they need. Never removes one to make room.
pub fn install(packages: &[&str]) -> Result<(), Error> {
    if packages.is_empty() {
        return Ok(());
    }
    if shell::ask(Command::new("apt-get").arg("--version")).is_none() {
        return Err(Error::Unfit(format!(
            "this machine has no apt-get: install what Debian calls {} in its own way, then run `cargo xtask setup` again",
            packages.join(", ")
        )));
    }
    if !is_root() {
        return Err(Error::Unfit(format!(
            "installing packages needs root; run these, then `cargo xtask setup` again:\n  sudo apt-get update\n  sudo apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        )));
    }
    let updated = !packages.iter().all(|package| has_candidate(package));
    if updated {
        update()?;
    }
    if let Some(package) = packages.iter().find(|package| !has_candidate(package)) {
        return Err(Error::Unfit(format!("no package source of this machine has `{package}`")));
    }
    match install_now(packages) {
        // The lists were older than the archive: it no longer has the version they name.
        Err(Error::Failed { .. }) if !updated => {
            update()?;
            install_now(packages)
        }
        done => done,
    }
}

/// Whether we may install packages and load kernel programs.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|us| us.uid() == 0)
}

/// Whether some package source offers this package.
fn has_candidate(package: &str) -> bool {
    let policy = shell::ask(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]));
    policy.is_some_and(|policy| offers(&policy))
}

/// Whether this very package is installed, not another that provides it.
pub fn is_installed(package: &str) -> bool {
    let status = shell::ask(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]));
    status.is_some_and(|status| status == "installed")
}

fn offers(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    candidate.is_some_and(|version| version.trim() != "(none)")
}

fn update() -> Result<(), Error> {
    eprintln!("setup: apt-get update");
    shell::run(apt_get().arg("update"))
}

fn install_now(packages: &[&str]) -> Result<(), Error> {
    eprintln!("setup: apt-get install {}", packages.join(" "));
    shell::run(apt_get().args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be at work, as on a machine that has just started.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_offered() {
        assert!(offers("node:\n  Installed: (none)\n  Candidate: 1:22.1.8-1\n"));
        assert!(!offers("node:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!offers(""));
    }
}

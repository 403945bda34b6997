//! What an agent of some name has on the machine: its cgroups with their processes, its pins, its run-time folder.
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Everything on the machine that carries an agent's name. Dropping it removes what is still there.
#[derive(Debug)]
pub struct Leftovers {
    name: String,
    cgroup: Option<PathBuf>,
    pins: PathBuf,
    run: PathBuf,
}

impl Leftovers {
    /// Those of the agent with this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let cgroup = cgroup2().map(|root| root.join(name));
        Self {
            name: name.to_owned(),
            cgroup,
            pins: Path::new("/sys/fs/bpf").join(name),
            run: Path::new("/run/dshield").join(name),
        }
    }

    /// What is there now, in words; empty when nothing is.
    #[must_use]
    pub fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(cgroup) = self.cgroup.as_deref().filter(|path| path.exists()) {
            found.push(format!("cgroup {}", cgroup.display()));
            found.extend(processes(cgroup).iter().map(|pid| format!("process {pid}")));
        }
        if self.pins.exists() {
            found.push(format!("pins {}", self.pins.display()));
        }
        if self.run.exists() {
            found.push(format!("run-time folder {}", self.run.display()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let named = |line: &&str| line.split(' ').nth(4).is_some_and(|at| at.split('/').any(|part| part == self.name));
        found.extend(mounts.lines().filter(named).map(|line| format!("mount {line}")));
        for folder in ["/run/netns", "/var/run/netns"] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            found.extend(
                entries
                    .filter(|entry| entry.file_name().to_string_lossy().contains(&self.name))
                    .map(|entry| format!("namespace {}", entry.path().display())),
            );
        }
        found
    }

    /// Processes in the agent's cgroups.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        self.cgroup.as_deref().map(processes).unwrap_or_default()
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.as_deref().filter(|path| path.exists()) {
            wait::within(Duration::from_secs(5), || {
                for pid in processes(cgroup) {
                    // It may have ended since it was listed.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                remove_cgroup(cgroup).then_some(())
            });
        }
        // Absent after a clean stop.
        let _ = std::fs::remove_dir_all(&self.pins);
        let _ = umount2(&self.run.join("code"), MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir_all(&self.run);
        // An agent keeps its lock's file for the next of its name; a test's name does not come back.
        let _ = std::fs::remove_file(self.run.with_extension("lock"));
    }
}

/// Where cgroup2 is mounted.
#[must_use]
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

fn processes(cgroup: &Path) -> Vec<i32> {
    let listed = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<i32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(cgroup) {
        all.extend(processes(&child));
    }
    all
}

fn remove_cgroup(cgroup: &Path) -> bool {
    for child in children(cgroup) {
        remove_cgroup(&child);
    }
    std::fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

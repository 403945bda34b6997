//! What an agent has of everything that the kernel counts for it, to compare before and after.
//!
//! Only what is this agent's: its descriptors and what they name, its threads and children, what carries its name.
//! A namespace that nothing but a socket keeps shows as that socket.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{Agent, cleanup};

/// How many of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    counts: BTreeMap<String, usize>,
}

impl Footprint {
    /// Of this agent, now.
    #[must_use]
    pub fn of(agent: &Agent) -> Self {
        let mut footprint = Self::default();
        footprint.descriptors(agent.pid());
        let name = agent.name();
        footprint.processes(agent.pid(), name);
        let cgroup = cleanup::cgroup2().map(|root| root.join(name)).unwrap_or_default();
        footprint.add("cgroup", folders(&cgroup));
        footprint.add("process in a cgroup", agent.leftovers().processes().len());
        let pins = Path::new("/sys/fs/bpf").join(name);
        footprint.add("pin", files(&pins));
        footprint.add("prepared namespace", entries(&pins.join("prepared")).len());
        footprint.add("run-time file", files(&Path::new("/run/dshield").join(name)));
        footprint
    }

    /// How many of `what` there are.
    #[must_use]
    pub fn count(&self, what: &str) -> usize {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// What there is more of now than `before`, in words; empty when nothing leaked.
    #[must_use]
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let grown = self.counts.iter().filter(|(what, count)| **count > before.count(what));
        grown.map(|(what, count)| format!("{what}: {count} instead of {}", before.count(what))).collect()
    }

    fn add(&mut self, what: &str, count: usize) {
        *self.counts.entry(what.to_owned()).or_default() += count;
    }

    fn descriptors(&mut self, pid: u32) {
        let mut namespaces = BTreeSet::new();
        let mut objects = BTreeSet::new();
        for entry in entries(&PathBuf::from(format!("/proc/{pid}/fd"))) {
            // Either file is gone when the descriptor was closed since.
            let Ok(target) = fs::read_link(&entry) else { continue };
            let target = target.to_string_lossy().into_owned();
            // `socket:[123]`, `net:[123]`, `anon_inode:bpf-map`, or a path.
            let kind = if target.starts_with('/') { "file" } else { target.split(":[").next().unwrap_or_default() };
            self.add(&format!("descriptor of {kind}"), 1);
            if kind == "net" {
                namespaces.insert(target.trim_start_matches("net:[").trim_end_matches(']').to_owned());
            }
            let number = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            for (field, value) in info.lines().filter_map(|line| line.split_once(":\t")) {
                match field {
                    "netns_ino" if value != "0" => drop(namespaces.insert(value.to_owned())),
                    "prog_id" | "map_id" | "link_id" => drop(objects.insert((field.to_owned(), value.to_owned()))),
                    _ => {}
                }
            }
        }
        self.add("network namespace", namespaces.len());
        for (field, _) in objects {
            self.add(&format!("bpf {field}"), 1);
        }
    }

    fn processes(&mut self, pid: u32, name: &str) {
        self.add("thread", entries(&PathBuf::from(format!("/proc/{pid}/task"))).len());
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        // The others are the machine's: agents beside this one mount and unmount theirs.
        let own = |line: &&str| line.split(' ').nth(4).is_some_and(|at| at.split('/').any(|part| part == name));
        self.add("mount", mounts.lines().filter(own).count());
        for process in entries(Path::new("/proc")) {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            // proc_pid_stat(5): `pid (comm) state ppid …`, and comm may hold anything.
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let mut fields = rest.split(' ');
            let (state, parent) = (fields.next(), fields.next());
            if parent == Some(pid.to_string().as_str()) {
                self.add(if state == Some("Z") { "zombie" } else { "child" }, 1);
            }
        }
    }
}

/// `VmRSS` in KiB (proc_pid_status(5)).
#[must_use]
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// All below, not counting folders.
fn files(folder: &Path) -> usize {
    entries(folder).iter().map(|path| if path.is_dir() { files(path) } else { 1 }).sum()
}

/// All below, and the folder itself.
fn folders(folder: &Path) -> usize {
    let below: usize = entries(folder).iter().filter(|path| path.is_dir()).map(|path| folders(path)).sum();
    below + usize::from(folder.is_dir())
}

//! What a running agent has in the kernel, seen by root from outside and without asking the agent.
//!
//! In: an agent's name, and a function's or none. Out: an [`Agent`] with its programs, links, maps and instances, read
//! from the pins, the cgroups and `/proc`; beside each part the commands of other tools that show the same.
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::Serialize;

pub use self::pins::{Link, Map, Program};
pub use self::process::{Netns, Process, Socket};
use crate::kernel::{AgentCgroup, KernelError, RunDir};

mod pins;
mod process;

/// Some things, and the commands that show them too.
#[derive(Clone, Debug, Serialize)]
pub struct Section<T> {
    /// To be pasted into a root shell.
    pub commands: Vec<String>,
    /// What was found, by name.
    pub list: Vec<T>,
}

/// A running agent's kernel side.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its process; 0 when it is in a pid namespace that is not visible from here.
    pub pid: u32,
    /// Where its pins are.
    pub pins: PathBuf,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// The programs that hold for every instance.
    pub programs: Section<Program>,
    /// What attaches them to the cgroup.
    pub links: Section<Link>,
    /// What they share with the agent.
    pub maps: Section<Map>,
    /// The instances.
    pub instances: Vec<Instance>,
}

/// A cgroup.
#[derive(Clone, Debug, Serialize)]
pub struct Cgroup {
    /// Its folder.
    pub path: PathBuf,
    /// Its id, as links and eBPF programs see it; `None` when it is gone.
    pub id: Option<u64>,
}

/// One instance.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    /// Its id, as in the log.
    pub id: String,
    /// Its function.
    pub function: String,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its processes.
    pub processes: Section<Process>,
    /// Its network namespace.
    pub netns: Netns,
    /// `ds_sklookup`, its link to the namespace, and the map of the sockets to which it steers.
    pub steering: Steering,
}

/// What steers in one network namespace.
#[derive(Clone, Debug, Serialize)]
pub struct Steering {
    /// To be pasted into a root shell.
    pub commands: Vec<String>,
    /// The program.
    pub program: Option<Program>,
    /// Its link.
    pub link: Option<Link>,
    /// Its map.
    pub map: Option<Map>,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The caller's: only root can open pins.
    #[error("dshield inspect must run as root, because only root can open what is pinned: use sudo")]
    NotRoot,
    /// The caller's: a name that no running agent has.
    #[error(
        "no agent named `{name}` is running; {}",
        there_are("running: ", running, "none is; start one with `dshield run`")
    )]
    NoAgent {
        /// The name given.
        name: String,
        /// The names that would do.
        running: Vec<String>,
    },
    /// The caller's: a function that has no instance, or does not exist.
    #[error(
        "`{function}` has no instance now, if there is such a function; {}",
        there_are("instances: ", instances, "no function has one, the first invocation makes it")
    )]
    NoInstance {
        /// The name given.
        function: String,
        /// The instances that there are.
        instances: Vec<String>,
    },
    /// cgroup v2 or `/proc` cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A pin cannot be opened, or the kernel does not tell about it.
    #[error("{}: {cause}; was the agent just stopped?", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
}

fn there_are(before: &str, names: &[String], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { format!("{before}{}", names.join(", ")) }
}

/// Looks at the agent of this name. With a function, at no other's instances.
///
/// # Errors
/// There is no such agent or instance, or it cannot be looked at.
pub fn inspect(name: &str, function: Option<&str>) -> Result<Agent, InspectError> {
    if !geteuid().is_root() {
        return Err(InspectError::NotRoot);
    }
    let running = RunDir::running()?;
    let Some(agent) = running.iter().find(|agent| agent.name == name) else {
        let running = running.into_iter().map(|agent| agent.name).collect();
        return Err(InspectError::NoAgent { name: name.to_owned(), running });
    };
    let pins = pins::folder(name);
    let cgroup = Cgroup::at(AgentCgroup::folder(name)?);
    let all = instances(&pins, &cgroup.path)?;
    let mut instances = all.clone();
    if let Some(function) = function {
        instances.retain(|instance| instance.function == function);
        if instances.is_empty() {
            let instances = all.into_iter().map(|instance| instance.id).collect();
            return Err(InspectError::NoInstance { function: function.to_owned(), instances });
        }
    }
    let links = pins::each(&pins.join("links"), pins::link)?;
    let programs = pins::each(&pins.join("programs"), pins::program)?;
    Ok(Agent {
        name: name.to_owned(),
        pid: agent.pid,
        programs: Section {
            commands: vec![
                format!("bpftool cgroup show {}", cgroup.path.display()),
                for_each(&pins.join("programs"), "prog"),
            ],
            list: programs.into_iter().map(|program| program.attached_by(links.iter())).collect(),
        },
        links: Section { commands: vec![for_each(&pins.join("links"), "link")], list: links },
        maps: Section {
            commands: vec![for_each(&pins.join("maps"), "map")],
            list: pins::each(&pins.join("maps"), pins::map)?,
        },
        cgroup,
        pins,
        instances,
    })
}

fn for_each(folder: &Path, kind: &str) -> String {
    format!("for pin in {}/*; do bpftool {kind} show pinned $pin; done", folder.display())
}

fn instances(pins: &Path, cgroup: &Path) -> Result<Vec<Instance>, InspectError> {
    let ids = pins::names(&pins.join("instances"))?;
    // One that ends meanwhile is not an error: it is not there.
    let looked = ids.into_iter().map(|id| match instance(id, pins, cgroup) {
        Err(InspectError::Pin { path, .. }) if !path.exists() => Ok(None),
        looked => looked.map(Some),
    });
    looked.filter_map(Result::transpose).collect()
}

fn instance(id: String, pins: &Path, cgroup: &Path) -> Result<Instance, InspectError> {
    let cgroup = Cgroup::at(cgroup.join(&id));
    let pins = pins.join("instances").join(&id);
    let existing = |pin: &str| Some(pins.join(pin)).filter(|path| path.exists());
    let link = existing("link").map(|pin| pins::link(&pin)).transpose()?;
    let program = existing("program").map(|pin| pins::program(&pin)).transpose()?;
    let processes = process::of(&cgroup.path);
    let steering = Steering {
        commands: [("prog", "program"), ("link", "link"), ("map", "sockets")]
            .map(|(kind, pin)| format!("bpftool {kind} show pinned {}", pins.join(pin).display()))
            .to_vec(),
        program: program.map(|program| program.attached_by(link.iter())),
        map: existing("sockets").map(|pin| pins::map(&pin)).transpose()?,
        link,
    };
    let inode = steering.link.as_ref().and_then(|link| link.netns_inode);
    Ok(Instance {
        // `agent` names instances FUNCTION-NUMBER.
        function: id.rsplit_once('-').map_or(id.as_str(), |(function, _)| function).to_owned(),
        netns: process::netns(inode, &processes),
        processes: Section { commands: vec![format!("cat {}/cgroup.procs", cgroup.path.display())], list: processes },
        id,
        cgroup,
        steering,
    })
}

impl Cgroup {
    fn at(path: PathBuf) -> Self {
        let id = fs::metadata(&path).ok().map(|metadata| metadata.ino());
        Self { path, id }
    }
}

/// What cannot be read is said to be unreadable, with the reason.
fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = path.to_owned();
    move |error| InspectError::Pin { path, cause: error.to_string() }
}

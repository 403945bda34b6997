//! One instance's first process, and the walls around it.
//!
//! In: a [`Spec`], the instance's cgroup and its sealed network namespace. Out: a [`Child`], whose every
//! instruction ran inside the cgroup and the namespaces.
//!
//! [`spawn`] clones into new namespaces and into the cgroup at once and executes this same program as
//! `dshield __instance` ([`init`]): that process builds the file system ([`rootfs`]), gives up every
//! privilege ([`privileges`]) and becomes the function; of a throw-away instance, it tries to break out ([`probe`]).
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::instance::Exit;
use crate::walls::Walls;

pub use self::probe::{Attempt, Probe};
pub use self::seccomp::Filter;
pub use self::spawn::{Child, Spawner};

pub mod init;
pub mod landlock;
mod privileges;
mod probe;
mod rootfs;
mod seccomp;
mod spawn;
mod step;
pub mod trust;

/// The hidden command by which the agent's own binary becomes an instance's first process.
pub const INIT_COMMAND: &str = "__instance";

/// Where DNS questions go: an address in the synthetic range that is never given to a name.
pub const NAMESERVER: &str = "198.18.0.1";

/// What the first process needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The host name inside.
    pub hostname: String,
    /// User and group id, used by no other instance.
    pub uid: u32,
    /// An empty folder outside, where the new root is mounted in the instance's own mount namespace.
    pub root: PathBuf,
    /// The function's code, which nobody changes any more, shown read-only as `/var/task`.
    pub code: PathBuf,
    /// The trust bundle outside, shown read-only at the usual paths.
    pub ca_bundle: PathBuf,
    /// Files to put below `/var/runtime`.
    pub runtime_files: BTreeMap<String, String>,
    /// Size of `/tmp`, bytes.
    pub tmp_bytes: u64,
    /// The command.
    pub argv: Vec<String>,
    /// Its environment, complete.
    pub env: Vec<(String, String)>,
    /// The seccomp filters, in the order of their installation.
    pub seccomp: Vec<Filter>,
    /// Which walls stand: all.
    pub walls: Walls,
}

/// Why an instance could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A throw-away instance's process did not get through its attempts.
    #[error("the throw-away instance ended ({exit}) or hung at its attempt to use {attempt}")]
    Probe {
        /// The first one without an answer.
        attempt: Attempt,
        /// How the process ended.
        exit: Exit,
    },
    /// The seccomp filters in this build are not valid for the machine.
    #[error("the seccomp filter of this build is not valid: {0}")]
    Seccomp(String),
    /// The first process failed to set itself up.
    #[error("the instance could not be set up: {0}")]
    Setup(String),
    /// The process could not be started.
    #[error("cannot start the instance's process: {step}: {source}")]
    Spawn {
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

//! Why the kernel side could not be set up. Each message names the cause and the fix.
use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::broken::Broken;

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The name is already in use by a running agent.
    #[error("another agent named `{name}` is running: stop it, or choose another --name")]
    AlreadyRunning {
        /// The agent's name.
        name: String,
    },
    /// As many agents run as there are ranges of user ids.
    #[error("{} agents run on this machine, and there are user ids for no more: stop one", super::RunDir::NUMBERS)]
    TooManyAgents,
    /// The operator chose a name that cannot be a folder's name in bpffs.
    #[error("--name `{name}` cannot be used: 1 to 32 of a-z, A-Z, 0-9, `-` and `_`")]
    BadName {
        /// The name given.
        name: String,
    },
    /// A cgroup operation failed.
    #[error("cgroup {}: {action}: {source}", path.display())]
    Cgroup {
        /// The folder or file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Processes of an instance did not end although they were killed.
    #[error("cgroup {}: processes are still there 10 s after they were killed", path.display())]
    CgroupBusy {
        /// The folder.
        path: PathBuf,
    },
    /// A file operation of the agent's run-time state failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The object embedded in this binary could not be loaded.
    #[error(
        "the kernel refused the eBPF object: {}; D-Shield needs Linux 5.15 or newer with CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL and the right to use them (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN)",
        chain(source)
    )]
    Load {
        /// The cause.
        source: Box<aya::EbpfError>,
    },
    /// A map operation failed.
    #[error("eBPF map {map}: {}", chain(source))]
    Map {
        /// The map.
        map: &'static str,
        /// The cause.
        source: aya::maps::MapError,
    },
    /// A cgroup or pins of that name are there that no agent made.
    #[error(
        "{} is there already and is not of an agent named `{name}`: choose another --name, or remove it", path.display()
    )]
    NameTaken {
        /// The name.
        name: String,
        /// What is there.
        path: PathBuf,
    },
    /// Linux without a mounted cgroup v2 hierarchy.
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`), or start the container with `--cgroupns host -v /sys/fs/cgroup:/sys/fs/cgroup:rw`"
    )]
    NoCgroup2,
    /// A step in making a network namespace failed.
    #[error("sealed network namespace: {step}: {source}")]
    Netns {
        /// What was tried.
        step: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Not root.
    #[error(
        "dshield must run as root, because it loads eBPF programs and makes namespaces: use sudo, or a privileged container"
    )]
    NotRoot,
    /// Pinning below /sys/fs/bpf failed.
    #[error("cannot pin below {}: {source}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One program could not be loaded or attached.
    #[error(
        "the kernel refused the eBPF program {program}: {}; D-Shield needs Linux 5.15 or newer with CONFIG_CGROUP_BPF",
        chain(source)
    )]
    Program {
        /// The program.
        program: &'static str,
        /// The cause.
        source: Box<aya::programs::ProgramError>,
    },
    /// Somebody changed what was just set up.
    #[error(transparent)]
    Watch(#[from] Broken),
}

/// An error with its causes: aya's say what was tried, their sources why it failed.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let deeper = error.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&deeper) {
            text.push_str(": ");
            text.push_str(&deeper);
        }
        cause = error.source();
    }
    text
}

impl KernelError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

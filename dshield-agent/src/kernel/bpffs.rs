//! `/sys/fs/bpf/<name>/`: where programs, links and maps are pinned, for bpftool and for auditors.
//!
//! ```text
//! programs/<program>   links/<program>   maps/<map>   instances/<instance>/{program,link,sockets}
//! prepared/<netns cookie>/{program,link,sockets}: of a namespace that no instance has yet
//! ```
//! Folders have mode 0700. bpffs allows no dot in a name.
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use super::KernelError;

/// Where bpffs is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

const FOLDERS: [&str; 5] = ["programs", "links", "maps", "instances", "prepared"];

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The agent's folder in bpffs.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the folders, after removing what a killed agent of this name left; mounts bpffs if it is
    /// not mounted yet. The caller holds the machine-wide lock.
    ///
    /// # Errors
    /// bpffs cannot be mounted or written.
    pub fn create(name: &str) -> Result<Self, KernelError> {
        mount_bpffs()?;
        let pins = Self { root: Path::new(BPFFS).join(name) };
        pins.remove()?;
        make_private(&pins.root)?;
        for folder in FOLDERS {
            make_private(&pins.root.join(folder))?;
        }
        Ok(pins)
    }

    /// The folder that an agent of this name has.
    #[must_use]
    pub fn folder(name: &str) -> PathBuf {
        Path::new(BPFFS).join(name)
    }

    /// The folder that an agent of this name would have, when it holds what no agent makes.
    #[must_use]
    pub fn foreign(name: &str) -> Option<PathBuf> {
        let path = Path::new(BPFFS).join(name);
        let own = |entry: fs::DirEntry| FOLDERS.iter().any(|folder| entry.file_name() == *folder);
        let foreign = fs::read_dir(&path).is_ok_and(|mut entries| !entries.all(|entry| entry.is_ok_and(own)));
        foreign.then_some(path)
    }

    /// Where a program of this name is pinned.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    /// Where the link that attaches this program is pinned.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// Where a map of this name is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// Where an instance's pins are.
    #[must_use]
    pub fn instance(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(id)
    }

    /// Makes the folder for the pins of the namespace with this cookie, until an instance has it.
    ///
    /// # Errors
    /// bpffs is full or gone.
    pub fn prepared(&self, cookie: u64) -> Result<PathBuf, KernelError> {
        let path = self.root.join("prepared").join(cookie.to_string());
        make_private(&path)?;
        Ok(path)
    }

    /// Removes every pin of this agent; that there is none is fine.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove(&self) -> Result<(), KernelError> {
        match fs::remove_dir_all(&self.root) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(KernelError::Pin { path: self.root.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Removes one pin; not being there is fine.
///
/// # Errors
/// It cannot be removed.
pub fn remove_pin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(KernelError::Pin { path: path.into(), source }),
        _ => Ok(()),
    }
}

/// What a failed `BPF_OBJ_PIN` means.
pub(super) fn pin_error(path: &Path) -> impl FnOnce(aya::pin::PinError) -> KernelError {
    let path = path.to_owned();
    move |error| {
        let source = match error {
            aya::pin::PinError::SyscallError(error) => error.io_error,
            other => io::Error::other(other.to_string()),
        };
        KernelError::Pin { path, source }
    }
}

/// Whether bpffs is where it belongs.
#[must_use]
pub fn is_mounted() -> bool {
    statfs(BPFFS).is_ok_and(|info| info.filesystem_type() == FsType(BPF_FS_MAGIC))
}

fn mount_bpffs() -> Result<(), KernelError> {
    let path = Path::new(BPFFS);
    if is_mounted() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| KernelError::Pin { path: path.into(), source: errno.into() })
}

fn make_private(path: &Path) -> Result<(), KernelError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|source| KernelError::Pin { path: path.into(), source })
}

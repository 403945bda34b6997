//! `/run/dshield/<name>/`: the agent's run-time folder, and the lock that makes its name unique.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::KernelError;

const ROOT: &str = "/run/dshield";

/// The folder, locked while this lives. The kernel releases the lock when the agent dies.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    new: bool,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the folder and takes the lock.
    ///
    /// # Errors
    /// Not root, a name that cannot be a file's name, or an agent of that name is running.
    pub fn lock(name: &str) -> Result<Self, KernelError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(KernelError::NotRoot);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
            return Err(KernelError::BadName { name: name.into() });
        }
        let path = Path::new(ROOT).join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(ROOT).map_err(KernelError::file(Path::new(ROOT)))?;
        let lock = match Flock::lock(open(&lock_file(name))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EAGAIN)) => return Err(KernelError::AlreadyRunning { name: name.into() }),
            Err((_, errno)) => return Err(KernelError::File { path, source: errno.into() }),
        };
        let new = match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(source) => return Err(KernelError::File { path, source }),
        };
        Ok(Self { path, new, _lock: lock })
    }

    /// Whether the folder was made now: a clean stop removes it, a kill leaves it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `action` while no other agent of this machine runs one: mounting bpffs twice would hide the
    /// first mount's pins.
    ///
    /// # Errors
    /// What `action` returns, or the lock cannot be taken.
    pub fn exclusively<T>(&self, action: impl FnOnce() -> Result<T, KernelError>) -> Result<T, KernelError> {
        let path = Path::new(ROOT).join("mount.lock");
        let lock = Flock::lock(open(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| KernelError::File { path, source: errno.into() })?;
        let result = action();
        drop(lock);
        result
    }

    /// Removes the folder. The lock's file stays: removing it would let two agents hold two locks.
    ///
    /// # Errors
    /// A file in it cannot be removed.
    pub fn remove(&self) -> Result<(), KernelError> {
        fs::remove_dir_all(&self.path).map_err(KernelError::file(&self.path))
    }
}

fn lock_file(name: &str) -> PathBuf {
    Path::new(ROOT).join(format!("{name}.lock"))
}

fn open(path: &Path) -> Result<File, KernelError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(KernelError::file(path))
}

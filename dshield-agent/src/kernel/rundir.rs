//! `/run/dshield/<name>/`: the agent's run-time folder with what is mounted in it, and the locks that make its name and its
//! number unique.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{major, minor};

use super::KernelError;

const ROOT: &str = "/run/dshield";

/// The lock that agents hold for a moment, in turn. No agent can be called so: their names have no dot.
const MOUNT_LOCK: &str = ".mount";

/// Where each running agent has locked a byte; no agent's folder either.
const NUMBERS: &str = ".numbers";

/// The folder, locked while this lives. The kernel releases the lock when the agent dies.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    new: bool,
    number: Number,
    _lock: Flock<File>,
}

/// A number that no other running agent of this machine has.
#[derive(Debug)]
struct Number {
    value: u32,
    /// One byte of it is locked.
    _numbers: File,
}

/// An agent that runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningAgent {
    /// Its name.
    pub name: String,
    /// Its process id; 0 when it runs in a pid namespace that is not visible from here.
    pub pid: u32,
}

impl RunDir {
    /// As many agents can run on a machine.
    pub const NUMBERS: u32 = 3_000;

    /// The agents that run on this machine, by name: those whose lock is held. Taking the lock to find out would
    /// refuse an agent that is just starting.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn running() -> Result<Vec<RunningAgent>, KernelError> {
        let path = Path::new("/proc/locks");
        let locks = fs::read_to_string(path).map_err(KernelError::file(path))?;
        let names = fs::read_dir(ROOT).into_iter().flatten().flatten().filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            Some((file.strip_suffix(".lock")?.to_owned(), entry.metadata().ok()?))
        });
        let mut running: Vec<_> = names
            .filter(|(name, _)| name != MOUNT_LOCK)
            .filter_map(|(name, lock)| Some(RunningAgent { name, pid: holder(&locks, lock.dev(), lock.ino())? }))
            .collect();
        running.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(running)
    }

    /// Makes the folder and takes the lock. What a killed agent of this name had mounted in it is gone then.
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
        let number = Number::take(&Path::new(ROOT).join(NUMBERS), name)?;
        let new = match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                unmount_below(&path)?;
                false
            }
            Err(source) => return Err(KernelError::File { path, source }),
        };
        Ok(Self { path, new, number, _lock: lock })
    }

    /// Whether the folder was made now: a clean stop removes it, a kill leaves it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Below [`Self::NUMBERS`]; no other running agent of this machine has it.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number.value
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
        let path = lock_file(MOUNT_LOCK);
        let lock = Flock::lock(open(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| KernelError::File { path, source: errno.into() })?;
        let result = action();
        drop(lock);
        result
    }

    /// Removes the folder, and what is mounted in it. The lock's file stays: removing it would let two agents hold two locks.
    ///
    /// # Errors
    /// A file in it cannot be removed.
    pub fn remove(&self) -> Result<(), KernelError> {
        unmount_below(&self.path)?;
        fs::remove_dir_all(&self.path).map_err(KernelError::file(&self.path))
    }
}

impl Number {
    /// The one that the name leads to, so that an agent mostly has the same again; the next one where that is taken.
    fn take(path: &Path, name: &str) -> Result<Self, KernelError> {
        let numbers = open(path)?;
        // FNV-1a: any spread will do.
        let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let first = name.bytes().fold(0x811c_9dc5_u32, step) % RunDir::NUMBERS;
        for value in (first..RunDir::NUMBERS).chain(0..first) {
            let byte = libc::flock {
                l_type: libc::F_WRLCK as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: value.into(),
                l_len: 1,
                l_pid: 0,
            };
            // The lock belongs to the open file, not to the process (fcntl_locking(2)).
            match fcntl(&numbers, FcntlArg::F_OFD_SETLK(&byte)) {
                Ok(_) => return Ok(Self { value, _numbers: numbers }),
                Err(Errno::EAGAIN | Errno::EACCES) => {}
                Err(errno) => return Err(KernelError::File { path: path.into(), source: errno.into() }),
            }
        }
        Err(KernelError::TooManyAgents)
    }
}

/// Instances see what is mounted there by mounts of their own, so nobody who still needs it loses it.
fn unmount_below(folder: &Path) -> Result<(), KernelError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(KernelError::file(path))?;
    for mount in mounted_below(folder, &mounts) {
        umount2(mount, MntFlags::MNT_DETACH).map_err(|errno| KernelError::file(mount)(errno.into()))?;
    }
    Ok(())
}

/// The newest first. proc_pid_mountinfo(5): `36 35 0:31 / /run/dshield/x/code rw - tmpfs …`; the names of agents and
/// their folders hold nothing that is escaped there.
fn mounted_below<'m>(folder: &Path, mounts: &'m str) -> Vec<&'m Path> {
    let points = mounts.lines().filter_map(|line| Some(Path::new(line.split(' ').nth(4)?)));
    let mut below: Vec<_> = points.filter(|point| point.starts_with(folder) && *point != folder).collect();
    below.reverse();
    below
}

/// Who holds the lock on this file. proc_locks(5): `1: FLOCK  ADVISORY  WRITE 708 00:13:16994 0 EOF`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid, held) = (words.next()?, words.nth(2)?, words.next()?);
        (kind == "FLOCK" && held == file).then(|| pid.parse().unwrap_or(0))
    })
}

fn lock_file(name: &str) -> PathBuf {
    Path::new(ROOT).join(format!("{name}.lock"))
}

fn open(path: &Path) -> Result<File, KernelError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(KernelError::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent called as this lock waited for itself at its start, for ever.
    #[test]
    fn no_agent_can_be_called_as_the_lock_that_agents_share() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: not root: nobody else takes locks");
        }
        assert!(matches!(RunDir::lock(MOUNT_LOCK), Err(KernelError::BadName { .. })));
    }

    /// Two names that lead to one number gave two agents' functions the same user ids.
    #[test]
    fn two_agents_have_two_numbers_whatever_their_names_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let [first, second] = ["name"; 2].map(|name| Number::take(&path, name).unwrap());
        assert_ne!(first.value, second.value);
        let free = first.value;
        drop(first);
        assert_eq!(Number::take(&path, "name").unwrap().value, free, "it comes back with its agent");
    }

    #[test]
    fn only_what_is_mounted_in_the_folder_is_unmounted_and_the_newest_first() {
        let mounts = "1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /run/dshield/a rw - tmpfs t rw\n\
                      3 2 0:3 / /run/dshield/a/code rw,nosuid shared:7 - tmpfs t rw\n\
                      4 1 0:4 / /run/dshield/a-b/code rw - tmpfs t rw\n5 3 0:5 / /run/dshield/a/code rw - tmpfs t rw\n\
                      6 3 0:6 / /run/dshield/a/code/0 rw - tmpfs t rw\n";
        let below = mounted_below(Path::new("/run/dshield/a"), mounts);
        assert_eq!(below, ["/run/dshield/a/code/0", "/run/dshield/a/code", "/run/dshield/a/code"].map(Path::new));
    }

    #[test]
    fn the_holder_of_a_lock_is_the_process_that_the_kernel_names() {
        let locks = "1: POSIX  ADVISORY  WRITE 70 fe:00:5 0 EOF\n2: FLOCK  ADVISORY  WRITE 71 fe:00:5 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 72 fe:00:6 0 EOF\n";
        let device = nix::sys::stat::makedev(0xfe, 0);
        assert_eq!(holder(locks, device, 5), Some(71));
        assert_eq!(holder(locks, device, 6), None, "who waits for a lock does not hold it");
        assert_eq!(holder(locks, device, 7), None);
    }
}

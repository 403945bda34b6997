//! The cgroup v2 side: the agent's cgroup, one leaf for each instance, and their limits.
use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::KernelError;
use crate::walls::{Wall, Walls};

/// Controllers that bound an instance, where the machine has them in cgroup v2.
const WANTED: [&str; 2] = ["memory", "pids"];

/// How long killed processes may take to end.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The agent's cgroup, `<cgroup2>/<name>`, where the programs are attached.
#[derive(Debug)]
pub struct AgentCgroup {
    path: PathBuf,
    controllers: Vec<&'static str>,
}

impl AgentCgroup {
    /// Makes the cgroup and delegates what controllers there are to its instances.
    ///
    /// # Errors
    /// No cgroup v2, or it is not writable.
    pub fn create(name: &str) -> Result<Self, KernelError> {
        let root = mount_point()?;
        let path = root.join(name);
        make_dir(&path)?;
        mark(&path)?;
        let mut controllers = Vec::new();
        for wanted in WANTED {
            // Either step may fail: the controller may live in cgroup v1, or the container may not be
            // allowed to delegate it. The limit is then missing, and the start-up line says so.
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{wanted}"));
            if fs::write(path.join("cgroup.subtree_control"), format!("+{wanted}")).is_ok() {
                controllers.push(wanted);
            }
        }
        Ok(Self { path, controllers })
    }

    /// The folder that an agent of this name has.
    ///
    /// # Errors
    /// No cgroup v2.
    pub fn folder(name: &str) -> Result<PathBuf, KernelError> {
        Ok(mount_point()?.join(name))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The controllers that bound instances.
    #[must_use]
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// The wanted controllers that are missing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        WANTED.into_iter().filter(|wanted| !self.controllers.contains(wanted)).collect()
    }

    /// Opens the folder, for attaching programs.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn open(&self) -> Result<File, KernelError> {
        File::open(&self.path).map_err(KernelError::file(&self.path))
    }

    /// Makes the leaf of one instance.
    ///
    /// # Errors
    /// The cgroup cannot be made or a limit not be set although its controller is there. Nothing is left then.
    pub fn leaf(&self, instance: &str, limits: Limits) -> Result<Leaf, KernelError> {
        let path = self.path.join(instance);
        make_dir(&path)?;
        let made = Leaf::open_made(path.clone()).and_then(|leaf| self.limit(&leaf, limits).map(|()| leaf));
        if made.is_err() {
            let _ = fs::remove_dir(&path);
        }
        made
    }

    fn limit(&self, leaf: &Leaf, limits: Limits) -> Result<(), KernelError> {
        if !Walls::standing().stands(Wall::Controllers) {
            return Ok(());
        }
        if self.controllers.contains(&"memory") {
            leaf.write("memory.max", limits.memory_bytes.to_string())?;
            // Swap would be a way around the limit; kernels without swap accounting lack the file.
            let _ = fs::write(leaf.path.join("memory.swap.max"), "0");
            let _ = fs::write(leaf.path.join("memory.oom.group"), "1");
        }
        if self.controllers.contains(&"pids") {
            leaf.write("pids.max", limits.pids.to_string())?;
        }
        Ok(())
    }

    /// Kills everything below and removes the cgroup.
    ///
    /// # Errors
    /// Processes did not end in time.
    pub fn destroy(&self) -> Result<(), KernelError> {
        destroy_tree(&self.path)
    }

    /// Removes what a killed agent of this name left.
    ///
    /// # Errors
    /// As [`AgentCgroup::destroy`]; or the cgroup is somebody else's, whose processes must not die for a
    /// name that an operator chose without knowing.
    pub fn destroy_leftover(name: &str) -> Result<bool, KernelError> {
        let path = mount_point()?.join(name);
        if !path.exists() {
            return Ok(false);
        }
        if !is_marked(&path) {
            return Err(KernelError::NameTaken { name: name.into(), path });
        }
        destroy_tree(&path)?;
        Ok(true)
    }
}

/// What bounds an instance.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `memory.max`, bytes.
    pub memory_bytes: u64,
    /// `pids.max`.
    pub pids: u32,
}

/// The cgroup of one instance.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    /// `cgroup.kill`, open from the beginning: an agent that has run out of descriptors must still end its instances.
    kill: File,
}

impl Leaf {
    fn open_made(path: PathBuf) -> Result<Self, KernelError> {
        let kill = path.join("cgroup.kill");
        let kill = OpenOptions::new().write(true).open(&kill).map_err(KernelError::file(&kill))?;
        Ok(Self { path, kill })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that eBPF programs see: the folder's inode number.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn id(&self) -> Result<u64, KernelError> {
        Ok(fs::metadata(&self.path).map_err(KernelError::file(&self.path))?.ino())
    }

    /// Opens the folder, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// The folder is gone.
    pub fn open(&self) -> Result<File, KernelError> {
        File::open(&self.path).map_err(KernelError::file(&self.path))
    }

    /// Kills every process in it, waits until they are gone, and removes it. Blocks.
    ///
    /// # Errors
    /// Processes did not end in time.
    pub fn destroy(&self) -> Result<(), KernelError> {
        match (&self.kill).write_all(b"1") {
            Ok(()) => remove(&self.path),
            // The cgroup is gone already.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            Err(source) => Err(KernelError::Cgroup { path: self.path.clone(), action: "kill", source }),
        }
    }

    fn write(&self, file: &str, value: String) -> Result<(), KernelError> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|source| KernelError::Cgroup { path, action: "set a limit", source })
    }
}

fn destroy_tree(path: &Path) -> Result<(), KernelError> {
    kill_all(path)?;
    remove(path)
}

/// Removes a cgroup whose processes were killed, once they are gone, and those below it.
fn remove(path: &Path) -> Result<(), KernelError> {
    let deadline = Instant::now() + KILL_DEADLINE;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(KernelError::Cgroup { path: path.into(), action: "remove", source: error });
            }
            Err(_) if Instant::now() > deadline => return Err(KernelError::CgroupBusy { path: path.into() }),
            Err(_) => {}
        }
        let below = fs::read_dir(path).into_iter().flatten().flatten();
        for child in below.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
            destroy_tree(&child.path())?;
        }
        // A killed process stays in its cgroup until it is reaped.
        thread::sleep(Duration::from_millis(1));
    }
}

/// The extended attribute that tells an agent's cgroup from anybody else's. It lives as long as the cgroup.
const MARK: &CStr = c"trusted.dshield";

fn mark(path: &Path) -> Result<(), KernelError> {
    let error = |source| KernelError::Cgroup { path: path.into(), action: "mark as ours", source };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|nul| error(nul.into()))?;
    // SAFETY: both strings end with NUL, the value has the length given, and all outlive the call.
    let result = unsafe { libc::setxattr(name.as_ptr(), MARK.as_ptr(), c"1".as_ptr().cast(), 1, 0) };
    if result == 0 { Ok(()) } else { Err(error(io::Error::last_os_error())) }
}

fn is_marked(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both strings end with NUL and outlive the call; a size of 0 asks for the length only.
    unsafe { libc::getxattr(name.as_ptr(), MARK.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}

fn kill_all(path: &Path) -> Result<(), KernelError> {
    let kill = path.join("cgroup.kill");
    match fs::write(&kill, "1") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(KernelError::Cgroup { path: kill, action: "kill", source }),
    }
}

fn make_dir(path: &Path) -> Result<(), KernelError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(KernelError::Cgroup { path: path.into(), action: "create", source }),
    }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid machine.
fn mount_point() -> Result<PathBuf, KernelError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(KernelError::file(path))?;
    parse_mount_point(&text).ok_or(KernelError::NoCgroup2)
}

/// proc(5): `id parent major:minor root mount-point options [tags] - fstype source super-options`.
fn parse_mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        Some(PathBuf::from(before.split(' ').nth(4)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_a_hybrid_machine() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mount_point(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_cgroup_of_somebody_else_is_left_alone() {
        let Ok(root) = mount_point() else { return println!("skipped: no cgroup v2") };
        let name = format!("dst-foreign-{}", std::process::id());
        let path = root.join(&name);
        if let Err(error) = fs::create_dir(&path) {
            return println!("skipped: cannot make a cgroup: {error}");
        }
        let foreign = AgentCgroup::destroy_leftover(&name);
        let kept = path.exists();
        let marked = mark(&path).and_then(|()| AgentCgroup::destroy_leftover(&name));
        assert!(matches!(foreign, Err(KernelError::NameTaken { .. })), "{foreign:?}");
        assert!(kept);
        assert!(matches!(marked, Ok(true)), "{marked:?}");
        assert!(!path.exists());
    }

    #[test]
    fn a_machine_without_cgroup2_is_recognised() {
        assert_eq!(parse_mount_point("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}

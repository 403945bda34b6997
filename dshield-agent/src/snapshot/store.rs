//! Where copies are kept: a file system in memory, below the agent's run-time folder.
//!
//! In: functions with the folders that their code is in. Out: a [`Snapshot`]. In memory, because the disk of a
//! confidential machine is its host's; and not in swap, where the kernel (6.4) can promise that. How much it may hold is
//! what the kernel gives every tmpfs: half of the machine's memory. How many files, the limits of `config` say.
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dshield_common::attestation::code::Manifest;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use super::copy::{Fault, Target, copy};
use super::{FrozenFunction, SnapshotError};
use crate::config::{LoadedFunction, contents};

/// Holds the copies of one agent. What it has mounted goes with the run-time folder.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    next: AtomicU64,
}

/// The code of one deployment. Dropping it removes it, which blocks: not before all instances that see it are gone.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    /// By the folder that was copied: two functions may have the same.
    copies: BTreeMap<PathBuf, Kept>,
    functions: Vec<Arc<FrozenFunction>>,
}

/// One folder's copy.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    manifest: Manifest,
    sha256: String,
}

impl Store {
    /// Mounts an empty one in the agent's run-time folder. Blocks.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn mount(run_dir: &Path) -> Result<Self, SnapshotError> {
        Self::mount_with(run_dir, "")
    }

    /// With more options of tmpfs(5), each with a comma before it.
    pub(super) fn mount_with(run_dir: &Path, options: &str) -> Result<Self, SnapshotError> {
        let path = run_dir.join("code");
        let error = |source| SnapshotError::Store { path: path.clone(), source };
        make_folder(&path, 0o700).map_err(error)?;
        let tmpfs = |swap: &str| {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            let options = format!("mode=0700,nr_inodes=0{options}{swap}");
            mount(Some("dshield-code"), &path, Some("tmpfs"), flags, Some(options.as_str()))
        };
        let mounted = match tmpfs(",noswap") {
            // An older kernel does not know the word.
            Err(Errno::EINVAL) => tmpfs(""),
            mounted => mounted,
        };
        mounted.map_err(|errno| error(errno.into()))?;
        Ok(Self { path, next: AtomicU64::new(0) })
    }

    /// Copies the code of every function. What has not changed since the snapshot `before` is not held twice. Blocks.
    ///
    /// # Errors
    /// A folder cannot be read, is not what a code folder may be, or does not fit. Nothing of the snapshot is left.
    pub fn take(
        &self,
        functions: &[Arc<LoadedFunction>],
        before: Option<&Snapshot>,
    ) -> Result<Snapshot, SnapshotError> {
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        make_folder(&path, 0o700).map_err(|source| SnapshotError::Store { path: path.clone(), source })?;
        let mut snapshot = Snapshot { path, copies: BTreeMap::new(), functions: Vec::with_capacity(functions.len()) };
        for function in functions {
            if !snapshot.copies.contains_key(&function.code) {
                let kept = self.keep(function, &snapshot, before)?;
                snapshot.copies.insert(function.code.clone(), kept);
            }
            let kept = &snapshot.copies[&function.code];
            let frozen = FrozenFunction {
                spec: function.spec.clone(),
                policy: function.policy.clone(),
                code: kept.path.clone(),
                code_sha256: kept.sha256.clone(),
            };
            snapshot.functions.push(Arc::new(frozen));
        }
        Ok(snapshot)
    }

    fn keep(
        &self,
        function: &LoadedFunction,
        snapshot: &Snapshot,
        before: Option<&Snapshot>,
    ) -> Result<Kept, SnapshotError> {
        let folder = &function.code;
        let path = snapshot.path.join(snapshot.copies.len().to_string());
        let space = self.space();
        let before = before.and_then(|before| before.copies.get(folder));
        let copied = target(&path, before).map_err(Fault::Keep).and_then(|target| copy(folder, Some(target)));
        let name = || function.spec.name.to_string();
        match copied {
            Ok(manifest) => Ok(Kept { path, sha256: manifest.hash().to_string(), manifest }),
            Err(Fault::Unfit(unfit)) => {
                Err(SnapshotError::Unfit { function: name(), message: unfit.message, hint: unfit.hint })
            }
            Err(Fault::Keep(source)) if source.kind() == ErrorKind::StorageFull => {
                let bytes = contents::check(folder).unwrap_or(0);
                let (limit, free) = space.unwrap_or_default();
                Err(SnapshotError::Full { function: name(), folder: folder.clone(), bytes, limit, free })
            }
            Err(Fault::Keep(source)) => Err(SnapshotError::Store { path, source }),
        }
    }

    /// How many bytes it may hold, and how many of them are free.
    fn space(&self) -> Option<(u64, u64)> {
        let space = statvfs(&self.path).ok()?;
        let bytes = |blocks| blocks * space.fragment_size();
        Some((bytes(space.blocks()), bytes(space.blocks_free())))
    }
}

impl Snapshot {
    /// The functions that it was taken of, in their order.
    #[must_use]
    pub fn functions(&self) -> &[Arc<FrozenFunction>] {
        &self.functions
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            // Unmounted before.
            && error.kind() != ErrorKind::NotFound
        {
            tracing::error!("{}: code that runs no more cannot be removed: {error}", self.path.display());
        }
    }
}

/// An empty folder for a copy, beside the copy before.
fn target<'k>(path: &Path, before: Option<&'k Kept>) -> io::Result<Target<'k>> {
    let open = |path: &Path| File::open(path).map(OwnedFd::from);
    make_folder(path, 0o755)?;
    let before = before.map(|kept| Ok::<_, io::Error>((open(&kept.path)?, &kept.manifest))).transpose()?;
    Ok(Target { root: open(path)?, before })
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // The umask must not decide.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

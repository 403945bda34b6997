//! One code folder, copied and hashed in one pass.
//!
//! In: the folder, which somebody may be changing, and where its copy goes, if anywhere. Out: the [`Manifest`] of what
//! was written, hashed from the buffers that were written. No step follows a link or leaves the folder, nothing but
//! files and folders is opened, and the limits of `config` hold for what is read, not for what a look before had found.
//!
//! The copy belongs to root and everybody may read it, with the permissions that the manifest has. Files keep the time
//! of their last change, because interpreters compare it with what they compiled before; holes stay holes, and names of
//! one file stay that.
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use dshield_common::attestation::code::{Item, Manifest};
use dshield_common::canonical::Sha256Digest;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use sha2::{Digest, Sha256};

use crate::config::contents::{Tally, Unfit, special, unreadable};

/// So much is read, hashed and written at a time; so much of zeros stays a hole.
const PIECE: usize = 1 << 16;

/// Where a copy goes.
pub(super) struct Target<'t> {
    /// An empty folder.
    pub root: OwnedFd,
    /// A copy of the same folder as it was before, and what is in it: files that are the same are not held twice.
    pub before: Option<(OwnedFd, &'t Manifest)>,
}

/// What went wrong.
#[derive(Debug)]
pub(super) enum Fault {
    /// With the folder.
    Unfit(Unfit),
    /// With its copy.
    Keep(io::Error),
}

impl From<Unfit> for Fault {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

fn keep(error: impl Into<io::Error>) -> Fault {
    Fault::Keep(error.into())
}

/// Copies `folder`, or without a target only hashes it. Blocks.
pub(super) fn copy(folder: &Path, target: Option<Target<'_>>) -> Result<Manifest, Fault> {
    // `config` has resolved the path: a link on the way is somebody's who has changed it since.
    let how = OpenHow::new().flags(FOLDER).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let source = openat2(AT_FDCWD, folder, how).map_err(|errno| unreadable(folder, &errno.into()))?;
    let mut copy = Copy {
        folder,
        source,
        target,
        tally: Tally::new(folder),
        manifest: Manifest::default(),
        linked: HashMap::new(),
        buffer: vec![0; PIECE],
    };
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        copy.folder(&path, &mut open)?;
    }
    Ok(copy.manifest)
}

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
const NAMED: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_CLOEXEC);

struct Copy<'f> {
    folder: &'f Path,
    source: OwnedFd,
    target: Option<Target<'f>>,
    tally: Tally<'f>,
    manifest: Manifest,
    /// Files with several names that were copied, by device and inode: under which name first.
    linked: HashMap<(u64, u64), (PathBuf, Item)>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// Copies what is in the folder at `path`, except what is in its folders: these are added to `open`.
    fn folder(&mut self, path: &Path, open: &mut Vec<PathBuf>) -> Result<(), Fault> {
        let mut empty = true;
        if let Some(folder) = self.open(path)? {
            // In the order of their names, so that the copy lists them in one order whatever the file system.
            for name in self.names(&folder, path)? {
                let path = path.join(&name);
                let item = match openat(&folder, name.as_os_str(), NAMED, Mode::empty()) {
                    Ok(item) => item,
                    Err(Errno::ENOENT) => continue,
                    Err(errno) => return Err(self.unreadable(&path, &errno.into())),
                };
                let item = File::from(item);
                let metadata = item.metadata().map_err(|error| self.unreadable(&path, &error))?;
                let kind = metadata.file_type();
                empty = false;
                if kind.is_dir() {
                    self.make_folder(&path)?;
                    open.push(path);
                } else if kind.is_symlink() {
                    self.link(&item, &path)?;
                } else if kind.is_file() {
                    self.file(&item, &metadata, &path)?;
                } else {
                    return Err(special(&self.folder.join(path), kind).into());
                }
            }
        }
        if empty && !path.as_os_str().is_empty() {
            self.add(path, Item::EmptyFolder);
        }
        Ok(())
    }

    /// The folder at `path`; `None` where it is no folder any more.
    fn open(&self, path: &Path) -> Result<Option<OwnedFd>, Fault> {
        let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(FOLDER).resolve(beneath);
        let inside = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match openat2(&self.source, inside, how) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(self.unreadable(path, &errno.into())),
        }
    }

    /// Each name once, which a folder that is being changed may not do by itself.
    fn names(&mut self, folder: &impl AsFd, path: &Path) -> Result<BTreeSet<OsString>, Fault> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(by_number(folder)).map_err(|error| self.unreadable(path, &error))? {
            let entry = entry.map_err(|error| self.unreadable(path, &error))?;
            self.tally.entry()?;
            names.insert(entry.file_name());
        }
        Ok(names)
    }

    fn make_folder(&self, path: &Path) -> Result<(), Fault> {
        let Some(target) = &self.target else { return Ok(()) };
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(&target.root, path, mode).map_err(keep)?;
        // The agent's umask must not decide what functions can read.
        fchmodat(&target.root, path, mode, FchmodatFlags::FollowSymlink).map_err(keep)
    }

    fn link(&mut self, item: &File, path: &Path) -> Result<(), Fault> {
        let text = readlinkat(item, "").map_err(|errno| self.unreadable(path, &errno.into()))?;
        if let Some(target) = &self.target {
            symlinkat(text.as_os_str(), &target.root, path).map_err(keep)?;
        }
        self.add(path, Item::Link { sha256: Sha256Digest::of(text.as_bytes()) });
        Ok(())
    }

    fn file(&mut self, item: &File, metadata: &fs::Metadata, path: &Path) -> Result<(), Fault> {
        let identity = (metadata.dev(), metadata.ino());
        if let Some((first, item)) = self.linked.get(&identity) {
            if let Some(target) = &self.target {
                let root = &target.root;
                linkat(root, first.as_path(), root, path, AtFlags::empty()).map_err(keep)?;
            }
            let item = *item;
            self.add(path, item);
            return Ok(());
        }
        let executable = metadata.mode() & 0o111 != 0;
        // By its number: what was looked at is what is opened, so no device or pipe ever is.
        let from = File::open(by_number(item)).map_err(|error| self.unreadable(path, &error))?;
        let to = match &self.target {
            Some(target) => Some(make_file(target, path, executable).map_err(keep)?),
            None => None,
        };
        let sha256 = self.contents(&from, to.as_ref(), path)?;
        let item = Item::File { executable, sha256 };
        if let (Some(target), Some(to)) = (&self.target, to) {
            let changed = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
            futimens(&to, &changed, &changed).map_err(keep)?;
            target.share(path, item, metadata).map_err(keep)?;
        }
        if metadata.nlink() > 1 {
            self.linked.insert(identity, (path.to_owned(), item));
        }
        self.add(path, item);
        Ok(())
    }

    /// Copies and hashes: the same bytes.
    fn contents(&mut self, from: &File, to: Option<&File>, path: &Path) -> Result<Sha256Digest, Fault> {
        static ZEROS: [u8; PIECE] = [0; PIECE];
        let mut hash = Sha256::new();
        let mut length = 0;
        loop {
            let count = fill(from, &mut self.buffer).map_err(|error| self.unreadable(path, &error))?;
            if count == 0 {
                break;
            }
            let piece = &self.buffer[..count];
            self.tally.bytes(&self.folder.join(path), count as u64)?;
            hash.update(piece);
            if let Some(to) = to
                && *piece != ZEROS[..count]
            {
                to.write_all_at(piece, length).map_err(keep)?;
            }
            length += count as u64;
        }
        if let Some(to) = to {
            // For a hole at the end.
            to.set_len(length).map_err(keep)?;
        }
        Ok(Sha256Digest::from_bytes(hash.finalize().into()))
    }

    fn add(&mut self, path: &Path, item: Item) {
        self.manifest.add(path.as_os_str().as_bytes(), item);
    }

    fn unreadable(&self, path: &Path, error: &io::Error) -> Fault {
        unreadable(&self.folder.join(path), error).into()
    }
}

impl Target<'_> {
    /// Puts the file of the copy before in the place of one that is the same in everything that is kept of a file.
    fn share(&self, path: &Path, item: Item, metadata: &fs::Metadata) -> io::Result<()> {
        let Some((before, manifest)) = &self.before else { return Ok(()) };
        if manifest.get(path.as_os_str().as_bytes()) != Some(item) {
            return Ok(());
        }
        let old = fstatat(before, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if (old.st_mtime, old.st_mtime_nsec) != (metadata.mtime(), metadata.mtime_nsec()) {
            return Ok(());
        }
        unlinkat(&self.root, path, UnlinkatFlags::NoRemoveDir)?;
        Ok(linkat(before, path, &self.root, path, AtFlags::empty())?)
    }
}

fn make_file(target: &Target<'_>, path: &Path, executable: bool) -> io::Result<File> {
    let mode = if executable { 0o755 } else { 0o644 };
    let file = File::from(openat(&target.root, path, NEW, Mode::from_bits_truncate(mode))?);
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

/// Leads to what is open, whatever its name is now.
fn by_number(open: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd()))
}

/// Reads until the buffer is full or the file at its end, so that where pieces end depends on the file alone.
fn fill(mut from: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

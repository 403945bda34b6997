//! What may lie in a code folder: files, folders, and links between them, up to a size.
//!
//! In: the folder. Out: its size, or the first entry that cannot be shown to a function, in words. Nothing is opened
//! for reading, no link is followed on the way, and the walk ends at the limits. What changes afterwards is no way
//! out: `snapshot` copies the folder within the same limits, and a link in the copy leads to the instance's own root.
use std::collections::HashSet;
use std::fs::{self, File, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Apparent sizes of all files together, so that holes count.
const MOST_BYTES: u64 = 1 << 30;
/// Files, folders and links together.
const MOST_ENTRIES: usize = 100_000;

/// Any rename or mount on the machine may make the kernel ask for another try at a path with `..` (openat2(2)).
const TRIES: usize = 1_000;

/// What is wrong, and what to do about it.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub message: String,
    pub hint: &'static str,
}

/// What of a folder was counted, against the limits.
#[derive(Debug)]
pub(crate) struct Tally<'f> {
    folder: &'f Path,
    entries: usize,
    bytes: u64,
}

impl<'f> Tally<'f> {
    pub fn new(folder: &'f Path) -> Self {
        Self { folder, entries: 0, bytes: 0 }
    }

    /// Counts a file, a folder or a link.
    pub fn entry(&mut self) -> Result<(), Unfit> {
        self.entries += 1;
        if self.entries > MOST_ENTRIES {
            let message =
                format!("the code folder {} holds more than {MOST_ENTRIES} files and folders", self.folder.display());
            return Err(Unfit { message, hint: LEAVE_OUT });
        }
        Ok(())
    }

    /// Counts bytes of the file at `path`.
    pub fn bytes(&mut self, path: &Path, more: u64) -> Result<(), Unfit> {
        self.bytes = self.bytes.saturating_add(more);
        if self.bytes > MOST_BYTES {
            let message = format!(
                "the code folder {} is larger than 1 GiB: with {} it has at least {} bytes",
                self.folder.display(),
                path.display(),
                self.bytes
            );
            return Err(Unfit { message, hint: LEAVE_OUT });
        }
        Ok(())
    }
}

const LEAVE_OUT: &str = "leave out what the function does not need";

/// Looks at everything in `folder`: how many bytes it has.
pub(crate) fn check(folder: &Path) -> Result<u64, Unfit> {
    let root = File::open(folder).map_err(|error| unreadable(folder, &error))?;
    let mut walk = Walk { folder, root, tally: Tally::new(folder), linked: HashSet::new() };
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).map_err(|error| unreadable(&path, &error))? {
            let path = entry.map_err(|error| unreadable(&path, &error))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(|error| unreadable(&path, &error))?;
            walk.add(&path, &metadata)?;
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(walk.tally.bytes)
}

struct Walk<'f> {
    folder: &'f Path,
    root: File,
    tally: Tally<'f>,
    /// Files with several names that were counted, by device and inode.
    linked: HashSet<(u64, u64)>,
}

impl Walk<'_> {
    fn add(&mut self, path: &Path, metadata: &Metadata) -> Result<(), Unfit> {
        self.tally.entry()?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return self.link(path);
        }
        if kind.is_file() && (metadata.nlink() == 1 || self.linked.insert((metadata.dev(), metadata.ino()))) {
            self.tally.bytes(path, metadata.len())?;
        }
        if kind.is_file() || kind.is_dir() { Ok(()) } else { Err(special(path, kind)) }
    }

    /// The kernel resolves it as it would for the function, except that it must not leave the folder: whatever
    /// links and `..` are on the way. Opens nothing: `O_PATH` has no effect on what is found.
    fn link(&self, path: &Path) -> Result<(), Unfit> {
        let inside = path.strip_prefix(self.folder).unwrap_or(path);
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut resolved = Err(Errno::EAGAIN);
        for _ in 0..TRIES {
            resolved = openat2(&self.root, inside, how);
            if !matches!(resolved, Err(Errno::EAGAIN)) {
                break;
            }
        }
        let (what, hint) = match resolved {
            Ok(_) => return Ok(()),
            Err(Errno::EXDEV) => {
                ("leads out of the code folder".to_owned(), "put what it names into the folder, and link relatively")
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => ("leads nowhere".to_owned(), "remove or correct it"),
            Err(Errno::ELOOP) => ("leads in a circle".to_owned(), "remove or correct it"),
            Err(errno) => (format!("cannot be followed: {}", io::Error::from(errno)), "remove or correct it"),
        };
        let target = fs::read_link(path).unwrap_or_else(|_| PathBuf::from("?"));
        Err(Unfit { message: format!("the link {} -> {target:?} {what}", path.display()), hint })
    }
}

/// What is neither file, folder nor link.
pub(crate) fn special(path: &Path, kind: FileType) -> Unfit {
    let what = if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    let message = format!("{} is {what}, which is no code", path.display());
    Unfit { message, hint: "remove it: a code folder holds files, folders and links" }
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Unfit {
    let hint = "let the user that runs dshield read the whole code folder";
    Unfit { message: format!("{} cannot be read: {error}", path.display()), hint }
}

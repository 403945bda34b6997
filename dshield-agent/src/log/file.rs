//! The log's file: made whole or not at all, readable by its owner only.
//!
//! A path flows in, an open file flows out. Every name that is made here is synced in its folder, since a file
//! whose name is lost in a power failure is as lost as its content.
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::error::LogError;

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Opens an existing file, or says that there is none.
pub(super) fn open(path: &Path) -> Result<Option<File>, LogError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed("open", path, source)),
    };
    let metadata = file.metadata().map_err(|source| failed("open", path, source))?;
    // A file is made whole, so an empty one is not a log that was interrupted at its beginning.
    if !metadata.is_file() || metadata.len() == 0 {
        let detail = if metadata.is_file() { "it is empty" } else { "it is not a regular file" };
        return Err(LogError::Corrupt { path: path.to_owned(), detail: detail.to_owned() });
    }
    file.set_permissions(Permissions::from_mode(FILE_MODE))
        .map_err(|source| failed("restrict the access to", path, source))?;
    Ok(Some(file))
}

/// Opens a file again that was open before.
pub(super) fn reopen(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Gives a new file its size and its place on the disk, so that writing it later needs neither.
pub(super) fn allocate(path: &Path, file: &File, bytes: u64) -> Result<(), LogError> {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    let allocated = match fallocate(file, FallocateFlags::empty(), 0, length) {
        // Some file systems cannot; the space is taken as it is used.
        Err(Errno::EOPNOTSUPP) => file.set_len(bytes),
        allocated => allocated.map_err(io::Error::from),
    };
    allocated.and_then(|()| file.sync_all()).map_err(|source| failed("make room for", path, source))
}

/// Makes the file: `fill` writes it under a temporary name, then it appears under its own name, complete. When
/// somebody else made it in the meantime, theirs stays.
pub(super) fn create(
    path: &Path,
    unique: &str,
    fill: impl FnOnce(File) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    create_folder(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{unique}.new"));
    let temporary = folder.join(name);
    let made = fill_and_link(path, &temporary, fill);
    let removed = fs::remove_file(&temporary);
    made?;
    removed.map_err(|source| failed("remove", &temporary, source))?;
    sync_folder(folder)
}

fn fill_and_link(
    path: &Path,
    temporary: &PathBuf,
    fill: impl FnOnce(File) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(temporary)
        .map_err(|source| failed("create", temporary, source))?;
    fill(file)?;
    // Not rename: that would replace the log of an agent which started at the same moment.
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(|source| failed("create", path, source)),
    }
}

fn create_folder(folder: &Path) -> Result<(), LogError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| *parent != Path::new("")) {
        create_folder(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made.map_err(|source| failed("create the folder", folder, source))?,
    }
    let parent = folder.parent().filter(|parent| *parent != Path::new(""));
    sync_folder(parent.unwrap_or(Path::new(".")))
}

fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(|source| failed("sync the folder", folder, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> LogError {
    LogError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_and_the_folders_made_for_it_are_the_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/log.redb");
        create(&path, "x", |mut file| {
            file.write_all(b"whole").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&dir.path().join("a")), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(open(&path).unwrap().is_some());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_file_that_is_there_already_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        fs::write(&path, "first").unwrap();
        create(&path, "x", |_| Ok(())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_could_not_be_filled_does_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.redb");
        assert!(create(&path, "x", |_| Err(LogError::Random)).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

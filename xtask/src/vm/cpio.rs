//! Writes an initramfs: files of this machine, or bytes, flow in; a "newc" archive (Documentation/driver-api/
//! early-userspace/buffer-format.rst) flows out.
use crate::shell::Error;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What an archive will hold, by absolute path.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    /// A file of this machine, and its permissions.
    Copy(PathBuf, u32),
    Bytes(Vec<u8>, u32),
    Link(PathBuf),
    /// A character device: major, minor.
    Device(u32, u32),
}

impl Archive {
    /// Adds a file or folder of this machine at its own path, with every symbolic link on the way to it. A folder
    /// stays empty.
    pub fn add(&mut self, path: &Path) -> Result<(), Error> {
        self.add_from(path, None)
    }

    /// As [`Archive::add`], but with the content of `other`, such as a stripped copy.
    pub fn add_as(&mut self, path: &Path, other: &Path) -> Result<(), Error> {
        self.add_from(path, Some(other))
    }

    /// Adds a folder with everything below it whose name `wanted` accepts.
    pub fn add_tree(&mut self, folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
        self.add(folder)?;
        for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
            let path = entry.map_err(Error::file(folder))?.path();
            if !wanted(&path) {
                continue;
            }
            // A link that leads nowhere, as packages sometimes leave one, is of no use here either.
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                self.add_tree(&path, wanted)?;
            } else if path.exists() {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    /// Adds bytes as a file.
    pub fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.folders(Path::new(path));
        self.entries.insert(path.into(), Entry::Bytes(bytes.into(), mode));
    }

    /// Adds a folder that this machine need not have.
    pub fn folder(&mut self, path: &str) {
        self.folders(Path::new(path));
        self.entries.insert(path.into(), Entry::Directory);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.folders(Path::new(path));
        self.entries.insert(path.into(), Entry::Device(major, minor));
    }

    fn folders(&mut self, path: &Path) {
        for folder in path.ancestors().skip(1).filter(|folder| folder.parent().is_some()) {
            self.entries.entry(folder.into()).or_insert(Entry::Directory);
        }
    }

    fn add_from(&mut self, path: &Path, content: Option<&Path>) -> Result<(), Error> {
        // The way so far, without links.
        let mut at = PathBuf::from("/");
        let mut components = path.components();
        while let Some(component) = components.next() {
            let next = match component {
                Component::Normal(name) => at.join(name),
                Component::ParentDir => {
                    at.pop();
                    continue;
                }
                _ => continue,
            };
            let meta = fs::symlink_metadata(&next).map_err(Error::file(&next))?;
            if meta.is_symlink() {
                let target = fs::read_link(&next).map_err(Error::file(&next))?;
                self.entries.insert(next, Entry::Link(target.clone()));
                return self.add_from(&at.join(target).join(components.as_path()), content);
            }
            let entry = if meta.is_dir() {
                Entry::Directory
            } else {
                Entry::Copy(content.unwrap_or(&next).to_path_buf(), meta.mode() & 0o7777)
            };
            self.entries.insert(next.clone(), entry);
            at = next;
        }
        Ok(())
    }

    /// Writes the archive.
    pub fn write(&self, to: &Path) -> Result<(), Error> {
        let mut out = BufWriter::new(File::create(to).map_err(Error::file(to))?);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let mut time = 0;
            let (mode, data, device) = match entry {
                Entry::Directory if path == Path::new("/tmp") => (DIRECTORY | 0o1777, Vec::new(), (0, 0)),
                Entry::Directory => (DIRECTORY | 0o755, Vec::new(), (0, 0)),
                Entry::Copy(from, mode) => {
                    // Python compiles a source again whose time is not the one that its compiled form names.
                    let changed = fs::metadata(from).map_err(Error::file(from))?.mtime();
                    time = u32::try_from(changed).unwrap_or_default();
                    (FILE | mode, fs::read(from).map_err(Error::file(from))?, (0, 0))
                }
                Entry::Bytes(bytes, mode) => (FILE | mode, bytes.clone(), (0, 0)),
                Entry::Link(target) => (LINK | 0o777, target.as_os_str().as_bytes().to_vec(), (0, 0)),
                Entry::Device(major, minor) => (CHARACTER_DEVICE | 0o600, Vec::new(), (*major, *minor)),
            };
            let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
            record(&mut out, number + 1, mode, time, name, &data, device).map_err(Error::file(to))?;
        }
        record(&mut out, 0, 0, 0, b"TRAILER!!!", &[], (0, 0)).map_err(Error::file(to))?;
        out.flush().map_err(Error::file(to))
    }
}

fn record(
    out: &mut impl Write,
    inode: usize,
    mode: u32,
    time: u32,
    name: &[u8],
    data: &[u8],
    (major, minor): (u32, u32),
) -> io::Result<()> {
    // Magic, then inode, mode, uid, gid, links, time, size, the device it is on, the device it is, length of the
    // name with its NUL, checksum (unused).
    write!(out, "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{time:08x}", 0, 0, 1)?;
    write!(out, "{:08x}{:08x}{:08x}{major:08x}{minor:08x}{:08x}{:08x}", data.len(), 0, 0, name.len() + 1, 0)?;
    out.write_all(name)?;
    // Name and data each end at a multiple of four, counted from the header's 110 bytes.
    out.write_all(&[0; 4][..1 + padding(110 + name.len() + 1)])?;
    out.write_all(data)?;
    out.write_all(&[0; 4][..padding(data.len())])
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_behind_a_link_comes_with_the_link() {
        let folder = std::env::temp_dir().join(format!("xtask-cpio-{}", std::process::id()));
        fs::create_dir_all(folder.join("real")).unwrap();
        fs::write(folder.join("real/file"), "abc").unwrap();
        symlink("real", folder.join("link")).unwrap();
        let mut archive = Archive::default();
        archive.add(&folder.join("link/file")).unwrap();
        let out = folder.join("out");
        archive.write(&out).unwrap();
        let written = fs::read(&out).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(archive.entries[&folder.join("link")], Entry::Link("real".into()));
        assert!(matches!(archive.entries[&folder.join("real/file")], Entry::Copy(..)));
        assert_eq!(archive.entries[&folder], Entry::Directory);
        assert_eq!(written.len() % 4, 0);
    }

    /// Field by field as the kernel's documentation has it.
    #[test]
    fn a_record_is_what_the_kernel_unpacks() {
        let mut out = Vec::new();
        record(&mut out, 7, FILE | 0o644, 9, b"ab", b"xyz", (0, 0)).unwrap();
        let numbers = ["00000007", "000081a4", "00000000", "00000000", "00000001", "00000009", "00000003"];
        let rest = ["00000000", "00000000", "00000000", "00000000", "00000003", "00000000"];
        let header = ["070701", &numbers.concat(), &rest.concat()].concat();
        assert_eq!(String::from_utf8(out).unwrap(), header + "ab\0\0\0\0xyz\0");
    }
}

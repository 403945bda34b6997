//! One hash for a code folder: what is in it, where, and whether it can be executed.
//!
//! The hash is SHA-256 over a canonical manifest: one line for each file, each symbolic link and each empty folder, sorted
//! by path as bytes,
//!
//! ```text
//! dshield-code-v1
//! file 644 <SHA-256 of the contents, hex> <path>
//! file 755 <SHA-256 of the contents, hex> <path>
//! link <SHA-256 of the target's text, hex> <path>
//! dir <path>
//! ```
//!
//! each ended by a line feed. Paths are relative, with `/`; in them `%`, and all bytes up to 0x20 and from 0x7f on, are
//! written as `%XX`, so a line is ASCII and has one meaning. A file is `755` when anybody may execute it, else `644`: no
//! other permission, owner or time counts, because a function sees its folder read-only and as nobody. Folders count by
//! what is in them; those with nothing in them have a line of their own, because a function may look for them.
use std::collections::BTreeMap;

use crate::canonical::Sha256Digest;

/// What one path of a code folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file.
    File {
        /// Whether anybody may execute it.
        executable: bool,
        /// SHA-256 of its contents.
        sha256: Sha256Digest,
    },
    /// A symbolic link.
    Link {
        /// SHA-256 of its target's text.
        sha256: Sha256Digest,
    },
    /// A folder with nothing in it.
    EmptyFolder,
}

/// The contents of a code folder, path by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest(BTreeMap<Vec<u8>, Item>);

impl Manifest {
    /// Adds what is at `path`, which is relative to the folder and has no `.` or `..` in it.
    pub fn add(&mut self, path: &[u8], item: Item) {
        self.0.insert(path.to_vec(), item);
    }

    /// What is at `path`.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<Item> {
        self.0.get(path).copied()
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "dshield-code-v1\n".to_owned();
        for (path, item) in &self.0 {
            let line = match item {
                Item::File { executable: true, sha256 } => format!("file 755 {sha256} "),
                Item::File { executable: false, sha256 } => format!("file 644 {sha256} "),
                Item::Link { sha256 } => format!("link {sha256} "),
                Item::EmptyFolder => "dir ".to_owned(),
            };
            text.push_str(&line);
            for byte in path {
                match byte {
                    b'%' | ..=0x20 | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
                    _ => text.push(char::from(*byte)),
                }
            }
            text.push('\n');
        }
        text
    }

    /// The folder's hash.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        Sha256Digest::of(self.text().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_sorted_by_path_and_says_each_thing_one_way() {
        let file = |executable, text: &str| Item::File { executable, sha256: Sha256Digest::of(text.as_bytes()) };
        let mut manifest = Manifest::default();
        manifest.add(b"b/run", file(true, "x"));
        manifest.add("a é%\n".as_bytes(), file(false, ""));
        manifest.add(b"b", Item::Link { sha256: Sha256Digest::of(b"a") });
        manifest.add(b"c d", Item::EmptyFolder);
        let empty = Sha256Digest::of(b"");
        let (x, a) = (Sha256Digest::of(b"x"), Sha256Digest::of(b"a"));
        let want =
            format!("dshield-code-v1\nfile 644 {empty} a%20%C3%A9%25%0A\nlink {a} b\nfile 755 {x} b/run\ndir c%20d\n");
        assert_eq!(manifest.text(), want);
    }
}

//! What this verifier saw of a deployment's log: kept in a file, so that a log that was rolled back is noticed.
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dshield_common::canonical::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::record::Seen;

/// The folder with what was seen, one file for each deployment.
#[derive(Clone, Debug)]
pub(super) struct Memory(PathBuf);

/// One file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Which deployment.
    url: String,
    seen: Seen,
    /// When, RFC 3339.
    at: String,
}

/// Why what was seen cannot be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum MemoryError {
    /// The file's.
    #[error("{}: {source}; name another folder with --state", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Somebody changed it.
    #[error("{} is not what dshield-verify wrote ({why}); if that was you, remove it, and the next look counts as the first", path.display())]
    Damaged { path: PathBuf, why: String },
    /// There is no home folder.
    #[error("there is no folder to remember the log in: set HOME or XDG_STATE_HOME, or name one with --state")]
    Nowhere,
}

impl Memory {
    /// The folder that was asked for, or the user's (XDG base directories).
    pub(super) fn new(folder: Option<PathBuf>) -> Result<Self, MemoryError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || {
            let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
            Some(state.join("dshield-verify"))
        };
        folder.or_else(user).map(Self).ok_or(MemoryError::Nowhere)
    }

    /// What was seen of the deployment at `url`; nothing where nobody looked yet.
    pub(super) fn recall(&self, url: &str) -> Result<Option<Seen>, MemoryError> {
        let path = self.path(url);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MemoryError::File { path, source }),
        };
        let damaged = |why: String| MemoryError::Damaged { path: path.clone(), why };
        let kept: Kept = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if kept.url == url { Ok(Some(kept.seen)) } else { Err(damaged(format!("it is about {}", kept.url))) }
    }

    /// Keeps what was seen, in place of what was seen before.
    pub(super) fn keep(&self, url: &str, seen: Seen, now: u64) -> Result<(), MemoryError> {
        let path = self.path(url);
        let kept = Kept { url: url.to_owned(), seen, at: crate::time::rfc3339(now) };
        let text = serde_json::to_string_pretty(&kept).expect("texts and a number have a JSON form") + "\n";
        write_whole(&path, &text).map_err(|source| MemoryError::File { path, source })
    }

    /// Forgets a deployment's log: it was set up anew.
    pub(super) fn forget(&self, url: &str) -> Result<(), MemoryError> {
        let path = self.path(url);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(MemoryError::File { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self, url: &str) -> PathBuf {
        self.0.join(format!("{}.json", &sha256_hex(url.as_bytes())[..32]))
    }
}

/// The whole of it or nothing, whenever the machine stops.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_seen_is_kept_for_each_deployment_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(Some(folder.path().join("deep/down"))).unwrap();
        let seen = |size| Seen { origin: "o".to_owned(), size, root: "00".to_owned() };
        assert_eq!(memory.recall("http://a").unwrap(), None);
        memory.keep("http://a", seen(1), 0).unwrap();
        memory.keep("http://a", seen(2), 0).unwrap();
        memory.keep("http://b", seen(3), 0).unwrap();
        assert_eq!(memory.recall("http://a").unwrap(), Some(seen(2)));
        memory.forget("http://a").unwrap();
        memory.forget("http://a").unwrap();
        assert_eq!(memory.recall("http://a").unwrap(), None);
        assert_eq!(memory.recall("http://b").unwrap(), Some(seen(3)));
    }

    #[test]
    fn a_damaged_file_is_no_first_look() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(Some(folder.path().to_owned())).unwrap();
        fs::write(memory.path("http://a"), "{").unwrap();
        let error = memory.recall("http://a").unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
    }
}

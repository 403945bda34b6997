//! A log that no agent is writing: opened to be checked, copied or shortened.
//!
//! A path flows in; lines, tiles and the closing checkpoint flow out. Opening it carries over what the journal holds
//! beyond the database, as an agent does; it does not become a log that was closed in order by that.
use std::fmt;
use std::path::Path;

use dshield_common::tlog::tile::Tile;

use super::error::LogError;
use super::ledger::{Found, Ledger};
use super::{PAGE_BYTES, file, key, open_ledger, open_store};

/// An opened log. No agent can start on it meanwhile.
pub struct StoredLog {
    pub(super) ledger: Ledger,
    found: Found,
}

impl fmt::Debug for StoredLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredLog").field("found", &self.found).finish_non_exhaustive()
    }
}

impl StoredLog {
    /// Opens the log in this file. Blocks on the disk.
    ///
    /// # Errors
    /// There is none, an agent uses it, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        if file::open(path)?.is_none() {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(LogError::Io { action: "open", path: path.to_owned(), source });
        }
        let unique = key::random_id().map_err(|_| LogError::Random)?;
        let (ledger, found) = open_ledger(open_store(path, &unique)?, false)?;
        Ok(Self { ledger, found })
    }

    /// Names the log: 32 hexadecimal digits.
    #[must_use]
    pub fn log_id(&self) -> &str {
        &self.found.log_id
    }

    /// Whether the agent that wrote it last closed it.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.found.closed
    }

    /// The number of the first entry that is kept, and the one behind the last.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.ledger.first()..self.ledger.next()
    }

    /// Lines of entries from number `from` on, as many as fit into a few megabytes; none at the end.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn lines(&self, from: u64, limit: usize) -> Result<Vec<String>, LogError> {
        let rows = self.ledger.rows(from, limit, PAGE_BYTES)?;
        Ok((from..).zip(&rows).map(|(seq, row)| row.line(seq)).collect())
    }

    /// Of the entries that were pruned, the line of the last boot entry: its key signed the first entries that are kept.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pruned_boot(&self) -> Result<Option<String>, LogError> {
        Ok(self.ledger.pruned_boot()?.map(|(seq, row)| row.line(seq)))
    }

    /// The signed note with which the log was closed last, when there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn checkpoint(&self) -> Result<Option<String>, LogError> {
        self.ledger.closing_checkpoint()
    }

    /// The hashes of a tile, as bytes; none where the log has not come so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, LogError> {
        self.ledger.tile_bytes(tile)
    }

    /// Removes the entries before number `before`, in whole bundles of 256: the number of the first that is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn prune(&self, before: u64) -> Result<u64, LogError> {
        self.ledger.prune(before)
    }

    /// Releases the files.
    ///
    /// # Errors
    /// They could not be closed.
    pub fn close(self) -> Result<(), LogError> {
        self.ledger.release()
    }
}

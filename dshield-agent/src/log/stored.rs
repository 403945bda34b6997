//! A log that no agent is writing: opened to be checked, copied or shortened.
//!
//! A path flows in; lines, tiles and the closing checkpoint flow out. Opening it carries over what the journal holds
//! beyond the database, as an agent does; it does not become a log that was closed in order by that.
use std::fmt;
use std::path::Path;

use dshield_common::tlog::tile::Tile;

use super::error::LogError;
use super::ledger::{Damage, Found, Ledger};
use super::{PAGE_BYTES, file, key, open_journal, open_ledger, open_store};

/// An opened log. No agent can start on it meanwhile.
pub struct StoredLog {
    pub(super) ledger: Ledger,
    found: Found,
    damage: Option<Damage>,
    /// Why no agent would start on it.
    refusal: Option<String>,
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
        let (ledger, found) = open_ledger(open_store(path, &unique)?, &unique)?;
        Ok(Self { ledger, found, damage: None, refusal: None })
    }

    /// [`Self::open`], and where that finds damage, what can be read nevertheless: the entries before the first that
    /// is missing.
    ///
    /// # Errors
    /// There is none, an agent uses it, or nothing of it can be read.
    pub fn open_damaged(path: &Path) -> Result<Self, LogError> {
        let error = match Self::open(path) {
            Err(error @ LogError::Corrupt { .. }) => error,
            opened => return opened,
        };
        let Ok(store) = open_store(path, "") else { return Err(error) };
        let journal = open_journal(&store);
        let Ok((ledger, found, damage)) = Ledger::salvaged(store, journal) else { return Err(error) };
        Ok(Self { ledger, found, damage, refusal: Some(error.to_string()) })
    }

    /// What is wrong with its files, where that is known without looking at what they hold.
    pub(super) fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Whether no agent would start on it.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.refusal.is_some()
    }

    /// Why no agent would start on it.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
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

//! Where entries rest: a redb database in a file.
//!
//! Rows that the journal made durable flow in, many at once, with the tiles of the Merkle tree that they fill; rows
//! and tiles flow out. Tables:
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `entries` | `u64`: the entry's number | length of the signature (`u16`, big-endian) ‖ signature (DER) ‖ entry (canonical JSON) |
//! | `tiles` | `(u8, u64)`: level and index | the 256 hashes of a full tile |
//! | `meta` | `"format"` | `u64`: [`FORMAT`] |
//! | | `"first"` | the number of the first entry that is still here; none: 0 |
//! | | `"closed"` | the number of entries when the log was closed in order; absent while it is in use |
//! | `texts` | `"log_id"` | names the log: 32 hexadecimal digits |
//! | | `"checkpoint"` | the one with which it was closed last |
//! | `boots` | as `entries` | boot entries among those that were pruned: what follows is signed by a key in one of them |
//!
//! Every batch is one transaction in redb's two-phase mode. One phase would save a sync, but then a torn commit is
//! told from a whole one by a checksum that is not cryptographic, while entries hold text that functions choose
//! and the host decides what a crash leaves behind. Quick repair stays off: it writes the allocator's state
//! with each commit to save a walk over the file after a crash, and that walk checks every page.
use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use dshield_common::log::entry::Entry;
use dshield_common::tlog::Hash;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction,
};

use super::error::LogError;
use super::row::Row;
use super::tiles::{Edge, Tile, TileId, WIDTH};

thread_local! {
    /// Whether a panic on this thread is expected and will be reported as a damaged file.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps redb's panics over a damaged file out of the terminal: they come back as a sentence. To be
/// called once, by the program; every other panic is printed as before.
pub fn install_panic_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if CATCHING.get() {
            tracing::debug!("redb: {info}");
        } else {
            previous(info);
        }
    }));
}

fn catch_panic<T>(work: impl FnOnce() -> T + panic::UnwindSafe) -> std::thread::Result<T> {
    CATCHING.set(true);
    let result = panic::catch_unwind(work);
    CATCHING.set(false);
    result
}

/// The layout that this build writes, and the newest one it reads. Format 1 had neither tiles nor a journal.
pub(super) const FORMAT: u64 = 2;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const TILES: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("tiles");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
const BOOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("boots");
const FORMAT_KEY: &str = "format";
const FIRST: &str = "first";
const CLOSED: &str = "closed";
const LOG_ID: &str = "log_id";
const CHECKPOINT: &str = "checkpoint";

/// Entries are written once and mostly read when fresh, so a small cache does; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 << 20;

/// What the database holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// The number of the first entry that is here.
    pub(super) first: u64,
    /// The number of the next entry.
    pub(super) next: u64,
    /// How many entries it had when it was closed in order, and has therefore now; none while it is in use.
    pub(super) closed: Option<u64>,
    /// The tree over all entries.
    pub(super) edge: Edge,
    /// Names the log.
    pub(super) log_id: String,
}

/// Opens what the database is in: once at the start, and again after an error, when redb does no more with it.
pub(super) type Source = Box<dyn Fn() -> Result<Database, redb::Error> + Send + Sync>;

/// The database; `None` once closed.
pub(super) struct Store {
    path: PathBuf,
    source: Source,
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What [`Store::take`] writes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the first row.
    pub(super) first: u64,
    pub(super) rows: Vec<Row>,
    /// Tiles that are full now.
    pub(super) tiles: Vec<(TileId, Tile)>,
}

impl Store {
    /// A database without entries, which is a log named `log_id`.
    pub(super) fn create(path: &Path, log_id: &str, source: Source) -> Result<Self, LogError> {
        let store = Self { path: path.to_owned(), source, database: RwLock::new(None) };
        store.reopen()?;
        store.write(|transaction| {
            transaction.open_table(ENTRIES)?;
            transaction.open_table(TILES)?;
            transaction.open_table(TEXTS)?.insert(LOG_ID, log_id)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_KEY, FORMAT)?;
            meta.insert(CLOSED, 0)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// The database of a log.
    pub(super) fn open(path: &Path, log_id: &str, source: Source) -> Result<Self, LogError> {
        let store = Self { path: path.to_owned(), source, database: RwLock::new(None) };
        store.reopen()?;
        match store.read(|transaction| number(transaction, FORMAT_KEY))? {
            Some(FORMAT) => {}
            Some(1) => store.upgrade(log_id)?,
            Some(found) if found > FORMAT => {
                return Err(LogError::NewerFormat { path: store.path, found, supported: FORMAT });
            }
            _ => return Err(store.corrupt("its tables are not those of a log")),
        }
        Ok(store)
    }

    /// Opens it again after an error.
    pub(super) fn reopen(&self) -> Result<(), LogError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // First, because it holds a lock on the file.
        drop(database.take());
        let opened = catch_panic(AssertUnwindSafe(|| (self.source)()));
        *database = Some(opened.map_err(|_| self.panicked())?.map_err(|error| self.fault(error))?);
        Ok(())
    }

    /// What is in it, after a check that costs little: the last entry is the one that the number of entries makes it,
    /// and says so itself.
    pub(super) fn contents(&self) -> Result<Contents, LogError> {
        let (count, last, first, closed, log_id) = self.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let last = table.last()?.map(|(key, value)| (key.value(), Row::decode(value.value())));
            let texts = transaction.open_table(TEXTS)?;
            let log_id = texts.get(LOG_ID)?.map(|text| text.value().to_owned());
            let first = number(transaction, FIRST)?.unwrap_or_default();
            Ok((table.len()?, last, first, number(transaction, CLOSED)?, log_id))
        })?;
        let log_id = log_id.ok_or_else(|| self.corrupt("it has no name"))?;
        let next = match last {
            None if count == 0 && first == 0 => 0,
            None => return Err(self.corrupt("it lost its entries")),
            Some((key, None)) => return Err(self.corrupt(&format!("entry {key} is not readable"))),
            Some((key, Some(row))) => {
                let numbered = serde_json::from_str(&row.entry).is_ok_and(|entry: Entry| entry.seq == key);
                if !numbered || first.checked_add(count) != key.checked_add(1) {
                    return Err(self.corrupt("its entries are not numbered without gaps"));
                }
                key + 1
            }
        };
        let edge = self.edge(next, |id| {
            self.tile(id)?.ok_or_else(|| self.corrupt(&format!("tile {} of level {} is missing", id.1, id.0)))
        })?;
        Ok(Contents { first, next, closed, edge, log_id })
    }

    fn edge(&self, next: u64, tile: impl FnMut(TileId) -> Result<Tile, LogError>) -> Result<Edge, LogError> {
        let (first, many) = (next - next % WIDTH, next % WIDTH);
        let leaves = self.rows(first, many as usize, usize::MAX)?;
        if leaves.len() as u64 != many {
            return Err(self.corrupt(&format!("entry {} is missing or not readable", first + leaves.len() as u64)));
        }
        Edge::load(next, leaves.into_iter().map(|row| row.leaf).collect(), tile)
    }

    /// What can be read of a damaged database, at the price of reading it: the entries before the first that is missing
    /// or unreadable, and what is wrong with that one.
    pub(super) fn salvage(&self) -> Result<(Contents, Option<String>), LogError> {
        let (first, closed, log_id) = self.read(|transaction| {
            let texts = transaction.open_table(TEXTS)?;
            let log_id = texts.get(LOG_ID)?.map(|text| text.value().to_owned());
            Ok((number(transaction, FIRST)?.unwrap_or_default(), number(transaction, CLOSED)?, log_id))
        })?;
        let log_id = log_id.ok_or_else(|| self.corrupt("it has no name"))?;
        let (next, hole) = self.read(|transaction| {
            let mut next = first;
            for row in transaction.open_table(ENTRIES)?.range(first..)? {
                let (key, value) = row?;
                if key.value() != next {
                    return Ok((next, Some("it is not there, and later ones are".to_owned())));
                }
                if Row::decode(value.value()).is_none() {
                    return Ok((next, Some("it is not readable".to_owned())));
                }
                next += 1;
            }
            Ok((next, None))
        })?;
        // A tile that is missing is for whoever compares them to find.
        let unknown: Tile = vec![Hash::new([0; 32]); WIDTH as usize].into();
        let edge = self.edge(next, |id| Ok(self.tile(id).ok().flatten().unwrap_or_else(|| unknown.clone())))?;
        Ok((Contents { first, next, closed, edge, log_id }, hole))
    }

    /// Notes that it is in use from now on: unless it is closed again, the end was none in order.
    pub(super) fn begin(&self) -> Result<(), LogError> {
        self.write(|transaction| {
            transaction.open_table(META)?.remove(CLOSED)?;
            Ok(())
        })
    }

    /// Takes over rows and tiles. When it returns they are on the disk, all of them; when it fails they may or may
    /// not be, and the database has to be opened again.
    pub(super) fn take(&self, batch: &Batch) -> Result<(), LogError> {
        self.write(|transaction| {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut value = Vec::new();
            for (number, row) in (batch.first..).zip(&batch.rows) {
                value.clear();
                row.encode(&mut value);
                entries.insert(number, value.as_slice())?;
            }
            insert_tiles(transaction, &batch.tiles)
        })
    }

    /// Up to `limit` rows from number `from` on; fewer at the end of the log, before a damaged one, or when they have
    /// more than so many bytes.
    pub(super) fn rows(&self, from: u64, limit: usize, bytes: usize) -> Result<Vec<Row>, LogError> {
        let rows = self.read(|transaction| {
            let mut rows = Vec::new();
            let mut left = bytes;
            for row in transaction.open_table(ENTRIES)?.range(from..)?.take(limit) {
                let (key, value) = row?;
                let row = Row::decode(value.value());
                let size = row.as_ref().map_or(0, Row::bytes);
                rows.push((key.value(), row));
                left = left.saturating_sub(size);
                if left == 0 {
                    break;
                }
            }
            Ok(rows)
        })?;
        let mut found = Vec::with_capacity(rows.len());
        for (index, (key, row)) in rows.into_iter().enumerate() {
            // `from` comes from whoever asks and may be the largest number there is.
            let wrong = match row {
                Some(row) if key.checked_sub(from) == Some(index as u64) => {
                    found.push(row);
                    continue;
                }
                Some(_) => format!("entry {} is missing", from.saturating_add(index as u64)),
                None => format!("entry {key} is not readable"),
            };
            // Those before it are good; who goes on reading is told.
            if found.is_empty() {
                return Err(self.corrupt(&wrong));
            }
            break;
        }
        Ok(found)
    }

    /// A full tile, where it is here.
    pub(super) fn tile(&self, id: TileId) -> Result<Option<Tile>, LogError> {
        let bytes =
            self.read(|transaction| Ok(transaction.open_table(TILES)?.get(id)?.map(|tile| tile.value().to_vec())))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (hashes, rest) = bytes.as_chunks();
        if hashes.len() as u64 != WIDTH || !rest.is_empty() {
            return Err(self.corrupt(&format!("tile {} of level {} is not readable", id.1, id.0)));
        }
        Ok(Some(hashes.iter().map(|hash| Hash::new(*hash)).collect()))
    }

    /// Removes the entries before number `first`. Their hashes stay, in the tiles, and so do boot entries.
    pub(super) fn prune(&self, first: u64) -> Result<(), LogError> {
        self.write(|transaction| {
            let mut boots = transaction.open_table(BOOTS)?;
            let mut failed = None;
            transaction.open_table(ENTRIES)?.retain_in(..first, |seq, value| {
                if Row::decode(value).is_some_and(|row| row.is_boot()) {
                    failed = failed.take().or(boots.insert(seq, value).err());
                }
                false
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            transaction.open_table(META)?.insert(FIRST, first)?;
            Ok(())
        })
    }

    /// The last boot entry that was pruned.
    pub(super) fn pruned_boot(&self) -> Result<Option<(u64, Row)>, LogError> {
        self.read(|transaction| {
            let table = match transaction.open_table(BOOTS) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                opened => opened?,
            };
            Ok(table.last()?.and_then(|(seq, value)| Some((seq.value(), Row::decode(value.value())?))))
        })
    }

    /// The checkpoint with which the log was closed last.
    pub(super) fn checkpoint(&self) -> Result<Option<String>, LogError> {
        self.read(|transaction| Ok(transaction.open_table(TEXTS)?.get(CHECKPOINT)?.map(|text| text.value().to_owned())))
    }

    /// Notes that it is closed in order, with so many entries and this checkpoint, then [`Self::release`]s it.
    pub(super) fn close(&self, next: u64, checkpoint: &str) -> Result<(), LogError> {
        let noted = self.write(|transaction| {
            transaction.open_table(META)?.insert(CLOSED, next)?;
            transaction.open_table(TEXTS)?.insert(CHECKPOINT, checkpoint)?;
            Ok(())
        });
        noted.and(self.release())
    }

    /// Closes the database once nobody reads it, and releases the file.
    pub(super) fn release(&self) -> Result<(), LogError> {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(database) = database else {
            return Ok(());
        };
        catch_panic(AssertUnwindSafe(|| database.close()))
            .map_err(|_| self.panicked())?
            .map_err(|error| self.fault(error.into()))
    }

    /// redb trusts what it finds in its own pages and panics where that makes no sense, so a panic is a damaged
    /// file rather than a reason to take the agent down.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, LogError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(LogError::Closed)?;
        catch_panic(AssertUnwindSafe(|| work(database)))
            .map_err(|_| self.panicked())?
            .map_err(|error| self.fault(error))
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, LogError> {
        self.with(|database| work(&database.begin_read()?))
    }

    fn write(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), LogError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction.set_durability(Durability::Immediate)?;
            work(&transaction)?;
            Ok(transaction.commit()?)
        })
    }

    /// Makes the tree over a log of format 1.
    fn upgrade(&self, log_id: &str) -> Result<(), LogError> {
        self.write(|transaction| {
            let mut edge = Edge::default();
            for row in transaction.open_table(ENTRIES)?.iter()? {
                // What cannot be read is found when what is there is looked at.
                let row = Row::decode(row?.1.value()).ok_or_else(|| redb::Error::Corrupted("an entry".to_owned()))?;
                edge.push(row.leaf);
            }
            let tiles: Vec<_> = edge.full().iter().map(|(id, tile)| (*id, tile.clone())).collect();
            insert_tiles(transaction, &tiles)?;
            transaction.open_table(TEXTS)?.insert(LOG_ID, log_id)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_KEY, FORMAT)?;
            meta.insert(CLOSED, edge.size())?;
            Ok(())
        })
    }

    /// Where the journal that belongs to it is.
    pub(super) fn journal_path(&self) -> PathBuf {
        self.path.with_extension("journal")
    }

    pub(super) fn corrupt(&self, detail: &str) -> LogError {
        LogError::Corrupt { path: self.path.clone(), detail: detail.to_owned() }
    }

    fn panicked(&self) -> LogError {
        self.corrupt("the storage engine cannot make sense of it")
    }

    pub(super) fn fault(&self, error: redb::Error) -> LogError {
        use std::io::ErrorKind;
        let path = self.path.clone();
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => LogError::Locked { path },
            redb::Error::Io(source) if !matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                LogError::Io { action: "read or write", path, source }
            }
            redb::Error::PreviousIo => {
                let source = std::io::Error::other("an earlier operation on it failed");
                LogError::Io { action: "read or write", path, source }
            }
            redb::Error::DatabaseClosed => LogError::Closed,
            other => LogError::Corrupt { path, detail: other.to_string() },
        }
    }
}

/// A database in this file, which is locked as long as it is open.
pub(super) fn database(file: File) -> Result<Database, redb::Error> {
    open_in(FileBackend::new(file)?)
}

/// A database in this storage.
pub(super) fn open_in(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.create_with_backend(backend)?)
}

fn number(transaction: &ReadTransaction, key: &str) -> Result<Option<u64>, redb::Error> {
    let table = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        opened => opened?,
    };
    Ok(table.get(key)?.map(|value| value.value()))
}

fn insert_tiles(transaction: &WriteTransaction, tiles: &[(TileId, Tile)]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(TILES)?;
    for (id, tile) in tiles {
        let bytes: Vec<u8> = tile.iter().flat_map(|hash| *hash.as_bytes()).collect();
        table.insert(id, bytes.as_slice())?;
    }
    Ok(())
}

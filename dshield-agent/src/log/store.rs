//! Where entries rest: a redb database in a file or in memory.
//!
//! Sealed rows flow in, in whole batches; they flow out as NDJSON lines. Two tables:
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `entries` | `u64`: the entry's number | length of the signature (`u16`, big-endian) ‖ signature (DER) ‖ entry (canonical JSON) |
//! | `meta` | `"format"` | `u64`: [`FORMAT`] |
//!
//! Every batch is one transaction in redb's two-phase mode. One phase would save a sync, but then a torn commit is
//! told from a whole one by a checksum that is not cryptographic, while entries hold text that functions choose
//! and the host decides what a crash leaves behind. Quick repair stays off: it writes the allocator's state
//! with each commit, on the path that egress waits for, to save a walk over the file after a crash, and that walk
//! checks every page.
use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use dshield_common::log::entry::{Entry, Previous};
use dshield_common::log::leaf_hash_hex;
use dshield_common::log::line::SignedEntry;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition,
};

use super::error::LogError;
use super::{Storage, file};

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

/// The layout that this build writes, and the newest one it reads.
pub(super) const FORMAT: u64 = 1;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";

/// Entries are written once and mostly read when fresh, so a small cache does; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 << 20;
/// A page of lines ends here even when more were asked for, so that a reader cannot fill the memory.
const PAGE_BYTES: usize = 8 << 20;

/// A sealed entry on its way to the disk.
#[derive(Debug)]
pub(super) struct Row {
    /// Canonical JSON.
    pub(super) entry: String,
    /// DER.
    pub(super) signature: Vec<u8>,
}

/// Where the log ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the next entry.
    pub(super) next: u64,
    /// The entry before it.
    pub(super) previous: Option<Previous>,
}

/// The database; `None` once closed.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Store {
    /// Opens the log at `storage`, or makes it. `unique` names what is made meanwhile.
    pub(super) fn open(storage: &Storage, unique: &str) -> Result<Self, LogError> {
        let path = match storage {
            Storage::Memory => return Self::with_backend(InMemoryBackend::new(), true),
            Storage::File(path) => path,
        };
        let opened = match file::open(path)? {
            Some(opened) => opened,
            None => {
                file::create(path, unique, |empty| {
                    let made = Self::start(path, backend(path, empty)?, true)?;
                    made.close()
                })?;
                let missing =
                    || LogError::Corrupt { path: path.clone(), detail: "it vanished while it was opened".to_owned() };
                file::open(path)?.ok_or_else(missing)?
            }
        };
        Self::start(path, backend(path, opened)?, false)
    }

    /// The log in `backend`, `new` when that is still empty.
    pub(super) fn with_backend(backend: impl StorageBackend, new: bool) -> Result<Self, LogError> {
        Self::start(Path::new("(memory)"), backend, new)
    }

    fn start(path: &Path, backend: impl StorageBackend, new: bool) -> Result<Self, LogError> {
        let store = Self { path: path.to_owned(), database: RwLock::new(None) };
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let opening = AssertUnwindSafe(|| builder.create_with_backend(backend));
        let database =
            catch_panic(opening).map_err(|_| store.panicked())?.map_err(|error| store.fault(error.into()))?;
        *store.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        if new {
            store.with(initialise)?;
        }
        let found = store.with(format)?;
        match found {
            Some(FORMAT) => Ok(store),
            Some(found) if found > FORMAT => Err(LogError::NewerFormat { path: store.path, found, supported: FORMAT }),
            _ => Err(store.corrupt("its tables are not those of a log")),
        }
    }

    /// Where the log ends, after a check that costs nothing: the last entry is the one that the number of entries
    /// makes it, and says so itself.
    pub(super) fn head(&self) -> Result<Head, LogError> {
        let (count, last) = self.with(|database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(ENTRIES)?;
            let last = table.last()?.map(|(key, value)| (key.value(), value.value().to_vec()));
            Ok((table.len()?, last))
        })?;
        let Some((key, value)) = last else {
            return match count {
                0 => Ok(Head { next: 0, previous: None }),
                _ => Err(self.corrupt("it lost its entries")),
            };
        };
        let signed = self.decode(key, &value)?;
        let numbered = signed.decode().is_ok_and(|entry: Entry| entry.seq == key);
        if key.checked_add(1) != Some(count) || !numbered {
            return Err(self.corrupt("its entries are not numbered without gaps"));
        }
        let leaf_hash = leaf_hash_hex(signed.entry.as_bytes());
        Ok(Head { next: count, previous: Some(Previous { seq: key, leaf_hash }) })
    }

    /// Writes `rows` from number `first` on. When it returns they are on the disk, all of them; when it fails
    /// they may or may not be, and the store must not be written to again.
    pub(super) fn append(&self, first: u64, rows: &[Row]) -> Result<(), LogError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction.set_durability(Durability::Immediate)?;
            let mut table = transaction.open_table(ENTRIES)?;
            for (number, row) in (first..).zip(rows) {
                table.insert(number, encode(row).as_slice())?;
            }
            drop(table);
            Ok(transaction.commit()?)
        })
    }

    /// Up to `limit` lines from number `from` on; fewer at the end of the log or when they get long.
    pub(super) fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, LogError> {
        let rows = self.with(|database| {
            let transaction = database.begin_read()?;
            let table = transaction.open_table(ENTRIES)?;
            let mut rows = Vec::new();
            let mut bytes = 0;
            for row in table.range(from..)?.take(limit) {
                let (key, value) = row?;
                let value = value.value().to_vec();
                bytes += value.len();
                rows.push((key.value(), value));
                if bytes > PAGE_BYTES {
                    break;
                }
            }
            Ok(rows)
        })?;
        let mut lines = Vec::with_capacity(rows.len());
        for (index, (key, value)) in rows.into_iter().enumerate() {
            // `from` comes from whoever asks and may be the largest number there is.
            if key.checked_sub(from) != Some(index as u64) {
                return Err(self.corrupt("its entries are not numbered without gaps"));
            }
            lines.push(self.decode(key, &value)?.to_line());
        }
        Ok(lines)
    }

    /// Closes the database once nobody reads it, and releases the file.
    pub(super) fn close(&self) -> Result<(), LogError> {
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

    fn decode(&self, seq: u64, value: &[u8]) -> Result<SignedEntry, LogError> {
        decode(seq, value).ok_or_else(|| self.corrupt(&format!("entry {seq} is not readable")))
    }

    fn corrupt(&self, detail: &str) -> LogError {
        LogError::Corrupt { path: self.path.clone(), detail: detail.to_owned() }
    }

    fn panicked(&self) -> LogError {
        self.corrupt("the storage engine cannot make sense of it")
    }

    fn fault(&self, error: redb::Error) -> LogError {
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

fn backend(path: &Path, file: File) -> Result<FileBackend, LogError> {
    FileBackend::new(file).map_err(|error| LogError::Corrupt { path: path.to_owned(), detail: error.to_string() })
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_durability(Durability::Immediate)?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    Ok(transaction.commit()?)
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        opened => opened?,
    };
    Ok(table.get(FORMAT_KEY)?.map(|value| value.value()))
}

fn encode(row: &Row) -> Vec<u8> {
    // A P-256 signature in DER has at most 72 bytes.
    let length = u16::try_from(row.signature.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), row.signature.as_slice(), row.entry.as_bytes()].concat()
}

fn decode(seq: u64, value: &[u8]) -> Option<SignedEntry> {
    let (length, rest) = value.split_first_chunk()?;
    let (signature, entry) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let entry = String::from_utf8(entry.to_vec()).ok()?;
    Some(SignedEntry { seq, entry, signature: signature.to_vec() })
}

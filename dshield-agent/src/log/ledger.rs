//! The log's storage as a whole: the journal that makes rows durable, the database that keeps them, and in memory what
//! the database does not have yet, with the right edge of the Merkle tree.
//!
//! Rows flow in through [`Ledger::append`] and are durable when it returns; [`Ledger::take`] carries them into the
//! database, many at once; rows, tiles and hashes flow out, from wherever they are. No thread and no clock: who calls
//! what when is for [`super::writer`].
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dshield_common::tlog::{Hash, NodeId, tile};
use redb::StorageBackend;

use super::error::LogError;
use super::journal::{Appended, Journal, JournalError};
use super::row::Row;
use super::store::{Batch, Contents, Store};
use super::tiles::{self, Edge, Tile, TileId, WIDTH};

/// What a memory-only log keeps of its entries; of older ones it keeps the hashes.
const MEMORY_BYTES: usize = 64 << 20;
/// What one transaction of the database takes over at most.
const TAKEN_ROWS: usize = 16 << 10;

/// See the module.
pub(super) struct Ledger {
    /// None: the log is kept in memory only.
    disk: Option<Disk>,
    state: RwLock<State>,
}

struct Disk {
    store: Store,
    /// None: the log is damaged, and only looked at.
    journal: Option<Mutex<Journal>>,
    /// Rows are carried over by one at a time.
    taking: Mutex<()>,
}

/// Journal before state, where both are locked.
struct State {
    /// The number of the first entry that can be read.
    first: u64,
    /// The number of the first row in `tail`.
    tail_first: u64,
    /// What the database does not have.
    tail: VecDeque<Row>,
    tail_bytes: usize,
    edge: Edge,
}

impl State {
    fn next(&self) -> u64 {
        self.tail_first + self.tail.len() as u64
    }

    fn push(&mut self, rows: &[Row]) {
        for row in rows {
            self.edge.push(row.leaf);
            self.tail_bytes += row.bytes();
            self.tail.push_back(row.clone());
        }
    }

    /// Rows of the tail, from number `from` on: so many, or as many as have so many bytes.
    fn page(&self, from: u64, limit: usize, bytes: usize) -> impl Iterator<Item = Row> {
        let skip = usize::try_from(from.saturating_sub(self.tail_first)).unwrap_or(usize::MAX);
        let mut left = bytes;
        let rows = self.tail.iter().skip(skip).take(limit);
        let fitting = rows.take_while(move |row| {
            let more = left > 0;
            left = left.saturating_sub(row.bytes());
            more
        });
        fitting.cloned()
    }

    fn forget(&mut self, rows: usize) {
        for row in self.tail.drain(..rows) {
            self.tail_bytes -= row.bytes();
        }
        self.tail_first += rows as u64;
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("next", &self.next()).finish_non_exhaustive()
    }
}

/// How a log was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Names the log.
    pub(super) log_id: String,
    /// Whether the agent that wrote it closed it; otherwise it was killed, or the machine stopped.
    pub(super) closed: bool,
}

/// Why a log can only be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The number of the first entry that is missing, where that is known.
    pub(super) seq: Option<u64>,
    pub(super) what: String,
}

impl Ledger {
    /// A log that is kept in memory only.
    pub(super) fn in_memory() -> Self {
        Self::with(None, Contents { first: 0, next: 0, closed: Some(0), edge: Edge::default(), log_id: String::new() })
    }

    /// A log on a disk: what its database has, and what its journal has beyond that.
    pub(super) fn on_disk(store: Store, journal: Arc<dyn StorageBackend>) -> Result<(Self, Found), LogError> {
        let contents = store.contents()?;
        let (journal, found) = Journal::open(journal, contents.log_id.as_bytes(), contents.next)
            .map_err(|error| store.journal_fault(error))?;
        let next = contents.next + found.len() as u64;
        if let Some(closed) = contents.closed.filter(|closed| *closed > next) {
            return Err(store.corrupt(&format!("its last entries, {next} to {}, are missing", closed - 1)));
        }
        // A database from before, put back beside a journal that goes on, was closed once and is not the end.
        let how = Found { log_id: contents.log_id.clone(), closed: contents.closed == Some(next) };
        let disk = Disk { store, journal: Some(Mutex::new(journal)), taking: Mutex::new(()) };
        let ledger = Self::with(Some(disk), contents);
        ledger.write().push(&found);
        ledger.take()?;
        Ok((ledger, how))
    }

    /// What of a damaged log can be read: the entries before the first that is missing. Nothing can be written to it.
    pub(super) fn salvaged(
        store: Store,
        journal: Result<Arc<dyn StorageBackend>, LogError>,
    ) -> Result<(Self, Found, Option<Damage>), LogError> {
        let (contents, hole) = store.salvage()?;
        let cut = contents.closed.is_some_and(|closed| closed > contents.next);
        let hole = hole.or_else(|| cut.then(|| "it is not there, though the log was closed behind it".to_owned()));
        let damage = hole.map(|what| Damage { seq: Some(contents.next), what }).or_else(|| {
            let opened = journal.and_then(|journal| {
                let opened = Journal::open(journal, contents.log_id.as_bytes(), contents.next);
                opened.map_err(|error| store.journal_fault(error))
            });
            opened.err().map(|error| Damage { seq: None, what: error.to_string() })
        });
        let how = Found { log_id: contents.log_id.clone(), closed: contents.closed == Some(contents.next) };
        let disk = Disk { store, journal: None, taking: Mutex::new(()) };
        Ok((Self::with(Some(disk), contents), how, damage))
    }

    fn with(disk: Option<Disk>, contents: Contents) -> Self {
        let Contents { first, next, edge, .. } = contents;
        let state = State { first, tail_first: next, tail: VecDeque::new(), tail_bytes: 0, edge };
        Self { disk, state: RwLock::new(state) }
    }

    /// Notes that it is written from now on: unless it is closed again, its end was none in order.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(super) fn begin(&self) -> Result<(), LogError> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.store.begin())
    }

    /// The number of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.read().next()
    }

    /// The number of the first entry that can be read: those before it were pruned.
    pub(super) fn first(&self) -> u64 {
        self.read().first
    }

    /// The last entry.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(super) fn last(&self) -> Result<Option<(u64, Row)>, LogError> {
        let Some(seq) = self.next().checked_sub(1) else { return Ok(None) };
        Ok(self.rows(seq, 1, 1)?.pop().map(|row| (seq, row)))
    }

    /// How many leaves the tree has, and its root: the head of what is durable.
    pub(super) fn head(&self) -> (u64, Hash) {
        let state = self.read();
        (state.edge.size(), state.edge.root())
    }

    /// Makes rows durable. [`Appended::Full`]: nothing happened, because the database has to take over older ones
    /// before.
    ///
    /// # Errors
    /// It is not known whether they are on the disk; [`Self::recover`] before the next attempt.
    pub(super) fn append(&self, rows: &[Row]) -> Result<Appended, LogError> {
        // Held until the rows are known: whoever restarts the journal in between would not count them.
        let mut journal = self.disk.as_ref().map(Disk::journal).transpose()?;
        if let (Some(journal), Some(disk)) = (&mut journal, &self.disk) {
            let (next, taken) = {
                let state = self.read();
                (state.next(), state.tail_first)
            };
            let appended = journal.append(next, rows, taken);
            if appended.map_err(|error| disk.store.journal_fault(error))? == Appended::Full {
                return Ok(Appended::Full);
            }
        }
        let mut state = self.write();
        state.push(rows);
        if self.disk.is_none() {
            let mut over = 0;
            while state.tail_bytes > MEMORY_BYTES && state.tail.len() > 1 {
                state.forget(1);
                over += 1;
            }
            if over > 0 {
                state.first = state.tail_first;
            }
        }
        Ok(Appended::Durable)
    }

    /// Carries rows over into the database: whether there was something to carry.
    ///
    /// # Errors
    /// It has to be opened again: [`Self::recover`]. What is durable stays so.
    pub(super) fn take(&self) -> Result<bool, LogError> {
        let Some(disk) = &self.disk else { return Ok(false) };
        let _taking = disk.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        loop {
            let batch = {
                let state = self.read();
                let rows: Vec<Row> = state.tail.iter().take(TAKEN_ROWS).cloned().collect();
                let end = state.tail_first + rows.len() as u64;
                // A tile goes along with the last row below it.
                let tiles = state.edge.full().iter().filter(|(id, _)| tiles::end(**id).is_some_and(|last| last <= end));
                Batch { first: state.tail_first, rows, tiles: tiles.map(|(id, tile)| (*id, tile.clone())).collect() }
            };
            if batch.rows.is_empty() {
                return Ok(any);
            }
            disk.store.take(&batch)?;
            any = true;
            let mut state = self.write();
            state.forget(batch.rows.len());
            state.edge.taken(batch.tiles.iter().map(|(id, _)| id));
        }
    }

    /// How full the journal's half in use is, from 0 to 1: a reason to [`Self::take`].
    pub(super) fn used(&self) -> f32 {
        let journal = self.disk.as_ref().and_then(|disk| disk.journal().ok());
        journal.map_or(0.0, |journal| journal.used())
    }

    /// After an error: opens the database again, carries over what is durable, and tries a write. When this succeeds
    /// [`Self::append`] may be called again.
    ///
    /// # Errors
    /// The disk is not in order yet.
    pub(super) fn recover(&self) -> Result<(), LogError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        disk.store.reopen()?;
        self.take()?;
        let mut journal = disk.journal()?;
        // Behind what a write that was under way has made durable meanwhile.
        let next = self.next();
        journal.restart(next).map_err(|error| disk.store.journal_fault(error))
    }

    /// Carries over what is left, notes that the end is in order, with the last checkpoint, and releases the files.
    pub(super) fn close(&self, checkpoint: &str) -> Result<(), LogError> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        match self.take() {
            Ok(_) => disk.store.close(self.next(), checkpoint),
            Err(error) => {
                let _ = disk.store.release();
                Err(error)
            }
        }
    }

    /// Releases the files as they are.
    pub(super) fn release(&self) -> Result<(), LogError> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.store.release())
    }

    /// The checkpoint with which the log was closed last.
    pub(super) fn closing_checkpoint(&self) -> Result<Option<String>, LogError> {
        self.disk.as_ref().map_or(Ok(None), |disk| disk.store.checkpoint())
    }

    /// The last boot entry before the first entry that can be read, where others were pruned.
    pub(super) fn pruned_boot(&self) -> Result<Option<(u64, Row)>, LogError> {
        self.disk.as_ref().map_or(Ok(None), |disk| disk.store.pruned_boot())
    }

    /// Up to `limit` rows from number `from` on; fewer at the end, before a damaged one, or when they have so many bytes.
    ///
    /// # Errors
    /// They were pruned, or the database cannot be read.
    pub(super) fn rows(&self, from: u64, limit: usize, bytes: usize) -> Result<Vec<Row>, LogError> {
        let mut rows = Vec::new();
        loop {
            let from = from.saturating_add(rows.len() as u64);
            let limit = limit - rows.len();
            let left = bytes.saturating_sub(rows.iter().map(Row::bytes).sum());
            let there = {
                let state = self.read();
                if from < state.first {
                    return Err(LogError::Pruned { first: state.first });
                }
                if from >= state.tail_first || limit == 0 || left == 0 {
                    rows.extend(state.page(from, limit, left));
                    return Ok(rows);
                }
                usize::try_from(state.tail_first - from).unwrap_or(usize::MAX)
            };
            // What is carried over meanwhile is there as well.
            let Some(disk) = &self.disk else { return Ok(rows) };
            match disk.store.rows(from, limit.min(there), left) {
                Ok(found) if found.is_empty() => {
                    return Err(disk.store.corrupt(&format!("entry {from} is missing")));
                }
                Ok(found) => rows.extend(found),
                // Those before it are good; who goes on reading is told.
                Err(LogError::Corrupt { .. }) if !rows.is_empty() => return Ok(rows),
                Err(error) => return Err(error),
            }
        }
    }

    /// A tile as far as the tree goes: 256 hashes where it is full; none where it has not been begun.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(super) fn tile(&self, id: TileId) -> Result<Option<Tile>, LogError> {
        if let Some(hashes) = self.read().edge.tile(id) {
            return Ok(if hashes.is_empty() { None } else { Some(hashes.into()) });
        }
        self.disk.as_ref().map_or(Ok(None), |disk| disk.store.tile(id))
    }

    /// [`Self::tile`] as it is published.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(super) fn tile_bytes(&self, tile: tile::Tile) -> Result<Option<Vec<u8>>, LogError> {
        let hashes = self.tile((tile.level(), tile.index()))?;
        let width = usize::from(tile.width());
        Ok(hashes.and_then(|hashes| Some(tile::encode(hashes.get(..width)?))))
    }

    /// The hash of a node that has all of its leaves.
    ///
    /// # Errors
    /// There is no such node, or the database cannot be read.
    pub(super) fn node(&self, id: NodeId) -> Result<Hash, LogError> {
        let missing = || LogError::Read(format!("the tree has no node {} on level {}", id.index, id.level));
        let hash = tiles::node(id, |tile| self.tile(tile)?.ok_or_else(missing))?;
        hash.ok_or_else(missing)
    }

    /// Makes the tree larger by leaves without entries, for [`super::synthetic`] only.
    pub(super) fn grow(&self, leaves: impl Iterator<Item = Hash>) -> Result<(), LogError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let tiles: Vec<_> = {
            let mut state = self.write();
            leaves.for_each(|leaf| state.edge.push(leaf));
            state.edge.full().iter().map(|(id, tile)| (*id, tile.clone())).collect()
        };
        let batch = Batch { first: 0, rows: Vec::new(), tiles };
        disk.store.take(&batch)?;
        self.write().edge.taken(batch.tiles.iter().map(|(id, _)| id));
        Ok(())
    }

    /// Removes entries before number `before`, in whole bundles of 256; what follows stays provable.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(super) fn prune(&self, before: u64) -> Result<u64, LogError> {
        let Some(disk) = &self.disk else { return Ok(self.first()) };
        self.take()?;
        let first = {
            let state = self.read();
            // The last one stays, for the next boot to name.
            let first = before.min(state.tail_first.saturating_sub(1));
            (first - first % WIDTH).max(state.first)
        };
        // Readers know before it is gone.
        self.write().first = first;
        disk.store.prune(first)?;
        Ok(first)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn journal(&self) -> Result<MutexGuard<'_, Journal>, LogError> {
        let journal = self.journal.as_ref().ok_or_else(|| self.store.corrupt("it can only be looked at"))?;
        Ok(journal.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    fn journal_fault(&self, error: JournalError) -> LogError {
        let path = self.journal_path();
        match error {
            JournalError::Io(source) => LogError::Io { action: "read or write", path, source },
            JournalError::Damaged(detail) => LogError::Corrupt { path, detail },
            JournalError::Random => LogError::Random,
        }
    }
}

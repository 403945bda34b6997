//! A disk with a log's two files, which fails on request and remembers what a power failure would have left on it.
use std::io::{Error, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard};

use redb::StorageBackend;

use super::*;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    resumed: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    /// The database and the journal.
    files: [Content; 2],
    /// Writes, syncs and changes of length so far.
    operations: u64,
    /// From this operation on each fails, and does nothing.
    fails_from: Option<u64>,
    /// Whether those of the database go on nevertheless.
    spares_database: bool,
    /// Operations on these files wait meanwhile.
    stalled: [bool; 2],
    /// How many do.
    waiting: usize,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// What a read finds.
    live: Vec<u8>,
    /// What the last sync left.
    synced: Vec<u8>,
    /// What was done since then.
    unsynced: Vec<Change>,
}

impl Content {
    fn new(image: &[u8]) -> Self {
        Self { live: image.to_vec(), synced: image.to_vec(), unsynced: Vec::new() }
    }

    /// What was synced, and of the later changes those that `kept` says; of a write perhaps a part, in whole sectors.
    fn after_power_failure(&self, random: &mut Random) -> Vec<u8> {
        let mut image = self.synced.clone();
        for change in &self.unsynced {
            match change {
                Change::Write(offset, data) if random.one_in(3) => {
                    for (sector, data) in data.chunks(SECTOR).enumerate() {
                        if random.one_in(2) {
                            Change::Write(offset + sector * SECTOR, data.to_vec()).apply(&mut image);
                        }
                    }
                }
                change if random.one_in(2) => change.apply(&mut image),
                _ => {}
            }
        }
        image
    }
}

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// xorshift64
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        (self.next() >> 20).is_multiple_of(many)
    }
}

/// What is on the disk: the database and the journal.
pub(super) type Images = [Vec<u8>; 2];

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Length(length) => image.resize(*length, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    /// A disk with an empty journal and nothing in the database.
    pub(super) fn new() -> Self {
        Self::with_journal(journal::BYTES as usize)
    }

    /// The same with a journal of another size.
    pub(super) fn with_journal(bytes: usize) -> Self {
        Self::from_images(&[Vec::new(), vec![0; bytes]])
    }

    pub(super) fn from_images(images: &Images) -> Self {
        let files = images.each_ref().map(|image| Content::new(image));
        let state = State { files, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), resumed: Arc::default() }
    }

    /// The log on this disk.
    pub(super) fn ledger(&self) -> Result<(Ledger, Found), LogError> {
        let path = Path::new("(memory)/log.redb");
        let new = self.state().files[DATABASE].live.is_empty();
        let log_id = "1".repeat(32);
        if new {
            Store::create(path, &log_id, self.source())?.release()?;
        }
        let store = Store::open(path, &log_id, self.source())?;
        Ledger::on_disk(store, self.journal())
    }

    /// The journal's file.
    pub(super) fn journal(&self) -> Arc<dyn StorageBackend> {
        Arc::new(Backend(self.clone(), JOURNAL))
    }

    fn source(&self) -> store::Source {
        let disk = self.clone();
        Box::new(move || store::open_in(Backend(disk.clone(), DATABASE)))
    }

    /// Makes every operation from the `count`-th on fail, counted from now.
    pub(super) fn fail_after(&self, count: u64) {
        let mut state = self.state();
        state.fails_from = Some(state.operations + count);
    }

    /// The same for those of the journal only.
    pub(super) fn fail_journal_after(&self, count: u64) {
        self.fail_after(count);
        self.state().spares_database = true;
    }

    pub(super) fn repair(&self) {
        let mut state = self.state();
        (state.fails_from, state.spares_database) = (None, false);
    }

    /// Makes operations wait until [`Self::resume`].
    pub(super) fn stall(&self) {
        self.state().stalled = [true; 2];
    }

    /// Makes those of the database wait.
    pub(super) fn stall_database(&self) {
        self.state().stalled[DATABASE] = true;
    }

    /// Makes those of the journal wait.
    pub(super) fn stall_journal(&self) {
        self.state().stalled[JOURNAL] = true;
    }

    /// How many operations wait, and how many were done.
    pub(super) fn progress(&self) -> (usize, u64) {
        let state = self.state();
        (state.waiting, state.operations)
    }

    pub(super) fn resume(&self) {
        self.state().stalled = [false; 2];
        self.resumed.notify_all();
    }

    pub(super) fn images(&self) -> Images {
        self.state().files.each_ref().map(|file| file.live.clone())
    }

    /// What a power failure now could leave: what was synced, and none, all, or an arbitrary selection of the
    /// changes since.
    pub(super) fn images_after_power_failure(&self, random: &mut Random) -> Vec<Images> {
        let state = self.state();
        let mut images = vec![
            state.files.each_ref().map(|file| file.synced.clone()),
            state.files.each_ref().map(|file| file.live.clone()),
        ];
        for _ in 0..4 {
            images.push(state.files.each_ref().map(|file| file.after_power_failure(random)));
        }
        images
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn operate(&self, file: usize) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        state.waiting += 1;
        let mut state = self.resumed.wait_while(state, |state| state.stalled[file]).unwrap();
        state.waiting -= 1;
        state.operations += 1;
        let spared = state.spares_database && file == DATABASE;
        if !spared && state.fails_from.is_some_and(|from| state.operations > from) {
            return Err(Error::new(ErrorKind::StorageFull, "no space left on the test disk"));
        }
        Ok(state)
    }

    fn change(&self, file: usize, change: Change) -> Result<(), Error> {
        let mut state = self.operate(file)?;
        change.apply(&mut state.files[file].live);
        state.files[file].unsynced.push(change);
        Ok(())
    }
}

const DATABASE: usize = 0;
const JOURNAL: usize = 1;

#[derive(Debug)]
struct Backend(Disk, usize);

fn index(offset: u64) -> Result<usize, Error> {
    usize::try_from(offset).map_err(Error::other)
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.state().files[self.1].live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.0.state();
        let start = index(offset)?;
        let found = state.files[self.1].live.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.change(self.1, Change::Length(index(len)?))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.0.operate(self.1)?;
        let file = &mut state.files[self.1];
        for change in std::mem::take(&mut file.unsynced) {
            change.apply(&mut file.synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.change(self.1, Change::Write(index(offset)?, data.to_vec()))
    }
}

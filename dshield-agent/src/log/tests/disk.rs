//! A disk that fails on request and remembers what a power failure would have left on it.
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use redb::StorageBackend;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    state: Arc<Mutex<State>>,
    resumed: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct State {
    /// What a read finds.
    live: Vec<u8>,
    /// What the last sync left.
    synced: Vec<u8>,
    /// What was done since then.
    unsynced: Vec<Change>,
    /// Writes, syncs and changes of length so far.
    operations: u64,
    /// From this operation on each fails, and does nothing.
    fails_from: Option<u64>,
    /// Operations wait meanwhile.
    stalled: bool,
}

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
    pub(super) fn from_image(image: &[u8]) -> Self {
        let state = State { live: image.to_vec(), synced: image.to_vec(), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), resumed: Arc::default() }
    }

    pub(super) fn backend(&self) -> impl StorageBackend + use<> {
        Backend(self.clone())
    }

    /// Makes every operation from the `count`-th on fail, counted from now.
    pub(super) fn fail_after(&self, count: u64) {
        let mut state = self.state();
        state.fails_from = Some(state.operations + count);
    }

    pub(super) fn repair(&self) {
        self.state().fails_from = None;
    }

    /// Makes operations wait until [`Self::resume`].
    pub(super) fn stall(&self) {
        self.state().stalled = true;
    }

    pub(super) fn resume(&self) {
        self.state().stalled = false;
        self.resumed.notify_all();
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.state().live.clone()
    }

    /// What a power failure now could leave: what was synced, and none, all, or an arbitrary selection of the
    /// changes since.
    pub(super) fn images_after_power_failure(&self, seed: u64) -> Vec<Vec<u8>> {
        let state = self.state();
        let mut images = vec![state.synced.clone(), state.live.clone()];
        let mut random = seed * 2 + 1;
        for _ in 0..4 {
            let mut image = state.synced.clone();
            for change in &state.unsynced {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                if random.is_multiple_of(2) {
                    change.apply(&mut image);
                }
            }
            images.push(image);
        }
        images
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn operate(&self) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.resumed.wait_while(self.state(), |state| state.stalled).unwrap();
        state.operations += 1;
        if state.fails_from.is_some_and(|from| state.operations > from) {
            return Err(Error::new(ErrorKind::StorageFull, "no space left on the test disk"));
        }
        Ok(state)
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        let mut state = self.operate()?;
        change.apply(&mut state.live);
        state.unsynced.push(change);
        Ok(())
    }
}

#[derive(Debug)]
struct Backend(Disk);

fn index(offset: u64) -> Result<usize, Error> {
    usize::try_from(offset).map_err(Error::other)
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.0.state();
        let start = index(offset)?;
        let found = state.live.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.change(Change::Length(index(len)?))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.0.operate()?;
        state.synced = state.live.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.0.change(Change::Write(index(offset)?, data.to_vec()))
    }
}

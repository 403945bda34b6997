//! The log: what happened, numbered without gaps, signed and durable.
//!
//! Records flow in from every part of the agent; numbers flow back once they are durable, and the entries flow out
//! as NDJSON lines. The life of a record:
//!
//! 1. [`Log::enqueue`] puts it into a bounded queue: from here on its place among the other records is fixed.
//! 2. The writer thread numbers and dates it, makes its canonical JSON and signs that with the boot's key.
//! 3. Together with whatever else was queued it is committed to the disk in one two-phase transaction.
//! 4. [`Pending::durable`] gives its number. Only now may the bytes leave that the record is about.
//!
//! A crash before 3 ends loses the record, and nobody was told a number; after that nothing loses it. When a
//! write fails, the log refuses everything from then on ([`Log::check`]), so nothing leaves unlogged. That the disk's
//! owner puts back an older file is not noticed here: only somebody who remembers a later number can tell.
mod clock;
mod error;
mod file;
mod key;
mod store;

#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dshield_common::log::entry::{Boot, Event, Isolation, Mode, Record};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use self::clock::Clock;
pub use self::error::LogError;
use self::key::SigningKey;
pub use self::store::install_panic_hook;
use self::store::{Head, Store};
use self::writer::{Command, Failure, QUEUE, Writer};

/// Where the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this file, which is made when there is none, along with its folder.
    File(PathBuf),
    /// In memory: it grows there, and ends with the agent.
    Memory,
}

/// What the boot entry says besides key and previous head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFacts {
    /// D-Shield's version.
    pub version: String,
    /// SHA-256 (hex) of what runs, by name.
    pub sha256: BTreeMap<String, String>,
    /// The walls that depend on the machine.
    pub isolation: Isolation,
    /// How the policy will be applied, where not by refusing.
    pub mode: Option<Mode>,
}

/// A handle to the log, cheap to clone. When the last one is dropped the log closes by itself.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Command>,
    /// How many [`Observing`] there are.
    observing: Arc<AtomicUsize>,
    failure: Arc<Failure>,
    store: Arc<Store>,
    head: watch::Receiver<u64>,
    public_key_pem: String,
    boot_id: Arc<str>,
    boot_entry: u64,
}

/// A record that has its place in the log and is not durable yet. Dropping it is fine: the record is written, or a
/// `lost` entry says that it fitted none.
#[derive(Debug)]
#[must_use = "the record is not durable before `durable` returns"]
pub struct Pending {
    reply: oneshot::Receiver<Result<u64, LogError>>,
    log: Log,
}

/// While one of these lives, every record that is handed to the log says that the policy only observes.
#[derive(Debug)]
pub struct Observing(Arc<AtomicUsize>);

impl Drop for Observing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Log {
    /// Opens or makes the log, with a key made for this boot, and writes the boot entry: when this returns, that
    /// entry is durable. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be opened, is in use, is damaged or of a newer format, or cannot be written.
    pub fn open(storage: Storage, boot: BootFacts) -> Result<Self, LogError> {
        let boot_id = key::boot_id().map_err(|_| LogError::Random)?;
        let store = Store::open(&storage, &boot_id)?;
        Self::start(store, boot_id, boot, storage == Storage::Memory)
    }

    fn start(store: Store, boot_id: String, facts: BootFacts, memory_only: bool) -> Result<Self, LogError> {
        let Head { next, previous } = store.head()?;
        let key = SigningKey::generate().map_err(|_| LogError::Random)?;
        let store = Arc::new(store);
        let boot_id: Arc<str> = boot_id.into();
        let failure = Arc::new(Failure::default());
        let public_key_pem = key.public_pem().to_owned();
        let (head_sender, head) = watch::channel(next);
        let mut writer = Writer {
            store: store.clone(),
            key,
            boot_id: boot_id.clone(),
            clock: Clock::default(),
            next,
            head: head_sender,
            failure: failure.clone(),
        };
        let BootFacts { version, sha256, isolation, mode } = facts;
        let isolation = Some(isolation);
        let boot = Boot { version, key: public_key_pem.clone(), sha256, isolation, memory_only, previous };
        writer.write_now(Record::agent(Event::Boot(boot)), mode)?;

        let failed = |error: std::io::Error| LogError::Failed { cause: error.to_string().into() };
        let timer = Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (queue, commands) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(commands, &timer))
            .map_err(failed)?;
        let observing = Arc::default();
        let shared = Shared { queue, observing, failure, store, head, public_key_pem, boot_id, boot_entry: next };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// From now on, until what comes back is dropped, entries say that the policy only observes.
    #[must_use]
    pub fn observing(&self) -> Observing {
        self.shared.observing.fetch_add(1, Ordering::SeqCst);
        Observing(self.shared.observing.clone())
    }

    fn mode(&self) -> Option<Mode> {
        (self.shared.observing.load(Ordering::SeqCst) > 0).then_some(Mode::Observe)
    }

    /// Gives `record` its place in the log, waiting while the queue is full. Records of one caller keep their order.
    ///
    /// # Errors
    /// When the log has failed or is closed.
    pub async fn enqueue(&self, record: Record) -> Result<Pending, LogError> {
        self.check()?;
        let (sender, reply) = oneshot::channel();
        let command = Command::Append(record, self.mode(), Some(sender));
        self.shared.queue.send(command).await.map_err(|_| self.ended())?;
        Ok(Pending { reply, log: self.clone() })
    }

    /// Writes `record` and waits until it is durable: its number.
    ///
    /// # Errors
    /// As [`Self::enqueue`] and [`Pending::durable`].
    pub async fn append(&self, record: Record) -> Result<u64, LogError> {
        self.enqueue(record).await?.durable().await
    }

    /// [`Self::enqueue`] without waiting, for destructors: a full queue takes it later, in a task of its own (outside
    /// of a tokio runtime, where nothing is held up, this waits). A record that turns out not to fit an entry leaves
    /// a `lost` entry in its place.
    ///
    /// # Errors
    /// When the log has failed or is closed.
    pub fn enqueue_now(&self, record: Record) -> Result<(), LogError> {
        self.check()?;
        match self.shared.queue.try_send(Command::Append(record, self.mode(), None)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.ended()),
            Err(mpsc::error::TrySendError::Full(command)) => {
                let queue = self.shared.queue.clone();
                match Handle::try_current() {
                    Ok(runtime) => drop(runtime.spawn(async move { queue.send(command).await })),
                    Err(_) => queue.blocking_send(command).map_err(|_| self.ended())?,
                }
                Ok(())
            }
        }
    }

    /// The lines of the entries from number `from` on, without line ends: `limit` of them, or fewer when the log
    /// ends or the page gets larger than a few megabytes. A reader that wants all goes on after the last one it got.
    ///
    /// # Errors
    /// When the log is closed, or the file is damaged or cannot be read.
    pub async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, LogError> {
        let store = self.shared.store.clone();
        spawn_blocking(move || store.read(from, limit)).await.map_err(|error| LogError::Read(error.to_string()))?
    }

    /// Waits until every record that was handed over before is durable, or the log has failed or closed: what
    /// is read then holds all that the reader can know of.
    pub async fn settled(&self) {
        let (sender, settled) = oneshot::channel();
        if self.shared.queue.send(Command::Settle(sender)).await.is_ok() {
            let _ = settled.await;
        }
    }

    /// How many entries are durable: changes after each commit, and ends when the log has closed.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<u64> {
        self.shared.head.clone()
    }

    /// The public key of this boot: PEM, `SubjectPublicKeyInfo`, P-256.
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        &self.shared.public_key_pem
    }

    /// Names this boot in every entry: 32 hexadecimal digits.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.shared.boot_id
    }

    /// The number of this boot's first entry.
    #[must_use]
    pub fn boot_entry(&self) -> u64 {
        self.shared.boot_entry
    }

    /// Whether the log takes records.
    ///
    /// # Errors
    /// The first failure, ever after; or that the log is closed.
    pub fn check(&self) -> Result<(), LogError> {
        if self.shared.queue.is_closed() { Err(self.ended()) } else { self.failed() }
    }

    /// Resolves when the log has failed: what was allowed to leave must stop then, for nothing that it still
    /// does would be recorded.
    pub async fn failure(&self) -> LogError {
        self.shared.failure.raised().await
    }

    /// Writes what is queued, ends the writer and closes the file. Later records are refused.
    pub async fn close(&self) {
        // It fails when somebody else closes the log already; either way the end is what there is to wait for.
        let _ = self.shared.queue.send(Command::Close).await;
        let mut head = self.head();
        while head.changed().await.is_ok() {}
    }

    fn failed(&self) -> Result<(), LogError> {
        self.shared.failure.error().map_or(Ok(()), Err)
    }

    fn ended(&self) -> LogError {
        self.shared.failure.error().unwrap_or(LogError::Closed)
    }
}

impl Pending {
    /// Waits until the record is on the disk (or, in a memory-only log, signed and stored): its number.
    ///
    /// # Errors
    /// When the record is no valid entry, or the write failed.
    pub async fn durable(mut self) -> Result<u64, LogError> {
        match (&mut self.reply).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.log.ended()),
        }
    }
}

/// Closed first: either the writer finds that nobody listens, or its answer is here and nobody has read it.
impl Drop for Pending {
    fn drop(&mut self) {
        self.reply.close();
        if let Ok(Err(LogError::NotCanonical(_) | LogError::TooLarge { .. })) = self.reply.try_recv() {
            // It fails when the log has, and then nothing is written any more.
            let _ = self.log.enqueue_now(writer::unfit());
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("boot_id", &self.shared.boot_id)
            .field("entries", &*self.shared.head.borrow())
            .finish_non_exhaustive()
    }
}

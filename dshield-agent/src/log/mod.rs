//! The log: what happened, numbered without gaps, signed and durable.
//!
//! Records flow in from every part of the agent; numbers flow back once they are durable, and the entries flow out
//! as NDJSON lines, with the Merkle tree over them. The life of a record:
//!
//! 1. [`Log::enqueue`] puts it into a bounded queue: from here on its place among the other records is fixed.
//! 2. The writer thread ([writer]) numbers and dates it, makes its canonical JSON and signs that with the boot's key.
//! 3. Together with whatever else was queued it goes to the disk, as one frame of the [journal].
//! 4. [`Pending::durable`] gives its number. Only now may the bytes leave that the record is about.
//! 5. The [keeper]'s thread carries it into the database ([store]), with thousands of others.
//!
//! A crash before 3 ends loses the record, and nobody was told a number; after that nothing loses it. When a
//! write fails, the log refuses everything ([`Log::check`]), so nothing leaves unlogged, until the disk takes a write
//! again; what was refused meanwhile is counted in the log. That the disk's owner puts back an older file is not noticed
//! here: only somebody who remembers a later number can tell.
pub mod check;
mod checkpoint;
mod clock;
mod error;
mod failure;
mod file;
pub mod fsck;
mod journal;
mod keeper;
mod key;
mod ledger;
mod row;
mod store;
pub mod stored;
#[doc(hidden)]
pub mod synthetic;

#[cfg(test)]
mod tests;
mod tiles;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dshield_common::log::entry::{Boot, Event, Isolation, Mode, Previous, Record};
use dshield_common::tlog::{
    Bundle, Hash, KeyName, NoteSignature, Receipt, VerifierKey, bundle, proof, prove_consistency, tile,
};
use redb::StorageBackend;
use redb::backends::FileBackend;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use self::checkpoint::Checkpoints;
pub use self::checkpoint::SignedCheckpoint;
use self::clock::Clock;
pub use self::error::LogError;
use self::failure::Failure;
use self::keeper::Keeper;
use self::key::SigningKey;
use self::ledger::{Found, Ledger};
use self::store::Store;
pub use self::store::install_panic_hook;
use self::writer::{Command, QUEUE, Writer};
use crate::secret::Ed25519Key;

/// A page of lines ends here even when more were asked for, so that a reader cannot fill the memory.
const PAGE_BYTES: usize = 8 << 20;

/// Where the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this file and a journal beside it, which are made when there are none, along with their folder.
    File(PathBuf),
    /// In memory: the latest 64 MiB of entries, and the hashes of all; it ends with the agent.
    Memory,
}

/// What the boot entry says besides key and previous head.
#[derive(Debug, Default)]
pub struct BootFacts {
    /// D-Shield's version.
    pub version: String,
    /// SHA-256 (hex) of what runs, by name.
    pub sha256: BTreeMap<String, String>,
    /// The walls that depend on the machine.
    pub isolation: Isolation,
    /// How the policy will be applied, where not by refusing.
    pub mode: Option<Mode>,
    /// What checkpoints name the log by; `dshield/` and its id where there is nothing.
    pub origin: Option<KeyName>,
    /// The key that signs checkpoints for witnesses, where it outlives boots; else each boot makes one.
    pub ed25519: Option<Ed25519Key>,
    /// A TPM's monotonic counter.
    pub tpm_boots: Option<u64>,
}

/// A handle to the log, cheap to clone. When the last one is dropped the log closes by itself.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Command>,
    /// How many records wait for the queue in tasks of their own.
    late: Arc<watch::Sender<usize>>,
    /// How many [`Observing`] there are.
    observing: Arc<AtomicUsize>,
    failure: Arc<Failure>,
    ledger: Arc<Ledger>,
    key: Arc<SigningKey>,
    checkpoints: Arc<Checkpoints>,
    head: watch::Receiver<u64>,
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
        let boot_id = key::random_id().map_err(|_| LogError::Random)?;
        let (ledger, found) = match storage {
            Storage::Memory => (Ledger::in_memory(), None),
            Storage::File(path) => {
                let (ledger, found) = open_files(&path, &boot_id)?;
                (ledger, Some(found))
            }
        };
        Self::start(ledger, found, boot_id, boot)
    }

    fn start(ledger: Ledger, found: Option<Found>, boot_id: String, facts: BootFacts) -> Result<Self, LogError> {
        let BootFacts { version, sha256, isolation, mode, origin, ed25519, tpm_boots } = facts;
        let key = Arc::new(SigningKey::generate(ed25519).map_err(|_| LogError::Random)?);
        let (next, root) = ledger.head();
        let last = ledger.last()?;
        ledger.begin()?;
        let memory_only = found.is_none();
        let Found { log_id, closed } = found.unwrap_or(Found { log_id: boot_id.clone(), closed: true });
        let unusable = |error| LogError::Checkpoint(format!("{error}"));
        let origin = origin.map_or_else(|| format!("dshield/{log_id}").parse().map_err(unusable), Ok)?;
        let checkpoints = Arc::new(Checkpoints::new(key.clone(), origin)?);
        let (ledger, keeper) = (Arc::new(ledger), Arc::new(Keeper::default()));
        let boot_id: Arc<str> = boot_id.into();
        let failure = Arc::new(Failure::default());
        let (head_sender, head) = watch::channel(next);
        let mut writer = Writer {
            ledger: ledger.clone(),
            keeper: keeper.clone(),
            key: key.clone(),
            checkpoints: checkpoints.clone(),
            boot_id: boot_id.clone(),
            clock: Clock::default(),
            next,
            head: head_sender,
            failure: failure.clone(),
        };
        let boot = Boot {
            version,
            key: key.public_pem().to_owned(),
            sha256,
            isolation: Some(isolation),
            memory_only,
            tpm_boots,
            log_id: Some(log_id),
            checkpoint_keys: checkpoints.verifiers().iter().map(ToString::to_string).collect(),
            previous: last.map(|(seq, row)| Previous {
                seq,
                leaf_hash: row.leaf.to_hex(),
                root: Some(root.to_hex()),
                closed: Some(closed),
            }),
        };
        writer.write_now(Record::agent(Event::Boot(boot)), mode)?;

        let failed = |error: std::io::Error| LogError::Failed { cause: error.to_string().into() };
        let timer = Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (queue, commands) = mpsc::channel(QUEUE);
        {
            let (ledger, failure, queue) = (ledger.clone(), failure.clone(), queue.downgrade());
            let keep = move || keeper.run(&ledger, &failure, &queue);
            thread::Builder::new().name("log-keeper".to_owned()).spawn(keep).map_err(failed)?;
        }
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(commands, &timer))
            .map_err(failed)?;
        let observing = Arc::default();
        let late = Arc::default();
        let shared =
            Shared { queue, late, observing, failure, ledger, key, checkpoints, head, boot_id, boot_entry: next };
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
        self.admit()?;
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
        self.admit()?;
        match self.shared.queue.try_send(Command::Append(record, self.mode(), None)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.ended()),
            Err(mpsc::error::TrySendError::Full(command)) => {
                let queue = self.shared.queue.clone();
                match Handle::try_current() {
                    Ok(runtime) => {
                        let late = self.shared.late.clone();
                        late.send_modify(|count| *count += 1);
                        drop(runtime.spawn(async move {
                            let _ = queue.send(command).await;
                            late.send_modify(|count| *count -= 1);
                        }));
                    }
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
    /// When the log is closed, the entries are not kept any more, or the file is damaged or cannot be read.
    pub async fn read(&self, from: u64, limit: usize) -> Result<Vec<String>, LogError> {
        self.read_within(from, limit, PAGE_BYTES).await
    }

    /// [`Self::read`] in pages of about so many bytes; each has a line, however long that is.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_within(&self, from: u64, limit: usize, bytes: usize) -> Result<Vec<String>, LogError> {
        let shared = self.shared.clone();
        blocking(move || {
            let rows = shared.ledger.rows(from, limit, bytes)?;
            Ok((from..).zip(&rows).map(|(seq, row)| row.line(seq)).collect())
        })
        .await
    }

    /// How many entries are durable, and the root of the tree over them: what the next checkpoint will say.
    #[must_use]
    pub fn tree_head(&self) -> (u64, Hash) {
        self.shared.ledger.head()
    }

    /// The signed size and root of what is durable.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn checkpoint(&self) -> Result<Arc<SignedCheckpoint>, LogError> {
        self.shared.checkpoints.latest(&self.shared.ledger)
    }

    /// The newest checkpoint that witnesses have cosigned, where there are some.
    #[must_use]
    pub fn witnessed(&self) -> Option<Arc<SignedCheckpoint>> {
        self.shared.checkpoints.witnessed()
    }

    /// Publishes a witness's signature, which the caller has verified, with the checkpoint.
    ///
    /// # Errors
    /// The note has too many signatures.
    pub fn cosigned(&self, checkpoint: &SignedCheckpoint, signature: NoteSignature) -> Result<(), LogError> {
        self.shared.checkpoints.cosigned(checkpoint, signature)
    }

    /// What verifies this boot's checkpoints: P-256, then Ed25519.
    #[must_use]
    pub fn checkpoint_keys(&self) -> &[VerifierKey; 2] {
        self.shared.checkpoints.verifiers()
    }

    /// Proof that entry `seq` is in the log, for somebody who has the keys and nothing else.
    ///
    /// # Errors
    /// There is no such entry, or the file cannot be read.
    pub async fn receipt(&self, seq: u64) -> Result<Receipt, LogError> {
        let shared = self.shared.clone();
        blocking(move || shared.checkpoints.receipt(&shared.ledger, seq)).await
    }

    /// Proof that the log of `old` entries is the beginning of the one of `new` entries.
    ///
    /// # Errors
    /// There are not so many, or the file cannot be read.
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LogError> {
        let shared = self.shared.clone();
        blocking(move || {
            let (size, _) = shared.ledger.head();
            if old > new || new > size {
                return Err(LogError::NoSuchEntry { seq: old.max(new), size });
            }
            prove_consistency(old, new, |node| shared.ledger.node(node)).map_err(|error| match error {
                proof::ProveError::Read(error) => error,
                _ => LogError::NoSuchEntry { seq: new, size },
            })
        })
        .await
    }

    /// The bytes of a tile (C2SP tlog-tiles), where the log has come so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn tile(&self, tile: tile::Tile) -> Result<Option<Vec<u8>>, LogError> {
        let shared = self.shared.clone();
        blocking(move || shared.ledger.tile_bytes(tile)).await
    }

    /// The bytes of an entry bundle (C2SP tlog-tiles), where the log has come so far.
    ///
    /// # Errors
    /// The entries are not kept any more, or the file cannot be read.
    pub async fn bundle(&self, wanted: Bundle) -> Result<Option<Vec<u8>>, LogError> {
        let shared = self.shared.clone();
        blocking(move || {
            let Some(entries) = wanted.entries() else { return Ok(None) };
            let width = usize::from(wanted.width());
            let mut bytes = Vec::new();
            let mut count = 0;
            // A page may end before the bundle does.
            while count < width {
                let rows = shared.ledger.rows(entries.start + count as u64, width - count, PAGE_BYTES)?;
                if rows.is_empty() {
                    return Ok(None);
                }
                count += rows.len();
                for row in rows {
                    let pushed = bundle::push_entry(&mut bytes, row.entry.as_bytes());
                    pushed.map_err(|error| LogError::Read(error.to_string()))?;
                }
            }
            Ok(Some(bytes))
        })
        .await
    }

    /// The number of the first entry that can still be read.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.shared.ledger.first()
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
        self.shared.key.public_pem()
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
    /// That it cannot be written at present, or is closed.
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
        // What was handed over before belongs into it. The sender is `self`.
        let _ = self.shared.late.subscribe().wait_for(|count| *count == 0).await;
        // It fails when somebody else closes the log already; either way the end is what there is to wait for.
        let _ = self.shared.queue.send(Command::Close).await;
        let mut head = self.head();
        while head.changed().await.is_ok() {}
    }

    /// [`Self::check`] for a record, which is counted when it is refused.
    fn admit(&self) -> Result<(), LogError> {
        self.check().inspect_err(|error| {
            if matches!(error, LogError::Failed { .. }) {
                self.shared.failure.lose(1);
            }
        })
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
        self.wait().await
    }

    /// [`Self::durable`] for one who may give up waiting and ask again, but not once it had the answer.
    ///
    /// # Errors
    /// As [`Self::durable`].
    ///
    /// # Panics
    /// When it is asked again after the answer.
    pub async fn wait(&mut self) -> Result<u64, LogError> {
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

/// The files of the log at `path`, made when there are none. `unique` names what is made meanwhile, and a new log.
fn open_files(path: &Path, unique: &str) -> Result<(Ledger, Found), LogError> {
    if file::open(path)?.is_none() {
        file::create(path, unique, |empty| {
            let source = Box::new(move || store::database(empty.try_clone()?));
            Store::create(path, unique, source)?.release()
        })?;
    }
    open_ledger(open_store(path, unique)?, unique)
}

fn open_store(path: &Path, unique: &str) -> Result<Store, LogError> {
    let again = path.to_owned();
    Store::open(path, unique, Box::new(move || store::database(file::reopen(&again)?)))
}

fn open_ledger(store: Store, unique: &str) -> Result<(Ledger, Found), LogError> {
    let journal = store.journal_path();
    if file::open(&journal)?.is_none() {
        // Before one is made: the next attempt would find that, and miss nothing.
        let contents = store.contents()?;
        if contents.closed != Some(contents.next) {
            return Err(store.corrupt("the journal that belongs to it is missing, and with it its last entries"));
        }
        file::create(&journal, unique, |empty| file::allocate(&journal, &empty, journal::BYTES))?;
    }
    let backend = open_journal(&store)?;
    Ledger::on_disk(store, backend)
}

fn open_journal(store: &Store) -> Result<Arc<dyn StorageBackend>, LogError> {
    let path = store.journal_path();
    let missing = || store.corrupt("the journal that belongs to it is missing");
    let journal = file::open(&path)?.ok_or_else(missing)?;
    let bytes = journal.metadata().map_or(0, |metadata| metadata.len());
    if bytes != journal::BYTES {
        let detail = format!("it has {bytes} bytes and was made with {}", journal::BYTES);
        return Err(LogError::Corrupt { path, detail });
    }
    Ok(Arc::new(FileBackend::new(journal).map_err(|error| store.fault(error.into()))?))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    spawn_blocking(work).await.map_err(|error| LogError::Read(error.to_string()))?
}

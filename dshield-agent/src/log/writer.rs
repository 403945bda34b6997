//! The one thread that writes the log.
//!
//! Records flow in through a bounded queue; it numbers, dates, signs and stores them, and acknowledges each with
//! its number. Whatever has queued up while the disk was busy becomes the next frame of the journal (group commit), so
//! a lone writer waits for nothing but its own frame and many writers share one.
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dshield_common::log::MAX_ENTRY;
use dshield_common::log::entry::{Entry, Event, LOST_BY_LOG, Mode, Record};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;

use super::checkpoint::Checkpoints;
use super::clock::Clock;
use super::error::LogError;
use super::failure::Failure;
use super::journal::Appended;
use super::keeper::Keeper;
use super::key::SigningKey;
use super::ledger::Ledger;
use super::row::Row;

/// How many records may wait; beyond that, writers do.
pub(super) const QUEUE: usize = 1024;
/// What one frame holds at most, give or take an entry.
const BATCH_ENTRIES: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;

/// How long a record that nobody waits for may wait for company: the end of a request for the beginning of the next
/// one, so that a caller who sends one request after the other waits for one commit each time, not for two.
const LINGER: Duration = Duration::from_millis(5);

/// Tells a record's writer its number, or why it has none.
pub(super) type Reply = oneshot::Sender<Result<u64, LogError>>;

/// What the queue carries.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are records")]
pub(super) enum Command {
    /// Write this, as handed over in this mode.
    Append(Record, Option<Mode>, Option<Reply>),
    /// Tell when everything before this is written, or the log has failed.
    Settle(oneshot::Sender<()>),
    /// The log takes entries again after a failure: count in it what was refused, also when nothing else comes.
    Recovered,
    /// Write what is queued, then end.
    Close,
}

/// Numbers, signs and stores.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) ledger: Arc<Ledger>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) key: Arc<SigningKey>,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) boot_id: Arc<str>,
    pub(super) clock: Clock,
    /// The number of the next entry; the same as `head` between frames.
    pub(super) next: u64,
    pub(super) head: watch::Sender<u64>,
    pub(super) failure: Arc<Failure>,
}

/// Sealed rows of the frame in the making, and who waits for each.
#[derive(Debug, Default)]
struct Batch {
    rows: Vec<Row>,
    replies: Vec<Option<Reply>>,
    settling: Vec<oneshot::Sender<()>>,
    bytes: usize,
    /// How many lost records its first row counts; 0 where that is about something else.
    confessed: u64,
}

impl Batch {
    fn push(&mut self, row: Row, reply: Option<Reply>) {
        self.bytes += row.bytes();
        self.rows.push(row);
        self.replies.push(reply);
    }

    fn full(&self) -> bool {
        self.rows.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES
    }

    /// Whether somebody waits for its end.
    fn awaited(&self) -> bool {
        !self.settling.is_empty() || self.replies.iter().flatten().any(|reply| !reply.is_closed())
    }

    /// What belongs into it too: what has queued up, and, while nobody waits, what comes until `due`.
    fn next(&self, queue: &mut mpsc::Receiver<Command>, timer: &Runtime, due: Instant) -> Option<Command> {
        if self.full() {
            return None;
        }
        let queued = queue.try_recv().ok();
        if queued.is_some() || self.awaited() {
            return queued;
        }
        timer.block_on(async { timeout_at(due.into(), queue.recv()).await }).ok().flatten()
    }
}

impl Writer {
    /// Writes one entry at once.
    pub(super) fn write_now(&mut self, record: Record, mode: Option<Mode>) -> Result<(), LogError> {
        let row = self.seal(self.next, record, mode)?;
        self.store(&[row])
    }

    /// Serves the queue until it is closed, then closes the files. While there is a failure it only refuses.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>, timer: &Runtime) {
        while let Some(first) = queue.blocking_recv() {
            let due = Instant::now() + LINGER;
            let mut batch = Batch::default();
            self.confess(&mut batch);
            let mut command = Some(first);
            while let Some(received) = command {
                match received {
                    Command::Append(record, mode, reply) => self.take(&mut batch, record, mode, reply),
                    Command::Settle(waiting) => batch.settling.push(waiting),
                    Command::Recovered => {}
                    Command::Close => queue.close(),
                }
                command = batch.next(&mut queue, timer, due);
            }
            let settling = std::mem::take(&mut batch.settling);
            self.commit(batch);
            for waiting in settling {
                // It may have stopped waiting.
                let _ = waiting.send(());
            }
        }
        self.keeper.close();
        let closed = self.checkpoints.latest(&self.ledger).and_then(|last| self.ledger.close(&last.note.to_string()));
        if let Err(error) = closed {
            tracing::warn!(%error, "the log did not close cleanly");
        }
    }

    /// Counts in the log what was refused while it could not be written.
    fn confess(&mut self, batch: &mut Batch) {
        if self.failure.error().is_some() {
            return;
        }
        let count = self.failure.lost();
        if count == 0 {
            return;
        }
        let source = LOST_BY_LOG.to_owned();
        match self.seal(self.next, Record::agent(Event::Lost { count, source }), None) {
            Ok(row) => {
                batch.push(row, None);
                batch.confessed = count;
            }
            Err(error) => {
                self.failure.lose(count);
                self.fail(&error);
            }
        }
    }

    fn take(&mut self, batch: &mut Batch, record: Record, mode: Option<Mode>, reply: Option<Reply>) {
        if let Some(error) = self.failure.error() {
            self.failure.lose(1);
            answer(reply, Err(error));
            return;
        }
        let seq = self.next + batch.rows.len() as u64;
        match self.seal(seq, record, mode) {
            Ok(row) => batch.push(row, reply),
            Err(error @ LogError::Random) => {
                self.fail(&error);
                self.failure.lose(1);
                answer(reply, Err(error));
            }
            Err(error) => {
                tracing::warn!(%error, "a log record was refused");
                if !answer(reply, Err(error)) {
                    // Nobody will hear of it, so the log has to say that something is missing.
                    self.take(batch, unfit(), mode, None);
                }
            }
        }
    }

    fn seal(&mut self, seq: u64, record: Record, mode: Option<Mode>) -> Result<Row, LogError> {
        let time = self.clock.stamp(SystemTime::now());
        let entry = Entry { seq, time, boot_id: self.boot_id.as_ref().to_owned(), mode, record };
        let entry = entry.canonical().map_err(LogError::NotCanonical)?;
        if entry.len() > MAX_ENTRY {
            return Err(LogError::TooLarge { size: entry.len() });
        }
        let signature = self.key.sign(entry.as_bytes()).map_err(|_| LogError::Random)?;
        Ok(Row::new(&entry, signature.as_ref()))
    }

    fn commit(&mut self, batch: Batch) {
        if batch.rows.is_empty() {
            return;
        }
        // A key that failed in the middle of a batch leaves the rows before it sealed and in order.
        let first = self.next;
        let Err(error) = self.store(&batch.rows) else {
            for (seq, reply) in (first..).zip(batch.replies) {
                answer(reply, Ok(seq));
            }
            return;
        };
        self.fail(&error);
        // What a row counted that was not written is still to be counted, and the row itself was nobody's record.
        let confession = usize::from(batch.confessed > 0);
        self.failure.lose(batch.confessed + (batch.rows.len() - confession) as u64);
        // Said of what happened here: the failure may be over by now, and these rows are not in the log.
        let cause = error.cause();
        for reply in batch.replies {
            answer(reply, Err(LogError::Failed { cause: cause.clone() }));
        }
    }

    fn store(&mut self, rows: &[Row]) -> Result<(), LogError> {
        while self.ledger.append(rows)? == Appended::Full {
            self.keeper.make_room();
            if let Some(error) = self.failure.error() {
                return Err(error);
            }
        }
        self.keeper.wrote(self.ledger.used());
        self.next += rows.len() as u64;
        self.head.send_replace(self.next);
        Ok(())
    }

    fn fail(&self, error: &LogError) {
        self.keeper.failed(|| self.failure.set(error));
    }
}

/// What stands for a record that fitted no entry and whose writer did not wait to hear so.
pub(super) fn unfit() -> Record {
    Record::agent(Event::Lost { count: 1, source: "record that does not fit an entry".to_owned() })
}

/// False when nobody listens.
fn answer(reply: Option<Reply>, outcome: Result<u64, LogError>) -> bool {
    reply.is_some_and(|reply| reply.send(outcome).is_ok())
}

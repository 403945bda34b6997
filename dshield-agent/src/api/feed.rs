//! New entries, read and formatted once for all who follow the log.
//!
//! The log's head flows in, pieces of an event stream flow out, to any number of readers through a ring that nobody
//! waits for: who falls behind it reads the log by itself again. With many readers the pieces come less often, so that
//! waking them costs a bounded share of the processor, whatever the log's pace.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::log::Log;

/// Entries in a piece, and about how many bytes.
pub(super) const PAGE: usize = 100;
pub(super) const PAGE_BYTES: usize = 256 << 10;
/// Pieces that wait for the slowest reader.
const RING: usize = 32;
/// How much later a piece comes for each reader: 1000 of them get 20 a second.
const PER_READER: Duration = Duration::from_micros(50);

/// Server-sent events of consecutive entries.
#[derive(Debug)]
pub(super) struct Piece {
    /// The number of the first.
    pub(super) first: u64,
    text: Bytes,
    /// Where in the text each begins.
    starts: Vec<usize>,
}

impl Piece {
    pub(super) fn new(first: u64, lines: &[String]) -> Self {
        let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 32).sum());
        let mut starts = Vec::with_capacity(lines.len());
        for (seq, line) in (first..).zip(lines) {
            starts.push(text.len());
            text.push_str(&format!("id: {seq}\ndata: {line}\n\n"));
        }
        Self { first, text: text.into(), starts }
    }

    /// The number behind the last.
    pub(super) fn end(&self) -> u64 {
        self.first + self.starts.len() as u64
    }

    /// From entry `next` on, which is not behind the end.
    pub(super) fn from(&self, next: u64) -> Bytes {
        let skipped = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.starts.get(skipped).map_or_else(Bytes::new, |start| self.text.slice(start..))
    }
}

/// What all readers share.
#[derive(Debug)]
pub(super) struct Feed {
    pieces: broadcast::Sender<Arc<Piece>>,
    /// Whether somebody reads for them.
    running: Mutex<bool>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { pieces: broadcast::Sender::new(RING), running: Mutex::new(false) }
    }
}

impl Feed {
    /// What is written from now on.
    pub(super) fn subscribe(self: &Arc<Self>, log: &Log) -> broadcast::Receiver<Arc<Piece>> {
        let mut running = self.running();
        let receiver = self.pieces.subscribe();
        if !*running {
            *running = true;
            let next = *log.head().borrow();
            tokio::spawn(self.clone().run(log.clone(), next));
        }
        receiver
    }

    async fn run(self: Arc<Self>, log: Log, mut next: u64) {
        let mut head = log.head();
        loop {
            let readers = self.pieces.receiver_count();
            if readers == 0 && self.rests() {
                return;
            }
            if *head.borrow_and_update() == next {
                // Ends with the log. A reader that goes away is noticed with the next entry.
                if head.changed().await.is_err() {
                    *self.running() = false;
                    return;
                }
                if readers > 1 {
                    tokio::time::sleep(PER_READER * u32::try_from(readers).unwrap_or(u32::MAX)).await;
                }
                continue;
            }
            match log.read_within(next, PAGE, PAGE_BYTES).await {
                Ok(lines) => {
                    let piece = Piece::new(next, &lines);
                    next = piece.end();
                    // Fails when all have gone.
                    let _ = self.pieces.send(Arc::new(piece));
                }
                Err(error) => {
                    // Each reader finds the same, and says so.
                    tracing::debug!("the log cannot be followed: {error}");
                    next = *head.borrow();
                }
            }
        }
    }

    /// Ends the task unless somebody came at the last moment.
    fn rests(&self) -> bool {
        let mut running = self.running();
        *running = self.pieces.receiver_count() > 0;
        !*running
    }

    fn running(&self) -> MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

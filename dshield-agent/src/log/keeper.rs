//! The thread behind the writer: it carries rows from the journal into the database, so that nobody waits for that, and
//! after a failure it tries until the disk is in order again.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::failure::Failure;
use super::ledger::Ledger;
use super::writer::Command;

/// How long rows may be in journal and memory only, so that many are carried over at once.
const INTERVAL: Duration = Duration::from_secs(1);
/// How full the journal's half in use may get meanwhile.
const FULL: f32 = 0.5;
/// Between two attempts to go on after a failure.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 500 });

/// What writer and keeper tell each other.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    state: Mutex<State>,
    /// For the keeper: there is work, or it is urgent, or the end.
    work: Condvar,
    /// For the writer: the keeper did something.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The database lacks rows since then.
    behind: Option<Instant>,
    urgent: bool,
    failed: bool,
    closing: bool,
    rounds: u64,
}

impl Keeper {
    /// Says that rows were written, and how full the journal is.
    pub(super) fn wrote(&self, used: f32) {
        let mut state = self.state();
        let first = state.behind.is_none();
        state.behind.get_or_insert_with(Instant::now);
        state.urgent |= used > FULL;
        if first || state.urgent {
            self.work.notify_one();
        }
    }

    /// Says that there was a failure, which `note` notes: at one moment with that, so that the end of an earlier one
    /// does not pass for the end of this.
    pub(super) fn failed(&self, note: impl FnOnce()) {
        let mut state = self.state();
        state.failed = true;
        note();
        self.work.notify_one();
    }

    /// Waits until the journal may have room again.
    pub(super) fn make_room(&self) {
        let mut state = self.state();
        let rounds = state.rounds;
        state.urgent = true;
        self.work.notify_one();
        let _done = self.done.wait_while(state, |state| state.rounds == rounds && !state.closing);
    }

    /// Ends it.
    pub(super) fn close(&self) {
        self.state().closing = true;
        self.work.notify_all();
    }

    /// The thread. `queue` is told when a failure is over.
    pub(super) fn run(&self, ledger: &Ledger, failure: &Arc<Failure>, queue: &mpsc::WeakSender<Command>) {
        loop {
            let failed = {
                let mut state = self.wait();
                if state.closing {
                    return;
                }
                (state.urgent, state.behind) = (false, None);
                std::mem::take(&mut state.failed)
            };
            let outcome = if failed { ledger.recover() } else { ledger.take().map(drop) };
            let mut state = self.state();
            match outcome {
                // A write of the journal that failed meanwhile is still to be mended.
                Ok(()) if state.failed => {}
                Ok(()) if failed => {
                    failure.clear();
                    if let Some(queue) = queue.upgrade() {
                        let _ = queue.try_send(Command::Recovered);
                    }
                }
                Ok(()) => {}
                Err(error) => {
                    state.failed = true;
                    failure.set(&error);
                    tracing::debug!(%error, "the log cannot be written");
                }
            }
            state.rounds += 1;
            self.done.notify_all();
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        loop {
            let wait = if state.closing || state.urgent && !state.failed {
                return state;
            } else if state.failed {
                // Not at once: what failed just now fails again.
                let (state, _) = self
                    .work
                    .wait_timeout_while(state, RETRY, |state| !state.closing)
                    .unwrap_or_else(PoisonError::into_inner);
                return state;
            } else if let Some(since) = state.behind {
                INTERVAL.saturating_sub(since.elapsed())
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if wait.is_zero() {
                return state;
            }
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What the requests of one connection do, and since when they do nothing. The frames that only keep a connection of
//! HTTP/2 alive (PING, SETTINGS) are not among it.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::proxy::times::Times;

/// Shared by the requests of a connection.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Activity {
    state: Mutex<State>,
    /// Another time holds.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Requests of which something is still to come.
    under_way: usize,
    /// Those among them whose upstream has not answered: [`Times::answer`] bounds them.
    waiting: usize,
    /// Since when neither changed, and nothing of a body passed.
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self { under_way: 0, waiting: 0, since: Instant::now() }
    }
}

/// What a connection does no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It has no request.
    Idle,
    /// It has some, of which nothing passes.
    Silent,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

/// A request whose upstream has not answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Activity>);

impl Activity {
    /// One more request; the upstream is to answer until the end of the second.
    pub(super) fn begin(self: &Arc<Self>) -> (UnderWay, Waiting) {
        self.change(|state| {
            state.under_way += 1;
            state.waiting += 1;
        });
        (UnderWay(self.clone()), Waiting(self.clone()))
    }

    /// Resolves when nothing was done for too long.
    pub(super) async fn over(&self, times: &Times) -> Over {
        loop {
            let changed = self.changed.notified();
            let (limit, over, since) = {
                let State { under_way, waiting, since } = *self.lock();
                match (under_way, waiting) {
                    (0, _) => (Some(times.next_request), Over::Idle, since),
                    (_, 0) => (Some(times.silence), Over::Silent, since),
                    _ => (None, Over::Silent, since),
                }
            };
            let end = async {
                match limit {
                    Some(limit) => tokio::time::sleep_until(since + limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                // What passed meanwhile has put the end off.
                () = end => if self.lock().since == since { return over },
            }
        }
    }

    /// Lets the time begin anew.
    pub(super) fn renew(&self) {
        self.lock().since = Instant::now();
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.lock();
            change(&mut state);
            state.since = Instant::now();
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Something of its bodies passed.
    pub(super) fn passed(&self) {
        self.0.renew();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.change(|state| state.under_way -= 1);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.change(|state| state.waiting -= 1);
    }
}

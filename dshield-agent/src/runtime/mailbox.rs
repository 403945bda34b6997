//! Where the pool and an instance's Runtime API meet: at most one event goes in, one answer comes out.
//!
//! ```text
//! Starting ── first /next ──▶ Idle ── offer ──▶ Offered ── /next ──▶ Fetched ── /response, /error ──▶ Idle
//! ```
//! Every state can become `Closed`, which is final. Whether the event had been fetched by then tells the
//! pool whether the function may have seen it or another instance can have it.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot, watch};

/// What the function is given.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub id: Arc<str>,
    pub payload: Bytes,
    pub deadline: SystemTime,
}

/// What the function said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Response(Bytes),
    Error(Bytes),
    TooLarge,
}

/// How far the runtime is with loading the function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Init {
    Pending,
    Ready,
    Failed(Bytes),
}

/// Why the Runtime API refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The id is not that of the event being served.
    InvalidRequestId,
    /// The call does not fit what was called before.
    InvalidStateTransition,
    /// Nobody is there any more to take the event, or to wait for the answer.
    Gone,
}

#[derive(Debug)]
enum State {
    Starting,
    Idle { last: Option<Arc<str>> },
    Offered { event: Event, answer: oneshot::Sender<Answer> },
    Fetched { id: Arc<str>, answer: oneshot::Sender<Answer> },
    Closed { fetched: bool },
}

#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    changed: Notify,
    init: watch::Sender<Init>,
}

impl Mailbox {
    pub fn new() -> Self {
        Self { state: Mutex::new(State::Starting), changed: Notify::new(), init: watch::Sender::new(Init::Pending) }
    }

    // The pool's side.

    /// Follows the function's initialisation.
    pub fn init(&self) -> watch::Receiver<Init> {
        self.init.subscribe()
    }

    /// Puts an event in, for the next `/next`. `None` when the instance cannot take one.
    pub fn offer(&self, event: Event) -> Option<oneshot::Receiver<Answer>> {
        let mut state = self.lock();
        let State::Idle { .. } = *state else { return None };
        let (answer, answered) = oneshot::channel();
        *state = State::Offered { event, answer };
        drop(state);
        self.changed.notify_waiters();
        Some(answered)
    }

    /// Ends the exchange. True when the last event had been fetched and not answered: the function may have
    /// seen it.
    pub fn close(&self) -> bool {
        let mut state = self.lock();
        let fetched = match *state {
            State::Fetched { .. } => true,
            State::Closed { fetched } => fetched,
            State::Starting | State::Idle { .. } | State::Offered { .. } => false,
        };
        *state = State::Closed { fetched };
        drop(state);
        self.changed.notify_waiters();
        fetched
    }

    // The Runtime API's side.

    /// Waits for an event. `connected` is asked at the very moment of handing over, so that a runtime which
    /// went away while it waited takes no event with it.
    pub async fn next(&self, connected: impl Fn() -> bool) -> Result<Event, Refusal> {
        loop {
            // Made before the state is looked at: no change in between is missed.
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                match &mut *state {
                    State::Starting => {
                        *state = State::Idle { last: None };
                        self.init.send_replace(Init::Ready);
                    }
                    State::Idle { .. } => {}
                    State::Offered { .. } => {
                        if !connected() {
                            return Err(Refusal::Gone);
                        }
                        return fetch(&mut state);
                    }
                    State::Fetched { .. } => return Err(Refusal::InvalidStateTransition),
                    // The process is about to be killed. Until then it waits, like any idle runtime.
                    State::Closed { .. } => {}
                }
            }
            changed.await;
        }
    }

    /// Whether an answer for this id would be taken now: asked before its body is read.
    pub fn expects(&self, id: &str) -> Result<(), Refusal> {
        expected(&self.lock(), id)
    }

    /// The function's answer.
    pub fn answer(&self, id: &str, answer: Answer) -> Result<(), Refusal> {
        let mut state = self.lock();
        expected(&state, id)?;
        let next = State::Idle { last: Some(id.into()) };
        if let State::Fetched { answer: sender, .. } = std::mem::replace(&mut *state, next) {
            // Nobody listens any more when the pool has given up on the instance, which closes it anyway.
            let _ = sender.send(answer);
        }
        Ok(())
    }

    /// Whether the function may still say that it cannot be loaded.
    pub fn initialising(&self) -> Result<(), Refusal> {
        match *self.lock() {
            State::Starting => Ok(()),
            State::Closed { .. } => Err(Refusal::Gone),
            _ => Err(Refusal::InvalidStateTransition),
        }
    }

    /// The function cannot be loaded.
    pub fn fail_init(&self, error: Bytes) -> Result<(), Refusal> {
        self.initialising()?;
        // The first report is the cause.
        self.init.send_if_modified(|init| {
            let first = *init == Init::Pending;
            if first {
                *init = Init::Failed(error);
            }
            first
        });
        self.close();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code below panics while it holds the lock, and every state is a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn expected(state: &State, id: &str) -> Result<(), Refusal> {
    match state {
        State::Fetched { id: current, .. } if **current == *id => Ok(()),
        State::Idle { last: Some(last) } if **last == *id => Err(Refusal::InvalidStateTransition),
        State::Closed { .. } => Err(Refusal::Gone),
        _ => Err(Refusal::InvalidRequestId),
    }
}

fn fetch(state: &mut State) -> Result<Event, Refusal> {
    match std::mem::replace(state, State::Closed { fetched: false }) {
        State::Offered { event, answer } => {
            *state = State::Fetched { id: event.id.clone(), answer };
            Ok(event)
        }
        other => {
            *state = other;
            Err(Refusal::InvalidStateTransition)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(id: &str) -> Event {
        Event { id: id.into(), payload: Bytes::from_static(b"{}"), deadline: SystemTime::now() }
    }

    async fn ready() -> Arc<Mailbox> {
        let mailbox = Arc::new(Mailbox::new());
        let waiting = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.next(|| true).await }
        });
        mailbox.init().wait_for(|init| *init == Init::Ready).await.unwrap();
        waiting.abort();
        mailbox
    }

    #[tokio::test]
    async fn a_runtime_that_went_away_while_waiting_takes_no_event_with_it() {
        let mailbox = ready().await;
        let answered = mailbox.offer(event("a")).unwrap();
        assert_eq!(mailbox.next(|| false).await.unwrap_err(), Refusal::Gone);
        assert_eq!(&*mailbox.next(|| true).await.unwrap().id, "a");
        mailbox.answer("a", Answer::Response(Bytes::from_static(b"1"))).unwrap();
        assert_eq!(answered.await.unwrap(), Answer::Response(Bytes::from_static(b"1")));
    }

    #[tokio::test]
    async fn an_event_is_answered_once_and_only_by_its_id() {
        let mailbox = ready().await;
        assert_eq!(mailbox.expects("a"), Err(Refusal::InvalidRequestId));
        let _answered = mailbox.offer(event("a")).unwrap();
        assert_eq!(mailbox.expects("a"), Err(Refusal::InvalidRequestId), "not fetched yet");
        mailbox.next(|| true).await.unwrap();
        assert_eq!(mailbox.next(|| true).await.unwrap_err(), Refusal::InvalidStateTransition);
        assert_eq!(mailbox.answer("b", Answer::TooLarge), Err(Refusal::InvalidRequestId));
        assert_eq!(mailbox.answer("a", Answer::TooLarge), Ok(()));
        assert_eq!(mailbox.answer("a", Answer::TooLarge), Err(Refusal::InvalidStateTransition));
    }

    #[tokio::test]
    async fn closing_tells_whether_the_function_may_have_seen_the_event() {
        let mailbox = ready().await;
        let answered = mailbox.offer(event("a")).unwrap();
        assert!(!mailbox.close());
        answered.await.unwrap_err();

        let mailbox = ready().await;
        let _answered = mailbox.offer(event("a")).unwrap();
        mailbox.next(|| true).await.unwrap();
        assert!(mailbox.close());
        assert!(mailbox.close(), "and says so again");
        assert!(mailbox.offer(event("b")).is_none());
    }

    #[tokio::test]
    async fn an_init_error_after_the_first_next_is_refused() {
        let mailbox = ready().await;
        assert_eq!(mailbox.fail_init(Bytes::new()), Err(Refusal::InvalidStateTransition));
    }
}

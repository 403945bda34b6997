//! The instances of one function.
//!
//! In: events. Out: outcomes, and `invoke` entries in the log. One event at a time per instance, at most
//! `concurrency` instances; the instance used last is used first. An event that no instance has fetched goes
//! to another one when its instance ends; one that was fetched is never given twice.
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dshield_common::log::entry::{Event, Invoke, Phase, Record, Subject};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::invocation::{Ending, InvokeError, Outcome, crash_json, init_timeout_json, timeout_json};
use super::launch::Launcher;
use super::mailbox::Answer;
use super::server::response_too_large;
use super::worker::{Handled, Initialised, Worker};
use crate::log::{Log, LogError, Pending};
use crate::snapshot::FrozenFunction;
use crate::walls::{Wall, Walls};

/// Lambda's limit for loading a function.
const INIT_LIMIT: Duration = Duration::from_secs(10);
/// How long an invocation waits for an instance that is being stopped to be gone.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How many instances may end before they fetched the event until it counts as a crash.
const ATTEMPTS: usize = 3;

/// The instances of one function. Dropping it without [`Pool::shutdown`] stops them in the background.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    function: Arc<FrozenFunction>,
    launcher: Launcher,
    log: Log,
    idle: Mutex<Vec<Worker>>,
    /// One permit per invocation: none left means too many requests.
    admissions: Arc<Semaphore>,
    /// One permit per instance, given back when nothing is left of it.
    slots: Arc<Semaphore>,
    concurrency: u32,
    stopping: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("function", &self.function.spec.name).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without instances; they are started as events come.
    #[must_use]
    pub fn new(function: Arc<FrozenFunction>, launcher: Launcher, log: Log) -> Self {
        let concurrency = function.spec.concurrency.max(1);
        let permits = concurrency as usize;
        let shared = Shared {
            function,
            launcher,
            log,
            idle: Mutex::default(),
            admissions: Arc::new(Semaphore::new(permits)),
            slots: Arc::new(Semaphore::new(permits)),
            concurrency,
            stopping: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The function it runs.
    #[must_use]
    pub fn function(&self) -> &FrozenFunction {
        &self.shared.function
    }

    /// Runs the function with an event, which must be JSON. When the caller goes away, the invocation is
    /// finished in the background.
    ///
    /// # Errors
    /// [`InvokeError`] when the function did not run; what a function does wrong is an [`Outcome`].
    pub async fn invoke(&self, payload: Bytes, request_id: &str) -> Result<Outcome, InvokeError> {
        self.start(payload, request_id)?.await
    }

    /// As [`Pool::invoke`], without waiting for the outcome.
    ///
    /// # Errors
    /// At once when all instances are busy, or the pool is stopped.
    pub fn start(&self, payload: Bytes, request_id: &str) -> Result<Invocation, InvokeError> {
        let admission = match self.shared.admissions.clone().try_acquire_owned() {
            Ok(admission) => admission,
            Err(_) if *self.shared.stopping.borrow() => return Err(InvokeError::Stopped),
            Err(_) => return Err(InvokeError::TooManyRequests { concurrency: self.shared.concurrency }),
        };
        // A task of its own: a caller that goes away must not leave an instance in the middle of an event.
        let invocation = self.shared.clone().run(payload, request_id.into(), admission);
        Ok(Invocation(tokio::spawn(invocation)))
    }

    /// Stops every instance and resolves when nothing is left of them. Invocations under way end with
    /// [`InvokeError::Stopped`]; later ones are refused.
    pub async fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        self.shared.admissions.close();
        self.shared.idle().clear();
        // All permits: no instance is left, and none is being started.
        let _ = self.shared.slots.acquire_many(self.shared.concurrency).await;
        self.shared.slots.close();
    }
}

/// An invocation under way: a future of its outcome. Dropping it leaves the invocation running.
#[derive(Debug)]
pub struct Invocation(JoinHandle<Result<Outcome, InvokeError>>);

impl Future for Invocation {
    type Output = Result<Outcome, InvokeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The task itself fails only when the agent's runtime goes down.
        Pin::new(&mut self.0).poll(context).map(|joined| joined.unwrap_or(Err(InvokeError::Stopped)))
    }
}

/// [`INIT_LIMIT`], but where attacks are measured.
fn init_limit() -> Duration {
    if Walls::standing().stands(Wall::InitLimit) { INIT_LIMIT } else { Duration::from_secs(300) }
}

impl Shared {
    async fn run(
        self: Arc<Self>,
        payload: Bytes,
        id: Arc<str>,
        _admission: OwnedSemaphorePermit,
    ) -> Result<Outcome, InvokeError> {
        let mut stopping = self.stopping.subscribe();
        for attempt in 1..=ATTEMPTS {
            let (worker, fresh) = self.worker(&mut stopping).await?;
            let subject = Subject { request_id: Some(id.to_string()), ..worker.instance().subject() };
            let init = async {
                if !fresh {
                    return Initialised::Ready;
                }
                tokio::select! {
                    init = worker.initialised(init_limit()) => init,
                    () = stopped(&mut stopping) => Initialised::Exited(None),
                }
            };
            // Loading the function and writing the entry go on side by side; the event waits for both.
            let (init, begun) = tokio::join!(init, self.begin(subject.clone()));
            let begun = match begun {
                Ok(begun) => begun,
                Err(error) => {
                    if matches!(init, Initialised::Ready) {
                        self.keep(worker);
                    }
                    return Err(error.into());
                }
            };
            let (begun, entry) = begun;
            let (ending, payload) = match init {
                _ if *self.stopping.borrow() => {
                    self.end(subject, Ending::Crash, begun).await;
                    return Err(InvokeError::Stopped);
                }
                Initialised::Ready => {
                    worker.instance().set_request(Some(id.clone()));
                    let handled = tokio::select! {
                        handled = worker.handle(id.clone(), payload.clone(), self.function.spec.timeout) => handled,
                        () = stopped(&mut stopping) => {
                            self.end(subject, Ending::Crash, begun).await;
                            return Err(InvokeError::Stopped);
                        }
                    };
                    if let Handled::NotFetched = handled
                        && attempt < ATTEMPTS
                    {
                        self.end(subject, Ending::Crash, begun).await;
                        continue;
                    }
                    self.judge(handled, worker, &id)
                }
                Initialised::Failed(error) => (Ending::Error, error),
                Initialised::TimedOut => (Ending::Timeout, init_timeout_json(&id, INIT_LIMIT)),
                Initialised::Exited(exit) => (Ending::Crash, crash_json(&id, exit.as_ref())),
            };
            let duration = self.end(subject, ending, begun).await;
            // It went to the disk while the function ran. Nobody gets an answer that the log does not know of.
            let seq = entry.durable().await?;
            return Ok(Outcome { payload, ending, duration, seq: Some(seq) });
        }
        Ok(Outcome { payload: crash_json(&id, None), ending: Ending::Crash, duration: Duration::ZERO, seq: None })
    }

    /// What the caller gets. A worker that answered is kept; any other is dropped and thereby stopped.
    fn judge(&self, handled: Handled, worker: Worker, id: &str) -> (Ending, Bytes) {
        let (ending, payload) = match handled {
            Handled::Answered(Answer::Response(payload)) => (Ending::Ok, payload),
            Handled::Answered(Answer::Error(error)) => (Ending::Error, error),
            Handled::Answered(Answer::TooLarge) => (Ending::Error, response_too_large()),
            Handled::TimedOut => return (Ending::Timeout, timeout_json(id, self.function.spec.timeout)),
            Handled::Exited(exit) => return (Ending::Crash, crash_json(id, exit.as_ref())),
            Handled::NotFetched => return (Ending::Crash, crash_json(id, None)),
        };
        self.keep(worker);
        (ending, payload)
    }

    /// An idle worker, or a new one (true).
    async fn worker(&self, stopping: &mut watch::Receiver<bool>) -> Result<(Worker, bool), InvokeError> {
        {
            let mut idle = self.idle();
            while let Some(worker) = idle.pop() {
                if worker.is_alive() {
                    return Ok((worker, false));
                }
            }
        }
        // With an admission and no idle worker, any slot not free now belongs to an instance being stopped.
        let slot = tokio::select! {
            slot = tokio::time::timeout(STOP_LIMIT, self.slots.clone().acquire_owned()) => match slot {
                Ok(slot) => slot.map_err(|_| InvokeError::Stopped)?,
                Err(_) => return Err(InvokeError::TooManyRequests { concurrency: self.concurrency }),
            },
            () = stopped(stopping) => return Err(InvokeError::Stopped),
        };
        let running = (self.launcher)(self.function.clone()).await?;
        let worker = Worker::start(running, &self.function, slot);
        if *self.stopping.borrow() { Err(InvokeError::Stopped) } else { Ok((worker, true)) }
    }

    /// Makes a worker available for the next event.
    fn keep(&self, worker: Worker) {
        worker.instance().set_request(None);
        let mut idle = self.idle();
        idle.retain(Worker::is_alive);
        // Under the lock, so that `shutdown` either sees the worker or is seen here.
        if !*self.stopping.borrow() {
            idle.push(worker);
        }
    }

    async fn begin(&self, subject: Subject) -> Result<(Instant, Pending), LogError> {
        let event = Event::Invoke(Invoke { phase: Phase::Begin, outcome: None, duration_ms: None });
        // Not waiting for the disk: the log commits in order, so the first entry of this invocation that
        // egress waits for proves this one durable too.
        let entry = self.log.enqueue(Record { subject, event }).await?;
        Ok((Instant::now(), entry))
    }

    async fn end(&self, subject: Subject, ending: Ending, begun: Instant) -> Duration {
        let duration = begun.elapsed();
        let event = Event::Invoke(Invoke {
            phase: Phase::End,
            outcome: Some(ending.as_str().to_owned()),
            duration_ms: u64::try_from(duration.as_millis()).ok(),
        });
        if let Err(error) = self.log.enqueue(Record { subject, event }).await {
            // The function has run; a log that takes nothing more stops the next one.
            tracing::error!("the end of an invocation could not be logged: {error}");
        }
        duration
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        // Nothing below panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the pool to be stopped.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the pool is gone, which is the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

//! One warm instance in the hands of the pool.
//!
//! In: a started instance. Out: answers. A task of its own keeps the instance and stops it when its process
//! has ended or its [`Worker`] is dropped, whichever comes first; only then is its slot free.
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::bootstrap::arn;
use super::mailbox::{Answer, Event, Init, Mailbox};
use super::server;
use crate::instance::{Exit, Instance, Running};
use crate::snapshot::FrozenFunction;

/// How the initialisation ended.
#[derive(Debug)]
pub(super) enum Initialised {
    Ready,
    Failed(Bytes),
    TimedOut,
    Exited(Option<Exit>),
}

/// How the handling of an event ended.
#[derive(Debug)]
pub(super) enum Handled {
    Answered(Answer),
    TimedOut,
    /// The process ended while it had the event.
    Exited(Option<Exit>),
    /// The process ended before it had the event: another instance can have it.
    NotFetched,
}

#[derive(Debug)]
pub(super) struct Worker {
    instance: Arc<Instance>,
    mailbox: Arc<Mailbox>,
    exit: watch::Receiver<Option<Exit>>,
    /// Its end tells the keeper that nobody wants the instance any more.
    _wanted: watch::Sender<()>,
}

impl Worker {
    /// Takes over a started instance. `slot` is given back when nothing of the instance is left.
    pub fn start(running: Running, function: &FrozenFunction, slot: OwnedSemaphorePermit) -> Self {
        let mailbox = Arc::new(Mailbox::new());
        let (wanted, unwanted) = watch::channel(());
        let worker = Self {
            instance: running.instance.clone(),
            mailbox: mailbox.clone(),
            exit: running.exit.clone(),
            _wanted: wanted,
        };
        let arn = arn(function.spec.name.as_str());
        let timeout = function.spec.timeout;
        tokio::spawn(keep(running, mailbox, unwanted, arn, timeout, slot));
        worker
    }

    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// False when the process is known to have ended.
    pub fn is_alive(&self) -> bool {
        self.exit.borrow().is_none() && self.exit.has_changed().is_ok()
    }

    /// Waits until the function is loaded.
    pub async fn initialised(&self, limit: Duration) -> Initialised {
        let mut init = self.mailbox.init();
        let mut exit = self.exit.clone();
        tokio::select! {
            biased;
            init = init.wait_for(|init| *init != Init::Pending) => match init.as_deref() {
                Ok(Init::Failed(error)) => Initialised::Failed(error.clone()),
                _ => Initialised::Ready,
            },
            exit = ended(&mut exit) => Initialised::Exited(exit),
            () = tokio::time::sleep(limit) => Initialised::TimedOut,
        }
    }

    /// Hands the event over and waits for the answer. After anything but an answer the worker is of no
    /// further use.
    pub async fn handle(&self, id: Arc<str>, payload: Bytes, limit: Duration) -> Handled {
        let deadline = Instant::now() + limit;
        let event = Event { id, payload, deadline: SystemTime::now() + limit };
        let Some(mut answered) = self.mailbox.offer(event) else { return Handled::NotFetched };
        let mut exit = self.exit.clone();
        let how = tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            _ = ended(&mut exit) => answered.try_recv().ok(),
            () = tokio::time::sleep_until(deadline) => {
                self.mailbox.close();
                return Handled::TimedOut;
            }
        };
        match how {
            Some(answer) => Handled::Answered(answer),
            None if self.mailbox.close() => Handled::Exited(ended(&mut exit).await),
            None => Handled::NotFetched,
        }
    }
}

async fn keep(
    mut running: Running,
    mailbox: Arc<Mailbox>,
    mut unwanted: watch::Receiver<()>,
    arn: String,
    timeout: Duration,
    slot: OwnedSemaphorePermit,
) {
    // Lives until the end: a runtime that saw its API go away would say so in the function's output.
    let mut server = std::pin::pin!(server::run(running.runtime_api, mailbox.clone(), &arn, timeout));
    tokio::select! {
        () = &mut server => {}
        _ = ended(&mut running.exit) => {}
        // Nothing is ever sent: this is the worker being dropped.
        _ = unwanted.changed() => {}
    }
    mailbox.close();
    (running.stop)().await;
    drop(slot);
}

/// Waits for the end of the process. `None` when the launcher lost sight of it.
async fn ended(exit: &mut watch::Receiver<Option<Exit>>) -> Option<Exit> {
    exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone())
}

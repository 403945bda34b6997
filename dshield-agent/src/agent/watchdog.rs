//! Looks every second whether the kernel's gate still stands, away from the runtime's threads.
//!
//! In: the [`Gate`] as it was set up. Out: the last answer, for `/readyz` and for invocations; when something
//! is missing, a `tamper` entry, and the end of every instance. The sealed namespaces do not depend on the
//! gate, so what is late by a second is the answer, not a way out.
use std::sync::Arc;
use std::time::Duration;

use dshield_common::log::entry::{Event, Record};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::MissedTickBehavior;

use crate::api::Deployed;
use crate::kernel::{Broken, Gate};
use crate::log::Log;

const INTERVAL: Duration = Duration::from_secs(1);

/// How the gate stood when it was last looked at; that the sender is gone means that nobody looks.
pub(super) type State = watch::Receiver<Result<(), Broken>>;

/// Watches from now on, until the handle is aborted.
pub(super) fn start(gate: Gate, log: Log, deployed: watch::Receiver<Arc<Deployed>>) -> (JoinHandle<()>, State) {
    let (sender, state) = watch::channel(Ok(()));
    (tokio::spawn(run(Arc::new(gate), log, deployed, sender)), state)
}

/// The last answer, as `/readyz` says it.
pub(super) fn health(state: &State) -> Result<(), String> {
    if state.has_changed().is_err() {
        return Err("nobody watches the kernel gate any more; restart dshield".to_owned());
    }
    state.borrow().clone().map_err(|error| error.to_string())
}

async fn run(
    gate: Arc<Gate>,
    log: Log,
    deployed: watch::Receiver<Arc<Deployed>>,
    state: watch::Sender<Result<(), Broken>>,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looking = gate.clone();
        let seen = spawn_blocking(move || looking.check()).await;
        let Err(error) =
            seen.unwrap_or_else(|error| Err(Broken { what: format!("it cannot be looked at: {error}").into() }))
        else {
            continue;
        };
        // It never gets well again: what ran meanwhile is not known.
        let _ = state.send_replace(Err(error.clone()));
        tracing::error!("{error}");
        let tamper = Record::agent(Event::Tamper { what: error.what.to_string() });
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = log.enqueue_now(tamper);
        return stop_all(deployed).await;
    }
}

/// Ends every instance, also those of a deployment that was on its way.
async fn stop_all(mut deployed: watch::Receiver<Arc<Deployed>>) {
    loop {
        let now = deployed.borrow_and_update().clone();
        for pool in now.functions.values() {
            pool.shutdown().await;
        }
        if deployed.changed().await.is_err() {
            return;
        }
    }
}

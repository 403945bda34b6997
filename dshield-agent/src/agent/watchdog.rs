//! Looks every second, and when asked, whether everything in the kernel is as it was set up; away from the
//! runtime's threads.
//!
//! In: the [`Kernel`]. Out: the last answer, for `/readyz` and for invocations; a fresh one for whoever must
//! know; when something differs, a `tamper` entry, and the end of every instance. The sealed namespaces do not
//! depend on the gate, so what is late by a second is the answer, not a way out.
use std::sync::Arc;
use std::time::{Duration, Instant};

use dshield_common::log::entry::{Event, Record};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::MissedTickBehavior;

use crate::api::Deployed;
use crate::kernel::{Broken, Kernel};
use crate::log::Log;
use crate::walls::{Wall, Walls};

const INTERVAL: Duration = Duration::from_secs(1);
const NOBODY: &str = "nobody watches the kernel gate any more; restart dshield";

/// What a look found.
type Look = Result<(), Broken>;
/// What was found last; that the sender is gone means that nobody looks.
pub(super) type State = watch::Receiver<Look>;

/// Whoever watches.
pub(super) struct Watchdog {
    task: JoinHandle<()>,
    asked: mpsc::Sender<oneshot::Sender<Look>>,
    state: State,
}

impl Watchdog {
    /// Watches from now on, until stopped.
    pub(super) fn start(kernel: Arc<Kernel>, log: Log, deployed: watch::Receiver<Arc<Deployed>>) -> Self {
        let (sender, state) = watch::channel(Ok(()));
        let (asked, questions) = mpsc::channel(16);
        let task = tokio::spawn(run(kernel, log, deployed, questions, sender));
        Self { task, asked, state }
    }

    /// For [`health`].
    pub(super) fn state(&self) -> State {
        self.state.clone()
    }

    /// Looks now: what was changed before this call is found. Acts on it as on what is found every second.
    ///
    /// # Errors
    /// What differs, as a sentence.
    pub(super) async fn look_now(&self) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        self.asked.send(sender).await.map_err(|_| NOBODY)?;
        answer.await.map_err(|_| NOBODY)?.map_err(|error| error.to_string())
    }

    /// Stops watching, so that what is watched can be taken apart.
    pub(super) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The last answer, as `/readyz` says it.
pub(super) fn health(state: &State) -> Result<(), String> {
    if state.has_changed().is_err() {
        return Err(NOBODY.to_owned());
    }
    state.borrow().clone().map_err(|error| error.to_string())
}

async fn run(
    kernel: Arc<Kernel>,
    log: Log,
    deployed: watch::Receiver<Arc<Deployed>>,
    mut questions: mpsc::Receiver<oneshot::Sender<Look>>,
    state: watch::Sender<Look>,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut asking = Vec::new();
        tokio::select! {
            _ = ticks.tick() => {}
            Some(question) = questions.recv() => asking.push(question),
        }
        // Who asked before the look gets its answer; who asks meanwhile gets the next one's.
        while let Ok(question) = questions.try_recv() {
            asking.push(question);
        }
        let seen = look(kernel.clone()).await;
        if seen != *state.borrow() {
            let _ = state.send_replace(seen.clone());
        }
        // Before the answers: who is told of it finds it in the log.
        if let Err(error) = &seen {
            tracing::error!("{error}");
            if let Broken::Changed(what) = error {
                let tamper = Record::agent(Event::Tamper { what: what.to_string() });
                // A log that has failed has stopped all egress already, and says so itself.
                let _ = log.enqueue_now(tamper);
            }
        }
        for question in asking {
            let _ = question.send(seen.clone());
        }
        // It never gets well again: what ran meanwhile is not known.
        if let Err(error @ Broken::Changed(_)) = seen {
            tokio::join!(stop_all(deployed), answer_all(questions, error));
            return;
        }
    }
}

async fn look(kernel: Arc<Kernel>) -> Look {
    if !Walls::standing().stands(Wall::Watch) {
        return Ok(());
    }
    let looking = spawn_blocking(move || {
        let begun = Instant::now();
        let seen = kernel.look();
        tracing::debug!("looked at the kernel gate for {:?}", begun.elapsed());
        seen
    });
    looking.await.unwrap_or_else(|error| Err(Broken::changed(format!("it cannot be looked at: {error}"))))
}

/// Ends every instance, also those of a deployment that was on its way.
async fn stop_all(mut deployed: watch::Receiver<Arc<Deployed>>) {
    loop {
        let now = deployed.borrow_and_update().clone();
        super::shutdown(&now).await;
        if deployed.changed().await.is_err() {
            return;
        }
    }
}

async fn answer_all(mut questions: mpsc::Receiver<oneshot::Sender<Look>>, error: Broken) {
    while let Some(question) = questions.recv().await {
        let _ = question.send(Err(error.clone()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::kernel::KernelError;
    use crate::log::{BootFacts, Storage};

    #[tokio::test]
    async fn who_asks_is_told_what_was_changed_a_moment_ago_and_finds_it_in_the_log() {
        let name = format!("dsk-{}-now", std::process::id());
        let kernel = match Kernel::start(&name) {
            Ok((kernel, _events)) => Arc::new(kernel),
            Err(error @ (KernelError::NotRoot | KernelError::NoCgroup2)) => return println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        };
        let facts = BootFacts::default();
        let log = Log::open(Storage::Memory, facts).unwrap();
        let (_deploy, deployed) = watch::channel(Arc::default());
        let watchdog = Watchdog::start(kernel.clone(), log.clone(), deployed);
        // Many times within one second: most of them are no tick.
        let mut looks = Vec::new();
        for _ in 0..5 {
            looks.push(watchdog.look_now().await);
        }
        let removed = std::fs::remove_file(Path::new("/sys/fs/bpf").join(&name).join("links/ds_egress"));
        let changed = watchdog.look_now().await;
        let again = watchdog.look_now().await;
        let ready = health(&watchdog.state());
        watchdog.stop().await;
        let stopped = kernel.stop();
        let _ = std::fs::remove_file(kernel.run_dir().with_extension("lock"));

        assert_eq!(looks, vec![Ok(()); 5]);
        removed.unwrap();
        let said = changed.unwrap_err();
        assert!(said.contains("links/ds_egress: No such file"), "{said}");
        assert_eq!((again, ready), (Err(said.clone()), Err(said)));
        stopped.unwrap();
        let entry = log.append(Record::agent(Event::Lost { count: 1, source: "x".into() })).await.unwrap();
        assert_eq!(entry, 2, "the boot, then exactly one entry about it");
        log.close().await;
    }
}

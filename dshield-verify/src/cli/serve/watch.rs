//! Looks at one deployment, again and again: what was configured flows in, the last finding flows out.
//!
//! However many ask, there is one look at a time, and as few as `every` says and [`SPACING`] allows: a look takes a quote,
//! which a machine makes one at a time.
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dshield_common::attestation::Nonce;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch as channel};

use super::config::Configured;
use super::standing::{Moment, Standing};
use crate::cli::look::{Found, Look, LookError};
use crate::cli::memory::Memory;
use crate::cli::print;
use crate::client::printable;
use crate::judge::Options;
use crate::quote::Root;
use crate::verdict::Verdict;

/// Whoever asks for a new look gets one at most this often, or as often as there is one anyway.
pub(super) const SPACING: Duration = Duration::from_secs(30);
/// A look that takes longer is given up: the deployment answers, and never comes to an end.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// How long a request waits for a look.
const WAIT: Duration = Duration::from_secs(30);

/// How to look.
#[derive(Clone, Debug)]
pub(super) struct How {
    pub(super) memory: Memory,
    /// Where collateral is fetched; nowhere, where that is not wanted.
    pub(super) pccs: Option<String>,
    /// The least time between two looks that were asked for: [`SPACING`], but in tests.
    pub(super) spacing: Duration,
}

/// What a look found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// What was judged.
    pub(super) evidence: Bytes,
    pub(super) nonce: Option<Nonce>,
    /// The log's head, where it was asked for.
    pub(super) checkpoint: Option<Bytes>,
    /// When the look began: all that was found is younger.
    pub(super) began: Moment,
}

/// A look that came to no verdict.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) began: Moment,
    /// For strangers: without this machine's paths, and without a URL that is not meant for them.
    pub(super) why: String,
    /// For the operator.
    detail: String,
}

/// Why a look came to no verdict.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Look(LookError),
    #[error("it answers, and comes to no end: the look was given up after {} minutes", LOOK.as_secs() / 60)]
    Endless,
    #[error("the service is stopping")]
    Stopping,
    #[error("the look broke off: {0}")]
    Broken(tokio::task::JoinError),
}

impl Unfinished {
    /// Whether it is about the deployment, rather than about this machine.
    fn is_the_deployments(&self) -> bool {
        matches!(self, Self::Look(LookError::Ask(_)) | Self::Endless | Self::Stopping)
    }
}

/// What is known of a deployment.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) finding: Option<Arc<Finding>>,
    /// Of the last look, where it came to no verdict.
    pub(super) failure: Option<Failure>,
    /// Looks that ended.
    ended: u64,
    /// When the last one began.
    began: Option<Instant>,
    running: bool,
}

impl Known {
    /// What the last verdict is worth at `now`, and its age.
    pub(super) fn standing(&self, now: &Moment, max_age: Duration) -> (Standing, Duration) {
        let age = self.finding.as_ref().map_or(Duration::ZERO, |finding| finding.began.age(now));
        (Standing::of(self.finding.as_ref().map(|finding| &finding.verdict), age, max_age), age)
    }
}

/// A deployment that is looked at.
#[derive(Debug)]
pub(super) struct Watch {
    configured: Configured,
    how: How,
    known: channel::Sender<Known>,
    wanted: Notify,
}

impl Watch {
    pub(super) fn new(configured: Configured, how: How) -> Self {
        Self { configured, how, known: channel::Sender::new(Known::default()), wanted: Notify::new() }
    }

    pub(super) fn configured(&self) -> &Configured {
        &self.configured
    }

    /// What is known now.
    pub(super) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Looks until `stopped` ends.
    pub(super) async fn keep_looking(self: Arc<Self>, mut stopped: channel::Receiver<()>) {
        let mut said = None;
        loop {
            let began = tokio::time::Instant::now();
            self.look(stopped.clone()).await;
            self.say(&mut said);
            let asked = async {
                self.wanted.notified().await;
                tokio::time::sleep_until(began + self.spacing()).await;
            };
            tokio::select! {
                _ = stopped.changed() => return,
                () = tokio::time::sleep_until(began + self.configured.every) => {}
                () = asked => {}
            }
        }
    }

    /// Asks for a new look and waits for it, where the last one was not just now; where one is under way, for that one.
    pub(super) async fn look_again(&self) {
        let mut known = self.known.subscribe();
        let Known { ended, began, running, .. } = self.known();
        if !running {
            if began.is_some_and(|began| began.elapsed() < self.spacing()) {
                return;
            }
            self.wanted.notify_one();
        }
        // Whether it came in time, the caller sees in what is known then.
        let _ = tokio::time::timeout(WAIT, known.wait_for(|known| known.ended > ended)).await;
    }

    fn spacing(&self) -> Duration {
        self.how.spacing.min(self.configured.every)
    }

    async fn look(&self, mut stopped: channel::Receiver<()>) {
        let began = Moment::now();
        self.known.send_modify(|known| (known.began, known.running) = (Some(began.steady), true));
        let look = self.prepared(began.wall);
        let runtime = Handle::current();
        // Judging takes a processor for a while, which those who ask for pages meanwhile should not notice.
        let looked = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped.changed() => Err(Unfinished::Stopping),
                    found = tokio::time::timeout(LOOK, look.run()) => match found {
                        Ok(found) => found.map_err(Unfinished::Look),
                        Err(_) => Err(Unfinished::Endless),
                    }
                }
            })
        });
        let looked = looked.await.unwrap_or_else(|error| Err(Unfinished::Broken(error)));
        self.known.send_modify(|known| {
            known.running = false;
            known.ended += 1;
            match looked {
                Ok(found) => {
                    known.failure = None;
                    known.finding = Some(Arc::new(Finding::new(found, began)));
                }
                // What was found before stands, and gets older.
                Err(unfinished) => {
                    let detail = unfinished.to_string();
                    let why = match unfinished.is_the_deployments() {
                        true => detail.replace(&self.configured.url, &self.configured.public_url),
                        false => "this service failed; its own output says why".to_owned(),
                    };
                    known.failure = Some(Failure { began, why, detail });
                }
            }
        });
    }

    fn prepared(&self, now: u64) -> Look {
        let How { memory, pccs, .. } = self.how.clone();
        Look {
            subject: self.configured.url.clone(),
            expect: self.configured.expect.clone(),
            // Strangers believe what is said here, so what proves nothing never passes.
            options: Options { now, root: Root::Intel, insecure_development: false, insecure_any_measurement: false },
            at: None,
            nonce: None,
            log: None,
            memory: Some(memory),
            pccs,
        }
    }

    /// Tells the operator what changed.
    fn say(&self, said: &mut Option<String>) {
        let known = self.known();
        let says = match (&known.failure, &known.finding) {
            (Some(failure), _) => format!("no verdict: {}", failure.detail),
            (None, Some(finding)) => print::conclusion(&finding.verdict),
            (None, None) => return,
        };
        if said.as_ref() != Some(&says) {
            eprintln!("dshield-verify: {}: {}", self.configured.name, printable(&says));
            *said = Some(says);
        }
    }

    /// As if a look had just found this.
    #[cfg(test)]
    pub(super) fn pretend(&self, finding: Finding) {
        self.known.send_modify(|known| {
            known.began = Some(finding.began.steady);
            known.finding = Some(Arc::new(finding));
        });
    }
}

impl Finding {
    fn new(found: Found, began: Moment) -> Self {
        Self {
            verdict: found.verdict,
            evidence: Bytes::from(found.evidence),
            nonce: found.nonce,
            checkpoint: found.checkpoint.map(Bytes::from),
            began,
        }
    }
}

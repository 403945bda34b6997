//! Gives evidence: asked with a nonce, a quote of its own; asked without, the last one.
//!
//! Nonces flow in, [`Evidence`] flows out. The device makes one quote at a time, about one a second on real hardware, on
//! a thread of its own; askers take turns ([`super::turns`]), and whoever needs no nonce shares.
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dshield_common::attestation::{Collateral, Evidence, Nonce, Provider, ReportData, evidence};
use dshield_common::hex;
use tokio::sync::{oneshot, watch};

use super::facts::{Facts, InForce};
use super::quoter::{QuoteError, Quoted, Quoter};
use super::turns::Turns;
use crate::log::Log;

/// How long evidence without a nonce is given again: its log head is that old.
const FRESH: Duration = Duration::from_secs(300);
/// Who waits longer has given up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Questions that may wait, and those of one asker among them.
const MOST: usize = 256;
const MOST_EACH: usize = 16;
/// How often a quote is asked for again where that may help.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(500);

/// Why there is no evidence.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// This machine makes no quotes.
    #[error("this machine makes no quotes: {0}")]
    NoProvider(String),
    /// Too many wait already, or too many of this asker.
    #[error("too many wait for a quote, which takes about a second each; ask without a nonce, or later")]
    Busy,
    /// It took too long.
    #[error("no quote was made within {} seconds", PATIENCE.as_secs())]
    Slow,
    /// The machine's.
    #[error("{0}")]
    Quote(Arc<QuoteError>),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// Who asks, to take turns with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// The agent itself, and all who need no nonce.
    Shared,
    /// Somebody outside.
    Address(IpAddr),
}

/// A handle to what gives evidence; cheap to clone.
#[derive(Clone)]
pub struct Attester {
    shared: Arc<Shared>,
}

struct Shared {
    provider: Option<Provider>,
    /// Why there is none.
    reason: String,
    state: Mutex<State>,
    more: Condvar,
    latest: tokio::sync::Mutex<Option<Latest>>,
    collateral: watch::Sender<Option<Arc<Collateral>>>,
    in_force: Option<NowInForce>,
}

impl Shared {
    fn new(provider: Option<Provider>, reason: String, in_force: Option<NowInForce>) -> Arc<Self> {
        let state = State { turns: Turns::new(MOST, MOST_EACH), stopping: false };
        Arc::new(Self {
            provider,
            reason,
            state: Mutex::new(state),
            more: Condvar::new(),
            latest: tokio::sync::Mutex::default(),
            collateral: watch::channel(None).0,
            in_force,
        })
    }
}

struct State {
    turns: Turns<Asker, Job>,
    stopping: bool,
}

struct Job {
    nonce: Option<Nonce>,
    answer: oneshot::Sender<Result<Made, AttestError>>,
}

/// Evidence, and what was in force when it was made.
struct Made {
    evidence: Evidence,
    in_force: InForce,
}

struct Latest {
    evidence: Arc<Evidence>,
    in_force: InForce,
    at: Instant,
}

/// What is in force now. Asked for each quote; must not block.
pub type NowInForce = Arc<dyn Fn() -> InForce + Send + Sync>;

impl fmt::Debug for Attester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attester").field("provider", &self.shared.provider).finish_non_exhaustive()
    }
}

impl Attester {
    /// For a machine that makes no quotes, and why.
    #[must_use]
    pub fn none(reason: impl Into<String>) -> Self {
        Self { shared: Shared::new(None, reason.into(), None) }
    }

    /// Starts the thread that asks `quoter`. It ends when [`Attester::stop`] is called.
    #[must_use]
    pub fn start(quoter: Box<dyn Quoter>, facts: Facts, in_force: NowInForce, log: Log) -> Self {
        let shared = Shared::new(Some(quoter.provider()), String::new(), Some(in_force.clone()));
        let worker = Worker { shared: shared.clone(), quoter, facts, in_force, log };
        // A thread that cannot be made means no evidence: whoever asks is told.
        if let Err(error) = thread::Builder::new().name("attest".to_owned()).spawn(move || worker.run()) {
            return Self::none(format!("no thread could be started: {error}"));
        }
        Self { shared }
    }

    /// Who makes the quotes.
    #[must_use]
    pub fn provider(&self) -> Option<Provider> {
        self.shared.provider
    }

    /// Why nobody makes quotes; empty where somebody does.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.shared.reason
    }

    /// Evidence over `nonce`, made for this question; or where there is none, evidence that may be minutes old.
    ///
    /// # Errors
    /// No quote could be made.
    pub async fn evidence(&self, asker: Asker, nonce: Option<Nonce>) -> Result<Arc<Evidence>, AttestError> {
        let mut evidence = match nonce {
            Some(nonce) => self.ask(asker, Some(nonce)).await?.evidence,
            None => return self.latest().await,
        };
        self.complete(&mut evidence);
        Ok(Arc::new(evidence))
    }

    /// Evidence without a nonce, shared by all who ask for it.
    async fn latest(&self) -> Result<Arc<Evidence>, AttestError> {
        // Held while it is made: whoever comes meanwhile gets the same.
        let mut latest = self.shared.latest.lock().await;
        if let Some(known) = latest.as_ref().filter(|known| known.at.elapsed() < FRESH && self.is_current(known)) {
            return Ok(known.evidence.clone());
        }
        let Made { mut evidence, in_force } = self.ask(Asker::Shared, None).await?;
        self.complete(&mut evidence);
        let evidence = Arc::new(evidence);
        *latest = Some(Latest { evidence: evidence.clone(), in_force, at: Instant::now() });
        Ok(evidence)
    }

    /// Whether nothing that it says has changed since.
    fn is_current(&self, known: &Latest) -> bool {
        let collateral = self.shared.collateral.borrow();
        let newer =
            collateral.as_deref().is_some_and(|collateral| known.evidence.collateral.as_ref() != Some(collateral));
        let same = self.shared.in_force.as_ref().is_some_and(|now| now() == known.in_force);
        same && !newer
    }

    /// Adds what this agent knows besides the quote.
    fn complete(&self, evidence: &mut Evidence) {
        if evidence.collateral.is_none() {
            evidence.collateral = self.shared.collateral.borrow().as_deref().cloned();
        }
    }

    /// What Intel says about this platform, for all evidence from now on.
    pub fn set_collateral(&self, collateral: Collateral) {
        self.shared.collateral.send_replace(Some(Arc::new(collateral)));
    }

    /// What Intel says about this platform, as far as it is known, and whenever that changes.
    #[must_use]
    pub fn collateral(&self) -> watch::Receiver<Option<Arc<Collateral>>> {
        self.shared.collateral.subscribe()
    }

    async fn ask(&self, asker: Asker, nonce: Option<Nonce>) -> Result<Made, AttestError> {
        if self.shared.provider.is_none() {
            return Err(AttestError::NoProvider(self.shared.reason.clone()));
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                return Err(AttestError::Stopping);
            }
            // Room is for who still waits.
            state.turns.retain(|job| !job.answer.is_closed());
            state.turns.push(asker, Job { nonce, answer }).map_err(|_| AttestError::Busy)?;
        }
        self.shared.more.notify_one();
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err(AttestError::Stopping),
            Err(_) => Err(AttestError::Slow),
        }
    }

    /// Ends the thread after the quote under way.
    pub fn stop(&self) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopping = true;
        // Who waits is told at once.
        while state.turns.pop().is_some() {}
        drop(state);
        self.shared.more.notify_all();
    }
}

/// What the thread has.
struct Worker {
    shared: Arc<Shared>,
    quoter: Box<dyn Quoter>,
    facts: Facts,
    in_force: NowInForce,
    log: Log,
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next() {
            if !job.answer.is_closed() {
                let made = self.make(job.nonce);
                let _ = job.answer.send(made);
            }
        }
    }

    /// The next job; none when it is time to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopping {
                return None;
            }
            if let Some(job) = state.turns.pop() {
                return Some(job);
            }
            state = self.shared.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn make(&mut self, nonce: Option<Nonce>) -> Result<Made, AttestError> {
        let in_force = (self.in_force)();
        let statement = self.facts.statement(nonce, &in_force, &self.log).canonical();
        let report_data = ReportData::of(&statement);
        let quoted = self.quote(&report_data)?;
        let Quoted { quote, event_log, vm_config, app_compose, tpm, collateral } = quoted;
        let evidence = Evidence {
            format: evidence::FORMAT.to_owned(),
            provider: self.quoter.provider(),
            statement,
            policy: in_force.policy.clone(),
            quote: quote.map(|quote| hex::encode(&quote)),
            collateral,
            event_log,
            vm_config,
            app_compose,
            tpm,
        };
        Ok(Made { evidence, in_force })
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, AttestError> {
        let mut tries = 1;
        loop {
            match self.quoter.quote(report_data) {
                Ok(quoted) => return Ok(quoted),
                Err(error) if error.is_transient() && tries < TRIES => {
                    tracing::debug!("making a quote: {error}; trying again");
                    tries += 1;
                    thread::sleep(BETWEEN);
                }
                Err(error) => {
                    tracing::error!("making a quote: {error}");
                    return Err(AttestError::Quote(Arc::new(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use dshield_common::attestation::Statement;

    use super::*;
    use crate::attest::Measurements;
    use crate::log::{BootFacts, Storage};

    /// Quotes are the report data; made one at a time, and not before the test lets go of `held`.
    #[derive(Debug)]
    struct Device {
        made: Arc<AtomicUsize>,
        held: Arc<AtomicBool>,
        order: Arc<Mutex<Vec<ReportData>>>,
        fails: usize,
    }

    impl Quoter for Device {
        fn provider(&self) -> Provider {
            Provider::ConfigfsTsm
        }

        fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError> {
            while self.held.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            self.order.lock().unwrap().push(*report_data);
            if self.made.fetch_add(1, Ordering::SeqCst) < self.fails {
                return Err(QuoteError::Disturbed { path: "/x".into() });
            }
            Ok(Quoted { quote: Some(report_data.as_bytes().to_vec()), ..Quoted::default() })
        }
    }

    struct Bench {
        attester: Attester,
        made: Arc<AtomicUsize>,
        policy: Arc<Mutex<String>>,
        held: Arc<AtomicBool>,
        order: Arc<Mutex<Vec<ReportData>>>,
    }

    fn bench(fails: usize) -> Bench {
        let log = Log::open(Storage::Memory, BootFacts::default()).unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let policy = Arc::new(Mutex::new("p1".to_owned()));
        let current = policy.clone();
        let in_force = Arc::new(move || {
            let policy = current.lock().unwrap().clone();
            InForce { policy_sha256: policy.clone(), policy, functions: Vec::new() }
        });
        let facts = Facts {
            measurements: Measurements { sha256: BTreeMap::new() },
            programs: Vec::new(),
            isolation: Default::default(),
            tls_spki_sha256: None,
        };
        let (held, order) = (Arc::default(), Arc::default());
        let device = Device { made: made.clone(), held: Arc::clone(&held), order: Arc::clone(&order), fails };
        Bench { attester: Attester::start(Box::new(device), facts, in_force, log), made, policy, held, order }
    }

    fn from(last: u8) -> Asker {
        Asker::Address(IpAddr::from([192, 0, 2, last]))
    }

    #[tokio::test]
    async fn each_nonce_has_a_quote_of_its_own_over_the_statement_with_it() {
        let Bench { attester, made, .. } = bench(0);
        for byte in 1..=3 {
            let nonce = Nonce::new([byte; 32]);
            let evidence = attester.evidence(from(1), Some(nonce)).await.unwrap();
            let statement = Statement::parse(&evidence.statement).unwrap();
            assert_eq!(statement.nonce, Some(nonce));
            assert_eq!(evidence.quote.as_deref(), Some(ReportData::of(&evidence.statement).to_string().as_str()));
        }
        assert_eq!(made.load(Ordering::SeqCst), 3);
        attester.stop();
    }

    #[tokio::test]
    async fn who_needs_no_nonce_shares_one_quote_until_something_changes() {
        let Bench { attester, made, policy, .. } = bench(0);
        let ask = || attester.evidence(Asker::Shared, None);
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        let first = first.unwrap();
        assert!(Arc::ptr_eq(&first, &second.unwrap()) && Arc::ptr_eq(&first, &third.unwrap()));
        assert_eq!(made.load(Ordering::SeqCst), 1);
        "p2".clone_into(&mut policy.lock().unwrap());
        assert_eq!(ask().await.unwrap().policy, "p2");
        assert_eq!(made.load(Ordering::SeqCst), 2);
        attester.stop();
    }

    /// Waits until the device has taken a job, and holds it.
    async fn taken(attester: &Attester) {
        let waiting = || attester.shared.state.lock().unwrap().turns.is_empty();
        while !waiting() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_flood_of_one_asker_starves_nobody_else() {
        let Bench { attester, held, order, .. } = bench(0);
        held.store(true, Ordering::SeqCst);
        let ask = |who, byte| {
            let attester = attester.clone();
            tokio::spawn(async move { attester.evidence(who, Some(Nonce::new([byte; 32]))).await })
        };
        let first = ask(from(1), 0);
        tokio::task::yield_now().await;
        taken(&attester).await;
        let flood: Vec<_> = (1..40).map(|byte| ask(from(1), byte)).collect();
        tokio::task::yield_now().await;
        let modest = ask(from(2), 99);
        tokio::task::yield_now().await;
        held.store(false, Ordering::SeqCst);
        let modest = modest.await.unwrap().unwrap();
        assert!(first.await.unwrap().is_ok());
        let mut busy = 0;
        for result in flood {
            busy += usize::from(matches!(result.await.unwrap(), Err(AttestError::Busy)));
        }
        assert_eq!(busy, 39 - MOST_EACH);
        // Behind the one under way and one of the flood's.
        let place = order.lock().unwrap().iter().position(|made| *made == ReportData::of(&modest.statement));
        assert!(place.is_some_and(|place| place <= 2), "{place:?}");
        attester.stop();
    }

    #[tokio::test]
    async fn a_device_that_is_busy_for_a_moment_is_asked_again() {
        let Bench { attester, made, .. } = bench(2);
        attester.evidence(from(1), Some(Nonce::new([1; 32]))).await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 3);
        attester.stop();
    }

    #[tokio::test]
    async fn who_waits_when_the_agent_stops_is_told() {
        let Bench { attester, held, .. } = bench(0);
        held.store(true, Ordering::SeqCst);
        let ask = |byte| {
            let attester = attester.clone();
            tokio::spawn(async move { attester.evidence(from(1), Some(Nonce::new([byte; 32]))).await })
        };
        let first = ask(1);
        tokio::task::yield_now().await;
        taken(&attester).await;
        let second = ask(2);
        tokio::task::yield_now().await;
        attester.stop();
        let second = second.await.unwrap();
        assert!(matches!(second, Err(AttestError::Stopping)), "{second:?}");
        held.store(false, Ordering::SeqCst);
        assert!(first.await.unwrap().is_ok());
        let after = attester.evidence(from(1), Some(Nonce::new([3; 32]))).await;
        assert!(matches!(after, Err(AttestError::Stopping)), "{after:?}");
    }

    #[tokio::test]
    async fn a_machine_without_quotes_says_why() {
        let error = Attester::none("no guest agent").evidence(from(1), None).await.unwrap_err();
        assert_eq!(error.to_string(), "this machine makes no quotes: no guest agent");
    }
}

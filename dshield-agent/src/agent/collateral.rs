//! Keeps at hand what Intel says about this platform, so that evidence holds all that checking it takes.
//!
//! In: this machine's quote, and what the policy's PCCS answers. Out, to the [`Attester`]: collateral that proves the quote
//! genuine, or that says that it is revoked. Nothing else of a PCCS is taken, so one that lies can do no more than withhold.
use std::mem::{Discriminant, discriminant};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dshield_common::attestation::{Collateral, Provider};
use dshield_common::hex;
use dshield_common::policy::Pccs;
use dshield_verify::collateral::{Answer, CollateralError, MOST_BODY, Request, Requests, next_update};
use dshield_verify::quote::{QuoteError, Root, VerifiedQuote};
use dshield_verify::time::rfc3339;
use tokio::task::JoinHandle;

use crate::attest::{Asker, AttestError, Attester};
use crate::proxy::{OwnEgress, OwnError};

/// The task that fetches it, again and again.
pub(super) struct Refresh(JoinHandle<()>);

impl Refresh {
    /// Starts it where there is something to fetch: for TDX quotes that come without collateral.
    pub(super) fn start(attester: Attester, egress: OwnEgress, pccs: Pccs) -> Option<Self> {
        match attester.provider()? {
            Provider::Dstack | Provider::ConfigfsTsm => {}
            // A development machine brings its own, and Intel knows nothing about TPMs.
            _ => return None,
        }
        Some(Self::run(Source { attester, egress, pccs, root: Root::Intel, clock: Arc::new(now), pace: Pace::USUAL }))
    }

    fn run(source: Source) -> Self {
        Self(tokio::spawn(source.run()))
    }

    /// Ends it, so that nothing of it is written while the log closes.
    pub(super) async fn stop(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How often is asked.
#[derive(Clone, Copy)]
struct Pace {
    /// At least between two times, and after the first failure; then twice as long with each …
    shortest: Duration,
    /// … up to this.
    longest_after_failure: Duration,
    /// Whatever the validity: what Intel has revoked should be known soon.
    longest: Duration,
}

impl Pace {
    const USUAL: Self = Self {
        shortest: Duration::from_secs(60),
        longest_after_failure: Duration::from_secs(60 * 60),
        longest: Duration::from_secs(24 * 60 * 60),
    };

    /// How long collateral is good enough that ends at `end`: three quarters of what is left.
    fn until_next(&self, now: u64, end: u64) -> Duration {
        let left = end.saturating_sub(now);
        Duration::from_secs(left - left / 4).clamp(self.shortest, self.longest)
    }
}

/// Who is asked, about what, and when.
struct Source {
    attester: Attester,
    egress: OwnEgress,
    pccs: Pccs,
    root: Root,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    pace: Pace,
}

/// What evidence has now.
struct Held {
    collateral: Collateral,
    /// When Intel says something new, in seconds since 1970.
    end: u64,
}

#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("there is no quote to ask about: {0}")]
    Attest(#[from] AttestError),
    #[error("there is no quote to ask about: the evidence has none")]
    NoQuote,
    #[error(transparent)]
    Egress(#[from] OwnError),
    #[error(transparent)]
    Answer(#[from] CollateralError),
    #[error("what it answered does not prove this machine's quote genuine, and is not taken: {0}")]
    Unproven(#[from] QuoteError),
    #[error("what it answered does not say until when it is valid")]
    Endless,
}

impl Source {
    async fn run(self) {
        let mut held = None;
        let mut told: Vec<Discriminant<RefreshError>> = Vec::new();
        let mut after_failure = self.pace.shortest;
        loop {
            let pause = match self.refresh(&mut held).await {
                Ok(ControlFlow::Break(())) => return,
                Ok(ControlFlow::Continue(end)) => {
                    told.clear();
                    after_failure = self.pace.shortest;
                    self.pace.until_next((self.clock)(), end)
                }
                Err(RefreshError::Attest(AttestError::Stopping)) => return,
                Err(error) => {
                    self.tell(&error, &mut told);
                    let pause = after_failure;
                    after_failure = (2 * after_failure).min(self.pace.longest_after_failure);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Warns of each kind of failure once, until all is well again.
    fn tell(&self, error: &RefreshError, told: &mut Vec<Discriminant<RefreshError>>) {
        let news = is_news(error, told);
        let (to, port) = (self.pccs.to.authority(), self.pccs.port);
        // Part of it may be the PCCS's own text.
        let error = error.to_string();
        let error = error.escape_debug();
        if news {
            tracing::warn!("collateral from {to}:{port}: {error}; asking again, and evidence has what it had");
        } else {
            tracing::debug!("collateral from {to}:{port}: {error}");
        }
    }

    /// Fetches once: until when what evidence has now is valid, or that there is nothing to do.
    async fn refresh(&self, held: &mut Option<Held>) -> Result<ControlFlow<(), u64>, RefreshError> {
        let evidence = self.attester.evidence(Asker::Shared, None).await?;
        if held.is_none() && evidence.collateral.is_some() {
            // Not from here, so it came with the quote.
            return Ok(ControlFlow::Break(()));
        }
        let quote = evidence.quote.as_deref().ok_or(RefreshError::NoQuote)?;
        let collateral = self.fetch(quote).await?;
        let now = (self.clock)();
        match VerifiedQuote::verify(quote, &collateral, &self.root, now) {
            Ok(_) => {}
            // Who checks the evidence has to see that.
            Err(QuoteError::Revoked(why)) => tracing::error!("Intel says that this platform is revoked: {why}"),
            Err(error) => return Err(error.into()),
        }
        let end = next_update(&collateral).ok_or(RefreshError::Endless)?;
        if let Some(held) = held
            && held.end > end
            && held.end > now
        {
            // Valid still, but a step back: a PCCS keeps answers for a while.
            return Ok(ControlFlow::Continue(end));
        }
        if held.as_ref().is_none_or(|held| held.collateral != collateral) {
            tracing::info!("collateral from {}: valid until {}", self.pccs.to, rfc3339(end));
            self.attester.set_collateral(collateral.clone());
        }
        *held = Some(Held { collateral, end });
        Ok(ControlFlow::Continue(end))
    }

    async fn fetch(&self, quote: &str) -> Result<Collateral, RefreshError> {
        let quote = hex::decode(quote).unwrap_or_default();
        let mut requests = Requests::for_quote(&quote)?;
        while let Some(Request { part, path }) = requests.next_request() {
            let Pccs { to, port, prefix, .. } = &self.pccs;
            let target = format!("{prefix}{path}");
            let (status, headers, body) = self.egress.get(to, *port, &target, MOST_BODY).await?;
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            requests.answer(part, &Answer { status: status.as_u16(), header: &header, body: &body })?;
        }
        Ok(requests.finish()?)
    }
}

/// Whether a failure is of another kind than those that were told, of which it is one from now on.
fn is_news(error: &RefreshError, told: &mut Vec<Discriminant<RefreshError>>) -> bool {
    let kind = discriminant(error);
    let news = !told.contains(&kind);
    if news {
        told.push(kind);
    }
    news
}

#[cfg(test)]
mod tests;

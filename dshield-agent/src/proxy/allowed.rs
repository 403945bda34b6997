//! A connection that may leave: in the log from its connect entry to its close entry.
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dshield_common::log::entry::{Attempt, Close, Connect, Event, Process, Record, Refused};
use dshield_common::policy::{Denied, LogLevel, Route};

use tokio::sync::Mutex;

use super::counted::Counters;
use super::http::Activity;
use super::upstream::UpstreamError;
use super::{Context, NO_RULE};
use crate::log::{LogError, Pending};

/// What a function is told of a refusal that the log has.
pub(super) struct Told {
    /// The stable word.
    pub(super) reason: &'static str,
    /// What to do about it, as `dshield logs` says it.
    pub(super) hint: String,
    /// The number of the log entry, where it has one of its own.
    pub(super) seq: Option<u64>,
}

/// A connection that the policy allows and the log knows. Its close entry is written when it is dropped,
/// however it ends.
pub(super) struct Allowed {
    pub(super) context: Arc<Context>,
    pub(super) id: u64,
    pub(super) route: Route,
    /// What its requests do.
    pub(super) activity: Arc<Activity>,
    counters: Arc<Counters>,
    since: Instant,
    error: OnceLock<String>,
    entry: Mutex<Entry>,
}

/// The connect entry, for who must wait for it.
enum Entry {
    /// It is not known to be durable yet.
    Written(Pending),
    /// It is durable, or a later one proves that.
    Durable,
    /// It is not in the log.
    Missing,
}

impl Allowed {
    /// Hands the connect entry to the log. Nothing may go upstream before [`Self::logged`].
    pub(super) async fn log(
        context: Arc<Context>,
        route: Route,
        counters: Arc<Counters>,
        process: Option<Process>,
    ) -> Result<Arc<Self>, LogError> {
        let id = context.next_connection();
        let connect = Connect {
            connection: id,
            host: route.to.to_string(),
            port: route.port,
            tls: route.tls().to_string(),
            rule: route.rule_id().to_owned(),
            process,
        };
        let record = Record { subject: context.instance.subject(), event: Event::Connect(connect) };
        let pending = context.log.enqueue(record).await?;
        // Where every request waits for an entry of its own, that one proves this one durable: the log commits in
        // order. Kept, it would be written at once, for somebody who does not ask.
        let needed = !(route.has_requests() && context.log_level == LogLevel::Request);
        let entry = Mutex::new(if needed { Entry::Written(pending) } else { Entry::Durable });
        let (activity, since, error) = (Arc::default(), Instant::now(), OnceLock::new());
        Ok(Arc::new(Self { context, id, route, activity, counters, since, error, entry }))
    }

    /// Waits until the connect entry is durable, where no later one proves that: only now may the first byte leave.
    /// Who gives up waiting leaves the others waiting.
    ///
    /// # Errors
    /// The log did not take it, or takes no more.
    pub(super) async fn logged(&self) -> Result<(), LogError> {
        let mut entry = self.entry.lock().await;
        if let Entry::Written(pending) = &mut *entry {
            let outcome = pending.wait().await;
            *entry = if outcome.is_ok() { Entry::Durable } else { Entry::Missing };
            outcome?;
        }
        match *entry {
            Entry::Durable => self.context.log.check(),
            Entry::Written(_) | Entry::Missing => Err(self.context.log.check().err().unwrap_or(LogError::Closed)),
        }
    }

    /// Notes why it ends, unless in the ordinary way.
    pub(super) fn ended(&self, result: Result<(), String>) {
        if let Err(error) = result {
            // What was wrong first explains the rest.
            let _ = self.error.set(error);
        }
    }

    /// Writes a refusal of the upstream into the log, when `error` is one: what to tell the function.
    pub(super) async fn refuse_upstream(&self, error: &UpstreamError) -> Option<Told> {
        let reason = error.refusal()?;
        let refused = self.refused("upstream", reason, error.to_string(), self.route.rule_id(), self.attempt());
        let hint = refused.hint(self.context.instance.function()).unwrap_or_default();
        let seq = self.context.refusals.report_numbered(refused).await;
        Some(Told { reason, hint, seq })
    }

    /// Writes into the log that the TLS of this connection is refused after its connect entry.
    pub(super) fn refuse_tls(&self, reason: &str, what: &dyn std::fmt::Display) {
        let detail = format!("tls to {}:{}: {what}", self.route.to.authority(), self.route.port);
        self.context.refusals.report(self.refused("tls", reason, detail, self.route.rule_id(), self.attempt()));
    }

    /// Writes a refusal on this connection into the log: its number, where it has an entry of its own.
    pub(super) async fn refuse(&self, reason: &str, detail: String, rule: &str, attempt: Attempt) -> Option<u64> {
        self.context.refusals.report_numbered(self.refused("http", reason, detail, rule, attempt)).await
    }

    /// Writes into the log what a request would have been refused for, which goes on.
    pub(super) fn observe(&self, denied: &Denied, attempt: Attempt) {
        let rule = denied.rule().unwrap_or(NO_RULE);
        let refused = self.refused("http", denied.reason(), denied.to_string(), rule, attempt);
        self.context.refusals.report(Refused { let_through: true, ..refused });
    }

    /// What the connection is for.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt { host: self.route.to.to_string(), port: Some(self.route.port), method: None, path: None }
    }

    fn refused(&self, layer: &str, reason: &str, detail: String, rule: &str, attempt: Attempt) -> Refused {
        Refused {
            layer: layer.into(),
            reason: reason.into(),
            detail,
            rule: rule.into(),
            let_through: false,
            connection: Some(self.id),
            attempt: Some(attempt),
            process: None,
            count: None,
        }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let (bytes_from_function, bytes_to_function) = self.counters.totals();
        let close = Close {
            connection: self.id,
            bytes_from_function,
            bytes_to_function,
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            error: self.error.take(),
        };
        let record = Record { subject: self.context.instance.subject(), event: Event::Close(close) };
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.context.log.enqueue_now(record);
    }
}

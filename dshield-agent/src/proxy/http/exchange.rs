//! A request in the log: begun before its first byte went upstream, ended when it is dropped.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ::http::Request;
use dshield_common::log::entry::{Event, Phase, Record, Request as RequestEntry};
use dshield_common::policy::{LogLevel, Rule};
use tokio::sync::OwnedSemaphorePermit;

use crate::log::LogError;
use crate::proxy::Context;
use crate::proxy::allowed::Allowed;
use crate::proxy::counted::Counters;
use crate::proxy::limits::Place;

/// The request.
pub(super) struct Exchange {
    context: Arc<Context>,
    connection: u64,
    begin: Option<u64>,
    since: Instant,
    /// Bytes of the bodies.
    pub(super) counters: Arc<Counters>,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
    /// Among the requests that the rule allows at a time.
    _place: Place,
    /// Among those of its instance.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    pub(super) async fn begin<B>(
        connection: &Allowed,
        rule: &Rule,
        place: Place,
        request: &Request<B>,
    ) -> Result<Self, LogError> {
        let context = connection.context.clone();
        // Never closed.
        let turn = context.turns.clone().acquire_owned().await.ok();
        let begin = match context.log_level {
            LogLevel::Request => {
                let entry = RequestEntry {
                    host: Some(connection.route.to.to_string()),
                    method: Some(request.method().to_string()),
                    path: Some(request.uri().path().to_owned()),
                    rule: Some(rule.id.clone()),
                    ..blank(Phase::Begin, connection.id)
                };
                let record = Record { subject: context.instance.subject(), event: Event::Request(entry) };
                Some(context.log.append(record).await?)
            }
            // The connect entry is durable already; the log must still be alive.
            LogLevel::Connection => {
                context.log.check()?;
                None
            }
        };
        Ok(Self {
            context,
            connection: connection.id,
            begin,
            since: Instant::now(),
            counters: Arc::default(),
            status: None,
            error: None,
            _place: place,
            _turn: turn,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(begin) = self.begin else { return };
        let entry = RequestEntry {
            begin: Some(begin),
            status: self.status,
            request_bytes: Some(self.counters.read.load(Ordering::Relaxed)),
            response_bytes: Some(self.counters.written.load(Ordering::Relaxed)),
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).ok(),
            error: self.error.take(),
            ..blank(Phase::End, self.connection)
        };
        let record = Record { subject: self.context.instance.subject(), event: Event::Request(entry) };
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.context.log.enqueue_now(record);
    }
}

fn blank(phase: Phase, connection: u64) -> RequestEntry {
    RequestEntry {
        phase,
        connection,
        begin: None,
        host: None,
        method: None,
        path: None,
        rule: None,
        status: None,
        request_bytes: None,
        response_bytes: None,
        duration_ms: None,
        error: None,
    }
}

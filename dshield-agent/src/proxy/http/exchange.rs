//! A request in the log: begun before its first byte went upstream, ended when the last of its bodies is.
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ::http::Request;
use dshield_common::log::entry::{Event, Phase, Record, Request as RequestEntry};
use dshield_common::policy::{LogLevel, Rule};
use tokio::sync::OwnedSemaphorePermit;

use super::activity::{UnderWay, Waiting};
use super::judge::BodyFault;
use crate::log::LogError;
use crate::proxy::Context;
use crate::proxy::allowed::Allowed;
use crate::proxy::body::{BodyError, Owner};
use crate::proxy::counted::Counters;
use crate::proxy::limits::Place;

/// The request, shared by all that still passes of it: its end is written when the last of them drops it.
pub(super) struct Exchange {
    context: Arc<Context>,
    connection: u64,
    begin: Option<u64>,
    since: Instant,
    /// Bytes of the bodies.
    pub(super) counters: Arc<Counters>,
    pub(super) status: OnceLock<u16>,
    pub(super) error: OnceLock<String>,
    /// What this end did not let through of a body. Kept here, because the error of an HTTP/2 client upstream does not
    /// say which error of a body it was.
    pub(super) fault: OnceLock<BodyFault>,
    /// Among those of its connection.
    under_way: UnderWay,
    /// Among the requests that the rule allows at a time.
    _place: Place,
    /// Among those of its instance.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Begins it; the upstream is to answer until the end of what comes with it.
    pub(super) async fn begin<B>(
        connection: &Allowed,
        rule: &Rule,
        place: Place,
        request: &Request<B>,
    ) -> Result<(Arc<Self>, Waiting), LogError> {
        // Also while it waits for its turn.
        let (under_way, waiting) = connection.activity.begin();
        // Never closed.
        let turn = connection.context.turns.clone().acquire_owned().await.ok();
        let mut exchange = Self {
            context: connection.context.clone(),
            connection: connection.id,
            begin: None,
            since: Instant::now(),
            counters: Arc::default(),
            status: OnceLock::new(),
            error: OnceLock::new(),
            fault: OnceLock::new(),
            under_way,
            _place: place,
            _turn: turn,
        };
        let context = &exchange.context;
        match context.log_level {
            LogLevel::Request => {
                let entry = RequestEntry {
                    host: Some(connection.route.to.to_string()),
                    method: Some(request.method().to_string()),
                    path: Some(request.uri().path().to_owned()),
                    rule: Some(rule.id.clone()),
                    ..blank(Phase::Begin, connection.id)
                };
                let record = Record { subject: context.instance.subject(), event: Event::Request(entry) };
                let pending = context.log.enqueue(record).await?;
                // In a task of its own: whoever gives the request up meanwhile leaves a begin that has its end.
                let begun = tokio::spawn(async move {
                    exchange.begin = Some(pending.durable().await?);
                    Ok(Arc::new(exchange))
                });
                Ok((begun.await.unwrap_or(Err(LogError::Closed))?, waiting))
            }
            LogLevel::Connection => {
                connection.logged().await?;
                Ok((Arc::new(exchange), waiting))
            }
        }
    }
}

impl Owner for Arc<Exchange> {
    fn passed(&self) {
        self.under_way.passed();
    }

    fn broke_off(&self, error: &BodyError) {
        // What was wrong first explains the rest.
        let _ = self.error.set(error.to_string());
        if let Some(fault) = BodyFault::of(error) {
            let _ = self.fault.set(fault);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(begin) = self.begin else { return };
        let entry = RequestEntry {
            begin: Some(begin),
            status: self.status.get().copied(),
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

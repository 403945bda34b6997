//! The log, for whoever wants to read it: pages, a stream, and the key that signs it.
//!
//! A reader is served page by page from what is durable. It holds no lock and no queue of the writer, however
//! slowly it reads.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::error::ApiError;
use crate::log::{Log, LogError};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Entries that a stream reads at once.
const PAGE: usize = 100;
/// How often an idle stream shows that it lives; also how a reader that went away is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

type Parameters = BTreeMap<String, String>;

/// `GET /v1/log/entries?from=0&limit=100`: NDJSON.
pub(super) async fn entries(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let parameters = known(query, &["from", "limit"])?;
    let from = number(&parameters, "from", "must be a sequence number: a whole number, 0 or more")?.unwrap_or(0);
    let limit = match number(&parameters, "limit", LIMIT_RANGE)? {
        None => DEFAULT_LIMIT,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| invalid("limit", LIMIT_RANGE))?,
    };
    // A caller whose function has answered finds that invocation in the log.
    shared.state.log.settled().await;
    // Read before anything is sent, so that a log which cannot be read is an error and not an empty page.
    let first = shared.state.log.read(from, limit).await?;
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let left = limit - first.len();
    if first.is_empty() || left == 0 {
        return Ok((headers, ndjson(&first)).into_response());
    }
    // The log gives less than asked for when entries are large. The rest is read as the reader takes it.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send_pages(shared.state.log.clone(), from, left, first, sender));
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

const LIMIT_RANGE: &str = "must be a whole number from 1 to 1000";

/// `GET /v1/log/key`: the key of this boot; those of earlier boots are in their boot entries.
pub(super) async fn key(State(shared): State<Arc<Shared>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/x-pem-file")];
    (headers, shared.state.log.public_key_pem().to_owned()).into_response()
}

/// `GET /v1/log/stream?from=`: server-sent events, one per entry, `id` its number. Without `from` it starts with
/// the next entry; a client that comes back with `Last-Event-ID` misses nothing.
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = known(query, &["from"])?;
    let from = number(&parameters, "from", "must be a sequence number: a whole number, 0 or more")?;
    let resumed = match headers.get("last-event-id") {
        None => None,
        Some(id) => {
            let last = id.to_str().ok().and_then(|id| id.parse::<u64>().ok());
            let next = last.and_then(|last| last.checked_add(1));
            Some(next.ok_or_else(|| invalid("Last-Event-ID", "must be a sequence number"))?)
        }
    };
    // A client that reconnects repeats its first URL: what it says it has got is the newer word.
    let log = shared.state.log.clone();
    let from = resumed.or(from).unwrap_or_else(|| *log.head().borrow());
    let place = shared.streams.clone().try_acquire_owned().map_err(|_| ApiError::TooManyStreams)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Err(error) = send_events(log, from, sender).await {
            tracing::error!("a log stream ended: {error}");
        }
        drop(place);
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

async fn send_pages(
    log: Log,
    from: u64,
    mut left: usize,
    first: Vec<String>,
    sender: mpsc::Sender<Result<Bytes, LogError>>,
) {
    let mut next = from;
    let mut page = Ok(first);
    loop {
        let lines = match page {
            Ok(lines) if lines.is_empty() => return,
            Ok(lines) => lines,
            Err(error) => {
                // Cuts the connection in the middle of the body: the reader knows that something is missing.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        next += lines.len() as u64;
        // Fails when the reader has gone away.
        if sender.send(Ok(ndjson(&lines).into())).await.is_err() || left == 0 {
            return;
        }
        page = log.read(next, left).await;
        left -= page.as_ref().map_or(0, Vec::len).min(left);
    }
}

async fn send_events(log: Log, from: u64, sender: mpsc::Sender<Result<Bytes, Infallible>>) -> Result<(), LogError> {
    let mut head = log.head();
    let mut next = from;
    // Shows the client at once that it is connected.
    let mut open = sender.send(Ok(Bytes::from_static(b": dshield log\n\n"))).await.is_ok();
    while open {
        let lines = if next < *head.borrow_and_update() { log.read(next, PAGE).await? } else { Vec::new() };
        if !lines.is_empty() {
            let mut events = String::with_capacity(lines.iter().map(|line| line.len() + 32).sum());
            for (seq, line) in (next..).zip(&lines) {
                events.push_str(&format!("id: {seq}\ndata: {line}\n\n"));
            }
            next += lines.len() as u64;
            open = sender.send(Ok(events.into())).await.is_ok();
            continue;
        }
        tokio::select! {
            changed = head.changed() => open = changed.is_ok(),
            () = sender.closed() => open = false,
            () = tokio::time::sleep(HEARTBEAT) => open = sender.send(Ok(Bytes::from_static(b":\n\n"))).await.is_ok(),
        }
    }
    Ok(())
}

fn ndjson(lines: &[String]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn known(query: Result<Query<Parameters>, QueryRejection>, names: &[&str]) -> Result<Parameters, ApiError> {
    let Ok(Query(parameters)) = query else {
        return Err(invalid("the query", "is not of the form name=value&name=value"));
    };
    match parameters.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(invalid(name, "is not a parameter of this path")),
        None => Ok(parameters),
    }
}

fn number(parameters: &Parameters, name: &str, problem: &'static str) -> Result<Option<u64>, ApiError> {
    parameters.get(name).map(|value| value.parse().map_err(|_| invalid(name, problem))).transpose()
}

fn invalid(parameter: &str, problem: &'static str) -> ApiError {
    ApiError::InvalidParameter { parameter: parameter.to_owned(), problem }
}

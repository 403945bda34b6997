//! `GET /v1/log/stream`: the log as it grows, as server-sent events.
//!
//! What was written before a reader came, it reads page by page; then it takes what [`super::feed`] gives to all. The
//! writer knows of no reader; one that takes too long over a piece is dropped, and may come back with `Last-Event-ID`.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::error::ApiError;
use super::feed::{Feed, PAGE, PAGE_BYTES, Piece};
use super::query::{Parameters, invalid, known, number};
use crate::log::{Log, LogError};

/// How often an idle stream shows that it lives; also how a reader that went away is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a reader may take until it has room for the next piece.
pub(super) const SLOW: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// `?from=`: without it the stream starts with the next entry; a client that comes back with `Last-Event-ID` misses
/// nothing.
pub(super) async fn stream(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = known(query, &["from"])?;
    let from = number(&parameters, "from")?;
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
    if from < log.first() {
        return Err(LogError::Pruned { first: log.first() }.into());
    }
    let place = shared.streams.clone().try_acquire_owned().map_err(|_| ApiError::TooManyStreams)?;
    let (sender, receiver) = mpsc::channel(1);
    let reader = Reader { log, feed: shared.feed.clone(), next: from, sender };
    tokio::spawn(async move {
        if let Err(error) = reader.run().await {
            tracing::error!("a log stream ended: {error}");
        }
        drop(place);
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

struct Reader {
    log: Log,
    feed: Arc<Feed>,
    /// The number of the entry that it gets next.
    next: u64,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
}

impl Reader {
    async fn run(mut self) -> Result<(), LogError> {
        // Shows the client at once that it is connected.
        if !self.send(Bytes::from_static(b": dshield log\n\n")).await {
            return Ok(());
        }
        let mut head = self.log.head();
        loop {
            // Subscribed before it reads, so that nothing falls between.
            let mut pieces = self.feed.subscribe(&self.log);
            while self.next < *head.borrow_and_update() {
                let lines = self.log.read_within(self.next, PAGE, PAGE_BYTES).await?;
                let piece = Piece::new(self.next, &lines);
                if lines.is_empty() || !self.take(&piece).await {
                    return Ok(());
                }
            }
            loop {
                let piece = tokio::select! {
                    piece = pieces.recv() => piece,
                    () = self.sender.closed() => return Ok(()),
                    // The feed knows the log, so it does not end by itself.
                    ended = ended(&mut head) => return ended,
                    () = tokio::time::sleep(HEARTBEAT) => {
                        if !self.send(Bytes::from_static(b":\n\n")).await {
                            return Ok(());
                        }
                        continue;
                    }
                };
                match piece {
                    Ok(piece) if piece.first > self.next => break,
                    Ok(piece) => {
                        if !self.take(&piece).await {
                            return Ok(());
                        }
                    }
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
        }
    }

    /// Sends what of a piece is new: whether the reader is still there, and fast enough.
    async fn take(&mut self, piece: &Piece) -> bool {
        let text = piece.from(self.next);
        self.next = self.next.max(piece.end());
        text.is_empty() || self.send(text).await
    }

    async fn send(&self, text: Bytes) -> bool {
        matches!(timeout(SLOW, self.sender.send(Ok(text))).await, Ok(Ok(())))
    }
}

/// Resolves when the log is closed.
async fn ended(head: &mut tokio::sync::watch::Receiver<u64>) -> Result<(), LogError> {
    while head.changed().await.is_ok() {}
    Ok(())
}

//! Message bodies on their way through: counted, bounded, never buffered.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ::http_body::{Body as HttpBody, Frame, SizeHint};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// Any body that goes either way.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the body is larger than the rule's max_request_bytes ({0})")]
    TooLarge(u64),
}

/// A body made here.
pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that passes, counted into `count`, with an error beyond `limit` bytes; `done` is dropped when
/// the body is through or given up.
pub(super) fn passing<D: Send + Unpin + 'static>(
    body: Incoming,
    count: Arc<AtomicU64>,
    limit: Option<u64>,
    done: D,
) -> Body {
    Passing { body, count, limit, _done: done }.boxed_unsync()
}

struct Passing<D> {
    body: Incoming,
    count: Arc<AtomicU64>,
    limit: Option<u64>,
    _done: D,
}

impl<D: Unpin> HttpBody for Passing<D> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
            let frame = frame?;
            // Trailers are dropped: a header that no rule has seen must not come in by the back.
            let Some(data) = frame.data_ref() else { continue };
            let total = this.count.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
            if let Some(limit) = this.limit
                && total > limit
            {
                return Poll::Ready(Some(Err(BodyError::TooLarge(limit))));
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Message bodies on their way through: counted, bounded, never buffered.
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ::http::header::{HeaderName, HeaderValue};
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

/// Whom a body belongs to: told when it breaks off, and dropped when it is through or given up.
pub(super) trait Owner: Send + Unpin + 'static {
    /// Something of it went on.
    fn passed(&self);
    /// It ends before its end.
    fn broke_off(&self, error: &BodyError);
}

/// A body that passes, counted into `count`, with an error beyond `limit` bytes.
pub(super) fn passing<O: Owner>(
    body: Incoming,
    count: Arc<AtomicU64>,
    limit: Option<u64>,
    trailers: fn(&HeaderName) -> bool,
    owner: O,
) -> Body {
    Passing { body, count, limit, trailers, owner }.boxed_unsync()
}

struct Passing<O> {
    body: Incoming,
    count: Arc<AtomicU64>,
    limit: Option<u64>,
    /// Which trailers go on: a field that no rule has seen must not come in by the back.
    trailers: fn(&HeaderName) -> bool,
    owner: O,
}

/// A drained map names a field once for all of its values.
fn with_its_name(
    last: &mut Option<HeaderName>,
    (name, value): (Option<HeaderName>, HeaderValue),
) -> Option<(HeaderName, HeaderValue)> {
    *last = name.or(last.take());
    last.clone().map(|name| (name, value))
}

impl<O> Passing<O> {
    fn judge(&self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let length = match (frame.data_ref(), self.trailers) {
            (Some(data), _) => data.len() as u64,
            (None, may_pass) => {
                if let Some(trailers) = frame.trailers_mut() {
                    *trailers = trailers.drain().scan(None, with_its_name).filter(|(name, _)| may_pass(name)).collect();
                }
                0
            }
        };
        let total = self.count.fetch_add(length, Ordering::Relaxed) + length;
        match self.limit {
            Some(limit) if total > limit => Err(BodyError::TooLarge(limit)),
            _ => Ok(frame),
        }
    }
}

impl<O: Owner> HttpBody for Passing<O> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let judged = frame.map_err(BodyError::from).and_then(|frame| this.judge(frame));
        // A frame with nothing in it is no progress.
        if judged.as_ref().is_ok_and(|frame| frame.data_ref().is_none_or(|data| !data.is_empty())) {
            this.owner.passed();
        }
        Poll::Ready(Some(judged.inspect_err(|error| this.owner.broke_off(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! A body of any length that costs nothing to make.
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Large enough that what makes the body is never what is measured.
const CHUNK: usize = 256 << 10;

/// So many bytes, the same ones again and again.
#[derive(Clone, Debug)]
pub struct Repeat {
    chunk: Bytes,
    left: u64,
}

impl Repeat {
    /// A body of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { chunk: vec![b'x'; CHUNK].into(), left: bytes }
    }
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let now = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        self.left -= now as u64;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..now)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

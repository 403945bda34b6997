//! A stream that counts what passes, and gives back first what was read from it before.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that passed a connection.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// From the function.
    pub(super) read: Arc<AtomicU64>,
    /// To the function.
    pub(super) written: Arc<AtomicU64>,
}

impl Counters {
    /// Both.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }
}

/// The stream.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    /// Read already, counted already, to be read again.
    prefix: Bytes,
    counters: Arc<Counters>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, counters: Arc<Counters>) -> Self {
        Self { stream, prefix: Bytes::new(), counters }
    }

    /// The same stream, which yields `read`, what was read from it last, again before anything else.
    pub(super) fn again(self, read: Bytes) -> Self {
        let prefix = if self.prefix.is_empty() { read } else { [read, self.prefix].concat().into() };
        Self { prefix, ..self }
    }

    /// The same stream, which yields `first`, read from it before anybody counted, before anything else.
    pub(super) fn beginning_with(self, first: Bytes) -> Self {
        self.counters.read.fetch_add(first.len() as u64, Ordering::Relaxed);
        self.again(first)
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S> AsRef<S> for Counted<S> {
    fn as_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let count = self.prefix.remaining().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.counters.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = result {
            self.counters.written.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = result {
            self.counters.written.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What stood behind the part that was looked at was lost.
    #[tokio::test]
    async fn every_byte_comes_once_and_counts_once_however_often_its_beginning_is_read() {
        let mut stream = Counted::new(&b"three"[..], Arc::default()).beginning_with(Bytes::from_static(b"one two "));
        let mut looked = [0; 4];
        stream.read_exact(&mut looked).await.unwrap();
        let mut stream = stream.again(Bytes::copy_from_slice(&looked));
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!((all.as_str(), stream.counters().totals()), ("one two three", (13, 0)));
    }
}

//! Bytes as they are, after the name was decided on: `passthrough`, and protocols other than HTTP.
//!
//! What is read lies in a buffer of the thread, not of the connection: it is written at once, and only what the other
//! side does not take yet is kept. So an idle connection holds no memory, and a busy one moves large pieces.
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is moved at a time, at most; also what a connection keeps at most, in each direction, of what the other side
/// does not take.
const BUFFER: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Copies both ways until both sides have ended.
pub(super) async fn run(mut function: impl AsyncRead + AsyncWrite + Unpin, mut upstream: TcpStream) -> io::Result<()> {
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let (mut there_done, mut back_done) = (false, false);
    poll_fn(|cx| {
        if !there_done {
            there_done = there.poll(cx, &mut function, &mut upstream)?.is_ready();
        }
        if !back_done {
            back_done = back.poll(cx, &mut upstream, &mut function)?.is_ready();
        }
        if there_done && back_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One way.
#[derive(Debug, Default)]
struct Direction {
    /// Read, and not yet written.
    kept: Bytes,
    /// Nothing more is read.
    ended: bool,
}

impl Direction {
    /// Moves what can be moved now. Ready when the reading side has ended and the writing side knows it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.kept.has_remaining() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.kept.advance(count);
            }
            // An empty view would still hold what it was a view of.
            self.kept = Bytes::new();
            if self.ended {
                return Pin::new(to).poll_shutdown(cx);
            }
            ready!(SCRATCH.with_borrow_mut(|scratch| self.poll_move(cx, from, to, scratch)))?;
        }
    }

    /// Reads once, writes as much of it as goes, keeps the rest.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        let mut rest = read.filled();
        self.ended = rest.is_empty();
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => rest = &rest[count..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.kept = Bytes::copy_from_slice(rest);
                    // The writing side wakes us.
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a TCP connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn all_bytes_pass_both_ways_in_order_though_each_side_takes_few_at_a_time() {
        const LENGTH: usize = 3 * BUFFER + 7;
        let data: Vec<u8> = (0..LENGTH).map(|number| (number % 251) as u8).collect();
        let (mut client, function) = duplex(1000);
        let (upstream, mut server) = pair().await;
        let relay = tokio::spawn(run(function, upstream));
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            server.write_all(&all).await.unwrap();
        });
        client.write_all(&data).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert!(back == data);
        relay.await.unwrap().unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn one_side_that_has_ended_still_hears_the_other() {
        let (mut client, function) = duplex(1000);
        let (upstream, mut server) = pair().await;
        let relay = tokio::spawn(run(function, upstream));
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        client.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        server.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
        drop(client);
        relay.await.unwrap().unwrap();
    }
}

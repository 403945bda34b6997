//! Stands between a function and the HTTP/1.1 library: a head goes on only when it is whole and can be read in one way
//! only ([`super::framing`]), and of a body no more than its framing says.
//!
//! In place of a head that violates the rules the library gets one of ours, so that the answer which says so comes in
//! its turn, behind those to the requests before it ([`Ledger::violation`]). After a request that asks for another
//! protocol nothing goes on until [`Ledger::settle`] says which protocol it is.
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::time::{Sleep, sleep};

use super::framing::{self, Chunks, Framing, Head, Violation};

/// How long a head may take from its first byte to its last.
pub(in crate::proxy) const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long, and how much, a function may go on sending what nobody reads any more.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;
const PIECE: usize = 8 << 10;

/// What the library reads in place of a head that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// What the guard and the service that answers the requests know together. Requests are numbered from 1.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Ledger(Mutex<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How many heads went on.
    heads: u64,
    /// How many the service was called with.
    answered: u64,
    /// The number of the stand-in, and what it stands for.
    violation: Option<(u64, Violation)>,
    /// The number of the request that may change the protocol; what was decided.
    gate: Option<(u64, Option<Protocol>)>,
    waker: Option<Waker>,
}

/// What comes after a request that asked for another protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    /// The other one: nobody looks into it.
    Opaque,
}

impl Ledger {
    /// The service takes the next request: its number.
    pub(super) fn next_request(&self) -> u64 {
        let mut shared = self.lock();
        shared.answered += 1;
        shared.answered
    }

    /// What is wrong with the request of this number, when it is the stand-in.
    pub(super) fn violation(&self, number: u64) -> Option<Violation> {
        self.lock().violation.and_then(|(refused, violation)| (refused == number).then_some(violation))
    }

    /// Says what comes after the request of this number.
    pub(super) fn settle(&self, number: u64, protocol: Protocol) {
        let mut shared = self.lock();
        if let Some((asked, decided)) = &mut shared.gate
            && *asked == number
        {
            *decided = Some(protocol);
            if let Some(waker) = shared.waker.take() {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gave_head(&self, upgrade: bool) {
        let mut shared = self.lock();
        shared.heads += 1;
        shared.gate = upgrade.then_some((shared.heads, None));
    }

    fn refused(&self, violation: Violation) {
        let mut shared = self.lock();
        shared.heads += 1;
        shared.violation = Some((shared.heads, violation));
    }

    fn poll_gate(&self, cx: &Context<'_>) -> Poll<Protocol> {
        let mut shared = self.lock();
        match shared.gate {
            Some((_, None)) => {
                shared.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some((_, Some(protocol))) => Poll::Ready(protocol),
            None => Poll::Ready(Protocol::Http),
        }
    }
}

/// The stream, as the library sees it.
#[derive(Debug)]
pub(in crate::proxy) struct Guard<S> {
    /// No more is read than what the present body has left.
    stream: Take<S>,
    ledger: Arc<Ledger>,
    at: Position,
    /// Read from the stream and not given on.
    held: BytesMut,
    /// So many bytes at its front may go on.
    ready: usize,
    /// So many were searched for the end of a head.
    searched: usize,
    /// [`HEAD_TIME`].
    head_time: Duration,
    /// Runs while a head is incomplete.
    slow: Option<Pin<Box<Sleep>>>,
    closing: Closing,
}

#[derive(Debug)]
enum Position {
    Head,
    Length(u64),
    Chunked(Chunks),
    /// Behind a request that asks for another protocol.
    Gate,
    Opaque,
    /// Behind a violation: nothing more goes on.
    Refused,
}

#[derive(Debug)]
enum Closing {
    No,
    /// Takes what is still on its way: closing a socket that has unread bytes resets the connection, and the reset
    /// would overtake the answer that says what was wrong (RFC 9112, section 9.6).
    Lingering(Pin<Box<Sleep>>, usize),
    Done,
}

impl<S: AsyncRead> Guard<S> {
    pub(in crate::proxy) fn new(stream: S, ledger: Arc<Ledger>) -> Self {
        Self {
            stream: stream.take(u64::MAX),
            ledger,
            at: Position::Head,
            held: BytesMut::new(),
            ready: 0,
            searched: 0,
            head_time: HEAD_TIME,
            slow: None,
            closing: Closing::No,
        }
    }

    /// Looks for a whole head in what is held.
    fn look(&mut self) -> Result<bool, Violation> {
        let end = framing::head_end(&self.held, self.searched)?;
        self.searched = self.held.len();
        let Some(end) = end else { return Ok(false) };
        let Head { framing, upgrade, .. } = framing::head(&self.held[..end])?;
        self.ready = end;
        self.searched = 0;
        self.slow = None;
        self.at = match framing {
            Framing::Chunked => Position::Chunked(Chunks::default()),
            Framing::Length(0) if upgrade => Position::Gate,
            Framing::Length(0) => Position::Head,
            Framing::Length(length) => Position::Length(length),
        };
        self.ledger.gave_head(matches!(self.at, Position::Gate));
        Ok(true)
    }

    fn refuse(&mut self, violation: Violation) {
        self.ledger.refused(violation);
        self.held = STAND_IN.into();
        self.ready = STAND_IN.len();
        self.slow = None;
        self.at = Position::Refused;
    }

    /// Gives on what is held, up to `most` bytes.
    fn give(&mut self, most: usize, buf: &mut ReadBuf<'_>) -> usize {
        let count = most.min(buf.remaining()).min(self.held.len());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        count
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Reads until a head is whole: true; false at the end of the stream.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if !self.held.is_empty() {
                match self.look() {
                    Ok(true) => return Poll::Ready(Ok(true)),
                    Ok(false) => {}
                    Err(violation) => {
                        self.refuse(violation);
                        return Poll::Ready(Ok(true));
                    }
                }
                let time = self.head_time;
                let slow = self.slow.get_or_insert_with(|| Box::pin(sleep(time)));
                if slow.as_mut().poll(cx).is_ready() {
                    self.refuse(Violation::TooSlow);
                    return Poll::Ready(Ok(true));
                }
            }
            self.held.reserve(PIECE);
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }

    /// Reads a piece into what is held.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.stream.set_limit(u64::MAX);
        tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.held)
    }

    /// Up to `left` bytes of a body, from what is held or straight from the stream: how many.
    fn poll_body(&mut self, left: u64, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        if !self.held.is_empty() {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            return Poll::Ready(Ok(self.give(most, buf)));
        }
        let before = buf.filled().len();
        self.stream.set_limit(left);
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(Ok(buf.filled().len() - before))
    }

    fn poll_chunked(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        let count = ready!(self.poll_body(u64::MAX, cx, buf))?;
        let Position::Chunked(chunks) = &mut self.at else { return Poll::Ready(Ok(())) };
        match chunks.feed(&buf.filled()[start..]) {
            Ok(None) => {}
            Ok(Some(taken)) => {
                // What came behind the body is the next head.
                let mut rest = BytesMut::from(&buf.filled()[start + taken..start + count]);
                rest.unsplit(mem::take(&mut self.held));
                self.held = rest;
                buf.set_filled(start + taken);
                self.at = Position::Head;
            }
            Err(violation) => {
                self.at = Position::Refused;
                buf.set_filled(start);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                this.ready -= this.give(this.ready, buf);
                return Poll::Ready(Ok(()));
            }
            match this.at {
                // Not the end of the stream: with that the library would drop the answer that is under way.
                Position::Refused => return Poll::Pending,
                Position::Head => {
                    if !ready!(this.poll_head(cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Position::Length(left) => {
                    let count = ready!(this.poll_body(left, cx, buf))? as u64;
                    this.at = if count == left { Position::Head } else { Position::Length(left - count) };
                    return Poll::Ready(Ok(()));
                }
                Position::Chunked(_) => return this.poll_chunked(cx, buf),
                Position::Gate => {
                    this.at = match ready!(this.ledger.poll_gate(cx)) {
                        Protocol::Http => Position::Head,
                        Protocol::Opaque => Position::Opaque,
                    }
                }
                Position::Opaque => return this.poll_body(u64::MAX, cx, buf).map_ok(drop),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.closing {
                Closing::No => {
                    ready!(Pin::new(this.stream.get_mut()).poll_shutdown(cx))?;
                    let at_rest = matches!(this.at, Position::Head | Position::Opaque) && this.held.is_empty();
                    this.closing = if at_rest { Closing::Done } else { Closing::Lingering(Box::pin(sleep(LINGER)), 0) };
                }
                Closing::Lingering(end, taken) => {
                    if end.as_mut().poll(cx).is_ready() || *taken > LINGER_BYTES {
                        this.closing = Closing::Done;
                        continue;
                    }
                    let mut sink = [0; PIECE];
                    let mut sink = ReadBuf::new(&mut sink);
                    let read = ready!(Pin::new(this.stream.get_mut()).poll_read(cx, &mut sink));
                    *taken += sink.filled().len();
                    // Whether it ended by itself is the function's affair.
                    if read.is_err() || sink.filled().is_empty() {
                        this.closing = Closing::Done;
                    }
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Everything that goes on of what a function sends in pieces of this size, and the ledger.
    async fn passed(sent: &str, piece: usize) -> (String, Arc<Ledger>, io::Result<()>) {
        let ledger = Arc::new(Ledger::default());
        let (mut client, server) = duplex(piece);
        let bytes = sent.as_bytes().to_vec();
        // The stream ends behind it.
        let writer = tokio::spawn(async move { client.write_all(&bytes).await });
        let mut guard = Guard::new(server, ledger.clone());
        let mut out = Vec::new();
        let ended = async {
            while !matches!(guard.at, Position::Refused) || guard.ready > 0 {
                if guard.read_buf(&mut out).await? == 0 {
                    return Ok(());
                }
            }
            // There is no end behind a refusal, and nothing else.
            let more = tokio::time::timeout(Duration::from_millis(300), guard.read_buf(&mut out)).await;
            assert!(more.is_err(), "{more:?}");
            Ok(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("all of it in time");
        writer.abort();
        (String::from_utf8(out).unwrap(), ledger, ended)
    }

    const GOOD: &str = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                        POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                        GET /c HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test]
    async fn good_requests_go_on_as_they_are_in_any_cut() {
        for piece in [1, 2, 7, 64, 4096] {
            assert_eq!(passed(GOOD, piece).await.0, GOOD, "{piece}");
        }
    }

    #[tokio::test]
    async fn a_bad_head_is_replaced_and_nothing_behind_it_goes_on() {
        for piece in [1, 9, 4096] {
            let sent = format!("{GOOD}GET /d HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /e HTTP/1.1\r\nHost: a\r\n\r\n");
            let (out, ledger, _) = passed(&sent, piece).await;
            assert_eq!(out, format!("{GOOD}{}", std::str::from_utf8(STAND_IN).unwrap()), "{piece}");
            let numbers: Vec<_> = (0..4).map(|_| ledger.next_request()).collect();
            assert_eq!(numbers, [1, 2, 3, 4]);
            let violations: Vec<_> = numbers.into_iter().filter_map(|number| ledger.violation(number)).collect();
            assert_eq!((violations, ledger.violation(4)), (vec![Violation::Host], Some(Violation::Host)));
        }
    }

    #[tokio::test]
    async fn a_bad_chunk_is_an_error_and_does_not_go_on() {
        let sent = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n";
        let (out, _, ended) = passed(sent, 4096).await;
        assert!(!out.contains("zz"), "{out}");
        let error = ended.unwrap_err();
        let violation = error.get_ref().and_then(|error| error.downcast_ref::<Violation>());
        assert_eq!(violation, Some(&Violation::ChunkSize));
    }

    #[tokio::test]
    async fn behind_a_wish_for_another_protocol_nothing_goes_on_before_it_is_settled() {
        let wish = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        for (protocol, behind, expected) in [
            (Protocol::Opaque, "\x01\x02 any bytes", "\x01\x02 any bytes"),
            (Protocol::Http, "GET /d HTTP/1.1\r\nHost: a\r\n\r\n", "GET /d HTTP/1.1\r\nHost: a\r\n\r\n"),
            (Protocol::Http, "\x01\x02\n any bytes\r\n\r\n", std::str::from_utf8(STAND_IN).unwrap()),
        ] {
            let ledger = Arc::new(Ledger::default());
            let (mut client, server) = duplex(4096);
            client.write_all(format!("{wish}{behind}").as_bytes()).await.unwrap();
            let mut guard = Guard::new(server, ledger.clone());
            let mut head = vec![0; wish.len()];
            guard.read_exact(&mut head).await.unwrap();
            let mut rest = [0; 256];
            let early = tokio::time::timeout(Duration::from_millis(50), guard.read(&mut rest)).await;
            assert!(early.is_err(), "{early:?}");
            ledger.settle(ledger.next_request(), protocol);
            let count = guard.read(&mut rest).await.unwrap();
            assert_eq!(std::str::from_utf8(&rest[..count]).unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_head_that_dribbles_is_cut_off() {
        let ledger = Arc::new(Ledger::default());
        let (mut client, server) = duplex(4096);
        let mut guard = Guard::new(server, ledger.clone());
        guard.head_time = Duration::from_millis(200);
        tokio::spawn(async move {
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().chain(&[b'y'; 100]) {
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut out = vec![0; STAND_IN.len()];
        guard.read_exact(&mut out).await.unwrap();
        assert_eq!((&out[..], ledger.violation(1)), (STAND_IN, Some(Violation::TooSlow)));
    }
}

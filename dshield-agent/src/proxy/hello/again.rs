//! The hellos of a connection that is passed through, each judged before it goes on.
//!
//! A server may ask for a second one (HelloRetryRequest, RFC 8446, section 4.1.4). It comes in the clear, and there are
//! servers that go by the name in it. Records flow through; a hello that asks for another than the first ends them.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use dshield_common::name::HostName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{CLIENT_HELLO, HANDSHAKE, Hello, RECORD_HEADER, Records, parse};

const PIECE: usize = 16 << 10;
/// The high byte of a message's length. What claims more is no hello that any server takes, but the encrypted end of
/// a TLS 1.2 handshake.
const LONGEST_HELLO: u8 = 3;

/// A later hello is not what the first one was allowed for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum OtherHello {
    #[error("a later ClientHello has the server name {0}")]
    Name(HostName),
    #[error("a later ClientHello names no server (SNI)")]
    NoName,
    #[error("a later ClientHello hides another (ECH), whose name nobody sees")]
    Hidden,
    #[error("a later ClientHello cannot be read")]
    Unreadable,
}

impl OtherHello {
    /// The stable word for the log: that of a first hello which is refused for the same.
    pub(in crate::proxy) fn reason(&self) -> &'static str {
        match self {
            Self::Name(_) | Self::NoName | Self::Unreadable => "sni_mismatch",
            Self::Hidden => "encrypted_client_hello",
        }
    }
}

/// The connection, from its first byte on.
#[derive(Debug)]
pub(in crate::proxy) struct SameHello<S> {
    stream: S,
    name: Option<HostName>,
    /// Read and not given on.
    held: BytesMut,
    /// So many bytes may go on, whether they are held yet or not.
    ready: usize,
}

impl<S> SameHello<S> {
    /// Every hello of `stream` is to ask for `name`.
    pub(in crate::proxy) fn new(stream: S, name: Option<HostName>) -> Self {
        Self { stream, name, held: BytesMut::new(), ready: 0 }
    }

    /// How much of what is held may go on: a record, a hello, or from then on everything; 0 to read more.
    fn judge(&self) -> Result<usize, OtherHello> {
        let Some([kind, _, _, high, low]) = self.held.first_chunk::<RECORD_HEADER>() else { return Ok(0) };
        if *kind != HANDSHAKE {
            return Ok(RECORD_HEADER + usize::from(u16::from_be_bytes([*high, *low])));
        }
        match self.held.get(RECORD_HEADER) {
            // What stands there then is not its content.
            _ if [*high, *low] == [0, 0] => return Err(OtherHello::Unreadable),
            None => return Ok(0),
            Some(&CLIENT_HELLO) => {}
            // The handshake has gone on, and no server takes a hello any more.
            Some(_) => return Ok(usize::MAX),
        }
        let mut records = Records::default();
        let read = records.message(&self.held).map(|whole| whole.map(parse));
        let Hello { server_name, encrypted } = match read {
            Ok(None) => return Ok(0),
            Ok(Some(hello)) => hello.map_err(|_| OtherHello::Unreadable)?,
            Err(_) if records.message.get(1).is_some_and(|high| *high > LONGEST_HELLO) => return Ok(usize::MAX),
            Err(_) => return Err(OtherHello::Unreadable),
        };
        match server_name {
            _ if encrypted => Err(OtherHello::Hidden),
            same if same == self.name => Ok(records.taken),
            Some(other) => Err(OtherHello::Name(other)),
            None => Err(OtherHello::NoName),
        }
    }
}

impl<T, S: AsRef<T>> AsRef<T> for SameHello<S> {
    fn as_ref(&self) -> &T {
        self.stream.as_ref()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SameHello<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready == 0 {
                this.ready = this.judge().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let count = this.ready.min(this.held.len()).min(buf.remaining());
            if count > 0 {
                buf.put_slice(&this.held[..count]);
                this.held.advance(count);
                this.ready -= count;
                return Poll::Ready(Ok(()));
            }
            this.held.reserve(PIECE);
            let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.held))?;
            if read == 0 {
                // Half a record has no meaning for anybody.
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SameHello<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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

    use super::super::tests::{hello, in_records, with_extension};
    use super::*;

    /// What goes on of `parts`, cut into pieces, and what ended it before its end.
    async fn passed(parts: &[&[u8]], piece: usize) -> (Vec<u8>, Option<OtherHello>) {
        let sent = parts.concat();
        let (mut client, server) = tokio::io::duplex(piece);
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut client, &sent).await });
        let mut out = Vec::new();
        let name = HostName::parse("a.example").unwrap();
        let ended = SameHello::new(server, Some(name)).read_to_end(&mut out).await;
        (out, ended.err().map(|error| error.downcast().unwrap()))
    }

    const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];
    const DATA: &[u8] = &[23, 3, 3, 0, 3, 1, 2, 3];

    #[tokio::test]
    async fn a_second_hello_goes_on_only_when_it_asks_for_the_same() {
        let (good, bad) = (hello("a.example"), hello("b.example"));
        for piece in [1, 7, 65536] {
            let parts: &[&[u8]] = &[&good, CHANGE, DATA, &in_records(&good, 9), DATA, DATA];
            assert_eq!(passed(parts, piece).await, (parts.concat(), None));
            // Nothing of it goes on, behind whatever else, and in whatever records.
            for between in [&[][..], CHANGE, DATA, &[CHANGE, DATA].concat()] {
                let empty = [&[22, 3, 3, 0, 0][..], &bad].concat();
                let (unreadable, other) =
                    (OtherHello::Unreadable, OtherHello::Name(HostName::parse("b.example").unwrap()));
                assert_eq!(
                    passed(&[&good, between, &empty], piece).await,
                    ([&good, between].concat(), Some(unreadable))
                );
                for bad in [bad.clone(), in_records(&bad, 1), in_records(&bad, 100)] {
                    let expected = ([&good, between].concat(), Some(other.clone()));
                    assert_eq!(passed(&[&good, between, &bad], piece).await, expected);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_second_hello_without_a_name_or_with_a_hidden_one_is_told_apart() {
        let good = hello("a.example");
        let hidden = with_extension(&good, 0xfe0d, &[0; 200]);
        for (second, other) in [(hello("192.0.2.1"), OtherHello::NoName), (hidden, OtherHello::Hidden)] {
            assert_eq!(passed(&[&good, &second], 100).await, (good.clone(), Some(other)));
        }
    }

    #[tokio::test]
    async fn a_handshake_that_goes_on_is_left_alone() {
        let good = hello("a.example");
        // TLS 1.2: a key exchange; the encrypted end of a resumed handshake.
        let key: &[u8] = &[22, 3, 3, 0, 5, 16, 0, 0, 1, 7];
        let end: &[u8] = &[22, 3, 3, 0, 5, 1, 99, 99, 99, 99];
        for parts in [&[&good, key, CHANGE, end, DATA][..], &[&good, CHANGE, end, DATA]] {
            assert_eq!(passed(parts, 5).await, (parts.concat(), None));
        }
    }
}

//! The beginning of a connection to a TLS port: a TCP stream flows in, a TLS stream flows out, or nothing where the client
//! does not speak TLS.
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The type of a TLS record that carries a handshake (RFC 8446, section 5.1): every TLS client's first byte.
const HANDSHAKE: u8 = 0x16;
/// How long a client that does not speak TLS may take to read why it gets no further.
const LINGER: Duration = Duration::from_secs(2);

const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\n\
    content-length: 47\r\n\
    connection: close\r\n\
    x-dshield-tls: required\r\n\
    \r\n\
    this is the TLS port of D-Shield: use https://\n";

/// Makes a TLS connection of a new one. It is the caller who says how long that may take; what a client can make it keep
/// is one handshake message, of 64 KiB at most (rustls).
///
/// # Errors
/// The client speaks something else, and has been told so in HTTP; or it broke off, or nothing could be agreed on.
pub(super) async fn handshake(stream: TcpStream, tls: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first == [HANDSHAKE] {
        return tls.accept(stream).await;
    }
    // It is enough that this is tried.
    let _ = tokio::time::timeout(LINGER, refuse(stream)).await;
    Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak TLS"))
}

/// Reads on after the answer: closing a socket with unread bytes resets the connection, which a client that still sends
/// notices before it reads the answer.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(NOT_TLS).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

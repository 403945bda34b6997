//! `passthrough`: the bytes as they are, after the name in the ClientHello was decided on.
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

/// Large enough for two full TLS records.
const BUFFER: usize = 32 << 10;

/// Sends what was read already, then copies both ways until both sides have ended.
pub(super) async fn run(
    mut function: impl AsyncRead + AsyncWrite + Unpin,
    hello: Bytes,
    mut upstream: TcpStream,
) -> io::Result<()> {
    upstream.write_all(&hello).await?;
    copy_bidirectional_with_sizes(&mut function, &mut upstream, BUFFER, BUFFER).await?;
    Ok(())
}

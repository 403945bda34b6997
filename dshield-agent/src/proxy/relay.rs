//! Bytes as they are, after the name was decided on: `passthrough`, and protocols other than HTTP.
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

/// Large enough for two full TLS records.
const BUFFER: usize = 32 << 10;

/// Copies both ways until both sides have ended.
pub(super) async fn run(mut function: impl AsyncRead + AsyncWrite + Unpin, mut upstream: TcpStream) -> io::Result<()> {
    copy_bidirectional_with_sizes(&mut function, &mut upstream, BUFFER, BUFFER).await?;
    Ok(())
}

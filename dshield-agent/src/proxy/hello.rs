//! The ClientHello: read whole, across records and segments, before anything is decided.
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dshield_common::name::HostName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A hello larger than this is refused; the largest real ones, with post-quantum keys, stay below 4 KiB.
const MAX_BYTES: usize = 64 << 10;
/// How long a client may take to send it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a client said first.
#[derive(Debug)]
pub(super) struct Hello {
    /// The name it wants (RFC 6066), if it says one.
    pub(super) server_name: Option<HostName>,
    /// Every byte read, to be sent on or parsed again.
    pub(super) bytes: Bytes,
}

/// Why there is no usable hello. The function is at fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the client sent no TLS ClientHello ({0})")]
    NotTls(String),
    #[error("the ClientHello names a server that is no host name")]
    BadServerName,
    #[error("the client sent no whole ClientHello in {} s and {} KiB", TIMEOUT.as_secs(), MAX_BYTES >> 10)]
    Incomplete,
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// The stable word for the log.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotTls(_) => "not_tls",
            Self::BadServerName => "sni_invalid",
            Self::Incomplete => "hello_incomplete",
            Self::Io(_) => "connection_ended",
        }
    }
}

/// Reads a ClientHello from `stream`.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello, HelloError> {
    tokio::time::timeout(TIMEOUT, read_hello(stream)).await.unwrap_or(Err(HelloError::Incomplete))
}

async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<Hello, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = BytesMut::with_capacity(4096);
    loop {
        let start = bytes.len();
        if start >= MAX_BYTES {
            return Err(HelloError::Incomplete);
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a ClientHello");
            return Err(HelloError::Io(ended));
        }
        let mut new = &bytes[start..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name = hello.server_name().map(HostName::parse).transpose();
                    let server_name = server_name.map_err(|_| HelloError::BadServerName)?;
                    return Ok(Hello { server_name, bytes: bytes.freeze() });
                }
                Ok(None) => {}
                Err((error, _alert)) => return Err(HelloError::NotTls(error.to_string())),
            }
        }
    }
}

//! A door for the fuzz targets to parsers that are private otherwise. Nothing in the agent goes through it.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use dshield_common::name::HostName;
use dshield_common::policy::FunctionPolicy;
use tokio::io::{AsyncRead, ReadBuf};

use super::http::Guard;
use super::names::Names;
use super::{dns, hello};

/// Bytes that arrive in pieces of some size, then the end.
struct Pieces<'b> {
    left: &'b [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.size.min(buf.remaining()).min(self.left.len());
        let (piece, left) = self.left.split_at(size);
        buf.put_slice(piece);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

/// What the judge of framing gives on of `bytes` that arrive in pieces of `size`. Called within a tokio runtime.
#[must_use]
pub fn given_on(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut guard = Guard::new(Pieces { left: bytes, size }, Arc::default());
    let mut given = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let mut buf = ReadBuf::new(&mut buffer);
        // Pending is for good: the pieces never wait, and nobody settles what protocol follows.
        match Pin::new(&mut guard).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => given.extend_from_slice(buf.filled()),
            _ => return given,
        }
    }
}

/// The name in a ClientHello that arrives in pieces of `size`, and whether there is an encrypted one; `None` where there
/// is no hello. Called within a tokio runtime.
pub async fn client_hello(bytes: &[u8], size: usize) -> Option<(Option<HostName>, bool)> {
    let (hello, _) = hello::read(&mut Pieces { left: bytes, size }).await.ok()?;
    Some((hello.server_name, hello.encrypted))
}

/// The DNS of one instance.
#[derive(Debug)]
pub struct Dns {
    policy: Arc<FunctionPolicy>,
    names: Names,
}

impl Dns {
    /// For a function with this policy.
    #[must_use]
    pub fn new(policy: Arc<FunctionPolicy>) -> Self {
        Self { policy, names: Names::default() }
    }

    /// The reply to one message.
    #[must_use]
    pub fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        dns::Zone { policy: &self.policy, names: &self.names, ipv6: true }.answer(question).reply
    }
}

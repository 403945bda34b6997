//! Serves HTTP/1.1 on a listener whose clients may be hostile, in the clear or inside TLS: bounded connections, bounded
//! headers, no connection that only waits.
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::TcpUserTimeout;
use nix::sys::socket::{SockaddrStorage, getpeername, setsockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::handshake::handshake;

/// The largest request head.
const HEAD_BYTES: usize = 64 * 1024;
/// How long requests may go on after `shutdown`.
const GRACE: Duration = Duration::from_secs(5);

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections; further ones wait in the listener's queue.
    pub connections: usize,
    /// From the moment a connection is idle until the next request's head is complete; and before the first one, as long
    /// again for the TLS handshake.
    pub head: Duration,
    /// How long a client may leave an answer unread before its connection is cut off.
    pub unread: Option<Duration>,
}

/// The client's end of the connection that a request came by; in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<OwnedFd>);

impl Peer {
    /// Where it is.
    pub fn address(&self) -> Option<IpAddr> {
        let address = getpeername::<SockaddrStorage>(self.0.as_raw_fd()).ok()?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    }

    /// False when the client has closed the connection, or its half of it. A process that ended has. What it sent before
    /// that and nobody has read, such as TLS's close_notify, does not hide it; close_notify alone is no end.
    pub fn is_connected(&self) -> bool {
        let gone = PollFlags::from_bits_retain(libc::POLLRDHUP) | PollFlags::POLLHUP | PollFlags::POLLERR;
        let mut asked = [PollFd::new(self.0.as_fd(), gone)];
        matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0))
    }
}

/// Serves until `shutdown` resolves; then finishes the requests being served, for a few seconds at most.
/// Dropped before that, it closes all connections. With `tls`, nothing but TLS.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(());
    let free = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = free.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (permit, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone(), limits, tls.clone(), stopped.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, or a client that is already gone. Neither is helped by trying at once.
                    tracing::warn!("accepting a connection failed: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    drop(stop);
    let finished = async { while connections.join_next().await.is_some() {} };
    // What is still open then is cut off as the set is dropped.
    let _ = tokio::time::timeout(GRACE, finished).await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    mut stopped: watch::Receiver<()>,
) {
    // They fail only for a connection that is already gone.
    let _ = stream.set_nodelay(true);
    if let Some(unread) = limits.unread {
        // The kernel's timer, since nothing here is asked while a write waits.
        let _ = setsockopt(&stream, TcpUserTimeout, &u32::try_from(unread.as_millis()).unwrap_or(u32::MAX));
    }
    let Ok(peer) = stream.as_fd().try_clone_to_owned() else { return };
    let peer = Peer(Arc::new(peer));
    let Some(tls) = tls else { return requests(stream, peer, router, limits, stopped).await };
    let made = tokio::select! {
        made = tokio::time::timeout(limits.head, handshake(stream, &tls)) => made,
        _ = stopped.changed() => return,
    };
    match made {
        Ok(Ok(stream)) => requests(stream, peer, router, limits, stopped).await,
        Ok(Err(error)) => tracing::debug!("no TLS with a client: {error}"),
        Err(_) => tracing::debug!("no TLS with a client: its handshake took too long"),
    }
}

/// Answers requests until the connection ends.
async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<()>,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        // An axum router is always ready.
        router.clone().call(request.map(Body::new))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        _ = stopped.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection ended early: {error}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

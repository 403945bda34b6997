//! Serves HTTP/1.1 on a listener whose clients may be hostile: bounded connections, bounded headers, no
//! connection that only waits.
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
use nix::sys::socket::sockopt::TcpUserTimeout;
use nix::sys::socket::{MsgFlags, SockaddrStorage, getpeername, recv, setsockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service;

/// The largest request head.
const HEAD_BYTES: usize = 64 * 1024;
/// How long requests may go on after `shutdown`.
const GRACE: Duration = Duration::from_secs(5);

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections; further ones wait in the listener's queue.
    pub connections: usize,
    /// From the moment a connection is idle until the next request's head is complete.
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

    /// False when the client has closed the connection. A process that ended has.
    pub fn is_connected(&self) -> bool {
        let mut byte = [0];
        match recv(self.0.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(read) => read > 0,
            Err(error) => error == nix::errno::Errno::EAGAIN,
        }
    }
}

/// Serves until `shutdown` resolves; then finishes the requests being served, for a few seconds at most.
/// Dropped before that, it closes all connections.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
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
                    let connection = connection(stream, router.clone(), limits, stopped.clone());
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

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut stopped: watch::Receiver<()>) {
    // They fail only for a connection that is already gone.
    let _ = stream.set_nodelay(true);
    if let Some(unread) = limits.unread {
        // The kernel's timer, since nothing here is asked while a write waits.
        let _ = setsockopt(&stream, TcpUserTimeout, &u32::try_from(unread.as_millis()).unwrap_or(u32::MAX));
    }
    let Ok(peer) = stream.as_fd().try_clone_to_owned() else { return };
    let peer = Peer(Arc::new(peer));
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
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(limits: Limits, shutdown: impl Future<Output = ()> + Send + 'static) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "hello" }));
        tokio::spawn(serve(listener, router, limits, shutdown));
        address
    }

    /// It was told nothing more, and kept its place for ever.
    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = || async { vec![b'x'; 64 << 20] };
        let router = Router::new().route("/", get(|| async { "hello" })).route("/large", get(large));
        let unread = Some(Duration::from_millis(500));
        let limits = Limits { connections: 1, head: Duration::from_secs(60), unread };
        tokio::spawn(serve(listener, router, limits, std::future::pending()));
        let mut lazy = TcpStream::connect(address).await.unwrap();
        lazy.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        lazy.readable().await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        let answered = tokio::time::timeout(Duration::from_secs(60), next.read_to_string(&mut text)).await;
        answered.expect("the place was not given away").unwrap();
        assert!(text.ends_with("hello"), "{text}");
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_its_request_head_is_cut_off() {
        let limits = Limits { connections: 1, head: Duration::from_millis(50), unread: None };
        let address = start(limits, std::future::pending()).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        // The only place is taken, and is free again in time.
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        next.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("hello"), "{text}");
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("200"));
    }

    #[tokio::test]
    async fn shutdown_closes_idle_connections() {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let limits = Limits { connections: 8, head: Duration::from_secs(60), unread: None };
        let address = start(limits, async { drop(stopped.await) }).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        idle.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        drop(stop);
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
    }
}

//! Connections of strangers: HTTP/1.1 in the clear, with bounds on how many there are, how long they last and how long a
//! head may be.
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::JoinSet;

use super::{Service, routes};

/// Open connections; further ones wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// The largest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// From the moment a connection is idle until the next head is complete.
const HEAD: Duration = Duration::from_secs(10);
/// A connection's whole life, so that nobody keeps one by reading or writing a byte now and then.
const LIFE: Duration = Duration::from_secs(120);
/// How long requests may go on once the service stops.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until `shutdown` ends, then finishes the requests under way.
pub(super) async fn serve(listener: TcpListener, service: Arc<Service>, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = channel::channel(());
    let free = Arc::new(Semaphore::new(CONNECTIONS));
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
                    let connection = connection(stream, service.clone(), stopped.clone());
                    connections.spawn(async move {
                        let _ = tokio::time::timeout(LIFE, connection).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, or a client that is already gone. Neither is helped by trying at once.
                    eprintln!("dshield-verify: accepting a connection failed: {error}");
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

async fn connection(stream: TcpStream, service: Arc<Service>, mut stopped: channel::Receiver<()>) {
    // It fails only for a connection that is already gone.
    let _ = stream.set_nodelay(true);
    let answering = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(routes::answer(&service, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), answering);
    let mut served = pin!(served);
    // An error is the client's, who is gone.
    tokio::select! {
        _ = &mut served => {}
        _ = stopped.changed() => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
}

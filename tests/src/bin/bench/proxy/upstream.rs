//! What all proxies lead to: a TLS server that does as little as one can, on two threads of the bench's own process.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET` or `POST /small/…` | 256 bytes |
//! | `GET /bytes/N` | N bytes |
//! | `POST /sink` | how many bytes came |
//! | `GET /hold` | nothing, once [`Upstream::release`] was called |
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use dshield_tests::client::Error;
use dshield_tests::load::Repeat;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::pki::Pki;

const THREADS: usize = 2;

type Reply = Response<BoxBody<bytes::Bytes, Infallible>>;

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    runtime: Runtime,
    tls: Arc<rustls::ServerConfig>,
    gate: Arc<Gate>,
    held: Mutex<mpsc::Receiver<()>>,
}

/// Where `/hold` waits.
#[derive(Debug)]
struct Gate {
    arrived: mpsc::Sender<()>,
    open: Semaphore,
}

impl Upstream {
    /// Makes it; it listens nowhere yet.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        let (chain, key) = pki.identity();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("bench-upstream")
            .enable_all()
            .build()?;
        let (arrived, held) = mpsc::channel();
        let gate = Arc::new(Gate { arrived, open: Semaphore::new(0) });
        Ok(Self { runtime, tls: Arc::new(tls), gate, held: Mutex::new(held) })
    }

    /// Listens on this port (0: a free one) of 127.0.0.1 in the namespace of the calling thread.
    pub fn listen(&self, port: u16) -> Result<SocketAddr, Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _entered = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        self.runtime.spawn(accept(listener, self.tls.clone().into(), self.gate.clone()));
        Ok(address)
    }

    /// Waits until somebody asks for `/hold`.
    pub fn held(&self, patience: Duration) -> Result<(), Error> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.recv_timeout(patience).map_err(|_| "the connections were not open in time".into())
    }

    /// Answers it.
    pub fn release(&self) {
        self.gate.open.add_permits(1);
    }
}

async fn accept(listener: tokio::net::TcpListener, tls: TlsAcceptor, gate: Arc<Gate>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, gate) = (tls.clone(), gate.clone());
        tokio::spawn(async move {
            // Small answers go out at once.
            let _ = stream.set_nodelay(true);
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, gate.clone()));
            // A client that goes away ends its connection, nothing else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, gate: Arc<Gate>) -> Result<Reply, Infallible> {
    static SMALL: [u8; 256] = [b'x'; 256];
    let (head, mut body) = request.into_parts();
    let mut received = 0;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let small = |bytes: bytes::Bytes| Response::new(Full::from(bytes).boxed());
    Ok(match head.uri.path() {
        path if path.starts_with("/small/") => small(bytes::Bytes::from_static(&SMALL)),
        "/sink" => small(received.to_string().into()),
        "/hold" => {
            // The bench may have given up waiting.
            let _ = gate.arrived.send(());
            if let Ok(permit) = gate.open.acquire().await {
                permit.forget();
            }
            small(bytes::Bytes::new())
        }
        path => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => Response::new(Repeat::new(count).boxed()),
            None => {
                let mut missing = small(bytes::Bytes::new());
                *missing.status_mut() = StatusCode::NOT_FOUND;
                missing
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use dshield_tests::load;
    use serde_json::{Value, json};

    use super::*;
    use crate::proxy::subject::INSPECTED;

    #[test]
    fn bodies_pass_whole_both_ways_and_idle_connections_wait_to_be_released() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::make(folder.path(), &[INSPECTED]).unwrap();
        let upstream = Upstream::new(&pki).unwrap();
        let address = upstream.listen(0).unwrap().to_string();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let measure = |mut event: Value| {
            event["host"] = json!(INSPECTED);
            event["address"] = json!(address);
            runtime.block_on(load::measure(&event, pki.ca.clone())).unwrap()
        };
        let bytes = (1 << 20) + 7;
        assert_eq!(measure(json!({"kind": "down", "path": format!("/bytes/{bytes}"), "bytes": bytes}))["bytes"], bytes);
        assert_eq!(measure(json!({"kind": "up", "path": "/sink", "bytes": bytes}))["bytes"], bytes);
        std::thread::scope(|scope| {
            let upstream = &upstream;
            scope.spawn(move || {
                upstream.held(Duration::from_secs(30)).unwrap();
                upstream.release();
            });
            let event = json!({"kind": "idle", "path": "/small/", "hold": "/hold", "connections": 3});
            assert_eq!(measure(event)["connections"], 3);
        });
    }
}

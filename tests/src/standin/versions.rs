//! An upstream that speaks the HTTP versions that it is told to: streams, trailers, and other protocols after a 101.
//!
//! `GET /trailers` answers a body with a trailer, `/large` one of 8 MiB, `/packed` [`PACKED`] as it is, `POST /back` gives the body back with its own trailers as fields,
//! `/switch` echoes bytes after a 101, and all else answers the version that was spoken. [`Versions::seen`] is what came.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsAcceptor;

use super::tls::Issued;
use crate::background::Background;

/// What `/packed` answers: gzip (RFC 1952).
pub const PACKED: [u8; 62] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x2b, 0x48, 0x4c, 0xce, 0x4e, 0x4d, 0xd1, 0x51, 0x48,
    0xcc, 0x4b, 0x51, 0xc8, 0xcb, 0x2f, 0x51, 0x28, 0xc9, 0x57, 0x48, 0x4a, 0x55, 0x28, 0xcd, 0x2b, 0x00, 0x8b, 0x2b,
    0xe4, 0xe7, 0x29, 0x64, 0x96, 0x14, 0x2b, 0x94, 0x27, 0x56, 0x72, 0x15, 0xd0, 0x40, 0x25, 0x00, 0x5e, 0x51, 0xe7,
    0x61, 0x7e, 0x00, 0x00, 0x00,
];
/// What it unpacks to: three times this.
pub const UNPACKED: &str = "packed, and not to be unpacked on its way\n";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The version that the upstream was spoken to in.
    pub version: Version,
    /// The method.
    pub method: String,
    /// The target as it came.
    pub target: String,
    /// Its fields.
    pub headers: HeaderMap,
}

type Record = Arc<Mutex<Vec<Arrived>>>;

/// A running upstream; it stops when dropped.
#[derive(Debug)]
pub struct Versions {
    addr: SocketAddr,
    ca_pem: String,
    record: Record,
    connections: Arc<AtomicUsize>,
    _server: Background,
}

impl Versions {
    /// Plays `name` over TLS and offers these protocols (ALPN).
    #[must_use]
    pub fn start(name: &str, alpn: &[&str]) -> Self {
        let authority = Issued::authority(|_| ());
        let mut config = (*authority.leaf(&[name], |_| ()).server(&[])).clone();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let (record, connections) = (Record::default(), Arc::new(AtomicUsize::new(0)));
        let (tls, written, counted) = (TlsAcceptor::from(Arc::new(config)), record.clone(), connections.clone());
        let server = Background::spawn("versions", move || accept(listener, tls, written, counted));
        Self { addr, ca_pem: authority.certificate.pem(), record, connections, _server: server }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate authority that its certificate is from.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// How many TCP connections arrived, with or without a request.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Every request that arrived, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Arrived> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, record: Record, connections: Arc<AtomicUsize>) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this process");
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let (tls, record) = (tls.clone(), record.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let second = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| serve(request, record.clone()));
            let io = TokioIo::new(stream);
            // A client that goes away ends its connection, nothing else.
            if second {
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
            }
        });
    }
}

async fn serve(request: Request<Incoming>, record: Record) -> Result<Response<Body>, Infallible> {
    record.lock().unwrap_or_else(PoisonError::into_inner).push(Arrived {
        version: request.version(),
        method: request.method().to_string(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
    });
    let text = format!("{:?}", request.version());
    Ok(match request.uri().path() {
        "/trailers" => trailers(),
        "/large" => Response::new(Full::new(vec![b'x'; 8 << 20].into()).boxed_unsync()),
        "/packed" => packed(),
        "/back" => back(request).await,
        "/switch" if request.headers().contains_key(header::UPGRADE) => switch(request),
        _ => Response::new(Full::new(text.into()).boxed_unsync()),
    })
}

fn trailers() -> Response<Body> {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    fields.insert("set-cookie", HeaderValue::from_static("not=here"));
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(fields)];
    let frames = frames.map(Ok::<_, Infallible>);
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("grpc-status, set-cookie"));
    response
}

/// With an invitation to go elsewhere (RFC 7838).
fn packed() -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(&PACKED)).boxed_unsync());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    fields.insert(header::ALT_SVC, HeaderValue::from_static("h3=\":443\", h2=\"elsewhere.example:443\""));
    response
}

async fn back(request: Request<Incoming>) -> Response<Body> {
    let Ok(whole) = request.into_body().collect().await else {
        let mut broken = Response::new(Full::new(Bytes::new()).boxed_unsync());
        *broken.status_mut() = StatusCode::BAD_REQUEST;
        return broken;
    };
    let fields = whole.trailers().cloned().unwrap_or_default();
    let mut response = Response::new(Full::new(whole.to_bytes()).boxed_unsync());
    response.headers_mut().extend(fields);
    response
}

fn switch(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let asked = request.headers()[header::UPGRADE].clone();
    response.headers_mut().insert(header::UPGRADE, asked);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

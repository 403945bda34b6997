//! Connections upstream: decided before, then resolved and dialled ([`dial`]), and proven by the certificate ([`trust`]).
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use dshield_common::destination::Destination;
use dshield_common::policy::{Route, Rule, SpkiPin, TlsMode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::body::Body;
use super::resolver::ResolveError;
use super::{Resolver, dial, trust};
use crate::instance::BoxFuture;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most servers close an idle connection after a minute.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// As many as an instance has connections: one more would be closed after each request, and cost a handshake.
const POOL_PER_HOST: usize = super::MAX_CONNECTIONS as usize;
/// A wildcard rule has as many names as a function likes to make up, and each has idle connections.
const MAX_CLIENTS: usize = 64;

/// RFC 7301's names.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// What is read from an upstream at once, and so what a connection holds in the agent's memory in one direction.
const READ_BYTES: usize = 64 << 10;
/// The largest head of a response.
const MAX_HEAD: u32 = 64 << 10;
/// What an upstream may send on one HTTP/2 stream, and on all of a connection, before the function has taken it.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What of a request waits for an upstream that does not read.
const SEND_BYTES: usize = 64 << 10;
/// How often a connection with requests under way is asked whether it still lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why the upstream was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum UpstreamError {
    #[error("{name} could not be resolved: {source}")]
    Resolve { name: String, source: ResolveError },
    #[error("there is no address to connect to")]
    NoAddress,
    #[error(
        "{name} resolves to {address} ({why}), which is not on the public internet; a rule may pin it with `resolve`"
    )]
    SpecialPurpose { name: String, address: std::net::IpAddr, why: &'static str },
    #[error("the function has as many connections upstream as it may have, and all are in use")]
    TooMany,
    #[error("{address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{name} did not prove its name: {source}")]
    Tls { name: String, source: io::Error },
    #[error("{name} proved its name with the key {found}, which `pin_spki` does not have")]
    Key { name: String, found: SpkiPin },
    #[error("the trust anchors of the rule are not usable: {0}")]
    Anchors(rustls::Error),
}

impl UpstreamError {
    /// The stable word for the log, where this is a refusal and not a failure.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::SpecialPurpose { .. } => Some("special_purpose_address"),
            Self::Tls { .. } => Some("upstream_certificate"),
            Self::Key { .. } => Some("upstream_key"),
            _ => None,
        }
    }
}

/// One instance's way upstream: HTTP clients with their pools, one for each rule and name.
#[derive(Debug)]
pub(super) struct Upstream {
    resolver: Arc<Resolver>,
    clients: Arc<Clients>,
    free: Arc<Semaphore>,
}

/// By the request's rule, destination, port and dialect, so that no request ever travels on a connection that another
/// rule's request made. Whom a connection trusts is the route's affair: the rules of one host and port agree about it.
type Clients = Mutex<HashMap<(String, Destination, u16, Dialect), HttpClient>>;

/// One of the connections that a function may have upstream; free again when it is dropped.
pub(super) type Place = OwnedSemaphorePermit;

/// Waits for a place. Connections that wait idle for their next request make room.
async fn place(free: Arc<Semaphore>, clients: &Clients) -> Result<Place, UpstreamError> {
    if let Ok(place) = free.clone().try_acquire_owned() {
        return Ok(place);
    }
    // Requests under way have handles of their own.
    drop(std::mem::take(&mut *lock(clients)));
    let place = tokio::time::timeout(HANDSHAKE_TIMEOUT, free.acquire_owned()).await;
    place.ok().and_then(Result::ok).ok_or(UpstreamError::TooMany)
}

fn lock(clients: &Clients) -> MutexGuard<'_, HashMap<(String, Destination, u16, Dialect), HttpClient>> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which versions of HTTP a client may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dialect {
    /// What the upstream prefers; without TLS always HTTP/1.1.
    Any,
    /// Only HTTP/1.1, where a connection can change its protocol.
    Http1,
}

impl Dialect {
    /// What to offer in TLS (RFC 7301).
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Any => &[HTTP2, HTTP1],
            Self::Http1 => &[HTTP1],
        }
    }
}

/// A client for one route.
pub(super) type HttpClient = Client<Connector, Body>;

impl Upstream {
    /// With so many connections at a time, idle ones among them: the agent's descriptors and memory are shared by all.
    pub(super) fn new(resolver: Arc<Resolver>, connections: usize) -> Self {
        Self { resolver, clients: Arc::default(), free: Arc::new(Semaphore::new(connections)) }
    }

    /// Opens a TCP connection for a decided route whose requests are not seen.
    pub(super) async fn dial(&self, route: &Route) -> Result<(TcpStream, Place), UpstreamError> {
        let place = place(self.free.clone(), &self.clients).await?;
        Ok((dial::dial(&self.resolver, route).await?, place))
    }

    /// The client for a request that `rule` allows on a decided route.
    pub(super) fn client(&self, route: &Route, rule: &Rule, dialect: Dialect) -> Result<HttpClient, UpstreamError> {
        let key = (rule.id.clone(), route.to.clone(), route.port, dialect);
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let connector = Connector {
            resolver: self.resolver.clone(),
            clients: Arc::downgrade(&self.clients),
            free: self.free.clone(),
            route: Arc::new(route.clone()),
            tls: match route.tls() {
                TlsMode::Inspect => Some(client_config(route, dialect)?.into()),
                TlsMode::None | TlsMode::Passthrough => None,
            },
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_max_buf_size(READ_BYTES)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEAD)
            .http2_max_send_buf_size(SEND_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .build(connector);
        if clients.len() >= MAX_CLIENTS {
            // Closes their idle connections; requests under way have a handle of their own.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// What the upstream's certificate must prove.
fn server_name(to: &Destination) -> Result<ServerName<'static>, InvalidDnsNameError> {
    match to {
        Destination::Name(name) => ServerName::try_from(name.to_string()),
        Destination::Address(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

fn client_config(route: &Route, dialect: Dialect) -> Result<Arc<ClientConfig>, UpstreamError> {
    let config = trust::client_config(route.ca(), route.pin_spki(), dialect.alpn());
    config.map(Arc::new).map_err(UpstreamError::Anchors)
}

/// Opens connections for one route. The URI says nothing that was not decided: it is ignored.
#[derive(Clone)]
pub(super) struct Connector {
    resolver: Arc<Resolver>,
    /// Those who hold the clients, this one's among them, hold the connector.
    clients: Weak<Clients>,
    free: Arc<Semaphore>,
    route: Arc<Route>,
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = UpstreamError;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { resolver, clients, free, route, tls } = self.clone();
        Box::pin(async move {
            let place = place(free, &clients.upgrade().unwrap_or_default()).await?;
            let stream = dial::dial(&resolver, &route).await?;
            let Some(tls) = tls else { return Ok(TokioIo::new(UpstreamStream::Plain { stream, _place: place })) };
            let failed = |source| {
                let name = route.to.to_string();
                match trust::wrong_key(&source) {
                    Some(found) => UpstreamError::Key { name, found },
                    None => UpstreamError::Tls { name, source },
                }
            };
            let name = server_name(&route.to).map_err(|e| failed(io::Error::other(e)))?;
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.connect(name, stream)).await;
            let stream = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
            Ok(TokioIo::new(UpstreamStream::Tls { stream: Box::new(stream), _place: place }))
        })
    }
}

/// A connection upstream.
#[derive(Debug)]
pub(super) enum UpstreamStream {
    Plain { stream: TcpStream, _place: Place },
    Tls { stream: Box<TlsStream<TcpStream>>, _place: Place },
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        let Self::Tls { stream, .. } = self else { return Connected::new() };
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_read(cx, buf),
            Self::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_write(cx, buf),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { stream, .. } => stream.is_write_vectored(),
            Self::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use dshield_common::name::HostName;
    use dshield_common::policy::{Deployment, UpstreamResolver};

    use super::*;

    /// Each name of a wildcard rule had a client of its own for good: made-up names took memory and
    /// descriptors without an end.
    #[tokio::test]
    async fn made_up_names_do_not_pile_up() {
        let text = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
                    [[function.egress]]\nhost = \"*.w.example\"\n";
        let deployment = Deployment::parse(text, &mut |_| unreachable!()).unwrap();
        let upstream = Upstream::new(Arc::new(Resolver::new(&UpstreamResolver::System).unwrap()), 8);
        for i in 0..=2 * MAX_CLIENTS {
            let name = HostName::parse(&format!("n{i}.w.example")).unwrap();
            let route = deployment.policy.functions[0].route(&name.into(), 443).unwrap();
            let _ = upstream.client(&route, route.rule(), Dialect::Any).unwrap();
        }
        assert!(upstream.clients.lock().unwrap().len() <= MAX_CLIENTS);
    }
}

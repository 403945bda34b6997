//! Connections upstream: decided before, then resolved, then dialled, and proven by the certificate.
//!
//! The only place in D-Shield that opens a connection for a function.
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use dshield_common::policy::{Route, TlsMode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::Resolver;
use super::address::special_purpose;
use super::body::Body;
use crate::instance::BoxFuture;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most servers close an idle connection after a minute.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// As many as an instance has connections: one more would be closed after each request, and cost a handshake.
const POOL_PER_HOST: usize = super::MAX_CONNECTIONS as usize;
/// A wildcard rule has as many names as a function likes to make up, and each has idle connections.
const MAX_CLIENTS: usize = 64;

/// Why the upstream was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum UpstreamError {
    #[error("{name} could not be resolved: {source}")]
    Resolve { name: String, source: io::Error },
    #[error(
        "{name} resolves to {address} ({why}), which is not on the public internet; a rule may pin it with `resolve`"
    )]
    SpecialPurpose { name: String, address: std::net::IpAddr, why: &'static str },
    #[error("{address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{name} did not prove its name: {source}")]
    Tls { name: String, source: io::Error },
    #[error("the trust anchors of the rule are not usable: {0}")]
    Anchors(rustls::Error),
}

impl UpstreamError {
    /// The stable word for the log, where this is a refusal and not a failure.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::SpecialPurpose { .. } => Some("special_purpose_address"),
            Self::Tls { .. } => Some("upstream_certificate"),
            _ => None,
        }
    }
}

/// One function's way upstream: HTTP clients with their pools, one for each rule and name.
#[derive(Debug)]
pub(super) struct Upstream {
    resolver: Arc<Resolver>,
    /// By rule, name and port, so that no request ever travels on a connection that another rule made.
    clients: Mutex<HashMap<(String, String, u16), HttpClient>>,
}

/// A client for one route.
pub(super) type HttpClient = Client<Connector, Body>;

impl Upstream {
    pub(super) fn new(resolver: Arc<Resolver>) -> Self {
        Self { resolver, clients: Mutex::default() }
    }

    /// Opens a TCP connection for a decided route; for `passthrough`.
    pub(super) async fn dial(&self, route: &Route) -> Result<TcpStream, UpstreamError> {
        dial(&self.resolver, route).await
    }

    /// The client for a decided route.
    pub(super) fn client(&self, route: &Route) -> Result<HttpClient, UpstreamError> {
        let key = (route.rule_id().to_owned(), route.name.to_string(), route.port);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let connector = Connector {
            resolver: self.resolver.clone(),
            route: Arc::new(route.clone()),
            tls: match route.tls() {
                TlsMode::Inspect => Some(client_config(route.ca())?.into()),
                TlsMode::None | TlsMode::Passthrough => None,
            },
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_PER_HOST)
            .pool_timer(TokioTimer::new())
            .set_host(false)
            .build(connector);
        if clients.len() >= MAX_CLIENTS {
            // Closes their idle connections; requests under way have a handle of their own.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

async fn dial(resolver: &Resolver, route: &Route) -> Result<TcpStream, UpstreamError> {
    let mut last = None;
    for address in addresses(resolver, route).await? {
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(source) => last = Some(UpstreamError::Connect { address, source }),
        }
    }
    Err(last.unwrap_or_else(|| UpstreamError::Resolve {
        name: route.name.to_string(),
        source: io::ErrorKind::NotFound.into(),
    }))
}

/// Where to dial: the rule's pins, or what the name resolves to, each address judged.
async fn addresses(resolver: &Resolver, route: &Route) -> Result<Vec<SocketAddr>, UpstreamError> {
    if !route.resolve().is_empty() {
        let pins = route.resolve().iter();
        return Ok(pins.map(|pin| SocketAddr::new(pin.ip, pin.port.unwrap_or(route.port))).collect());
    }
    let name = || route.name.to_string();
    let found = resolver.addresses(&route.name).await;
    let found = found.map_err(|source| UpstreamError::Resolve { name: name(), source })?;
    // One special address among public ones is an attack on the resolver, not a choice to pick from.
    for address in &found {
        if let Some(why) = special_purpose(*address) {
            return Err(UpstreamError::SpecialPurpose { name: name(), address: *address, why });
        }
    }
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, route.port)).collect())
}

fn client_config(anchors: &[Vec<u8>]) -> Result<Arc<ClientConfig>, UpstreamError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone())).map_err(UpstreamError::Anchors)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(UpstreamError::Anchors)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Opens connections for one route. The URI says nothing that was not decided: it is ignored.
#[derive(Clone)]
pub(super) struct Connector {
    resolver: Arc<Resolver>,
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
        let Self { resolver, route, tls } = self.clone();
        Box::pin(async move {
            let stream = dial(&resolver, &route).await?;
            let Some(tls) = tls else { return Ok(TokioIo::new(UpstreamStream::Plain(stream))) };
            let failed = |source| UpstreamError::Tls { name: route.name.to_string(), source };
            let name = ServerName::try_from(route.name.to_string()).map_err(|e| failed(io::Error::other(e)))?;
            let handshake = tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await;
            let stream = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
            Ok(TokioIo::new(UpstreamStream::Tls(Box::new(stream))))
        })
    }
}

/// A connection upstream.
#[derive(Debug)]
pub(super) enum UpstreamStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use dshield_common::name::HostName;
    use dshield_common::policy::Deployment;

    use super::*;

    /// Each name of a wildcard rule had a client of its own for good: made-up names took memory and
    /// descriptors without an end.
    #[tokio::test]
    async fn made_up_names_do_not_pile_up() {
        let text = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
                    [[function.egress]]\nhost = \"*.w.example\"\n";
        let deployment = Deployment::parse(text, &mut |_| unreachable!()).unwrap();
        let upstream = Upstream::new(Arc::default());
        for i in 0..=2 * MAX_CLIENTS {
            let name = HostName::parse(&format!("n{i}.w.example")).unwrap();
            let route = deployment.policy.functions[0].route(&name, 443).unwrap();
            let _ = upstream.client(&route).unwrap();
        }
        assert!(upstream.clients.lock().unwrap().len() <= MAX_CLIENTS);
    }
}

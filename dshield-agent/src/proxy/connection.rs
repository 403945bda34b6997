//! One connection of a function: its name, the decision, and the way it goes from there.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dshield_common::destination::Destination;
use dshield_common::log::entry::{Attempt, Process, Refused};
use dshield_common::policy::{Denied, Protocol, Route, TlsMode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::allowed::Allowed;
use super::counted::{Counted, Counters};
use super::hello::{self, Hello, HelloError, OtherHello, SameHello};
use super::limits::Place;
use super::{Context, NO_RULE, deny, http, relay};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes one connection through name, decision, log and relay.
pub(super) async fn handle(stream: TcpStream, peer: SocketAddr, context: Arc<Context>) {
    let process = (context.who_asked)(context.instance.netns_cookie(), canonical(peer));
    let Ok(target) = stream.local_addr().map(canonical) else { return };
    let to = match context.names.name(target.ip()) {
        Some(name) => Destination::Name(name),
        None => Destination::Address(target.ip()),
    };
    let flow = Flow { context, to, port: target.port(), process };
    match flow.decide().await {
        Ok(route) => flow.follow(route, Counted::new(stream, Arc::default()), Requests::Many).await,
        Err(RouteRefused { denied, seq }) => deny::show(stream, &denied, seq).await,
    }
}

/// How many requests a connection may carry, where it carries requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    One,
    Many,
}

/// Where a connection wants to go, and who wants it.
pub(super) struct Flow {
    pub(super) context: Arc<Context>,
    pub(super) to: Destination,
    pub(super) port: u16,
    pub(super) process: Option<Process>,
}

/// No rule allows a connection, and the log says so.
pub(super) struct RouteRefused {
    pub(super) denied: Denied,
    /// The number of the log entry, where it has one of its own.
    pub(super) seq: Option<u64>,
}

impl Flow {
    /// The decision. A refusal is in the log when this returns, also one that a policy only observes.
    pub(super) async fn decide(&self) -> Result<Route, RouteRefused> {
        match self.context.egress.policy.route(&self.to, self.port) {
            Ok(route) => {
                if let Some(denied) = route.would_be() {
                    let refused = Refused { let_through: true, ..self.refused_route(denied) };
                    let _ = self.context.refusals.report_numbered(refused).await;
                }
                Ok(route)
            }
            Err(denied) => {
                let seq = self.context.refusals.report_numbered(self.refused_route(&denied)).await;
                Err(RouteRefused { denied, seq })
            }
        }
    }

    fn refused_route(&self, denied: &Denied) -> Refused {
        let detail = format!("tcp {}: {denied}", self.shown());
        self.refused("connect", denied.reason(), detail, denied.rule().unwrap_or(NO_RULE))
    }

    /// Goes the way that was decided on.
    pub(super) async fn follow(self, route: Route, mut stream: Counted<TcpStream>, requests: Requests) {
        if route.tls() != TlsMode::None {
            match self.hello(&route, &mut stream).await {
                Ok(bytes) => stream = stream.again(bytes),
                Err(None) => return,
                Err(Some(refused)) => {
                    self.context.refusals.report(*refused);
                    return alert(stream).await;
                }
            }
        }
        let counters = stream.counters().clone();
        let _place = match self.place(&route) {
            Ok(place) => place,
            Err(denied) => {
                let _ = self.context.refusals.report_numbered(self.refused_route(&denied)).await;
                return deny::reset(stream.get_ref());
            }
        };
        match Allowed::log(self.context, route, counters.clone(), self.process).await {
            Ok(allowed) => relay(&allowed, stream, &counters, requests).await,
            Err(error) => {
                tracing::error!("no egress, because the log does not take the entry: {error}");
                deny::reset(stream.get_ref());
            }
        }
    }

    /// Reads the hello and judges it by the route: every byte of it, or the refusal, where it is one.
    async fn hello(&self, route: &Route, stream: &mut Counted<TcpStream>) -> Result<Bytes, Option<Box<Refused>>> {
        let refused = |reason: &str, detail: &str| {
            let detail = format!("tls to {}{detail}", self.shown());
            Err(Some(Box::new(self.refused("tls", reason, detail, route.rule_id()))))
        };
        let (Hello { server_name, encrypted }, bytes) = match hello::read(stream).await {
            Ok(read) => read,
            // It sent nothing that could leave; a function that probes a port is no refusal.
            Err(HelloError::Io(_)) => return Err(None),
            Err(error) => return refused(error.reason(), &format!(": {error}")),
        };
        match (&server_name, self.to.name()) {
            (Some(asked), Some(name)) if asked == name => {}
            // An address is never in a hello (RFC 6066, section 3).
            (None, None) => {}
            (None, Some(_)) => return refused("sni_missing", ": the ClientHello names no server (SNI)"),
            (Some(asked), _) => return refused("sni_mismatch", &format!(" with the server name {asked}")),
        }
        // Where TLS ends here, nobody can read what is encrypted to another; where it passes, the server would.
        if encrypted && route.tls() == TlsMode::Passthrough {
            return refused("encrypted_client_hello", ": the ClientHello hides another (ECH), whose name nobody sees");
        }
        Ok(bytes)
    }

    /// The place of a connection whose requests are not seen among those that its rule allows at a time.
    fn place(&self, route: &Route) -> Result<Option<Place>, Denied> {
        if route.has_requests() { Ok(None) } else { self.context.egress.limits.enter(route.rule()).map(Some) }
    }

    fn shown(&self) -> String {
        format!("{}:{}", self.to.authority(), self.port)
    }

    pub(super) fn refused(&self, layer: &str, reason: &str, detail: String, rule: &str) -> Refused {
        Refused {
            layer: layer.into(),
            reason: reason.into(),
            detail,
            rule: rule.into(),
            let_through: false,
            connection: None,
            attempt: Some(Attempt { host: self.to.to_string(), port: Some(self.port), method: None, path: None }),
            process: self.process.clone(),
            count: None,
        }
    }
}

/// Lets it through until it ends, nothing passes for too long, or the log fails.
async fn relay(allowed: &Arc<Allowed>, stream: Counted<TcpStream>, counters: &Counters, requests: Requests) {
    let silence = allowed.context.times.silence;
    let relay = async {
        match (allowed.route.tls(), allowed.route.protocol()) {
            (TlsMode::Inspect, _) => inspect(allowed, stream).await,
            (TlsMode::None, Protocol::Http) => http::serve_http1(stream, allowed, requests).await,
            (TlsMode::Passthrough, _) => {
                pass_through(allowed, SameHello::new(stream, allowed.route.to.name().cloned())).await
            }
            (TlsMode::None, Protocol::Tcp) => pass_through(allowed, stream).await,
        }
    };
    let result = tokio::select! {
        result = relay => result,
        () = idle(counters, silence) => Err(format!("nothing passed for {} minutes", silence.as_secs() / 60)),
        // What an open connection goes on to send could not be accounted for.
        failure = allowed.context.log.failure() => Err(failure.to_string()),
    };
    allowed.ended(result);
}

/// Resolves when nothing passed for long enough, which is noticed after twice that time at the latest.
async fn idle(counters: &Counters, silence: Duration) {
    let mut before = None;
    loop {
        let now = Some(counters.totals());
        if now == before {
            return;
        }
        before = now;
        tokio::time::sleep(silence).await;
    }
}

async fn inspect(allowed: &Arc<Allowed>, stream: Counted<TcpStream>) -> Result<(), String> {
    let to = &allowed.route.to;
    let context = &allowed.context;
    let config = context.egress.leaves.server_config(&context.ca, to).map_err(|error| error.to_string())?;
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    let stream = handshake.map_err(|_| "the TLS handshake took too long".to_owned())?.map_err(|error| {
        if speaks_no_http(&error) {
            allowed.refuse_tls("alpn_not_http", &"the ClientHello offers other protocols (ALPN), and none is HTTP");
        }
        format!("TLS handshake with the function: {error}")
    })?;
    let session = stream.get_ref().1;
    // Two readers of one hello: the TLS library must have found what was decided on.
    if session.server_name() != to.name().map(AsRef::as_ref) {
        return Err("the TLS library reads another name in the hello".to_owned());
    }
    match session.alpn_protocol() {
        Some(b"h2") => http::serve_http2(stream, allowed).await,
        _ => http::serve_http1(stream, allowed, Requests::Many).await,
    }
}

/// Whether a handshake failed because the function offers protocols and none of ours (RFC 7301, section 3.2). The TLS
/// library has sent the alert `no_application_protocol`.
fn speaks_no_http(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(cause, Some(rustls::Error::NoApplicationProtocol))
}

async fn pass_through<S>(allowed: &Allowed, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + AsRef<TcpStream> + Unpin,
{
    if let Err(error) = allowed.logged().await {
        deny::reset(stream.as_ref());
        return Err(error.to_string());
    }
    let (upstream, _place) = match allowed.context.upstream.dial(&allowed.route).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let _ = allowed.refuse_upstream(&error).await;
            deny::reset(stream.as_ref());
            return Err(error.to_string());
        }
    };
    relay::run(stream, upstream).await.map_err(|error| {
        if let Some(other) = error.get_ref().and_then(|error| error.downcast_ref::<OtherHello>()) {
            allowed.refuse_tls(other.reason(), other);
        }
        error.to_string()
    })
}

/// IPv4 connections arrive on a dual-stack socket with mapped addresses.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Closes with the fatal TLS alert `unrecognized_name` (RFC 6066), which tells a client what is wrong.
async fn alert(mut stream: Counted<TcpStream>) {
    let _ = stream.write_all(&deny::UNRECOGNIZED_NAME).await;
    let _ = stream.shutdown().await;
}

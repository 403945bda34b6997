//! One connection of a function, from `accept` to its close entry.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dshield_common::log::entry::{Close, Connect, Event, Process, Record, Refused};
use dshield_common::policy::{Denied, LogLevel, Route, TlsMode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::counted::{Counted, Counters};
use super::hello::{self, HelloError};
use super::upstream::UpstreamError;
use super::{Context, http, relay};
use crate::log::LogError;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that the policy allows and the log knows. Its close entry is written when it is dropped,
/// however it ends.
pub(super) struct Allowed {
    pub(super) context: Arc<Context>,
    pub(super) id: u64,
    pub(super) route: Route,
    counters: Arc<Counters>,
    since: Instant,
    error: Option<String>,
}

/// Takes one connection through name, decision, log and relay.
pub(super) async fn handle(stream: TcpStream, peer: SocketAddr, context: Arc<Context>) {
    let peer = canonical(peer);
    let process = (context.who_asked)(context.instance.netns_cookie(), peer);
    let Ok(target) = stream.local_addr().map(canonical) else { return };
    let Some(name) = context.names.name(target.ip()) else {
        context.refuse(
            "connect",
            "address_without_name",
            format!("tcp {target}: no rule names the address"),
            "default",
            process,
        );
        return reset(&stream);
    };
    let port = target.port();
    let route = match context.egress.policy.route(&name, port) {
        Ok(route) => route,
        Err(denied) => {
            let detail = format!("tcp {name}:{port}: {denied}");
            context.refuse("connect", denied.reason(), detail, rule(&denied), process);
            return reset(&stream);
        }
    };
    let counters = Arc::new(Counters::default());
    let mut stream = Counted::new(stream, counters.clone());
    let mut hello = None;
    if route.tls() != TlsMode::None {
        match hello::read(&mut stream).await {
            Ok(read) if read.server_name == name => hello = Some(read.bytes),
            Ok(read) => {
                let detail = format!("tls to {name}:{port} with the server name {}", read.server_name);
                context.refuse("tls", "sni_mismatch", detail, route.rule_id(), process);
                return alert(stream).await;
            }
            // It sent nothing that could leave; a function that probes a port is no refusal.
            Err(HelloError::Io(_)) => return,
            Err(error) => {
                let detail = format!("tls to {name}:{port}: {error}");
                context.refuse("tls", error.reason(), detail, route.rule_id(), process);
                return alert(stream).await;
            }
        }
    }
    match Allowed::log(context, route, counters, process).await {
        Ok(mut allowed) => allowed.relay(stream, hello.unwrap_or_default()).await,
        Err(error) => {
            tracing::error!("no egress, because the log does not take the entry: {error}");
            reset(stream.get_ref());
        }
    }
}

impl Allowed {
    /// Writes the connect entry.
    async fn log(
        context: Arc<Context>,
        route: Route,
        counters: Arc<Counters>,
        process: Option<Process>,
    ) -> Result<Self, LogError> {
        let id = context.next_connection();
        let connect = Connect {
            connection: id,
            host: route.name.to_string(),
            port: route.port,
            tls: route.tls().to_string(),
            rule: route.rule_id().to_owned(),
            process,
        };
        let record = Record { subject: context.instance.subject(), event: Event::Connect(connect) };
        let pending = context.log.enqueue(record).await?;
        // Where every request waits for an entry of its own, that one proves this one durable: the log
        // commits in order. Otherwise this is what the first byte waits for.
        let requests_wait = route.tls() != TlsMode::Passthrough && context.log_level == LogLevel::Request;
        if !requests_wait {
            pending.durable().await?;
        }
        Ok(Self { context, id, route, counters, since: Instant::now(), error: None })
    }

    async fn relay(&mut self, stream: Counted<TcpStream>, hello: bytes::Bytes) {
        let log = self.context.log.clone();
        let relay = async {
            match self.route.tls() {
                TlsMode::Inspect => self.inspect(stream.with_prefix(hello)).await,
                TlsMode::Passthrough => self.pass_through(stream, hello).await,
                TlsMode::None => http::serve(stream, self).await,
            }
        };
        let result = tokio::select! {
            result = relay => result,
            // What an open connection goes on to send could not be accounted for.
            failure = log.failure() => Err(failure.to_string()),
        };
        self.error = result.err();
    }

    async fn inspect(&self, stream: Counted<TcpStream>) -> Result<(), String> {
        let config = self.context.ca.server_config(&self.route.name).map_err(|error| error.to_string())?;
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
        let stream = handshake
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| format!("TLS handshake with the function: {error}"))?;
        http::serve(stream, self).await
    }

    async fn pass_through(&self, stream: Counted<TcpStream>, hello: bytes::Bytes) -> Result<(), String> {
        let upstream = match self.context.egress.upstream.dial(&self.route).await {
            Ok(upstream) => upstream,
            Err(error) => {
                self.refuse_upstream(&error);
                reset(stream.get_ref());
                return Err(error.to_string());
            }
        };
        relay::run(stream, hello, upstream).await.map_err(|error| error.to_string())
    }

    /// Writes a refusal into the log, when it is one.
    pub(super) fn refuse_upstream(&self, error: &UpstreamError) {
        if let Some(reason) = error.refusal() {
            self.refuse("upstream", reason, error.to_string(), self.route.rule_id());
        }
    }

    /// Writes a refusal on this connection into the log.
    pub(super) fn refuse(&self, layer: &str, reason: &str, detail: String, rule: &str) {
        self.context.refusals.report(Refused {
            layer: layer.into(),
            reason: reason.into(),
            detail,
            rule: rule.into(),
            connection: Some(self.id),
            process: None,
            count: None,
        });
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let close = Close {
            connection: self.id,
            bytes_from_function: self.counters.read.load(Ordering::Relaxed),
            bytes_to_function: self.counters.written.load(Ordering::Relaxed),
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            error: self.error.take(),
        };
        let record = Record { subject: self.context.instance.subject(), event: Event::Close(close) };
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.context.log.enqueue_now(record);
    }
}

impl Context {
    fn refuse(&self, layer: &str, reason: &str, detail: String, rule: &str, process: Option<Process>) {
        self.refusals.report(Refused {
            layer: layer.into(),
            reason: reason.into(),
            detail,
            rule: rule.into(),
            connection: None,
            process,
            count: None,
        });
    }
}

/// The rule that speaks for the destination and does not allow it, or `default` when none speaks for it.
pub(super) fn rule(denied: &Denied) -> &str {
    match denied {
        Denied::Method { rule, .. } | Denied::Path { rule, .. } | Denied::AmbiguousPath { rule, .. } => rule,
        _ => "default",
    }
}

/// IPv4 connections arrive on a dual-stack socket with mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Closes so that the function sees "connection reset", not an orderly end.
fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

/// Closes with the fatal TLS alert `unrecognized_name` (RFC 6066), which tells a client what is wrong.
async fn alert(mut stream: Counted<TcpStream>) {
    const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    let _ = stream.write_all(&UNRECOGNIZED_NAME).await;
    let _ = stream.shutdown().await;
}

//! One connection of a function: its name, the decision, and the way it goes from there.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dshield_common::destination::Destination;
use dshield_common::log::entry::{Process, Refused};
use dshield_common::policy::{Protocol, TlsMode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::allowed::Allowed;
use super::counted::{Counted, Counters};
use super::hello::{self, HelloError};
use super::{Context, NO_RULE, http, relay};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes one connection through name, decision, log and relay.
pub(super) async fn handle(stream: TcpStream, peer: SocketAddr, context: Arc<Context>) {
    let peer = canonical(peer);
    let process = (context.who_asked)(context.instance.netns_cookie(), peer);
    let Ok(target) = stream.local_addr().map(canonical) else { return };
    let to = match context.names.name(target.ip()) {
        Some(name) => Destination::Name(name),
        None => Destination::from(target.ip()),
    };
    let port = target.port();
    let shown = format!("{}:{port}", to.authority());
    let route = match context.egress.policy.route(&to, port) {
        Ok(route) => route,
        Err(denied) => {
            let detail = format!("tcp {shown}: {denied}");
            context.refuse("connect", denied.reason(), detail, denied.rule().unwrap_or(NO_RULE), process);
            return reset(&stream);
        }
    };
    let counters = Arc::new(Counters::default());
    let mut stream = Counted::new(stream, counters.clone());
    let mut hello = None;
    if route.tls() != TlsMode::None {
        match hello::read(&mut stream).await {
            // An address is never a server name (RFC 6066, section 3): whoever connects to one sends none.
            Ok(read) if read.server_name.as_ref() == to.name() => hello = Some(read.bytes),
            Ok(read) => {
                let (reason, detail) = match read.server_name {
                    Some(name) => ("sni_mismatch", format!("tls to {shown} with the server name {name}")),
                    None => ("sni_missing", format!("tls to {shown}: the ClientHello names no server (SNI)")),
                };
                context.refuse("tls", reason, detail, route.rule_id(), process);
                return alert(stream).await;
            }
            // It sent nothing that could leave; a function that probes a port is no refusal.
            Err(HelloError::Io(_)) => return,
            Err(error) => {
                let detail = format!("tls to {shown}: {error}");
                context.refuse("tls", error.reason(), detail, route.rule_id(), process);
                return alert(stream).await;
            }
        }
    }
    match Allowed::log(context, route, counters, process).await {
        Ok(mut allowed) => relay(&mut allowed, stream, hello.unwrap_or_default()).await,
        Err(error) => {
            tracing::error!("no egress, because the log does not take the entry: {error}");
            reset(stream.get_ref());
        }
    }
}

/// Lets it through until it ends, or the log fails.
async fn relay(allowed: &mut Allowed, stream: Counted<TcpStream>, hello: bytes::Bytes) {
    let log = allowed.context.log.clone();
    let relay = async {
        match allowed.route.tls() {
            TlsMode::Inspect => inspect(allowed, stream.with_prefix(hello)).await,
            TlsMode::Passthrough => pass_through(allowed, stream, hello).await,
            TlsMode::None if allowed.route.protocol() == Protocol::Tcp => {
                pass_through(allowed, stream, bytes::Bytes::new()).await
            }
            TlsMode::None => http::serve(stream, allowed).await,
        }
    };
    let result = tokio::select! {
        result = relay => result,
        // What an open connection goes on to send could not be accounted for.
        failure = log.failure() => Err(failure.to_string()),
    };
    allowed.error = result.err();
}

async fn inspect(allowed: &Allowed, stream: Counted<TcpStream>) -> Result<(), String> {
    let config = allowed.context.ca.server_config(&allowed.route.to).map_err(|error| error.to_string())?;
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    let stream = handshake
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("TLS handshake with the function: {error}"))?;
    http::serve(stream, allowed).await
}

async fn pass_through(allowed: &Allowed, stream: Counted<TcpStream>, hello: bytes::Bytes) -> Result<(), String> {
    let upstream = match allowed.context.egress.upstream.dial(&allowed.route).await {
        Ok(upstream) => upstream,
        Err(error) => {
            allowed.refuse_upstream(&error);
            reset(stream.get_ref());
            return Err(error.to_string());
        }
    };
    relay::run(stream, hello, upstream).await.map_err(|error| error.to_string())
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

//! The HTTP API for callers, operators and auditors.
//!
//! In: HTTP/1.1 requests, in the clear or inside TLS, from anyone who reaches the listener. Out: invocations to `runtime`, entries read
//! from `log`, the policy in force. Nothing here is reachable from inside an instance.
//!
//! | file | routes |
//! | --- | --- |
//! | `invoke` | `POST /2015-03-31/functions/{name}/invocations`, as AWS Lambda |
//! | `log` | `GET /v1/log/entries`, `/v1/log/key` |
//! | `stream`, `feed` | `GET /v1/log/stream` |
//! | `tlog` | `GET /v1/log/checkpoint`, `/v1/log/proof/{seq}`, `/v1/log/consistency`, `/v1/log/tlog/…` |
//! | `attestation` | `GET /v1/attestation` |
//! | `deployment` | `GET /v1/functions`, `/v1/policy` |
//! | `health` | `GET /healthz`, `/readyz` |
//! | `tls` | none: how the API speaks TLS |
mod attestation;
mod deployment;
mod error;
mod feed;
mod health;
mod invoke;
mod log;
mod query;
mod stream;
mod tlog;
mod tls;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::error::ApiError;
use self::feed::Feed;
use crate::attest::{Attester, RatlsCertificate};
use crate::log::Log;
use crate::runtime::{Limits, Pool, serve as serve_http};

/// Together with what else the agent has open they stay below `OWN_DESCRIPTORS` of the proxy.
const LIMITS: Limits = Limits { connections: 1408, head: Duration::from_secs(30), unread: Some(stream::SLOW) };
/// How many large request bodies may be read at the same time: they are what costs memory.
const LARGE_BODIES: usize = 16;
/// How many readers may follow the log at the same time; the other connections stay free for invocations.
const STREAMS: usize = 1024;

/// Why the agent is not ready, if it is not. Asked for every `/readyz` and every invocation; must not block.
pub type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the API shows. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The log.
    pub log: Log,
    /// What gives evidence.
    pub attester: Attester,
    /// What is deployed now; a new value takes effect with the next request.
    pub deployment: watch::Receiver<Arc<Deployed>>,
    /// What else must hold for the agent to be ready, besides the log.
    pub health: Health,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").finish_non_exhaustive()
    }
}

/// Functions and the policy they run under.
#[derive(Debug, Default)]
pub struct Deployed {
    /// By name.
    pub functions: BTreeMap<String, Arc<Pool>>,
    /// The policy's canonical text, whose hash is attested.
    pub policy: String,
    /// SHA-256 (hex) of `policy`.
    pub policy_sha256: String,
}

/// Serves the API until `shutdown` resolves, then gives requests under way a few seconds. With a certificate it speaks
/// TLS, and nothing else.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<RatlsCertificate>>,
    state: ApiState,
    shutdown: impl Future<Output = ()>,
) {
    serve_http(listener, router(state), LIMITS, tls.map(tls::acceptor), shutdown).await;
}

#[derive(Debug)]
struct Shared {
    state: ApiState,
    large_bodies: Semaphore,
    streams: Arc<Semaphore>,
    feed: Arc<Feed>,
}

impl Shared {
    fn deployed(&self) -> Arc<Deployed> {
        self.state.deployment.borrow().clone()
    }
}

fn router(state: ApiState) -> Router {
    let (large_bodies, streams) = (Semaphore::new(LARGE_BODIES), Arc::new(Semaphore::new(STREAMS)));
    let shared = Shared { state, large_bodies, streams, feed: Arc::default() };
    Router::new()
        .route("/2015-03-31/functions/{name}/invocations", post(invoke::invoke))
        .route("/v1/log/entries", get(log::entries))
        .route("/v1/log/stream", get(stream::stream))
        .route("/v1/log/key", get(log::key))
        .route("/v1/log/checkpoint", get(tlog::checkpoint))
        .route("/v1/log/proof/{seq}", get(tlog::proof))
        .route("/v1/log/consistency", get(tlog::consistency))
        .route("/v1/log/tlog/checkpoint", get(tlog::witnessed))
        .route("/v1/log/tlog/tile/{*path}", get(tlog::tile))
        .route("/v1/attestation", get(attestation::attestation))
        .route("/v1/functions", get(deployment::functions))
        .route("/v1/policy", get(deployment::policy))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(|request: Request| async move { ApiError::NoSuchRoute(request.uri().path().to_owned()) })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .with_state(Arc::new(shared))
}

//! What the agent sends by itself, such as its checkpoints to witnesses.
//!
//! A request flows in, its answer flows out. On the way it is decided by a rule of the policy, is in the log before its
//! first byte leaves, and goes over a connection that [`super::dial`] opens, to an upstream that proved its name: there is
//! no second way out for the agent.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Request, StatusCode, header, request};
use bytes::Bytes;
use dshield_common::destination::Destination;
use dshield_common::policy::TlsMode;
use http_body_util::Full;

use super::allowed::Allowed;
use super::connection::Flow;
use super::{Context, http};
use crate::log::LogError;

/// Sends requests for the agent.
pub struct OwnEgress {
    context: Arc<Context>,
}

impl fmt::Debug for OwnEgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnEgress").finish_non_exhaustive()
    }
}

/// Why a request of the agent got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError {
    /// No rule of the policy allows it. A fault of the code that sends it.
    #[error("refused: {0}")]
    Refused(String),
    /// Nothing leaves while the log takes no entries.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The other side was not reached, did not prove its name, or broke off.
    #[error("{0}")]
    Upstream(String),
    /// The other side took too long.
    #[error("it did not answer within {} seconds", .0.as_secs())]
    Slow(Duration),
    /// The answer is longer than anything that makes sense.
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
}

impl OwnEgress {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Gets `target`, a path perhaps with a query, from `to`: status, header and at most `limit` bytes of the answer.
    ///
    /// # Errors
    /// It was refused, could not be logged, or got no answer.
    pub async fn get(
        &self,
        to: &Destination,
        port: u16,
        target: &str,
        limit: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), OwnError> {
        self.send(to, port, target, Request::builder().method(Method::GET), Bytes::new(), limit).await
    }

    /// Posts `body` to `target` of `to`: as [`OwnEgress::get`].
    ///
    /// # Errors
    /// As there.
    pub async fn post(
        &self,
        to: &Destination,
        port: u16,
        target: &str,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), OwnError> {
        let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        self.send(to, port, target, request, body, limit).await
    }

    async fn send(
        &self,
        to: &Destination,
        port: u16,
        target: &str,
        request: request::Builder,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), OwnError> {
        let flow = Flow { context: self.context.clone(), to: to.clone(), port, process: None };
        let route = flow.decide().await.map_err(|refused| OwnError::Refused(refused.denied.to_string()))?;
        let scheme = if route.tls() == TlsMode::None { "http" } else { "https" };
        let request = request
            .uri(format!("{scheme}://{}:{port}{target}", to.authority()))
            .body(Full::new(body))
            .map_err(|error| OwnError::Refused(error.to_string()))?;
        let allowed = Allowed::log(self.context.clone(), route, Arc::default(), None).await?;
        let sent = http::own::send(&allowed, request, limit).await;
        allowed.ended(sent.as_ref().map(drop).map_err(ToString::to_string));
        sent
    }
}

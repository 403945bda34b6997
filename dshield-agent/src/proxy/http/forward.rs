//! An allowed request on its way upstream, and the answer on its way back. Nothing goes on that was not parsed.
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::uri::{Authority, PathAndQuery, Uri};
use ::http::{Request, Response, StatusCode, Version};
use dshield_common::policy::{Rule, TlsMode};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::exchange::Exchange;
use super::framing;
use super::refusal::Answer;
use super::tunnel::Wanted;
use crate::log::LogError;
use crate::proxy::allowed::{Allowed, Told};
use crate::proxy::body::{self, Body};
use crate::proxy::limits::Place;
use crate::proxy::tasks::Tasks;
use crate::proxy::upstream::{Dialect, UpstreamError};

/// RFC 9110, section 7.6.1, and what belongs to one connection only. `Expect` is answered here.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::EXPECT,
];

/// Sends a request upstream once the log has it, and gives back the answer.
pub(super) async fn request(
    connection: &Arc<Allowed>,
    rule: &Arc<Rule>,
    place: Place,
    mut request: Request<Incoming>,
    tunnels: Option<&Tasks>,
) -> Response<Body> {
    let (exchange, _waiting) = match Exchange::begin(connection, rule, place, &request).await {
        Ok(begun) => begun,
        Err(error) => return log_unavailable(&error, rule),
    };
    // HTTP/2 has no such requests: a connection is one for all of its streams.
    let tunnel = tunnels.and_then(|tasks| Some((tasks, Wanted::take(&mut request)?)));
    let dialect = if tunnel.is_some() { Dialect::Http1 } else { Dialect::Any };
    let result = async {
        let client = connection.context.upstream.client(&connection.route, rule, dialect);
        let client = client.map_err(Failure::Upstream)?;
        let mut request = remake(connection, request, &exchange, rule);
        if let Some((_, wanted)) = &tunnel {
            wanted.ask(request.headers_mut());
        }
        let limit = connection.context.times.answer;
        timeout(limit, client.request(request)).await.map_err(|_| Failure::Slow(limit))?.map_err(Failure::from)
    };
    match (result.await, tunnel) {
        (Ok(response), Some((tasks, wanted))) if wanted.is_granted(&response) => {
            switch(tasks, wanted, response, exchange)
        }
        (Ok(response), _) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            fail(exchange, connection, rule, &Failure::Switched).await
        }
        (Ok(response), _) => pass_back(response, exchange),
        (Err(failure), _) => fail(exchange, connection, rule, &failure).await,
    }
}

fn log_unavailable(error: &LogError, rule: &Rule) -> Response<Body> {
    tracing::error!("no egress, because the log does not take the entry: {error}");
    Answer {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: "log_unavailable",
        error: "nothing leaves while the log cannot be written".to_owned(),
        rule: rule.id.clone(),
        hint: "look at the agent's own log".to_owned(),
        seq: None,
    }
    .response()
}

/// The request as it goes upstream: nothing in it that was not parsed, and the destination that was decided on.
fn remake(connection: &Allowed, request: Request<Incoming>, exchange: &Arc<Exchange>, rule: &Rule) -> Request<Body> {
    let route = &connection.route;
    let (mut parts, incoming) = request.into_parts();
    let trailers = accepts_trailers(&parts.headers);
    strip_hop_by_hop(&mut parts.headers);
    if trailers {
        // What gRPC servers ask for (RFC 9110, section 10.1.4).
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(&mut parts.headers);
    connection.context.egress.secrets.inject(rule, &mut parts.headers);
    // The client writes it, from the target.
    parts.headers.remove(header::HOST);
    let (scheme, default_port) = if route.tls() == TlsMode::None { ("http", 80) } else { ("https", 443) };
    let host = route.to.authority();
    let authority = if route.port == default_port { host } else { format!("{host}:{}", route.port) };
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = Uri::default().into_parts();
    // A destination is a valid authority by construction.
    uri.scheme = scheme.parse().ok();
    uri.authority = authority.parse::<Authority>().ok();
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let sent = exchange.counters.read.clone();
    // An injected field has no second value behind the body.
    let trailers = if rule.inject_header.is_empty() { framing::is_trailer } else { |_: &HeaderName| false };
    // An upstream may answer first and read on.
    Request::from_parts(parts, body::passing(incoming, sent, rule.max_request_bytes, trailers, exchange.clone()))
}

fn pass_back(response: Response<Incoming>, exchange: Arc<Exchange>) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    let _ = exchange.status.set(parts.status.as_u16());
    strip_for_function(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let received = exchange.counters.written.clone();
    Response::from_parts(parts, body::passing(incoming, received, None, framing::is_trailer, exchange))
}

/// Answers that both sides speak another protocol now, and lets them.
fn switch(tasks: &Tasks, wanted: Wanted, mut response: Response<Incoming>, exchange: Arc<Exchange>) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let _ = exchange.status.set(response.status().as_u16());
    let mut answer = Response::new(body::full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    strip_for_function(answer.headers_mut());
    wanted.ask(answer.headers_mut());
    tasks.spawn(wanted.run(upstream, exchange));
    answer
}

fn strip_for_function(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // It would send the function to another host, port or protocol.
    headers.remove(header::ALT_SVC);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Naming these would only hide them from whoever reads next.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// HTTP/2 may split what HTTP/1.1 has in one line (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Why an allowed request did not get its answer.
enum Failure {
    Upstream(UpstreamError),
    Http(hyper_util::client::legacy::Error),
    /// The head of its answer was not whole in this time.
    Slow(Duration),
    Switched,
}

impl From<hyper_util::client::legacy::Error> for Failure {
    fn from(error: hyper_util::client::legacy::Error) -> Self {
        Self::Http(error)
    }
}

impl Failure {
    fn upstream(&self) -> Option<&UpstreamError> {
        match self {
            Self::Upstream(error) => Some(error),
            Self::Http(error) => error.source()?.downcast_ref(),
            Self::Slow(_) | Self::Switched => None,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut cause: &dyn Error = match (self, self.upstream()) {
            (_, Some(error)) | (Self::Upstream(error), None) => return error.fmt(f),
            (Self::Slow(limit), None) => {
                return write!(f, "the upstream sent no whole answer within {} s", limit.as_secs());
            }
            (Self::Switched, None) => return f.write_str("the upstream switched protocols without being asked"),
            (Self::Http(error), None) => error,
        };
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        write!(f, "the upstream broke off: {cause}")
    }
}

async fn fail(exchange: Arc<Exchange>, connection: &Allowed, rule: &Rule, failure: &Failure) -> Response<Body> {
    let text = failure.to_string();
    let _ = exchange.error.set(text.clone());
    if let Some(fault) = exchange.fault.get() {
        return fault.refusal(connection, rule).respond(connection).await;
    }
    let refused = match failure.upstream() {
        Some(error) => connection.refuse_upstream(error).await,
        None => None,
    };
    let (status, reason) = match failure {
        Failure::Slow(_) => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        _ => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
    };
    let hint = "look at the upstream, or at the rule".to_owned();
    let Told { reason, hint, seq } = refused.unwrap_or(Told { reason, hint, seq: None });
    Answer { status, reason, error: text, rule: rule.id.clone(), hint, seq }.response()
}

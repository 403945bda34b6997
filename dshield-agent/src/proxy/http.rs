//! HTTP/1.1 inside a connection: each request is decided and logged by itself, and sent on re-made from
//! its parsed form.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::uri::{Authority, PathAndQuery};
use ::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use dshield_common::destination::Destination;
use dshield_common::log::entry::{Event, Phase, Record, Request as RequestEntry};
use dshield_common::policy::{LogLevel, Rule, TlsMode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::NO_RULE;
use super::allowed::Allowed;
use super::body::{self, Body};
use super::upstream::UpstreamError;

/// How long a connection may be idle, and how long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const MAX_HEADERS: usize = 128;
/// The largest request head: what each of an instance's connections may hold in the agent's memory.
const HEAD_BYTES: usize = 64 << 10;
/// How long, and how much, a function may go on sending what is no request.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 4 << 20;
/// The longest path and method that surely fit a log entry, with every character escaped.
const LONGEST_TARGET: usize = 8 << 10;

/// RFC 9110, section 7.6.1, and what belongs to one connection only. `Expect` is answered here.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Serves the requests of one connection until it ends.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Allowed,
) -> Result<(), String> {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(respond(connection, request).await) });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(&mut stream), service)
        .await;
    if served.as_ref().is_err_and(hyper::Error::is_parse) {
        linger(&mut stream).await;
    }
    served.map_err(|error| error.to_string())
}

/// Takes what is still on its way, for a moment: closing a socket that has unread bytes resets the connection, and
/// the reset would overtake the answer that says what was wrong (RFC 9112, section 9.6).
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let end = async {
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whether it ended by itself is the function's affair.
    let _ = tokio::time::timeout(LINGER, end).await;
}

/// A request that was refused: what the log says and what the function gets.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    rule: String,
    hint: String,
}

async fn respond(connection: &Allowed, request: Request<Incoming>) -> Response<Body> {
    match judge(connection, &request) {
        Ok(rule) => forward(connection, &rule, request).await,
        Err(refusal) => {
            let Refusal { status, reason, detail, rule, hint } = refusal;
            connection.refuse("http", reason, detail.clone(), &rule);
            error_response(status, reason, &detail, &rule, &hint)
        }
    }
}

/// The one place that decides about a request.
fn judge(connection: &Allowed, request: &Request<Incoming>) -> Result<Arc<Rule>, Refusal> {
    let route = &connection.route;
    let refuse = |status, reason, detail: String, hint: &str| Refusal {
        status,
        reason,
        detail,
        rule: route.rule_id().to_owned(),
        hint: hint.to_owned(),
    };
    let target = request.method().as_str().len() + request.uri().path().len();
    if target > LONGEST_TARGET {
        let detail = format!("request to {} with method and path of {target} bytes", route.to);
        let hint = "shorten it; data belongs into the body or the query";
        return Err(refuse(StatusCode::URI_TOO_LONG, "target_too_long", detail, hint));
    }
    if request.method() == Method::CONNECT {
        let detail = format!("CONNECT inside the connection to {}", route.to);
        return Err(refuse(StatusCode::FORBIDDEN, "connect_inside", detail, "connect to the host directly"));
    }
    let authority = authority(request).map_err(|problem| {
        let detail = format!("request to {}: {problem}", route.to);
        refuse(StatusCode::BAD_REQUEST, "authority_invalid", detail, "send one Host header with the host's name")
    })?;
    let default_port = if route.tls() == TlsMode::None { 80 } else { 443 };
    if authority.0 != route.to || authority.1.unwrap_or(default_port) != route.port {
        let asked = authority.0.authority();
        let shown = authority.1.map_or_else(|| asked.clone(), |port| format!("{asked}:{port}"));
        let detail = format!("request for {shown} on the connection to {}:{}", route.to.authority(), route.port);
        let hint = "open a connection of its own for each host";
        return Err(refuse(StatusCode::MISDIRECTED_REQUEST, "authority_mismatch", detail, hint));
    }
    let rule = route.request(request.method().as_str(), request.uri().path()).map_err(|denied| Refusal {
        status: StatusCode::FORBIDDEN,
        reason: denied.reason(),
        detail: denied.to_string(),
        rule: denied.rule().unwrap_or(NO_RULE).to_owned(),
        hint: denied.hint(),
    })?;
    let declared = ::http_body::Body::size_hint(request.body()).lower();
    if let Some(limit) = rule.max_request_bytes
        && declared > limit
    {
        let detail = format!("request body of {declared} bytes to {}; the rule allows {limit}", route.to);
        let hint = "raise max_request_bytes in the rule";
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", detail, hint));
    }
    Ok(rule.clone())
}

/// The name and port that the request is for: `Host`, and the target in absolute form where there is one.
fn authority(request: &Request<Incoming>) -> Result<(Destination, Option<u16>), String> {
    let parse = |bytes| Destination::parse_authority(bytes).map_err(|error| error.to_string());
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => parse(host.as_bytes())?,
        (None, _) => return Err("no Host header".into()),
        (Some(_), Some(_)) => return Err("more than one Host header".into()),
    };
    if let Some(target) = request.uri().authority()
        && parse(target.as_str().as_bytes())? != host
    {
        return Err("the request target and the Host header name different hosts".into());
    }
    Ok(host)
}

async fn forward(connection: &Allowed, rule: &Arc<Rule>, request: Request<Incoming>) -> Response<Body> {
    let exchange = match Exchange::begin(connection, rule, &request).await {
        Ok(exchange) => exchange,
        Err(error) => {
            tracing::error!("no egress, because the log does not take the entry: {error}");
            return error_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "log_unavailable",
                "nothing leaves while the log cannot be written",
                &rule.id,
                "look at the agent's own log",
            );
        }
    };
    let result = async {
        let client = connection.context.egress.upstream.client(&connection.route).map_err(Failure::Upstream)?;
        let mut request = remake(connection, request, &exchange, rule.max_request_bytes);
        connection.context.egress.secrets.inject(rule, request.headers_mut());
        client.request(request).await.map_err(Failure::from)
    };
    match result.await {
        // Nobody asked for another protocol: `Upgrade` does not go upstream.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            exchange.fail(connection, rule, &Failure::Switched)
        }
        Ok(response) => pass_back(response, exchange),
        Err(failure) => exchange.fail(connection, rule, &failure),
    }
}

/// The request as it goes upstream: nothing in it that was not parsed, and the name that was decided on.
fn remake(connection: &Allowed, request: Request<Incoming>, exchange: &Exchange, limit: Option<u64>) -> Request<Body> {
    let route = &connection.route;
    let (mut parts, incoming) = request.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let (scheme, default_port) = if route.tls() == TlsMode::None { ("http", 80) } else { ("https", 443) };
    let authority = if route.port == default_port {
        route.to.authority()
    } else {
        format!("{}:{}", route.to.authority(), route.port)
    };
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = Uri::default().into_parts();
    // A Destination is a valid authority and header value by construction.
    uri.scheme = scheme.parse().ok();
    uri.authority = authority.parse::<Authority>().ok();
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(&authority) {
        parts.headers.insert(header::HOST, host);
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Request::from_parts(parts, body::passing(incoming, exchange.sent.clone(), limit, ()))
}

fn pass_back(response: Response<Incoming>, mut exchange: Exchange) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    exchange.status = Some(parts.status.as_u16());
    strip_hop_by_hop(&mut parts.headers);
    // It would send the function to another host, port or protocol.
    parts.headers.remove(header::ALT_SVC);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let received = exchange.received.clone();
    Response::from_parts(parts, body::passing(incoming, received, None, exchange))
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Why an allowed request did not get its answer.
enum Failure {
    Upstream(UpstreamError),
    Http(hyper_util::client::legacy::Error),
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
            Self::Http(error) => std::error::Error::source(error)?.downcast_ref(),
            Self::Switched => None,
        }
    }

    fn too_large(&self) -> bool {
        let Self::Http(error) = self else { return false };
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(body::BodyError::TooLarge(_))) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(error) = self.upstream() {
            return error.fmt(f);
        }
        let Self::Http(error) = self else {
            return f.write_str("the upstream switched protocols without being asked");
        };
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        write!(f, "the upstream broke off: {cause}")
    }
}

/// A request in the log: begun before its first byte went upstream, ended when it is dropped.
struct Exchange {
    context: Arc<super::Context>,
    connection: u64,
    begin: Option<u64>,
    since: Instant,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    status: Option<u16>,
    error: Option<String>,
}

impl Exchange {
    async fn begin(
        connection: &Allowed,
        rule: &Rule,
        request: &Request<Incoming>,
    ) -> Result<Self, crate::log::LogError> {
        let context = connection.context.clone();
        let begin = match context.log_level {
            LogLevel::Request => {
                let entry = RequestEntry {
                    host: Some(connection.route.to.to_string()),
                    method: Some(request.method().to_string()),
                    path: Some(request.uri().path().to_owned()),
                    rule: Some(rule.id.clone()),
                    ..blank(Phase::Begin, connection.id)
                };
                let record = Record { subject: context.instance.subject(), event: Event::Request(entry) };
                Some(context.log.append(record).await?)
            }
            // The connect entry is durable already; the log must still be alive.
            LogLevel::Connection => {
                context.log.check()?;
                None
            }
        };
        Ok(Self {
            context,
            connection: connection.id,
            begin,
            since: Instant::now(),
            sent: Arc::default(),
            received: Arc::default(),
            status: None,
            error: None,
        })
    }

    fn fail(mut self, connection: &Allowed, rule: &Rule, failure: &Failure) -> Response<Body> {
        let text = failure.to_string();
        self.error = Some(text.clone());
        if failure.too_large() {
            connection.refuse("http", "request_too_large", text.clone(), &rule.id);
            let hint = "raise max_request_bytes in the rule";
            return error_response(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &text, &rule.id, hint);
        }
        let refused = failure.upstream().and_then(UpstreamError::refusal);
        if let Some(error) = failure.upstream() {
            connection.refuse_upstream(error);
        }
        let reason = refused.unwrap_or("upstream_unreachable");
        error_response(StatusCode::BAD_GATEWAY, reason, &text, &rule.id, "look at the upstream, or at the rule")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(begin) = self.begin else { return };
        let entry = RequestEntry {
            begin: Some(begin),
            status: self.status,
            request_bytes: Some(self.sent.load(Ordering::Relaxed)),
            response_bytes: Some(self.received.load(Ordering::Relaxed)),
            duration_ms: u64::try_from(self.since.elapsed().as_millis()).ok(),
            error: self.error.take(),
            ..blank(Phase::End, self.connection)
        };
        let record = Record { subject: self.context.instance.subject(), event: Event::Request(entry) };
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.context.log.enqueue_now(record);
    }
}

fn blank(phase: Phase, connection: u64) -> RequestEntry {
    RequestEntry {
        phase,
        connection,
        begin: None,
        host: None,
        method: None,
        path: None,
        rule: None,
        status: None,
        request_bytes: None,
        response_bytes: None,
        duration_ms: None,
        error: None,
    }
}

fn error_response(status: StatusCode, reason: &'static str, error: &str, rule: &str, hint: &str) -> Response<Body> {
    let text = json!({ "error": error, "reason": reason, "rule": rule, "hint": hint }).to_string();
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-dshield-refused", HeaderValue::from_static(reason));
    response
}

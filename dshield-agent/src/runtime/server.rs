//! The Lambda Runtime API (version 2018-06-01) of one instance.
//!
//! In: HTTP requests from function code, which is hostile: every id, state and size is checked. Out: events
//! from the instance's mailbox, and answers into it. Statuses and bodies are those of AWS Lambda; see
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::body::{BodyError, read_body};
use super::invocation::{error_json, too_large_json};
use super::mailbox::{Answer, Mailbox, Refusal};
use super::serve::{Limits, Peer, serve};

/// The largest answer of a function: Lambda's 6 MiB and a little.
pub(super) const MAX_PAYLOAD: usize = 6 * 1024 * 1024 + 100;

/// One for `/next`, one for answers, and some for runtimes that open a new one for every call.
const CONNECTIONS: usize = 8;
/// A runtime may leave its connection idle for as long as its function works; this is on top.
const IDLE: Duration = Duration::from_secs(60);

const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";

#[derive(Debug)]
struct Api {
    mailbox: Arc<Mailbox>,
    arn: HeaderValue,
    /// One body in memory at a time.
    reading: Semaphore,
}

/// Serves the Runtime API on `listener` until dropped. `timeout` is the function's.
pub(super) async fn run(listener: TcpListener, mailbox: Arc<Mailbox>, arn: &str, timeout: Duration) {
    // A function's name is made of header-safe characters; without the ARN the runtime still works.
    let arn = HeaderValue::from_str(arn).unwrap_or(HeaderValue::from_static(""));
    let api = Arc::new(Api { mailbox, arn, reading: Semaphore::new(1) });
    let limits = Limits { connections: CONNECTIONS, head: timeout + IDLE, unread: None };
    serve(listener, router(api), limits, None, std::future::pending()).await;
}

fn router(api: Arc<Api>) -> Router {
    let runtime = Router::new()
        .route("/invocation/next", get(next))
        .route("/invocation/{id}/response", post(response))
        .route("/invocation/{id}/error", post(error))
        .route("/init/error", post(init_error));
    Router::new()
        .nest("/2018-06-01/runtime", runtime)
        .route("/2018-06-01/ping", get(|| async { "pong" }))
        .route("/ping", get(|| async { "pong" }))
        .fallback(|| async { reply(StatusCode::NOT_FOUND, "NotFound", "There is no such call") })
        .method_not_allowed_fallback(|| async {
            reply(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "The call exists, but not with this method")
        })
        .with_state(api)
}

async fn next(State(api): State<Arc<Api>>, Extension(peer): Extension<Peer>) -> Response {
    let event = match api.mailbox.next(|| peer.is_connected()).await {
        Ok(event) => event,
        Err(refusal) => return refusal.into_response(),
    };
    let mut response = Response::new(Body::from(event.payload));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&event.id) {
        headers.insert("lambda-runtime-aws-request-id", id);
    }
    headers.insert("lambda-runtime-deadline-ms", HeaderValue::from(unix_ms(event.deadline)));
    headers.insert("lambda-runtime-invoked-function-arn", api.arn.clone());
    response
}

async fn response(State(api): State<Arc<Api>>, Path(id): Path<String>, request: Request) -> Response {
    if let Err(refusal) = api.mailbox.expects(&id) {
        return refusal.into_response();
    }
    let streaming = match request.headers().get(RESPONSE_MODE).map(HeaderValue::as_bytes) {
        None => false,
        Some(mode) if mode.eq_ignore_ascii_case(b"streaming") => true,
        Some(_) => {
            return reply(StatusCode::BAD_REQUEST, "InvalidFunctionResponseMode", "Invalid function response mode");
        }
    };
    let answer = match read(&api, request).await {
        // A streamed answer that failed half-way says so after its body.
        Ok((_, trailers)) if streaming && trailers.contains_key(ERROR_TYPE) => Answer::Error(streamed_error(&trailers)),
        Ok((bytes, _)) => Answer::Response(bytes),
        Err(BodyError::TooLarge) => return too_large(&api, &id),
        Err(BodyError::Truncated) => return truncated(),
    };
    accepted(api.mailbox.answer(&id, answer))
}

async fn error(State(api): State<Arc<Api>>, Path(id): Path<String>, request: Request) -> Response {
    if let Err(refusal) = api.mailbox.expects(&id) {
        return refusal.into_response();
    }
    let kind = error_type(request.headers());
    match read(&api, request).await {
        Ok((bytes, _)) => accepted(api.mailbox.answer(&id, Answer::Error(error_object(bytes, kind)))),
        Err(BodyError::TooLarge) => too_large(&api, &id),
        Err(BodyError::Truncated) => truncated(),
    }
}

async fn init_error(State(api): State<Arc<Api>>, request: Request) -> Response {
    if let Err(refusal) = api.mailbox.initialising() {
        return refusal.into_response();
    }
    let kind = error_type(request.headers());
    let error = match read(&api, request).await {
        Ok((bytes, _)) => error_object(bytes, kind),
        Err(BodyError::TooLarge) => error_object(Bytes::new(), kind),
        Err(BodyError::Truncated) => return truncated(),
    };
    accepted(api.mailbox.fail_init(error))
}

async fn read(api: &Api, request: Request) -> Result<(Bytes, HeaderMap), BodyError> {
    // How long this takes is bounded by the deadline of the invocation, or of the initialisation, whose
    // answer the body is: after it the instance is stopped.
    let _turn = api.reading.acquire().await.map_err(|_| BodyError::Truncated)?;
    read_body(request.into_body(), MAX_PAYLOAD).await
}

fn too_large(api: &Api, id: &str) -> Response {
    // The invocation has failed, whatever the runtime says next.
    if let Err(refusal) = api.mailbox.answer(id, Answer::TooLarge) {
        return refusal.into_response();
    }
    let message = format!("Exceeded maximum allowed payload size ({MAX_PAYLOAD} bytes).");
    reply(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
}

fn truncated() -> Response {
    reply(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

fn accepted(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => json(StatusCode::ACCEPTED, Bytes::from_static(b"{\"status\":\"OK\"}")),
        Err(refusal) => refusal.into_response(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::InvalidRequestId => reply(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"),
            Self::InvalidStateTransition => {
                reply(StatusCode::FORBIDDEN, "InvalidStateTransition", "The call is not allowed in the runtime's state")
            }
            Self::Gone => reply(StatusCode::GONE, "Gone", "The instance is being stopped"),
        }
    }
}

fn reply(status: StatusCode, error_type: &str, message: &str) -> Response {
    json(status, error_json(error_type, message))
}

fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The error as the caller will see it: what the runtime sent if that is a JSON object, else one made from
/// the error type in the headers.
fn error_object(bytes: Bytes, kind: String) -> Bytes {
    let is_object = bytes.trim_ascii_start().first() == Some(&b'{')
        && std::str::from_utf8(&bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
    if is_object { bytes } else { error_json(&kind, "The runtime gave no error message") }
}

fn streamed_error(trailers: &HeaderMap) -> Bytes {
    let body = trailers.get(ERROR_BODY).and_then(|body| STANDARD.decode(body.as_bytes()).ok()).unwrap_or_default();
    error_object(body.into(), error_type(trailers))
}

/// The error type in the headers: `Runtime.Name` or `Function.Name`, anything else is `Runtime.Unknown`.
fn error_type(headers: &HeaderMap) -> String {
    let given = headers.get(ERROR_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = given.strip_prefix("Runtime.").or_else(|| given.strip_prefix("Function.")).unwrap_or_default();
    let valid = name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    if valid { given.to_owned() } else { "Runtime.Unknown".to_owned() }
}

/// What the pool makes of [`Answer::TooLarge`].
pub(super) fn response_too_large() -> Bytes {
    too_large_json(MAX_PAYLOAD)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

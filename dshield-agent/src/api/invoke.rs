//! `POST /2015-03-31/functions/{name}/invocations`, as AWS Lambda's Invoke API: its SDKs and its CLI work with it.
//!
//! In: a name or ARN, an invocation type, a JSON payload. Out: what the function returned, with
//! `X-Amz-Function-Error` when it failed, or one of Lambda's error bodies when it did not run. See
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>. `X-Amz-Log-Type` is ignored.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body as _;
use serde_json::{Value, json};

use super::Shared;
use crate::runtime::{BodyError, Ending, InvokeError, Outcome, arn, read_body, request_id};

/// Lambda's limit for synchronous invocations.
const SYNC_LIMIT: usize = 6 * 1024 * 1024;
/// Lambda's limit for asynchronous ones.
const EVENT_LIMIT: usize = 1024 * 1024;
/// Bodies up to this size are read without waiting for a turn.
const SMALL_BODY: u64 = 64 * 1024;
/// How long a client may take to send its payload.
const BODY_TIME: Duration = Duration::from_secs(60);
const MAX_NAME: usize = 256;
/// Number of the invocation's first entry, and size and root of the log when the function had answered.
const LOG_HEADER: &str = "x-dshield-log";

pub(super) async fn invoke(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    request: Request,
) -> Response {
    let id = request_id();
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let qualifier = query.ok().and_then(|Query(mut query)| query.remove("Qualifier"));
    let mut response = match answer(&shared, &name, qualifier, &id, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

async fn answer(
    shared: &Shared,
    name: &str,
    qualifier: Option<String>,
    id: &str,
    request: Request,
) -> Result<Response, Failure> {
    let target = Target::parse(name).ok_or(Failure::FunctionName)?;
    let deployed = shared.deployed();
    let latest = |qualifier: &str| qualifier == "$LATEST";
    let known = target.qualifier.is_none_or(latest) && qualifier.as_deref().is_none_or(latest);
    let pool = deployed.functions.get(target.name).filter(|_| known);
    let pool = pool.ok_or_else(|| Failure::NoSuchFunction(target.name.to_owned()))?;

    let kind = Kind::of(request.headers())?;
    (shared.state.health)().map_err(Failure::NotReady)?;
    if kind == Kind::DryRun {
        return Ok(status_only(StatusCode::NO_CONTENT));
    }
    let payload = payload(shared, request, kind).await?;
    let invocation = pool.start(payload, id)?;
    if kind == Kind::Event {
        return Ok(status_only(StatusCode::ACCEPTED));
    }
    Ok(finished(shared, invocation.await?))
}

fn status_only(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// With the answer the caller gets what the log was at that moment: who keeps it can tell later whether the log still
/// holds the invocation, and all before it (`/v1/log/proof/{seq}`, `/v1/log/consistency`).
fn finished(shared: &Shared, outcome: Outcome) -> Response {
    let mut response = Response::new(Body::from(outcome.payload));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amz-executed-version", HeaderValue::from_static("$LATEST"));
    if outcome.ending != Ending::Ok {
        // `Handled` is what Lambda gave for errors of runtimes it has retired.
        headers.insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
    }
    if let Some(seq) = outcome.seq {
        let (size, root) = shared.state.log.tree_head();
        // A dictionary of RFC 9651.
        if let Ok(value) = HeaderValue::from_str(&format!("seq={seq}, size={size}, root=:{root}:")) {
            headers.insert(LOG_HEADER, value);
        }
    }
    response
}

/// The event: JSON, `{}` when there is none.
async fn payload(shared: &Shared, request: Request, kind: Kind) -> Result<Bytes, Failure> {
    let limit = if kind == Kind::Event { EVENT_LIMIT } else { SYNC_LIMIT };
    let asks_first = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    if asks_first && body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge { limit });
    }
    let small = body.size_hint().upper().is_some_and(|size| size <= SMALL_BODY);
    let reading = async {
        let _turn = if small { None } else { shared.large_bodies.acquire().await.ok() };
        read_body(body, limit).await
    };
    let (payload, _) = tokio::time::timeout(BODY_TIME, reading)
        .await
        .map_err(|_| Failure::Content("the body did not arrive in time".to_owned()))?
        .map_err(|error| match error {
            BodyError::TooLarge => Failure::TooLarge { limit },
            BodyError::Truncated => Failure::Content(error.to_string()),
        })?;
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let text = std::str::from_utf8(&payload).map_err(|error| Failure::Content(error.to_string()))?;
    // Checked, not kept: the function gets the caller's bytes.
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| Failure::Content(error.to_string()))?;
    Ok(payload)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        match headers.get("x-amz-invocation-type").map(HeaderValue::as_bytes) {
            None | Some(b"RequestResponse") => Ok(Self::RequestResponse),
            Some(b"Event") => Ok(Self::Event),
            Some(b"DryRun") => Ok(Self::DryRun),
            Some(_) => Err(Failure::InvocationType),
        }
    }
}

/// A function as Lambda's clients may name it: `name`, `name:qualifier`, `account:function:name`, or an ARN.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    name: &'a str,
    qualifier: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_NAME {
            return None;
        }
        let is_account = |part: &str| part.len() == 12 && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<_> = text.split(':').collect();
        let rest = match parts.as_slice() {
            ["arn", partition, "lambda", _region, account, "function", rest @ ..]
                if partition.starts_with("aws") && is_account(account) =>
            {
                rest
            }
            [account, "function", rest @ ..] if is_account(account) => rest,
            ["function", rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let good = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte))
        };
        match *rest {
            [name] if good(name) => Some(Self { name, qualifier: None }),
            [name, qualifier] if good(name) && good(qualifier) => Some(Self { name, qualifier: Some(qualifier) }),
            _ => None,
        }
    }
}

/// Why the function did not run, as its caller is told.
#[derive(Debug)]
enum Failure {
    FunctionName,
    NoSuchFunction(String),
    InvocationType,
    Content(String),
    TooLarge {
        limit: usize,
    },
    /// What would hold the function is not as it should be.
    NotReady(String),
    Invoke(InvokeError),
}

impl From<InvokeError> for Failure {
    fn from(error: InvokeError) -> Self {
        Self::Invoke(error)
    }
}

impl Failure {
    /// Status, `x-amzn-ErrorType` and body. That some bodies have `Message` and some `message` is Lambda's.
    fn parts(&self) -> (StatusCode, &'static str, Value) {
        let user = |message: String| json!({ "Type": "User", "message": message });
        match self {
            Self::FunctionName => {
                let message = "The function name must be a name, name:$LATEST or the ARN of a function";
                (StatusCode::BAD_REQUEST, "InvalidParameterValueException", user(message.to_owned()))
            }
            Self::NoSuchFunction(name) => {
                let message = format!("Function not found: {}", arn(name));
                (StatusCode::NOT_FOUND, "ResourceNotFoundException", json!({ "Message": message, "Type": "User" }))
            }
            Self::InvocationType => {
                let message = "X-Amz-Invocation-Type must be RequestResponse, Event or DryRun";
                (StatusCode::BAD_REQUEST, "InvalidParameterValueException", user(message.to_owned()))
            }
            Self::Content(problem) => {
                let message = format!("Could not parse request body into json: {problem}");
                (StatusCode::BAD_REQUEST, "InvalidRequestContentException", user(message))
            }
            Self::TooLarge { limit } => {
                let message = format!("Request must be smaller than {limit} bytes for the InvokeFunction operation");
                (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", user(message))
            }
            Self::NotReady(reason) => {
                let body = json!({ "Message": format!("The agent is not ready: {reason}"), "Type": "Service" });
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", body)
            }
            Self::Invoke(error) => invoke_parts(error),
        }
    }

    fn into_response(self) -> Response {
        if let Self::Invoke(InvokeError::Launch(_) | InvokeError::Log(_)) = &self {
            tracing::error!("an invocation failed: {}", chain(&self));
        }
        let (status, error_type, body) = self.parts();
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-amzn-errortype", HeaderValue::from_static(error_type));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn invoke_parts(error: &InvokeError) -> (StatusCode, &'static str, Value) {
    let service = |message: &str| json!({ "Message": message, "Type": "Service" });
    match error {
        InvokeError::TooManyRequests { .. } => {
            let reason = "ReservedFunctionConcurrentInvocationLimitExceeded";
            let body = json!({ "Reason": reason, "Type": "User", "message": "Rate Exceeded." });
            (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", body)
        }
        // The cause is the operator's to know: the caller learns whose fault it is, and where to look.
        InvokeError::Launch(_) => {
            let message = "The function's sandbox could not be started. The agent's own output says why.";
            (StatusCode::BAD_GATEWAY, "InvalidRuntimeException", service(message))
        }
        InvokeError::Log(_) => {
            let message = "The log takes no entries, so the function was not run. See /readyz.";
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", service(message))
        }
        InvokeError::Stopped => {
            let message = "The function is being stopped. Try again.";
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", service(message))
        }
    }
}

/// An error and its causes, in one line, for the agent's own output.
fn chain(failure: &Failure) -> String {
    let Failure::Invoke(error) = failure else { return String::new() };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name_that_lambda_takes_is_taken() {
        let plain = Target { name: "f", qualifier: None };
        let latest = Target { name: "f", qualifier: Some("$LATEST") };
        for text in ["f", "function:f", "012345678912:function:f", "arn:aws:lambda:us-east-1:012345678912:function:f"] {
            assert_eq!(Target::parse(text).as_ref(), Some(&plain), "{text}");
            assert_eq!(Target::parse(&format!("{text}:$LATEST")).as_ref(), Some(&latest), "{text}");
        }
        assert_eq!(Target::parse("function"), Some(Target { name: "function", qualifier: None }));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "f".repeat(MAX_NAME + 1);
        for text in
            ["", ":", "f:", ":f", "a/b", "a b", "f:1:2", "arn:aws:s3:::bucket", "arn:aws:lambda:x:1:function:f", &long]
        {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}

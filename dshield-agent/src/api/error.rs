//! What a request to the `/v1` routes can be told, as `{"error": {"code", "message", …}}`.
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use crate::attest::AttestError;
use crate::log::LogError;

#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The caller's.
    #[error("{parameter} {problem}")]
    InvalidParameter { parameter: String, problem: String },
    /// The caller's.
    #[error(
        "there is no {0}; what there is: /v1/attestation, /v1/functions, /v1/policy, /v1/log/entries, /v1/log/stream, /v1/log/key, /v1/log/checkpoint, /v1/log/proof/{{seq}}, /v1/log/consistency, /v1/log/tlog/…, /healthz, /readyz"
    )]
    NoSuchRoute(String),
    /// The caller's.
    #[error("this path does not take this method")]
    WrongMethod,
    /// The caller's: too many others do the same.
    #[error("too many readers follow the log; read /v1/log/entries, or try again later")]
    TooManyStreams,
    /// The caller's, who asks for what is not kept any more.
    #[error("{0}")]
    Pruned(LogError),
    /// The caller's, who asks for what is not there yet.
    #[error("{0}")]
    NotThere(String),
    /// The operator's.
    #[error("the log cannot be read; the agent's own output says why")]
    Log(LogError),
    /// The operator's, or the machine's: there is no quote.
    #[error("{0}")]
    Attestation(AttestError),
    /// The operator's.
    #[error("not ready: {0}")]
    NotReady(String),
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Pruned { .. } => Self::Pruned(error),
            LogError::NoSuchEntry { .. } => Self::NotThere(error.to_string()),
            error => Self::Log(error),
        }
    }
}

impl From<AttestError> for ApiError {
    fn from(error: AttestError) -> Self {
        Self::Attestation(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::InvalidParameter { .. } => (StatusCode::BAD_REQUEST, "invalid_parameter"),
            Self::NoSuchRoute(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "too_many_streams"),
            Self::Pruned(_) => (StatusCode::GONE, "pruned"),
            Self::NotThere(_) => (StatusCode::NOT_FOUND, "not_there_yet"),
            Self::Log(cause) => {
                tracing::error!("the log could not be read: {cause}");
                (StatusCode::SERVICE_UNAVAILABLE, "log_unreadable")
            }
            Self::Attestation(AttestError::NoProvider(_)) => (StatusCode::NOT_FOUND, "no_attestation"),
            Self::Attestation(AttestError::Busy) => (StatusCode::SERVICE_UNAVAILABLE, "attestation_busy"),
            Self::Attestation(_) => (StatusCode::SERVICE_UNAVAILABLE, "attestation_failed"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        };
        let mut error = json!({ "code": code, "message": self.to_string() });
        if let Self::InvalidParameter { parameter, .. } = &self {
            error["parameter"] = json!(parameter);
        }
        if let Self::Pruned(LogError::Pruned { first }) = &self {
            error["first"] = json!(first);
        }
        let body = json!({ "error": error }).to_string();
        (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

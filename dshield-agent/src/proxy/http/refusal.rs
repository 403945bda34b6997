//! What a function gets in place of an answer, and what the log says then.
use ::http::header::{self, HeaderValue};
use ::http::{Response, StatusCode};
use dshield_common::log::entry::Attempt;
use dshield_common::policy::{Denied, remedy};
use serde_json::json;

use super::framing::Violation;
use crate::proxy::NO_RULE;
use crate::proxy::allowed::Allowed;
use crate::proxy::body::{self, Body};

/// The header that tells a refusal from an answer of the upstream.
const REFUSED: &str = "x-dshield-refused";

/// The reason where a request can be read in more than one way.
pub(super) const AMBIGUOUS: &str = "ambiguous_framing";

/// A request that was refused.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// A word that never changes, for the log and for programs.
    pub(super) reason: &'static str,
    pub(super) detail: String,
    pub(super) rule: String,
    /// What to write into the policy, or to change in the function.
    pub(super) hint: String,
    pub(super) attempt: Attempt,
}

impl Refusal {
    /// Of a request that is not as it should be, whatever the rules allow.
    pub(super) fn of_traffic(
        status: StatusCode,
        reason: &'static str,
        detail: String,
        rule: String,
        attempt: Attempt,
    ) -> Self {
        let hint = remedy::of_reason(reason, &rule).unwrap_or_default();
        Self { status, reason, detail, rule, hint, attempt }
    }

    /// Writes the log entry, and answers with its number.
    pub(super) async fn respond(self, connection: &Allowed) -> Response<Body> {
        let Self { status, reason, detail, rule, hint, attempt } = self;
        let seq = connection.refuse(reason, detail.clone(), &rule, attempt).await;
        Answer { status, reason, error: detail, rule, hint, seq }.response()
    }
}

/// The answer to a request that more than one reading was possible of; the connection ends with it.
pub(super) async fn ambiguous(connection: &Allowed, violation: Violation) -> Response<Body> {
    let status = match violation {
        Violation::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Violation::HeadTooLarge | Violation::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    let detail = format!("request to {}: {violation}", connection.route.to);
    let rule = connection.route.rule_id().to_owned();
    Refusal::of_traffic(status, AMBIGUOUS, detail, rule, connection.attempt()).respond(connection).await
}

/// An answer of D-Shield's own: JSON, with the reason as a header too.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Answer {
    pub(in crate::proxy) status: StatusCode,
    pub(in crate::proxy) reason: &'static str,
    pub(in crate::proxy) error: String,
    pub(in crate::proxy) rule: String,
    pub(in crate::proxy) hint: String,
    /// The number of the log entry, where it has one of its own.
    pub(in crate::proxy) seq: Option<u64>,
}

impl Answer {
    /// What a function sees of a connection that no rule allows.
    pub(in crate::proxy) fn denied(denied: &Denied, seq: Option<u64>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            reason: denied.reason(),
            error: denied.to_string(),
            rule: denied.rule().unwrap_or(NO_RULE).to_owned(),
            hint: denied.hint(),
            seq,
        }
    }

    pub(in crate::proxy) fn response(&self) -> Response<Body> {
        let mut response = Response::new(body::full(self.text()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REFUSED, HeaderValue::from_static(self.reason));
        response
    }

    /// The same as the last message of an HTTP/1.1 connection.
    pub(in crate::proxy) fn message(&self) -> String {
        let (status, reason, text) = (self.status, self.reason, self.text());
        let length = text.len();
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{REFUSED}: {reason}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{text}"
        )
    }

    fn text(&self) -> String {
        let Self { reason, error, rule, hint, seq, .. } = self;
        json!({ "error": error, "hint": hint, "reason": reason, "rule": rule, "seq": seq }).to_string()
    }
}

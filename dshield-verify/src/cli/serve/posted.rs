//! `POST /v1/verify`: evidence that somebody sends flows in, the verdict on it flows out. Nothing is fetched for it, nothing
//! of it is kept.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dshield_common::attestation::Nonce;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Service;
use super::answer::{self, Answer};
use crate::cli::look::{Found, Look};
use crate::expect::Expect;
use crate::judge::Options;
use crate::quote::Root;
use crate::time;

/// Evidence is below 64 KiB without the payloads of its events.
pub(super) const MOST: usize = 1 << 20;
/// For the whole body.
const BODY: Duration = Duration::from_secs(20);
/// For the others before it.
const TURN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posted {
    /// As `GET /v1/attestation` answered; judged byte for byte.
    evidence: Box<RawValue>,
    /// The text of an `expect.toml`, which names no files.
    expect: Option<String>,
    /// What the evidence was asked for with.
    nonce: Option<Nonce>,
    /// The moment to judge for besides the present one.
    at: Option<At>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum At {
    Seconds(u64),
    Text(String),
}

/// Judges what was posted.
pub(super) async fn verify(service: &Arc<Service>, request: Request<Incoming>) -> Answer {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Another site's form cannot send this type, so no reader's browser judges for strangers.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let message = "send the evidence as application/json: {\"evidence\": …, \"expect\": \"…\"}";
        return answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_type", message);
    }
    let busy = || {
        let message = "too much is being judged; try again later, or use dshield-verify itself";
        answer::error(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    };
    let Ok(_body) = service.bodies.try_acquire() else { return busy() };
    let body = match tokio::time::timeout(BODY, Limited::new(request.into_body(), MOST).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("more than {MOST} bytes are not judged here; use dshield-verify itself");
            return answer::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message);
        }
        _ => return answer::error(StatusCode::REQUEST_TIMEOUT, "incomplete", "the body did not arrive"),
    };
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, service.judging.acquire()).await else { return busy() };
    let judged = tokio::task::spawn_blocking(move || judged(&body, crate::cli::now())).await;
    judged.unwrap_or_else(|_| {
        let message = "the judge broke off: please report this, with the evidence";
        answer::error(StatusCode::INTERNAL_SERVER_ERROR, "broken", message)
    })
}

fn judged(body: &Bytes, now: u64) -> Answer {
    let bad = |code: &str, message: String| answer::error(StatusCode::BAD_REQUEST, code, &message);
    let posted: Posted = match serde_json::from_slice(body) {
        Ok(posted) => posted,
        Err(error) => return bad("malformed", format!("the body is not {{\"evidence\": …, \"expect\": …}}: {error}")),
    };
    let mut no_files = |_: &str| Err("what is posted names no files; write their hashes into it".to_owned());
    let expect = match Expect::parse(posted.expect.as_deref().unwrap_or_default(), &mut no_files) {
        Ok(expect) => expect,
        Err(error) => return bad("malformed_expect", format!("expect: {error}")),
    };
    let at = match posted.at {
        None => None,
        Some(At::Seconds(seconds)) => Some(seconds),
        Some(At::Text(text)) => match time::parse(&text) {
            Some(seconds) => Some(seconds),
            None => return bad("malformed_at", "at is no moment: write it like 2026-11-28T06:40:00Z".to_owned()),
        },
    };
    let look = Look {
        subject: String::new(),
        expect,
        options: Options { now, root: Root::Intel, insecure_development: false, insecure_any_measurement: false },
        at,
        nonce: posted.nonce,
        log: None,
        memory: None,
        pccs: None,
    };
    match look.in_hand(posted.evidence.get().to_owned()) {
        Ok(Found { verdict, then: None, .. }) => answer::json(StatusCode::OK, &verdict),
        Ok(Found { verdict, then: Some(then), .. }) => {
            answer::json(StatusCode::OK, &json!({ "now": verdict, "at": then }))
        }
        // There is no log to read.
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "broken", &error.to_string()),
    }
}

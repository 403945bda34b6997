//! What goes back: bodies with the headers that keep a browser from taking them for something else.
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

pub(super) type Answer = Response<Full<Bytes>>;

/// A page may show itself, its style, its script and its pictures, and send its one form; nothing of it may be shown
/// elsewhere. Scripts and styles in the markup are refused, whoever put them there.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// Everything else may do nothing at all.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox";

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // What is fresh is all that counts here.
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

pub(super) fn page(status: StatusCode, html: String) -> Answer {
    let mut answer = answer(status, "text/html; charset=utf-8", html);
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    answer
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // Texts, numbers and lists of them: they all have a JSON form.
    let body = serde_json::to_vec(value).unwrap_or_default();
    answer(status, "application/json", body)
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text)
}

/// As the agent's API says it: `{"error": {"code", "message"}}`.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    json(status, &json!({ "error": { "code": code, "message": message } }))
}

/// Part of a page.
pub(super) fn asset(kind: &'static str, body: &'static str) -> Answer {
    let mut answer = answer(StatusCode::OK, kind, body);
    // Pages of another version of this program have other assets under the same names.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// A picture that other sites show. A cache that asks again each time shows what is; one that does not may keep it for
/// `keep` seconds.
pub(super) fn badge(svg: String, keep: u64) -> Answer {
    let mut answer = answer(StatusCode::OK, "image/svg+xml", svg);
    let cache = format!("no-cache, must-revalidate, max-age={keep}");
    if let Ok(cache) = HeaderValue::try_from(cache) {
        answer.headers_mut().insert(header::CACHE_CONTROL, cache);
    }
    answer.headers_mut().insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    answer
}

/// A file to keep. `name` is this program's own or made of a [`super::config::Name`].
pub(super) fn download(kind: &'static str, name: &str, body: Bytes) -> Answer {
    let mut answer = answer(StatusCode::OK, kind, body);
    if let Ok(disposition) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        answer.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    answer
}

/// Where to look instead.
pub(super) fn see_other(location: &str) -> Answer {
    let mut answer = answer(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    if let Ok(location) = HeaderValue::try_from(location) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path does not take this method");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}

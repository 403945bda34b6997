//! What the stand-in answers, and what it writes down about each request.
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request, Response};

use super::body::channel;
use super::completions;
use super::messages::{self, Refusal};

/// How long `GET /slow` takes.
pub const SLOW: Duration = Duration::from_secs(2);

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// A request that reached the stand-in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When its head had arrived.
    pub at: SystemTime,
    /// The method.
    pub method: String,
    /// The `Host` field.
    pub host: Option<String>,
    /// The path, with its query.
    pub path: String,
    /// The `x-marker` field, by which a test knows its own requests.
    pub marker: Option<String>,
    /// Bytes of the body that arrived; 0 until it is complete or broken off.
    pub body_bytes: u64,
}

/// What has been seen so far, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Record(Arc<Mutex<Vec<Seen>>>);

impl Record {
    pub(super) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn head(&self, request: &Request<Incoming>) -> usize {
        let field = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
        let seen = Seen {
            at: SystemTime::now(),
            method: request.method().to_string(),
            host: field(HOST.as_str()),
            path: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            marker: field("x-marker"),
            body_bytes: 0,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
        all.len() - 1
    }

    fn body(&self, index: usize, bytes: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get_mut(index) {
            seen.body_bytes = bytes;
        }
    }
}

/// Records the request as soon as its head is there, reads it and answers.
pub(super) async fn serve(request: Request<Incoming>, record: Record) -> Result<Reply, Infallible> {
    let index = record.head(&request);
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(frame)) = incoming.frame().await {
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data);
            record.body(index, body.len() as u64);
        }
    }
    let path = head.uri.path();
    Ok(match (&head.method, path) {
        (&Method::POST, "/v1/messages") => match messages::parse(&head.headers, &body) {
            Err(refusal) => error(&refusal),
            Ok(prompt) if prompt.stream => {
                let (out, body) = channel();
                tokio::spawn(prompt.stream(out));
                reply(200, "text/event-stream; charset=utf-8", body.boxed())
            }
            Ok(prompt) => json(200, prompt.answer().to_string()),
        },
        (&Method::POST, "/v1/chat/completions") => match completions::parse(&head.headers, &body) {
            Err(refusal) => error(&refusal),
            Ok(prompt) if prompt.stream => {
                let (out, body) = channel();
                tokio::spawn(completions::stream(prompt, out));
                reply(200, "text/event-stream; charset=utf-8", body.boxed())
            }
            Ok(prompt) => json(200, completions::answer(&prompt).to_string()),
        },
        (&Method::POST, path) if path == "/echo" || path.starts_with("/echo/") => {
            reply(200, "application/octet-stream", Full::from(body).boxed())
        }
        (&Method::GET, "/slow") => {
            tokio::time::sleep(SLOW).await;
            json(200, "{\"slow\":true}".to_owned())
        }
        (&Method::GET, path) => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
            Some(count) => bytes(count),
            None => error(&Refusal::new(404, "not_found_error", "Not found")),
        },
        _ => error(&Refusal::new(404, "not_found_error", "Not found")),
    })
}

fn bytes(count: u64) -> Reply {
    const CHUNK: u64 = 64 * 1024;
    let (out, body) = channel();
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; CHUNK as usize]);
        let mut left = count;
        while left > 0 {
            let now = left.min(CHUNK);
            // `now` is at most CHUNK, so it fits.
            if out.send(chunk.slice(..now as usize)).await.is_err() {
                return;
            }
            left -= now;
        }
    });
    let mut reply = reply(200, "application/octet-stream", body.boxed());
    reply.headers_mut().insert(hyper::header::CONTENT_LENGTH, count.into());
    reply
}

fn error(refusal: &Refusal) -> Reply {
    json(refusal.status, refusal.body.to_string())
}

fn json(status: u16, body: String) -> Reply {
    reply(status, "application/json", Full::from(body).boxed())
}

fn reply(status: u16, content_type: &str, body: BoxBody<Bytes, Infallible>) -> Reply {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("request-id", "req_standin")
        .body(body)
        .expect("status and fields are well formed")
}

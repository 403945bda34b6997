//! The Messages API, as far as a client that posts one text can tell.
//!
//! Shapes after <https://docs.anthropic.com/en/api/messages> and `…/messages-streaming`.
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Between two events of a stream: long enough that a buffering proxy would show.
pub const PAUSE: Duration = Duration::from_millis(60);

/// The versions that agree in everything that is played here: curl and most others send the first, current SDKs the
/// second, with the key as a bearer token.
const VERSIONS: [&str; 2] = ["2023-06-01", "2026-10-21"];

/// A request that passed the checks.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) model: String,
    text: String,
    pub(super) stream: bool,
}

/// An error answer: status and body in Anthropic's shape.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Refusal {
    pub(super) fn new(status: u16, kind: &str, message: &str) -> Self {
        Self { status, body: json!({"type": "error", "error": {"type": kind, "message": message}}) }
    }
}

/// Checks what the real API checks: the key's presence, the version and the body's shape.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Prompt, Refusal> {
    let invalid = |message: &str| Refusal::new(400, "invalid_request_error", message);
    if headers.get("x-api-key").is_none_or(|key| key.is_empty()) && !bearer(headers) {
        return Err(Refusal::new(401, "authentication_error", "x-api-key header is required"));
    }
    if headers.get("anthropic-version").is_none_or(|version| !VERSIONS.iter().any(|known| version == known)) {
        return Err(invalid("anthropic-version: header is required"));
    }
    prompt(body)
}

/// What is asked in a body, whose shape is the same in both APIs.
pub(super) fn prompt(body: &[u8]) -> Result<Prompt, Refusal> {
    let invalid = |message: &str| Refusal::new(400, "invalid_request_error", message);
    let body: Value = serde_json::from_slice(body).map_err(|_| invalid("The request body is not valid JSON"))?;
    let model = body["model"].as_str().ok_or_else(|| invalid("model: Field required"))?;
    if body["max_tokens"].as_u64().is_none_or(|tokens| tokens == 0) {
        return Err(invalid("max_tokens: Field required"));
    }
    let messages = body["messages"].as_array().ok_or_else(|| invalid("messages: Field required"))?;
    let last = messages.last().ok_or_else(|| invalid("messages: at least one message is required"))?;
    if last["role"] != "user" {
        return Err(invalid("messages: roles must end with \"user\""));
    }
    let text = match &last["content"] {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => return Err(invalid("messages.0.content: Field required")),
    };
    Ok(Prompt { model: model.to_owned(), text, stream: body["stream"] == true })
}

/// Whether there is a bearer token.
pub(super) fn bearer(headers: &HeaderMap) -> bool {
    let field = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    field.and_then(|field| field.strip_prefix("Bearer ")).is_some_and(|token| !token.is_empty())
}

impl Prompt {
    /// What the stand-in says: no model runs here, so it repeats the beginning and the length.
    pub(super) fn words(&self) -> Vec<String> {
        let words: Vec<&str> = self.text.split_whitespace().collect();
        let head = words.iter().take(6).copied().collect::<Vec<_>>().join(" ");
        let answer = format!("A text of {} words that begins with: {head}", words.len());
        answer.split_inclusive(' ').map(str::to_owned).collect()
    }

    /// The whole answer as one JSON object.
    pub(super) fn answer(&self) -> Value {
        let mut message = self.message();
        message["content"] = json!([{"type": "text", "text": self.words().concat()}]);
        message["stop_reason"] = json!("end_turn");
        message
    }

    /// The answer as server-sent events, one word at a time.
    pub(super) async fn stream(self, out: mpsc::Sender<Bytes>) {
        let mut events = vec![
            ("message_start", json!({"message": self.message()})),
            ("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        ];
        events.extend(
            self.words().into_iter().map(|word| {
                ("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": word}}))
            }),
        );
        events.push(("content_block_stop", json!({"index": 0})));
        let end = json!({"delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": self.words().len()}});
        events.push(("message_delta", end));
        events.push(("message_stop", json!({})));
        for (name, mut data) in events {
            data["type"] = json!(name);
            if out.send(Bytes::from(format!("event: {name}\ndata: {data}\n\n"))).await.is_err() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn message(&self) -> Value {
        let usage = json!({"input_tokens": self.text.split_whitespace().count(), "output_tokens": self.words().len()});
        json!({
            "id": "msg_standin", "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage
        })
    }
}

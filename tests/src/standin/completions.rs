//! Chat completions in OpenAI's form, as far as a client that posts one text can tell: the same words as the Messages
//! API, in other clothes.
use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::messages::{self, PAUSE, Prompt, Refusal};

/// Checks the key's presence and the body's shape.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Prompt, Refusal> {
    if !messages::bearer(headers) {
        return Err(Refusal::new(401, "authentication_error", "no bearer token"));
    }
    messages::prompt(body)
}

/// The whole answer as one JSON object.
pub(super) fn answer(prompt: &Prompt) -> Value {
    let choice = json!({
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": prompt.words().concat()}
    });
    completion(prompt, "chat.completion", &choice)
}

/// The answer as server-sent events, one word at a time.
pub(super) async fn stream(prompt: Prompt, out: mpsc::Sender<Bytes>) {
    let delta = |delta: Value, end: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": end});
        completion(&prompt, "chat.completion.chunk", &choice).to_string()
    };
    let mut events: Vec<String> =
        prompt.words().into_iter().map(|word| delta(json!({"content": word}), None)).collect();
    events.extend([delta(json!({}), Some("stop")), "[DONE]".to_owned()]);
    for data in events {
        if out.send(Bytes::from(format!("data: {data}\n\n"))).await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn completion(prompt: &Prompt, object: &str, choice: &Value) -> Value {
    json!({"id": "chatcmpl-standin", "object": object, "created": 0, "model": prompt.model, "choices": [choice]})
}

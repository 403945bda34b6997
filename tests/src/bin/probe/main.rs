//! A native function for the tests: it does what its event says and answers what happened.
//!
//! It is a custom runtime for the Lambda Runtime API, as anyone would write one: fetch the next invocation,
//! act, post the answer. Given an event as its argument it acts once and prints the
//! answer; given `serve` it acts for plain HTTP. `{"failed": step, "why": text}` is the answer when a step did not work.
mod actions;
mod grease;
mod https;
mod serve;

use std::net::SocketAddr;
use std::time::Duration;

use dshield_tests::client::{self, Error};
use serde_json::{Value, json};

/// The Runtime API holds the request until there is an invocation.
const NEXT: Duration = Duration::from_secs(365 * 24 * 3600);

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(event) = std::env::args().nth(1) {
        if event == "serve" {
            return runtime.block_on(serve::serve());
        }
        let (_, answer) = runtime.block_on(act(&serde_json::from_str(&event)?));
        println!("{answer}");
        return Ok(());
    }
    let api: SocketAddr = std::env::var("AWS_LAMBDA_RUNTIME_API")?.parse()?;
    loop {
        let invocation = client::request(api, "GET", "/2018-06-01/runtime/invocation/next", "", NEXT)?;
        let id = invocation.header("lambda-runtime-aws-request-id").ok_or("an invocation without an id")?.to_owned();
        let (kind, body) = runtime.block_on(act(&serde_json::from_slice(&invocation.body)?));
        let path = format!("/2018-06-01/runtime/invocation/{id}/{kind}");
        let posted = client::request(api, "POST", &path, body.to_string(), Duration::from_secs(30))?;
        if posted.status != 202 {
            return Err(format!("{path}: status {}: {}", posted.status, posted.text()).into());
        }
    }
}

/// Acts, and says where the answer goes: `response` or `error`.
async fn act(event: &Value) -> (&'static str, Value) {
    match actions::act(event).await {
        Ok(answer) => ("response", answer),
        Err(actions::Stop::Failed { step, why }) => ("response", json!({"failed": step, "why": why})),
        Err(actions::Stop::Error(message)) => {
            ("error", json!({"errorMessage": message, "errorType": "Probe.Error", "stackTrace": []}))
        }
    }
}

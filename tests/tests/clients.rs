//! Unmodified clients through `tls = "inspect"`: curl, Python requests, Node fetch.
use dshield_tests::agent::{Agent, Egress, Function, Project};
use dshield_tests::requires::{require_root, requires, requires_python_module};
use dshield_tests::standin::{PAUSE, Standin};
use serde_json::{Value, json};

/// Posts the event to the Messages API; answers its JSON, or when each line of the stream came.
const CURL: &str = r#"#!/bin/bash
set -u
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
ask() {
  curl -sS --no-buffer --data-binary "$1" -H 'x-api-key: k' -H 'anthropic-version: 2023-06-01' \
    -H 'content-type: application/json' https://api.anthropic.com/v1/messages 2>&1
}
while true; do
  event=$(curl -sS --dump-header /tmp/head "$api/next") || exit 1
  id=$(tr -d '\r' < /tmp/head | sed -n 's/^lambda-runtime-aws-request-id: //Ip')
  if [[ $event == *'"stream":true'* ]]; then
    answer=$(ask "$event" | while read -r line; do
      [[ $line == data:* ]] && echo $(( $(date +%s%N) / 1000000 ))
    done | paste -sd, -)
    answer="[$answer]"
  else
    answer=$(ask "$event")
  fi
  curl -sS --data-binary "$answer" "$api/$id/response" > /dev/null
done
"#;

const REQUESTS: &str = r#"
import time
import requests

def handler(event, context):
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    url = "https://api.anthropic.com/v1/messages"
    response = requests.post(url, json=event, headers=headers, stream=True, timeout=20)
    if event["stream"]:
        lines = response.iter_lines(chunk_size=1)
        return [time.time() * 1000 for line in lines if line.startswith(b"data:")]
    return response.json()
"#;

const FETCH: &str = r#"
exports.handler = async (event) => {
  const headers = { 'x-api-key': 'k', 'anthropic-version': '2023-06-01' }
  const options = { method: 'POST', headers, body: JSON.stringify(event) }
  const response = await fetch('https://api.anthropic.com/v1/messages', options)
  if (!event.stream) return response.json()
  const arrived = []
  for await (const chunk of response.body) {
    const lines = Buffer.from(chunk).toString().split('\n')
    for (const line of lines) if (line.startsWith('data:')) arrived.push(Date.now())
  }
  return arrived
}
"#;

#[test]
fn curl_works_unmodified() {
    if require_root() && requires("curl") {
        check(&Function::script("curl", CURL));
    }
}

#[test]
fn python_requests_works_unmodified() {
    if require_root() && requires("python3") && requires_python_module("requests") {
        check(&Function::python("requests", REQUESTS));
    }
}

#[test]
fn node_fetch_works_unmodified() {
    if require_root() && requires("node") {
        check(&Function::node("fetch", FETCH));
    }
}

/// The version of HTTP towards the function is its own affair; the stand-in speaks HTTP/1.1 only.
#[test]
fn curl_speaks_http1_and_http2() {
    if !require_root() || !requires("curl") {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let agent = Agent::start(&project);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let url = "https://api.anthropic.com/bytes/100000";
        let argv = ["/usr/bin/curl", "-sS", option, "-o", "/dev/null", "-w", "%{http_version} %{size_download}", url];
        let ran = agent.call("native", &json!({"do": "run", "argv": argv}));
        assert_eq!(ran["stdout"], format!("{version} 100000"), "{option}: {ran}");
    }
    assert_eq!(standin.seen().len(), 2);
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    if !require_root() || !requires("curl") {
        return;
    }
    let standin = Standin::start();
    let project = Project::new().with(&Function::probe("native").egress(&Egress::to_standin(&standin)));
    let agent = Agent::start(&project);
    let shell = |line: &str| {
        let ran = agent.call("native", &json!({"do": "run", "argv": ["/bin/bash", "-o", "pipefail", "-c", line]}));
        assert_eq!(ran["code"], 0, "{ran}");
        ran["stdout"].as_str().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(shell("curl -sSf https://api.anthropic.com/bytes/30000000 | wc -c"), "30000000");
    let echo = "head -c 5000000 /dev/urandom > /tmp/up && \
        curl -sSf --data-binary @/tmp/up https://api.anthropic.com/echo/up | cmp - /tmp/up && echo same";
    assert_eq!(shell(echo), "same");
    let up = standin.seen().into_iter().find(|seen| seen.path == "/echo/up");
    assert_eq!(up.map(|seen| seen.body_bytes), Some(5_000_000));
}

/// The plain answer is right, and a stream arrives piece by piece.
fn check(function: &Function) {
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/v1/messages"]);
    let project = Project::new().with(&function.clone().egress(&rule));
    let agent = Agent::start(&project);
    let prompt = |stream: bool| {
        let message = json!({"role": "user", "content": "one two three"});
        json!({"model": "claude", "max_tokens": 64, "messages": [message], "stream": stream})
    };
    let name = function.name();
    let plain = agent.call(name, &prompt(false));
    assert_eq!(plain["content"][0]["text"], "A text of 3 words that begins with: one two three", "{plain}");

    let streamed = agent.call(name, &prompt(true));
    let arrived: Vec<f64> = streamed.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    assert!(arrived.len() > 10, "every event arrives: {streamed}");
    let spread = arrived[arrived.len() - 1] - arrived[0];
    // Had they been kept back, they would have come at once. The first may be read late.
    let least = PAUSE.as_millis() as f64 * (arrived.len() / 2 - 1) as f64;
    assert!(spread >= least, "the stream was buffered: {arrived:?}");
    assert_eq!(standin.seen().len(), 2);
    let log = agent.log();
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused(name).is_empty(), "{log}");
}

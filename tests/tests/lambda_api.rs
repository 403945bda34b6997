//! `POST /2015-03-31/functions/{name}/invocations` answers as AWS Lambda does.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Function, Log, Project};
use dshield_tests::client::Answer;
use dshield_tests::requires::require_root;
use dshield_tests::scene::Scene;
use dshield_tests::wait;
use serde_json::{Value, json};

/// Lambda's limit for a synchronous invocation.
const LIMIT: usize = 6 * 1024 * 1024;

fn agent(function: Function) -> Option<(Project, Agent)> {
    if !require_root() {
        return None;
    }
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    Some((project, agent))
}

fn error_type(answer: &Answer) -> String {
    answer.header("x-amzn-errortype").unwrap_or("no X-Amzn-ErrorType").to_owned()
}

#[test]
fn a_function_gets_its_event_and_the_caller_its_value() {
    let Some(scene) = Scene::start() else { return };
    let event =
        json!({"do": "echo", "text": "ü€😀\u{0}\"\\", "numbers": [1, -2.5, 1e100], "none": null, "deep": {"a": [{}]}});
    for function in scene.functions() {
        let answer = scene.agent.invoke(function, &event);
        assert_eq!(answer.status, 200, "{function}: {}", answer.text());
        assert!(answer.header("x-amz-function-error").is_none());
        assert!(answer.header("x-amzn-requestid").is_some(), "{:?}", answer.headers);
        assert_eq!(answer.json(), event, "{function}");
    }
}

#[test]
fn a_failing_handler_answers_200_with_its_error() {
    let Some(scene) = Scene::start() else { return };
    for function in scene.functions() {
        let answer = scene.agent.invoke(function, &json!({"do": "fail", "message": "no such patient"}));
        assert_eq!(answer.status, 200, "{function}: {}", answer.text());
        assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"), "{function}");
        assert_eq!(answer.json()["errorMessage"], "no such patient", "{function}");
        assert!(answer.json()["errorType"].is_string(), "{function}");
        assert_eq!(scene.agent.call(function, &json!({"do": "echo"}))["do"], "echo", "{function} still works");
    }
}

#[test]
fn an_unknown_function_gets_404() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    let answer = agent.invoke("nobody", &json!({}));
    assert_eq!(answer.status, 404);
    assert_eq!(error_type(&answer), "ResourceNotFoundException");
    assert_eq!(answer.json()["Type"], "User");
    assert!(answer.json()["Message"].as_str().is_some_and(|text| text.contains("nobody")), "{}", answer.text());
}

#[test]
fn an_event_that_is_not_json_gets_400() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    let answer = agent.post("native", "{not json");
    assert_eq!(answer.status, 400);
    assert_eq!(error_type(&answer), "InvalidRequestContentException");
}

#[test]
fn an_event_over_the_limit_gets_413() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    // By hand: the agent may answer and close before everything is sent.
    let mut stream = TcpStream::connect(agent.address()).expect("it listens");
    let length = LIMIT + 1;
    let head = format!(
        "POST /2015-03-31/functions/native/invocations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n\""
    );
    stream.write_all(head.as_bytes()).expect("the connection is open");
    let mut body = vec![b'x'; length - 1];
    body[length - 2] = b'"';
    // Breaks off when the agent has already answered.
    let _ = stream.write_all(&body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("RequestTooLargeException") || answer.contains("RequestEntityTooLargeException"),
        "{answer}"
    );
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
}

#[test]
fn a_large_event_below_the_limit_arrives_whole() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    let event = json!({"do": "echo", "text": "x".repeat(5_000_000)});
    assert_eq!(agent.call("native", &event), event);
}

#[test]
fn more_invocations_than_instances_get_429() {
    let Some((_project, agent)) = agent(Function::probe("native").concurrency(1)) else { return };
    let hold = ["/bin/sh", "-c", "until [ -e /tmp/go ]; do sleep 0.02; done"];
    let busy = agent.invoke_aside("native", &json!({"do": "run", "argv": hold}));
    let log = agent.log_with("the first invocation", |log| invocations(log, Phase::Begin) == 1);
    let answer = agent.invoke("native", &json!({"do": "echo"}));
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(error_type(&answer), "TooManyRequestsException");
    std::fs::write(log.tmp().join("go"), "").expect("root may write there");
    let _ = busy.join();
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo", "the instance is free again");
}

#[test]
fn a_function_over_its_time_is_stopped_and_the_next_call_gets_a_fresh_one() {
    let Some((_project, agent)) = agent(Function::probe("native").timeout("3s")) else { return };
    let answer = agent.invoke("native", &json!({"do": "sleep", "ms": 60_000}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
    let message = answer.json()["errorMessage"].as_str().unwrap_or_default().to_owned();
    let time = wait::scaled(Duration::from_secs(3)).as_secs_f64();
    assert!(message.contains(&format!("timed out after {time:.2} seconds")), "{message}");
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    assert_eq!(outcomes(&agent.log())[0], "timeout");
}

#[test]
fn a_function_that_exits_is_an_error_and_the_next_call_gets_a_fresh_one() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    let answer = agent.invoke("native", &json!({"do": "exit", "code": 7}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["errorType"], "Runtime.ExitError");
    assert_eq!(agent.call("native", &json!({"do": "echo"}))["do"], "echo");
    assert_eq!(outcomes(&agent.log())[0], "crash");
}

#[test]
fn the_health_paths_answer() {
    let Some((_project, agent)) = agent(Function::probe("native")) else { return };
    assert_eq!(agent.get("/healthz").status, 200);
    assert_eq!(agent.get("/readyz").status, 200);
    assert_eq!(agent.get("/no-such-path").status, 404);
}

fn invocations(log: &Log, phase: Phase) -> usize {
    log.events().filter(|(_, event)| matches!(event, Event::Invoke(invoke) if invoke.phase == phase)).count()
}

fn outcomes(log: &Log) -> Vec<Value> {
    log.events()
        .filter_map(|(_, event)| match event {
            Event::Invoke(invoke) if invoke.phase == Phase::End => Some(json!(invoke.outcome)),
            _ => None,
        })
        .collect()
}

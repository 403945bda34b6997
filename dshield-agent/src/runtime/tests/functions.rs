//! Functions in real interpreters, through the pool.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dshield_common::log::entry::{Event, Record};
use serde_json::{Value, json};

use crate::instance::Exit;
use crate::runtime::testing::{Count, Source, closed_log, function, invocations, log, pool, processes, until};
use crate::runtime::{Ending, InvokeError, Outcome, Pool};

/// Skips the test, saying why, when the interpreter is missing.
macro_rules! needs {
    ($source:expr) => {
        if let Some(why) = $source.unavailable() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

async fn invoke(pool: &Pool, event: Value) -> Outcome {
    pool.invoke(event.to_string().into(), "r-1").await.unwrap()
}

fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.payload).unwrap()
}

async fn run(source: &Source, event: Value) -> (Ending, Value) {
    let log = log();
    let (pool, count) = pool(function("f", source), &log);
    let outcome = invoke(&pool, event).await;
    pool.shutdown().await;
    assert_eq!(count.alive(), 0, "shutdown stops everything");
    (outcome.ending, parsed(&outcome))
}

const COUNTER: &str = "
import os, time, signal
count = 0
def handler(event, context):
    global count
    count += 1
    if 'sleep' in event: time.sleep(event['sleep'])
    if 'exit' in event: os._exit(event['exit'])
    if 'kill' in event: os.kill(os.getpid(), event['kill'])
    return {'pid': os.getpid(), 'count': count}
";

#[tokio::test]
async fn a_python_handler_gets_event_and_context_and_answers() {
    let source = Source::python(
        "app",
        "
def handler(event, context):
    left = context.get_remaining_time_in_millis()
    return {
        'echo': event, 'id': context.aws_request_id, 'name': context.function_name,
        'memory': context.memory_limit_in_mb, 'arn': context.invoked_function_arn, 'left': 8000 < left <= 10000,
    }
",
    );
    needs!(source);
    let (ending, answer) = run(&source, json!({"grüße": "日本\u{1f600}", "n": 1.5})).await;
    assert_eq!(ending, Ending::Ok);
    let expected = json!({
        "echo": {"grüße": "日本\u{1f600}", "n": 1.5}, "id": "r-1", "name": "f", "memory": "128", "left": true,
        "arn": "arn:aws:lambda:us-east-1:012345678912:function:f",
    });
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_python_exception_is_an_error_and_the_instance_goes_on() {
    let source = Source::python("app", "def handler(e, c):\n    raise ValueError('wrong: ' + e['what'])\n");
    needs!(source);
    let log = log();
    let (pool, count) = pool(function("f", &source), &log);
    for _ in 0..2 {
        let outcome = invoke(&pool, json!({"what": "it"})).await;
        assert_eq!(outcome.ending, Ending::Error);
        let error = parsed(&outcome);
        assert_eq!((&error["errorType"], &error["errorMessage"]), (&json!("ValueError"), &json!("wrong: it")));
        let stack = error["stackTrace"].as_array().unwrap();
        assert_eq!(stack.len(), 1, "only the function's own frames: {stack:?}");
        assert!(stack[0].as_str().unwrap().contains("in handler"));
    }
    assert_eq!(count.launched(), 1);
}

#[tokio::test]
async fn what_python_cannot_load_is_named() {
    let cases = [
        (Source::python("app", "import nothing_like_it"), "Runtime.ImportModuleError", "nothing_like_it"),
        (Source::python("app", "def handler(:"), "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'"),
        (Source::python("app", "other = 1"), "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        (Source::python("app", "").handler("app"), "Runtime.MalformedHandlerName", "Bad handler 'app'"),
        (Source::python("app", "1 / 0"), "ZeroDivisionError", "division by zero"),
    ];
    needs!(cases[0].0);
    for (source, kind, message) in cases {
        let (ending, error) = run(&source, json!({})).await;
        assert_eq!(ending, Ending::Error);
        assert_eq!(error["errorType"], kind);
        assert!(error["errorMessage"].as_str().unwrap().contains(message), "{error}");
    }
}

#[tokio::test]
async fn what_python_cannot_marshal_is_an_error() {
    for result in ["object()", "{1, 2}", "float('nan')"] {
        let source = Source::python("app", &format!("def handler(e, c): return {result}"));
        needs!(source);
        let (ending, error) = run(&source, json!({})).await;
        assert_eq!((ending, &error["errorType"]), (Ending::Error, &json!("Runtime.MarshalError")), "{error}");
    }
}

#[tokio::test]
async fn a_handler_may_live_in_a_folder() {
    let python = Source::python("app", "").file("src/deep.py", "def go(e, c): return 'py'").handler("src/deep.go");
    needs!(python);
    assert_eq!(run(&python, json!({})).await, (Ending::Ok, json!("py")));
    let node = Source::node("app.js", "").file("src/deep.js", "exports.in = {go: async () => 'js'}");
    needs!(node);
    assert_eq!(run(&node.handler("src/deep.in.go"), json!({})).await, (Ending::Ok, json!("js")));
}

#[tokio::test]
async fn node_handlers_answer_as_promise_callback_or_module() {
    let cases = [
        ("app.js", "exports.handler = async (e, c) => ({e, id: c.awsRequestId})", json!({"e": {"a": 1}, "id": "r-1"})),
        ("app.js", "exports.handler = (e, c, done) => setTimeout(() => done(null, e.a), 5)", json!(1)),
        ("app.mjs", "export const handler = async (e, c) => c.functionName", json!("f")),
        ("app.cjs", "exports.handler = (e, c) => { c.succeed(c.getRemainingTimeInMillis() > 8000) }", json!(true)),
        ("app.js", "exports.handler = () => 5 // neither promise nor callback", json!(null)),
        ("app.js", "exports.handler = async () => undefined", json!(null)),
    ];
    for (file, code, expected) in cases {
        let source = Source::node(file, code);
        needs!(source);
        assert_eq!(run(&source, json!({"a": 1})).await, (Ending::Ok, expected), "{code}");
    }
    let esm = Source::node("app.js", "import 'node:fs'; export async function handler() { return 'esm' }");
    assert_eq!(run(&esm.file("package.json", r#"{"type": "module"}"#), json!({})).await, (Ending::Ok, json!("esm")));
}

#[tokio::test]
async fn node_errors_are_named() {
    let cases = [
        ("exports.handler = async () => { throw new TypeError('no') }", "TypeError", "no"),
        ("exports.handler = (e, c, done) => done('just text')", "string", "just text"),
        ("exports.handler = () => { throw null }", "object", "null"),
        ("exports.handler = async () => 1n", "Runtime.MarshalError", "BigInt"),
        ("exports.handler = (e, c, done) => setTimeout(() => { throw new RangeError('late') })", "RangeError", "late"),
        ("exports.handler = () => new Promise(() => Promise.reject(new Error('x')))", "Runtime.Unhandled", "x"),
        ("require('nothing-like-it')", "Runtime.ImportModuleError", "nothing-like-it"),
        ("exports.handler = {", "Runtime.UserCodeSyntaxError", "SyntaxError"),
        ("exports.other = 1", "Runtime.HandlerNotFound", "app.handler"),
        ("throw new Error('at start')", "Error", "at start"),
    ];
    for (code, kind, message) in cases {
        let source = Source::node("app.js", code);
        needs!(source);
        let (ending, error) = run(&source, json!({})).await;
        assert_eq!(ending, Ending::Error, "{code}: {error}");
        assert!(error["errorType"].as_str().unwrap().starts_with(kind), "{error}");
        assert!(error["errorMessage"].as_str().unwrap().contains(message), "{error}");
        assert!(error["trace"].is_array());
    }
}

#[tokio::test]
async fn a_node_process_that_exits_is_a_crash() {
    let source = Source::node("app.js", "exports.handler = async () => process.exit(7)");
    needs!(source);
    let (ending, error) = run(&source, json!({})).await;
    assert_eq!(ending, Ending::Crash);
    assert_eq!(error["errorMessage"], "RequestId: r-1 Error: Runtime exited with error: exit status 7");
}

#[tokio::test]
async fn an_instance_is_reused_and_the_log_frames_every_invocation() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let (pool, count) = pool(function("f", &source), &log);
    let first = parsed(&invoke(&pool, json!({})).await);
    let second = parsed(&invoke(&pool, json!({})).await);
    assert_eq!(first["pid"], second["pid"]);
    assert_eq!(second["count"], 2);
    assert_eq!(count.launched(), 1);

    // Ends are not waited for; a durable entry after them is.
    let last = log.append(Record::agent(Event::Lost { count: 1, source: "test".to_owned() })).await.unwrap();
    assert_eq!(log.head().borrow().checked_sub(1), Some(last));
    let begin = ["i-0", "r-1", "begin", ""].map(str::to_owned);
    let end = ["i-0", "r-1", "end", "ok"].map(str::to_owned);
    assert_eq!(invocations(&log).await, [begin.clone(), end.clone(), begin, end]);
}

#[tokio::test]
async fn a_timeout_stops_the_instance_and_the_next_event_gets_a_new_one() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let mut function = function("f", &source);
    // Long enough for the next event, too.
    function.spec.timeout = Duration::from_secs(3);
    let (pool, count) = pool(function, &log);
    let outcome = invoke(&pool, json!({"sleep": 60})).await;
    assert_eq!(outcome.ending, Ending::Timeout);
    let expected = json!({
        "errorType": "Sandbox.Timedout", "errorMessage": "RequestId: r-1 Error: Task timed out after 3.00 seconds"
    });
    assert_eq!(parsed(&outcome), expected);
    // At once, with a concurrency of one: it waits for the stopped instance to be gone.
    assert_eq!(parsed(&invoke(&pool, json!({})).await)["count"], 1);
    assert_eq!((count.launched(), count.alive()), (2, 1));
}

#[tokio::test]
async fn a_crash_tells_how_the_process_ended() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    for (event, how) in [
        (json!({"exit": 3}), "Runtime exited with error: exit status 3"),
        (json!({"exit": 0}), "Runtime exited without providing a reason"),
        (json!({"kill": 9}), "Runtime exited with error: signal: killed"),
    ] {
        let (ending, error) = run(&source, event).await;
        assert_eq!(ending, Ending::Crash);
        assert_eq!(error["errorType"], "Runtime.ExitError");
        assert_eq!(error["errorMessage"], format!("RequestId: r-1 Error: {how}"));
    }
}

#[tokio::test]
async fn a_process_that_ends_while_loading_is_a_crash() {
    let (ending, error) = run(&Source::native("#!/bin/sh\nexit 4\n"), json!({})).await;
    assert_eq!(ending, Ending::Crash);
    assert_eq!(error["errorMessage"], "RequestId: r-1 Error: Runtime exited with error: exit status 4");
}

#[tokio::test]
async fn more_events_than_instances_are_refused_at_once() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let mut function = function("f", &source);
    function.spec.concurrency = 2;
    let (pool, count) = pool(function, &log);
    let event = Bytes::from_static(b"{\"sleep\": 0.3}");
    let first = pool.start(event.clone(), "r-1").unwrap();
    let second = pool.start(event.clone(), "r-2").unwrap();
    let third = pool.start(event.clone(), "r-3");
    assert!(matches!(third, Err(InvokeError::TooManyRequests { concurrency: 2 })), "{third:?}");
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_ne!(parsed(&first)["pid"], parsed(&second)["pid"]);
    invoke(&pool, json!({})).await;
    assert_eq!(count.launched(), 2, "both are kept warm");
}

#[tokio::test]
async fn an_instance_that_died_while_idle_is_replaced() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let (pool, count) = pool(function("f", &source), &log);
    let pid = parsed(&invoke(&pool, json!({})).await)["pid"].as_i64().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Until it is dead, without giving the pool a moment to notice: a signal takes its time.
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z") {
        std::thread::yield_now();
    }
    assert_eq!(invoke(&pool, json!({})).await.ending, Ending::Ok);
    assert_eq!(count.launched(), 2);
    count.until_alive(1).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_clean_instance() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let (pool, count) = pool(function("f", &source), &log);
    invoke(&pool, json!({})).await;
    drop(pool.start(Bytes::from_static(b"{\"sleep\": 0.1}"), "r-2").unwrap());
    let answer = loop {
        match pool.invoke(Bytes::from_static(b"{}"), "r-3").await {
            Err(InvokeError::TooManyRequests { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => break parsed(&other.unwrap()),
        }
    };
    assert_eq!(answer["count"], 3, "the abandoned invocation came to its end first");
    assert_eq!(count.launched(), 1);
}

#[tokio::test]
async fn without_a_log_entry_no_event_is_handed_over() {
    let source = Source::python("app", "def handler(e, c): open(e, 'w')");
    needs!(source);
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let (pool, _) = pool(function("f", &source), &closed_log().await);
    let result = pool.invoke(json!(witness).to_string().into(), "r-1").await;
    assert!(matches!(result, Err(InvokeError::Log(_))), "{result:?}");
    pool.shutdown().await;
    assert!(!witness.exists());
}

#[tokio::test]
async fn shutdown_ends_what_is_under_way() {
    let source = Source::python("app", COUNTER);
    needs!(source);
    let log = log();
    let (stopped, count) = pool(function("f", &source), &log);
    let under_way = stopped.start(Bytes::from_static(b"{\"sleep\": 60}"), "r-1").unwrap();
    until(|| count.launched() == 1).await;
    stopped.shutdown().await;
    assert_eq!(count.alive(), 0);
    assert!(matches!(under_way.await, Err(InvokeError::Stopped)));
    assert!(matches!(stopped.start(Bytes::new(), "r-2"), Err(InvokeError::Stopped)));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_and_the_instance_goes_on() {
    let source = Source::python("app", "def handler(e, c): return 'x' * e");
    needs!(source);
    let log = log();
    let (pool, count) = pool(function("f", &source), &log);
    let outcome = invoke(&pool, json!(7 * 1024 * 1024)).await;
    assert_eq!(outcome.ending, Ending::Error);
    assert_eq!(parsed(&outcome)["errorType"], "Function.ResponseSizeTooLarge");
    assert_eq!(invoke(&pool, json!(6 * 1024 * 1024)).await.payload.len(), 6 * 1024 * 1024 + 2);
    assert_eq!(count.launched(), 1);
}

#[tokio::test]
async fn a_bootstrap_ends_when_its_runtime_api_is_gone() {
    let python = Source::python("app", "def handler(e, c): pass");
    let node = Source::node("app.js", "exports.handler = async () => {}");
    for source in [python, node] {
        needs!(source);
        let launch = processes(Count::default());
        let mut running = launch(Arc::new(function("f", &source))).await.unwrap();
        let (connection, _) = running.runtime_api.accept().await.unwrap();
        drop((connection, running.runtime_api));
        let ended = tokio::time::timeout(Duration::from_secs(10), running.exit.wait_for(Option::is_some));
        assert_eq!(*ended.await.unwrap().unwrap(), Some(Exit::Code(1)));
        (running.stop)().await;
    }
}

//! Calls of the Runtime API that no well-meaning runtime makes.
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::instance::Exit;
use crate::runtime::testing::{Puppet, invocations, puppets};
use crate::runtime::{Ending, Outcome};

const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const EVENT: Bytes = Bytes::from_static(b"{\"a\":1}");

fn path(id: &str, what: &str) -> String {
    format!("/2018-06-01/runtime/invocation/{id}/{what}")
}

fn parsed(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.payload).unwrap()
}

fn error_type(reply: &str) -> String {
    serde_json::from_str::<Value>(reply).unwrap()["errorType"].as_str().unwrap().to_owned()
}

/// An open `/next`.
async fn wait_for_event(puppet: &Puppet) -> TcpStream {
    let mut stream = TcpStream::connect(puppet.address).await.unwrap();
    stream.write_all(format!("GET {NEXT} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_runtime_that_goes_away_with_a_pending_next_swallows_no_event() {
    let (pool, mut puppets, _log) = puppets("f", |_| {});
    // Warm it up, so that the event is offered at once below.
    let first = pool.start(EVENT, "r-1").unwrap();
    let puppet = puppets.recv().await.unwrap();
    let (_, event) = puppet.get(NEXT).await;
    assert_eq!(event, "{\"a\":1}");
    puppet.post(&path("r-1", "response"), "1").await;
    first.await.unwrap();

    // The connection ends while it waits, though the process lives: the next one gets the event.
    let pending = wait_for_event(&puppet).await;
    // Accepted after it, and answered: the server has had the time to read it.
    assert_eq!(puppet.get("/ping").await.0, 200);
    drop(pending);
    let second = pool.start(EVENT, "r-2").unwrap();
    assert_eq!(puppet.get(NEXT).await, (200, "{\"a\":1}".to_owned()));
    assert_eq!(puppet.post(&path("r-2", "response"), "2").await, (202, "{\"status\":\"OK\"}".to_owned()));
    assert_eq!(second.await.unwrap().payload, "2");
}

#[tokio::test]
async fn an_event_that_was_not_fetched_goes_to_another_instance_and_a_fetched_one_does_not() {
    let (pool, mut puppets, log) = puppets("f", |_| {});
    let invocation = pool.start(EVENT, "r-1").unwrap();
    let first = puppets.recv().await.unwrap();
    // Ready, and then gone before it takes the event: the log's entry comes first, so it has none yet or not at all.
    let pending = wait_for_event(&first).await;
    let mut head = log.head();
    head.wait_for(|head| *head >= 2).await.unwrap();
    drop(pending);
    first.exit.send_replace(Some(Exit::Code(1)));

    let outcome = tokio::time::timeout(Duration::from_secs(5), invocation);
    let second = tokio::select! {
        second = puppets.recv() => second.unwrap(),
        // The first one had fetched it after all: a crash, and rightly so.
        outcome = outcome => return assert_eq!(outcome.unwrap().unwrap().ending, Ending::Crash),
    };
    assert_eq!(second.get(NEXT).await.0, 200);
    second.exit.send_replace(Some(Exit::Signal(9)));
    assert!(tokio::time::timeout(Duration::from_millis(100), puppets.recv()).await.is_err(), "no third instance");
    let ends: Vec<_> = invocations(&log).await.into_iter().filter(|entry| entry[2] == "end").collect();
    assert!(ends.iter().all(|entry| entry[3] == "crash"), "{ends:?}");
}

#[tokio::test]
async fn answers_need_the_right_id_and_count_once() {
    let (pool, mut puppets, _log) = puppets("f", |_| {});
    let invocation = pool.start(EVENT, "r-1").unwrap();
    let puppet = puppets.recv().await.unwrap();
    let (status, reply) = puppet.post(&path("r-1", "response"), "0").await;
    assert_eq!((status, error_type(&reply).as_str()), (400, "InvalidRequestID"), "not fetched yet");
    puppet.get(NEXT).await;
    for wrong in ["r-2", "", "..%2f..", "%00", "r-1%20"] {
        let (status, reply) = puppet.post(&path(wrong, "response"), "0").await;
        assert!(matches!(status, 400 | 404), "{wrong}: {status} {reply}");
    }
    let (status, reply) = puppet.get(NEXT).await;
    assert_eq!((status, error_type(&reply).as_str()), (403, "InvalidStateTransition"));
    let (status, reply) = puppet.post("/2018-06-01/runtime/init/error", "{}").await;
    assert_eq!((status, error_type(&reply).as_str()), (403, "InvalidStateTransition"));
    let mode = "Lambda-Runtime-Function-Response-Mode: sideways\r\nContent-Length: 1\r\nConnection: close\r\n\r\n0";
    let (status, reply) = puppet.call(&format!("POST {} HTTP/1.1\r\nHost: x\r\n{mode}", path("r-1", "response"))).await;
    assert_eq!((status, error_type(&reply).as_str()), (400, "InvalidFunctionResponseMode"));

    assert_eq!(puppet.post(&path("r-1", "response"), "1").await.0, 202);
    for again in ["response", "error"] {
        let (status, reply) = puppet.post(&path("r-1", again), "2").await;
        assert_eq!((status, error_type(&reply).as_str()), (403, "InvalidStateTransition"));
    }
    assert_eq!(invocation.await.unwrap().payload, "1");
}

#[tokio::test]
async fn an_answer_larger_than_the_limit_is_cut_short_and_the_invocation_fails() {
    for chunked in [false, true] {
        let (pool, mut puppets, _log) = puppets("f", |_| {});
        let invocation = pool.start(EVENT, "r-1").unwrap();
        let puppet = puppets.recv().await.unwrap();
        puppet.get(NEXT).await;
        let size = 6 * 1024 * 1024 + 101;
        let body = "x".repeat(size);
        let (header, body) = if chunked {
            ("Transfer-Encoding: chunked".to_owned(), format!("{size:x}\r\n{body}\r\n0\r\n\r\n"))
        } else {
            (format!("Content-Length: {size}"), body)
        };
        let head = format!("POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}", path("r-1", "response"));
        let (status, reply) = puppet.call(&format!("{head}\r\n\r\n{body}")).await;
        assert_eq!((status, error_type(&reply).as_str()), (413, "RequestEntityTooLarge"));
        let outcome = invocation.await.unwrap();
        assert_eq!(
            (outcome.ending, &parsed(&outcome)["errorType"]),
            (Ending::Error, &json!("Function.ResponseSizeTooLarge"))
        );
    }
}

#[tokio::test]
async fn a_truncated_answer_is_none() {
    let (pool, mut puppets, _log) = puppets("f", |_| {});
    let invocation = pool.start(EVENT, "r-1").unwrap();
    let puppet = puppets.recv().await.unwrap();
    puppet.get(NEXT).await;
    let mut half = TcpStream::connect(puppet.address).await.unwrap();
    let head = format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", path("r-1", "response"));
    half.write_all(head.as_bytes()).await.unwrap();
    drop(half);
    let broken =
        format!("POST {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", path("r-1", "response"));
    let (status, _) = puppet.call(&broken).await;
    assert!(matches!(status, 0 | 400), "{status}");
    assert_eq!(puppet.post(&path("r-1", "response"), "whole").await.0, 202);
    assert_eq!(invocation.await.unwrap().payload, "whole");
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let (pool, mut puppets, _log) = puppets("f", |_| {});
    let invocation = pool.start(EVENT, "r-1").unwrap();
    let puppet = puppets.recv().await.unwrap();
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let inputs: [&[u8]; 6] = [
        b"\x16\x03\x01\x00\xff",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for input in inputs {
        let mut stream = TcpStream::connect(puppet.address).await.unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(input).await;
        let _ = stream.shutdown().await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&reply));
    }
    assert_eq!(puppet.get("/etc/passwd").await.0, 404);
    assert_eq!(puppet.post(NEXT, "").await.0, 405);
    assert_eq!(puppet.get("/2018-06-01/ping").await, (200, "pong".to_owned()));
    puppet.get(NEXT).await;
    puppet.post(&path("r-1", "error"), "this is no JSON").await;
    let outcome = invocation.await.unwrap();
    assert_eq!((outcome.ending, &parsed(&outcome)["errorType"]), (Ending::Error, &json!("Runtime.Unknown")));
}

#[tokio::test]
async fn idle_connections_keep_no_other_instance_from_working() {
    let (pool, mut puppets, _log) = puppets("f", |function| {
        function.concurrency = 2;
        // Long enough for the other one, too.
        function.timeout = Duration::from_secs(3);
    });
    let first = pool.start(EVENT, "r-1").unwrap();
    let flooded = puppets.recv().await.unwrap();
    flooded.get(NEXT).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(TcpStream::connect(flooded.address).await.unwrap());
    }
    let second = pool.start(EVENT, "r-2").unwrap();
    let other = puppets.recv().await.unwrap();
    other.get(NEXT).await;
    other.post(&path("r-2", "response"), "2").await;
    assert_eq!(second.await.unwrap().payload, "2");
    // It cannot answer any more, which is its own affair; stopping it closes what it had open.
    assert_eq!(first.await.unwrap().ending, Ending::Timeout);
    for mut stream in idle {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn a_streamed_answer_that_fails_half_way_is_an_error() {
    let (pool, mut puppets, _log) = puppets("f", |_| {});
    let invocation = pool.start(EVENT, "r-1").unwrap();
    let puppet = puppets.recv().await.unwrap();
    puppet.get(NEXT).await;
    // base64 of {"errorMessage":"half"}
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n\
         Transfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n4\r\nhalf\r\n0\r\n\
         Lambda-Runtime-Function-Error-Type: Error\r\nLambda-Runtime-Function-Error-Body: eyJlcnJvck1lc3NhZ2UiOiJoYWxmIn0=\r\n\r\n",
        path("r-1", "response")
    );
    assert_eq!(puppet.call(&request).await.0, 202);
    let outcome = invocation.await.unwrap();
    assert_eq!((outcome.ending, parsed(&outcome)), (Ending::Error, json!({"errorMessage": "half"})));
}

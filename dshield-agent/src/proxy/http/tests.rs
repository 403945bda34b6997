//! The times that bound HTTP connections, made short; the functions ping all the while.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ::http::Method;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::proxy::testing::{NAME, allowed, ends};
use crate::proxy::times::Times;

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(30);

type Sent = StreamBody<std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

/// Where requests arrive as a test likes to answer them.
async fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Takes the next connection, and the head of the request on it.
async fn arrived(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    stream
}

/// A function's end of an HTTP/2 connection that never stops to ping, and how the connection ends.
async fn pinging(connection: &Arc<Allowed>) -> (SendRequest<Sent>, JoinHandle<Result<(), String>>) {
    let (client, server) = duplex(64 << 10);
    let connection = connection.clone();
    let served = tokio::spawn(async move { serve_http2(server, &connection).await });
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(20))
        .keep_alive_timeout(PATIENCE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    tokio::spawn(driver);
    (sender, served)
}

fn request(method: Method, body: Sent) -> Request<Sent> {
    Request::builder().method(method).uri(format!("http://{NAME}/")).body(body).unwrap()
}

fn nothing() -> Sent {
    StreamBody::new(Box::pin(tokio_stream::empty()))
}

/// A body whose end does not come while the sender lives.
fn open_ended() -> (mpsc::Sender<Bytes>, Sent) {
    let (sender, pieces) = mpsc::channel(1);
    (sender, StreamBody::new(Box::pin(ReceiverStream::new(pieces).map(|piece| Ok(Frame::data(piece))))))
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// hyper's own idea of a dead connection is one whose pings nobody answers: one that pings lived for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_without_requests_ends_though_it_pings() {
    let (listener, address) = upstream().await;
    let times = Times { next_request: SHORT, silence: LONG, answer: LONG };
    let connection = allowed(address, times).await;
    let (mut sender, served) = pinging(&connection).await;
    // A request that takes longer than the time is no idleness.
    let slow = async {
        let mut stream = arrived(&listener).await;
        tokio::time::sleep(3 * SHORT).await;
        let since = Instant::now();
        stream.write_all(ANSWER).await.unwrap();
        (stream, since)
    };
    let (answer, (_upstream, since)) = tokio::join!(sender.send_request(request(Method::GET, nothing())), slow);
    assert_eq!(answer.unwrap().into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(timeout(PATIENCE, served).await.unwrap().unwrap(), Ok(()));
    assert!(since.elapsed() >= SHORT, "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_of_whose_requests_nothing_passes_ends_though_it_pings() {
    let (listener, address) = upstream().await;
    let times = Times { next_request: LONG, silence: SHORT, answer: LONG };
    let connection = allowed(address, times).await;
    let (mut sender, served) = pinging(&connection).await;
    let stalled = async {
        let mut stream = arrived(&listener).await;
        stream.write_all(&ANSWER[..ANSWER.len() - 2]).await.unwrap();
        stream
    };
    let (answer, _upstream) = tokio::join!(sender.send_request(request(Method::GET, nothing())), stalled);
    let ended = timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(ended.is_err_and(|why| why.starts_with("nothing of its requests passed")));
    let whole = async { answer?.into_body().collect().await };
    assert!(whole.await.is_err(), "it cannot have the whole answer");
}

/// What never ends: a body without END_STREAM. What is never there: an answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_request_whose_answer_does_not_come_gets_504_whether_its_body_ends_or_not() {
    let (listener, address) = upstream().await;
    let times = Times { next_request: LONG, silence: SHORT / 4, answer: SHORT };
    let connection = allowed(address, times).await;
    let (mut sender, served) = pinging(&connection).await;
    let (pieces, body) = open_ended();
    let dribble = tokio::spawn(async move {
        while pieces.send(Bytes::from_static(b"x")).await.is_ok() {
            tokio::time::sleep(SHORT / 10).await
        }
    });
    let mut kept = Vec::new();
    for (method, body) in [(Method::GET, nothing()), (Method::POST, body)] {
        let (answer, upstream) = tokio::join!(sender.send_request(request(method, body)), arrived(&listener));
        kept.push(upstream);
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers()["x-dshield-refused"], "upstream_timeout");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(std::str::from_utf8(&text).unwrap().contains("no whole answer"), "{text:?}");
    }
    timeout(PATIENCE, dribble).await.expect("nobody takes the body any more").unwrap();
    assert!(!served.is_finished(), "the connection goes on");
    let both = async {
        loop {
            let ends = ends(&connection.context.log).await;
            if ends.len() == 2 {
                return ends;
            }
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    let ends = timeout(PATIENCE, both).await.expect("both have ended");
    assert!(ends.iter().all(|end| end.error.as_deref().is_some_and(|why| why.contains("no whole answer"))), "{ends:?}");
    drop(kept);
}

async fn http1(connection: &Arc<Allowed>, sent: &str) -> (DuplexStream, JoinHandle<Result<(), String>>) {
    let (mut client, server) = duplex(64 << 10);
    let connection = connection.clone();
    let served = tokio::spawn(async move { serve_http1(server, &connection, Requests::Many).await });
    client.write_all(sent.as_bytes()).await.unwrap();
    (client, served)
}

/// A head of which a byte comes now and then was waited for without an end.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_head_dribbles_is_cut_off_with_504() {
    let (listener, address) = upstream().await;
    let times = Times { next_request: LONG, silence: LONG, answer: SHORT };
    let connection = allowed(address, times).await;
    let (mut client, _served) = http1(&connection, &format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n")).await;
    let mut stream = arrived(&listener).await;
    let dribble = tokio::spawn(async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while stream.write_all(b"y").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    });
    let mut status = [0; 12];
    timeout(PATIENCE, client.read_exact(&mut status)).await.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 504");
    timeout(PATIENCE, dribble).await.expect("the connection upstream is closed").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http1_connection_without_requests_ends() {
    let (_listener, address) = upstream().await;
    let times = Times { next_request: SHORT, silence: LONG, answer: LONG };
    let connection = allowed(address, times).await;
    let (mut client, served) = http1(&connection, "").await;
    assert_eq!(timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    let _ = timeout(PATIENCE, served).await.unwrap().unwrap();
}

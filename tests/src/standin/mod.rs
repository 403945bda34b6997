//! A local stand-in for `api.anthropic.com`: TLS, HTTP/1.1, the Messages API plain and streaming, and chat completions as
//! OpenAI has them.
//!
//! Requests flow in; answers flow out, and [`Standin::seen`] is the list of what really arrived: the
//! witness that no test could ask the agent for. Besides `POST /v1/messages` there are `GET /bytes/N`,
//! `POST /echo` (and anything below it) and `GET /slow`.
//!
//! [`origin`] is another upstream: it keeps every byte and believes nothing that is not written plainly.
mod body;
mod completions;
mod messages;
pub mod origin;
mod routes;
pub mod strict;
pub mod tls;
pub mod versions;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

pub use messages::PAUSE;
pub use routes::{SLOW, Seen};

use crate::background::Background;
use crate::tripwire::host_address;
use routes::Record;
use tls::Identity;

/// The name that it plays unless told otherwise.
pub const NAME: &str = "api.anthropic.com";

/// A running stand-in; it stops when dropped.
#[derive(Debug)]
pub struct Standin {
    addr: SocketAddr,
    ca_pem: String,
    spki_pin: String,
    ca_file: NamedTempFile,
    record: Record,
    connections: Arc<AtomicUsize>,
    _server: Background,
}

impl Standin {
    /// Plays [`NAME`] on a free port of 127.0.0.1.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(&[NAME])
    }

    /// Plays these names.
    #[must_use]
    pub fn start_as(names: &[&str]) -> Self {
        Self::start_with(tls::identity(names), true)
    }

    /// Speaks HTTP without TLS, whatever name it is called by.
    #[must_use]
    pub fn start_plain() -> Self {
        Self::start_with(tls::identity(&[NAME]), false)
    }

    /// Plays these names or addresses on the machine's own address, which is not loopback.
    #[must_use]
    pub fn start_on_host(names: &[&str]) -> Self {
        Self::start_on(host_address(), tls::identity(names), true)
    }

    /// Speaks HTTP without TLS on the machine's own address.
    #[must_use]
    pub fn start_plain_on_host() -> Self {
        Self::start_on(host_address(), tls::identity(&[NAME]), false)
    }

    fn start_with(identity: Identity, encrypted: bool) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), identity, encrypted)
    }

    fn start_on(address: IpAddr, identity: Identity, encrypted: bool) -> Self {
        let Identity { ca_pem, spki_pin, config } = identity;
        let mut ca_file =
            tempfile::Builder::new().prefix("upstream-ca-").suffix(".pem").tempfile().expect("a temporary file");
        ca_file.write_all(ca_pem.as_bytes()).expect("the file is ours");
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let (record, connections) = (Record::default(), Arc::new(AtomicUsize::new(0)));
        let (recorded, counted) = (record.clone(), Arc::clone(&connections));
        let tls = encrypted.then(|| TlsAcceptor::from(config));
        let server = Background::spawn("standin", move || accept(listener, tls, recorded, counted));
        Self { addr, ca_pem, spki_pin, ca_file, record, connections, _server: server }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate authority that its certificate is from.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its key, as `pin_spki` names one.
    #[must_use]
    pub fn spki_pin(&self) -> &str {
        &self.spki_pin
    }

    /// A file with [`Self::ca_pem`], which lives as long as the stand-in.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        self.ca_file.path()
    }

    /// Every request that arrived, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.record.all()
    }

    /// How many TCP connections arrived, with or without a request.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, record: Record, connections: Arc<AtomicUsize>) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this process");
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let (tls, record) = (tls.clone(), record.clone());
        tokio::spawn(async move {
            // Without this the kernel would hold small events back.
            let _ = stream.set_nodelay(true);
            match tls {
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    speak(stream, record).await;
                }
                None => speak(stream, record).await,
            }
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, record: Record) {
    let service = service_fn(move |request| routes::serve(request, record.clone()));
    // A client that goes away ends its connection, nothing else.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::Request;
    use rustls_pki_types::ServerName;
    use serde_json::{Value, json};
    use tokio::net::TcpStream;

    use super::*;
    use crate::client::{self, Answer};

    const KEY: &[(&str, &str)] = &[("x-api-key", "k"), ("anthropic-version", "2023-06-01")];

    fn ask(standin: &Standin, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", NAME).header("x-marker", "m1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("well formed");
        let tls = client::connector(standin.ca_file()).expect("the file was written");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("epoll");
        runtime.block_on(async {
            let stream = TcpStream::connect(standin.addr()).await.expect("it listens");
            let stream =
                tls.connect(ServerName::try_from(NAME).expect("a name"), stream).await.expect("it is who it says");
            client::exchange(stream, request).await.expect("it answers")
        })
    }

    fn prompt(stream: bool) -> String {
        let message = json!({"role": "user", "content": "one two three"});
        json!({"model": "claude", "max_tokens": 9, "messages": [message], "stream": stream}).to_string()
    }

    #[test]
    fn a_plain_message_is_answered_and_recorded() {
        let standin = Standin::start();
        let answer = ask(&standin, "POST", "/v1/messages", KEY, &prompt(false));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let message = answer.json();
        assert_eq!(message["content"][0]["text"], "A text of 3 words that begins with: one two three");
        assert_eq!(message["stop_reason"], "end_turn");
        let [seen] = &standin.seen()[..] else { panic!("{:?}", standin.seen()) };
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/messages"));
        assert_eq!((seen.host.as_deref(), seen.marker.as_deref()), (Some(NAME), Some("m1")));
        assert_eq!(seen.body_bytes, prompt(false).len() as u64);
    }

    #[test]
    fn a_stream_arrives_event_by_event() {
        let standin = Standin::start();
        let answer = ask(&standin, "POST", "/v1/messages", KEY, &prompt(true));
        let text = answer.text();
        let data: Vec<Value> =
            text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
        let kinds: Vec<_> = data.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds[..3], ["message_start", "content_block_start", "content_block_delta"]);
        assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
        let words: String = data.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
        assert_eq!(words, "A text of 3 words that begins with: one two three");
        let (first, last) = (answer.chunks[0].0, answer.chunks[answer.chunks.len() - 1].0);
        // The first may be read late.
        let least = PAUSE * u32::try_from(kinds.len() / 2 - 1).expect("small");
        assert!(last - first >= least, "everything came at once: {:?}", answer.chunks);
    }

    #[test]
    fn mistakes_are_answered_in_anthropics_shape() {
        let standin = Standin::start();
        let kind = |answer: Answer| (answer.status, answer.json()["error"]["type"].as_str().map(str::to_owned));
        let invalid = |status, word: &str| (status, Some(word.to_owned()));
        let version = &KEY[1..];
        assert_eq!(
            kind(ask(&standin, "POST", "/v1/messages", version, &prompt(false))),
            invalid(401, "authentication_error")
        );
        assert_eq!(kind(ask(&standin, "POST", "/v1/messages", &KEY[..1], "")), invalid(400, "invalid_request_error"));
        assert_eq!(kind(ask(&standin, "POST", "/v1/messages", KEY, "{}")), invalid(400, "invalid_request_error"));
        assert_eq!(kind(ask(&standin, "GET", "/v1/messages", KEY, "")), invalid(404, "not_found_error"));
    }

    #[test]
    fn bytes_and_echo_have_the_length_that_was_asked_for() {
        let standin = Standin::start();
        let answer = ask(&standin, "GET", "/bytes/100000", &[], "");
        assert_eq!((answer.status, answer.body.len()), (200, 100_000));
        assert_eq!(ask(&standin, "POST", "/echo/7", &[], "hello").text(), "hello");
        assert_eq!(standin.connections(), 2);
        let slow = ask(&standin, "GET", "/slow", &[], "");
        assert!(slow.chunks[0].0 >= SLOW - Duration::from_millis(1));
    }
}

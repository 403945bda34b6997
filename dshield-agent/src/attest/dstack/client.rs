//! One question to a service on this machine, over HTTP/1.1 and a connection of its own.
//!
//! A value flows in as JSON, and the bytes of a successful answer flow out. A refusal is a [`QuoteError::Refused`] with
//! what the service said; whatever else goes wrong is [`QuoteError::Unreachable`].
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::super::quoter::QuoteError;

/// Of `Info`, the largest answer, in bytes: an `app-compose.json` of at most 256 KiB, escaped twice, and an event log.
const LONGEST_ANSWER: usize = 4 << 20;
/// How much of a refusal is shown, in characters.
const LONGEST_MESSAGE: usize = 300;

/// Where the service is.
#[derive(Clone, Debug)]
pub(super) struct Endpoint(String);

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        Self(text.strip_prefix("unix:").unwrap_or(text).to_owned())
    }
}

/// Asks the service at one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    patience: Duration,
}

impl Client {
    /// Each question has so long, from connecting to the last byte of the answer.
    pub(super) fn new(endpoint: Endpoint, patience: Duration) -> Self {
        Self { endpoint, patience }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint.0
    }

    /// The answer to `POST /<method>`. Blocks, and so must not be called by an asynchronous task.
    pub(super) fn ask(&self, method: &str, question: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, QuoteError> {
        let question = serde_json::to_vec(question).map_err(|error| self.unreachable(error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.unreachable(error))?;
        let late = || self.unreachable(format!("{method} was not answered within {:?}", self.patience));
        let answer = runtime.block_on(async {
            let exchange = self.exchange(method, question);
            tokio::time::timeout(self.patience, exchange).await.unwrap_or_else(|_| Err(late()))
        });
        // Else a name server that does not answer would be waited for.
        runtime.shutdown_background();
        let (status, body) = answer?;
        if status.is_success() {
            return Ok(body);
        }
        Err(QuoteError::Refused { service: self.service(), message: format!("{method}: {}", refusal(status, &body)) })
    }

    /// What an answer says.
    pub(super) fn understood<'a, T: Deserialize<'a>>(&self, answer: &'a [u8]) -> Result<T, QuoteError> {
        // Not what was not understood: a key may stand there.
        let place = |error: serde_json::Error| format!("line {} column {}", error.line(), error.column());
        let odd = |error| self.unreachable(format!("its answer is not what dstack's is, at {}", place(error)));
        serde_json::from_slice(answer).map_err(odd)
    }

    pub(super) fn unreachable(&self, cause: impl ToString) -> QuoteError {
        QuoteError::Unreachable { service: self.service(), message: cause.to_string() }
    }

    /// With its cause: hyper's errors only say at what they happened.
    fn broken(&self, error: &hyper::Error) -> QuoteError {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        self.unreachable(format!("{error}{cause}"))
    }

    fn service(&self) -> String {
        format!("dstack's guest agent at {}", shown(self.endpoint()))
    }

    async fn exchange(&self, method: &str, question: Vec<u8>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), QuoteError> {
        let endpoint = self.endpoint();
        if let Some(rest) = endpoint.strip_prefix("http://") {
            let (authority, base) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let base = base.trim_end_matches('/');
            let path = if base.is_empty() { format!("/{method}") } else { format!("/{base}/{method}") };
            let address = on_this_machine(authority).ok_or_else(|| {
                self.unreachable("it is not an address of this machine (127.0.0.1 or [::1]), and nothing leaves it but by a rule of the policy")
            })?;
            let stream = TcpStream::connect(address).await.map_err(|error| self.unreachable(error))?;
            return self.over(stream, authority, &path, question).await;
        }
        if endpoint.contains("://") {
            return Err(self.unreachable("only paths of sockets and http:// URLs are understood"));
        }
        let stream = UnixStream::connect(endpoint).await.map_err(|error| self.unreachable(error))?;
        self.over(stream, "dstack", &format!("/{method}"), question).await
    }

    async fn over<S>(
        &self,
        stream: S,
        host: &str,
        path: &str,
        question: Vec<u8>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), QuoteError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(question)))
            .map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let answered = async {
            let answer = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = answer.status();
            Ok((status, self.body(answer.into_body()).await?))
        };
        tokio::pin!(connection, answered);
        tokio::select! {
            answer = &mut answered => answer,
            // All that was read by then is still to be had.
            _ = &mut connection => answered.await,
        }
    }

    async fn body(&self, mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, QuoteError> {
        // Room for a key's answer at once: what a growing vector leaves behind is not overwritten.
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
            if bytes.len() + data.len() > LONGEST_ANSWER {
                return Err(self.unreachable(format!("its answer is longer than {LONGEST_ANSWER} bytes")));
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes)
    }
}

/// The loopback address that an authority names. A name is looked up nowhere: that would be a packet too.
fn on_this_machine(authority: &str) -> Option<SocketAddr> {
    let with_port = |authority: &str| authority.parse::<SocketAddr>().ok();
    let address = with_port(authority).or_else(|| with_port(&format!("{authority}:80")))?;
    address.ip().is_loopback().then_some(address)
}

/// `{"error": "…"}`, or whatever it is, made safe to show.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    let text = serde_json::from_slice(body).map(|Refusal { error }| error);
    let text = text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    if text.trim().is_empty() { format!("HTTP {status}") } else { format!("{} (HTTP {status})", shown(text.trim())) }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST_MESSAGE).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_MESSAGE).is_some() {
        shown.push('…');
    }
    shown
}

//! The explicit proxy at 127.0.0.1:3128, for programs that insist on one (`HTTPS_PROXY`).
//!
//! It only learns in another way where a connection wants to go: from `CONNECT` or from a request in absolute form
//! (RFC 9112, section 3.2). From there it is the same [`Flow`], with the same decision, as any other connection.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use bytes::{Buf, BytesMut};
use dshield_common::destination::{AuthorityError, Destination};
use dshield_common::log::entry::{Attempt, Process, Refused};
use dshield_common::policy::remedy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{Flow, Requests, RouteRefused, canonical};
use super::counted::Counted;
use super::http::{self, Answer, Head, Violation};
use super::{Context, NO_RULE};

/// The reason where it cannot be read what a client asks for.
const INVALID: &str = "proxy_request_invalid";
/// How long, and how much, a client may go on sending what nobody reads any more.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 4 << 20;

/// What a client asks of a proxy, whole and well-formed.
struct Asked {
    to: Destination,
    port: u16,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `CONNECT`: what comes behind the head is the connection.
    Tunnel,
    /// The request itself, for the destination in its target.
    Request,
}

/// Why a request to the proxy is none.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Framing(#[from] Violation),
    #[error("the destination cannot be read: {0}")]
    Authority(#[from] AuthorityError),
    #[error("CONNECT without a port")]
    NoPort,
    #[error("the target names {}:{} and the Host header {host}", .target.0.authority(), .target.1)]
    TwoHosts { target: (Destination, u16), host: String },
    #[error("only http:// can be asked of a proxy in the clear; https:// takes CONNECT")]
    Scheme,
    #[error("a request that is not meant for a proxy")]
    NotForProxy,
}

/// Takes one connection to the proxy.
pub(super) async fn handle(mut stream: TcpStream, peer: SocketAddr, context: Arc<Context>) {
    let process = (context.who_asked)(context.instance.netns_cookie(), canonical(peer));
    let mut bytes = BytesMut::new();
    let head = match timeout(http::HEAD_TIME, read_head(&mut stream, &mut bytes)).await {
        Ok(Ok(Some(head))) => Ok(head),
        Ok(Ok(None) | Err(ReadError::Io)) => return,
        Ok(Err(ReadError::Violation(violation))) => Err(violation),
        Err(_) => Err(Violation::TooSlow),
    };
    let asked = head.map_err(AskError::from).and_then(|end| Ok((Asked::read(&bytes[..end])?, end)));
    let (Asked { to, port, way }, end) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let seq = context.refusals.report_numbered(error.refused(process)).await;
            return end_with(stream, &error.answer(seq)).await;
        }
    };
    let flow = Flow { context, to, port, process };
    let route = match flow.decide().await {
        Ok(route) => route,
        Err(RouteRefused { denied, seq }) => return end_with(stream, &Answer::denied(&denied, seq)).await,
    };
    let requests = match way {
        Way::Tunnel => {
            bytes.advance(end);
            if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_err() {
                return;
            }
            Requests::Many
        }
        // A flow has one destination, and the next request may name another.
        Way::Request => Requests::One,
    };
    let stream = Counted::new(stream, Arc::default()).beginning_with(bytes.freeze());
    flow.follow(route, stream, requests).await;
}

/// Answers, and takes what is still on its way, which would turn the end into a reset.
async fn end_with(mut stream: TcpStream, answer: &Answer) {
    let ended = async {
        stream.write_all(answer.message().as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whether it took the answer is the function's affair.
    let _ = timeout(LINGER, ended).await;
}

impl Asked {
    fn read(bytes: &[u8]) -> Result<Self, AskError> {
        let Head { method, target, host, .. } = http::head(bytes)?;
        let target = std::str::from_utf8(target).map_err(|_| AskError::NotForProxy)?;
        let (authority, default_port, way) = if method == b"CONNECT" {
            (target, None, Way::Tunnel)
        } else {
            let (scheme, rest) = target.split_once("://").ok_or(AskError::NotForProxy)?;
            if !scheme.eq_ignore_ascii_case("http") {
                return Err(AskError::Scheme);
            }
            (rest.split(['/', '?']).next().unwrap_or_default(), Some(80), Way::Request)
        };
        let (to, port) = parse(authority.as_bytes())?;
        let port = port.or(default_port).ok_or(AskError::NoPort)?;
        if let Some(host) = host {
            let (named, named_port) = parse(host)?;
            if named != to || named_port.or(default_port).is_some_and(|named| named != port) {
                let host = named_port.map_or_else(|| named.to_string(), |port| format!("{}:{port}", named.authority()));
                return Err(AskError::TwoHosts { target: (to, port), host });
            }
        }
        Ok(Self { to, port, way })
    }
}

fn parse(authority: &[u8]) -> Result<(Destination, Option<u16>), AskError> {
    Ok(Destination::parse_authority(authority)?)
}

impl AskError {
    /// Mostly nobody knows where it wanted to go. It wanted out all the same.
    fn refused(&self, process: Option<Process>) -> Refused {
        Refused {
            layer: "connect".to_owned(),
            reason: INVALID.to_owned(),
            detail: format!("explicit proxy: {self}"),
            rule: NO_RULE.to_owned(),
            let_through: false,
            connection: None,
            attempt: self.attempt(),
            process,
            count: None,
        }
    }

    /// Where the connection would have gone, where that could be read.
    fn attempt(&self) -> Option<Attempt> {
        let Self::TwoHosts { target: (to, port), .. } = self else { return None };
        Some(Attempt { host: to.to_string(), port: Some(*port), method: None, path: None })
    }

    fn answer(&self, seq: Option<u64>) -> Answer {
        Answer {
            status: StatusCode::BAD_REQUEST,
            reason: INVALID,
            error: self.to_string(),
            rule: NO_RULE.to_owned(),
            hint: remedy::of_reason(INVALID, NO_RULE).unwrap_or_default(),
            seq,
        }
    }
}

enum ReadError {
    Io,
    Violation(Violation),
}

/// Reads until a head is whole: where it ends; `None` when the client leaves before.
async fn read_head(stream: &mut TcpStream, bytes: &mut BytesMut) -> Result<Option<usize>, ReadError> {
    let mut searched = 0;
    loop {
        if let Some(end) = http::head_end(bytes, searched).map_err(ReadError::Violation)? {
            return Ok(Some(end));
        }
        searched = bytes.len();
        if stream.read_buf(bytes).await.map_err(|_| ReadError::Io)? == 0 {
            return Ok(None);
        }
    }
}

//! What a function sees of a connection that is refused: in the words of the protocol that it speaks.
//!
//! Nothing of it goes upstream; the refusal is in the log before this begins.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dshield_common::policy::Denied;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::hello;
use super::http::{Answer, Guard};

/// Fatal TLS alerts (RFC 8446, section 6; RFC 6066, section 3).
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// How long a client may take to show what it speaks; where servers speak first, it shows nothing.
const FIRST_BYTES: Duration = Duration::from_secs(1);
/// How long the answer may take in all.
const ANSWER: Duration = Duration::from_secs(10);

/// Ends a connection that no rule allows: TLS with the alert `access_denied`, HTTP with 403, all else with a reset.
pub(super) async fn show(mut stream: TcpStream, denied: &Denied, seq: Option<u64>) {
    let mut first = [0; 8];
    let peeked = timeout(FIRST_BYTES, stream.peek(&mut first)).await;
    let shown = match peeked {
        Ok(Ok(count)) if is_hello(&first[..count]) => timeout(ANSWER, alert(&mut stream)).await.is_ok(),
        Ok(Ok(count)) if is_request(&first[..count]) => {
            return drop(timeout(ANSWER, forbid(stream, Answer::denied(denied, seq))).await);
        }
        _ => false,
    };
    if !shown {
        reset(&stream);
    }
}

/// Closes so that the function sees "connection reset", not an orderly end.
pub(super) fn reset(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger);
}

/// The first record of a TLS client.
fn is_hello(first: &[u8]) -> bool {
    first.starts_with(&[22, 3])
}

/// A method and the space behind it, as far as they are there.
fn is_request(first: &[u8]) -> bool {
    let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    !method.is_empty() && method.iter().all(u8::is_ascii_uppercase)
}

async fn alert(stream: &mut TcpStream) {
    // Unread bytes would turn the end into a reset, which overtakes the alert.
    let _ = hello::read(stream).await;
    let _ = stream.write_all(&ACCESS_DENIED).await;
    let _ = stream.shutdown().await;
}

/// Answers one request, whatever it is.
async fn forbid(stream: TcpStream, answer: Answer) {
    let service = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(answer.response())));
    let guarded = TokioIo::new(Guard::new(stream, Arc::default()));
    // Whether it took its answer is the function's affair.
    let _ = http1::Builder::new().keep_alive(false).serve_connection(guarded, service).await;
}

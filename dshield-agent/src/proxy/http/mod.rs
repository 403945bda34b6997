//! HTTP inside a connection: each request is decided and logged by itself, and sent on re-made from its parsed form.
//!
//! ```text
//! bytes ─ [guard] ([framing]) ─ hyper ─ [judge] ─┬─ [exchange] (log) ─ [forward] ─ upstream
//!                                                └─ [refusal]                └─ 101: [tunnel]
//! ```
use std::convert::Infallible;
use std::sync::Arc;

use ::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) use self::activity::Activity;
use self::activity::Over;
pub(super) use self::framing::{Head, Violation, head, head_end};
pub(super) use self::guard::{Guard, HEAD_TIME};
use self::guard::{Ledger, Protocol};
pub(super) use self::refusal::Answer;
use super::allowed::Allowed;
use super::body::Body;
use super::connection::Requests;
use super::tasks::Tasks;

mod activity;
mod exchange;
mod forward;
mod framing;
mod guard;
mod judge;
pub(super) mod own;
mod refusal;
#[cfg(test)]
mod tests;
mod tunnel;

/// What hyper reads at once, and so what a connection holds in the agent's memory in one direction.
const READ_BYTES: usize = 64 << 10;

/// Requests under way on one HTTP/2 connection (RFC 9113, section 5.1.2, recommends no fewer than 100).
const STREAMS: u32 = 100;
/// What a function may send on one stream, and on all of a connection, before the upstream has taken it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of each response waits for a function that does not read, beside the piece that was read last. One frame: more
/// is not faster, and each of a connection's streams may hold it.
const SEND_BYTES: usize = 16 << 10;
/// Streams that were reset before they were answered; more are a rapid-reset attack (CVE-2023-44487).
const RESETS: usize = 20;

/// Serves the requests of one HTTP/1.1 connection until it ends.
pub(super) async fn serve_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Arc<Allowed>,
    requests: Requests,
) -> Result<(), String> {
    let (ledger, tunnels) = (Arc::new(Ledger::default()), Tasks::default());
    let service = service_fn(|request| {
        let (connection, ledger, tunnels) = (connection.clone(), ledger.clone(), tunnels.clone());
        async move {
            let number = ledger.next_request();
            let response = match ledger.violation(number) {
                Some(violation) => refusal::ambiguous(&connection, violation).await,
                None => respond(&connection, request, Some(&tunnels)).await,
            };
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            ledger.settle(number, if switched { Protocol::Opaque } else { Protocol::Http });
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(requests == Requests::Many)
        .header_read_timeout(connection.context.times.next_request)
        .max_headers(framing::MAX_FIELDS)
        .max_buf_size(READ_BYTES)
        .serve_connection(TokioIo::new(Guard::new(stream, ledger.clone())), service)
        .with_upgrades()
        .await;
    tunnels.finished().await;
    served.map_err(|error| error.to_string())
}

/// Serves the requests of one HTTP/2 connection until it ends.
pub(super) async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Arc<Allowed>,
) -> Result<(), String> {
    let service = service_fn(|request| {
        let connection = connection.clone();
        // Also one that is refused, of which nothing is under way.
        connection.activity.renew();
        async move { Ok::<_, Infallible>(respond(&connection, request, None).await) }
    });
    let served = http2::Builder::new(Tasks::default())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(framing::MAX_HEAD as u32)
        .max_send_buf_size(SEND_BYTES)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let (times, activity) = (&connection.context.times, &connection.activity);
    let mut leaving = false;
    loop {
        let over = tokio::select! {
            // Whoever is told to leave may do so while it is still spoken to.
            ended = served.as_mut() => return if leaving { Ok(()) } else { ended.map_err(|error| error.to_string()) },
            over = activity.over(times) => over,
        };
        match over {
            Over::Idle if leaving => return Ok(()),
            Over::Idle => {
                // A request that is on its way is still answered, and what is unread may still be read.
                leaving = true;
                served.as_mut().graceful_shutdown();
                activity.renew();
            }
            Over::Silent => {
                return Err(format!("nothing of its requests passed for {} minutes", times.silence.as_secs() / 60));
            }
        }
    }
}

async fn respond(connection: &Arc<Allowed>, request: Request<Incoming>, tunnels: Option<&Tasks>) -> Response<Body> {
    match judge::request(connection, &request) {
        Ok((rule, place)) => forward::request(connection, &rule, place, request, tunnels).await,
        Err(refusal) => refusal.respond(connection).await,
    }
}

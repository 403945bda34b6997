//! Another protocol on an HTTP connection (RFC 9110, section 7.8; WebSocket, RFC 6455), where a rule allows it: asked
//! for and answered as HTTP, and from then on bytes that nobody looks into, counted into the request's last entry.
use std::sync::Arc;

use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::{Request, Response, StatusCode};
use ::http_body::Body;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::exchange::Exchange;
use crate::proxy::counted::Counted;

const BUFFER: usize = 16 << 10;

/// The protocol that a request asks for, and the way to the function's bytes behind it.
pub(super) struct Wanted {
    protocol: HeaderValue,
    function: OnUpgrade,
}

/// The protocol that is asked for: one, and nothing that HTTP would still have to read.
pub(super) fn asked(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = connection.flat_map(|value| value.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("upgrade")).then_some(protocol)
}

impl Wanted {
    /// What the request asks for, to be asked of the upstream; nothing where a body comes first: who answers may ignore
    /// the wish (RFC 9110, section 7.8), and only behind a head alone is it known where the other protocol begins.
    pub(super) fn take<B: Body>(request: &mut Request<B>) -> Option<Self> {
        if !request.body().is_end_stream() {
            return None;
        }
        let protocol = asked(request.headers())?.clone();
        Some(Self { protocol, function: hyper::upgrade::on(request) })
    }

    /// Asks the upstream the same.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::UPGRADE, self.protocol.clone());
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }

    /// Whether this answer switches to what was asked for, and to nothing else.
    pub(super) fn is_granted<B>(&self, response: &Response<B>) -> bool {
        let named = response.headers().get(header::UPGRADE);
        response.status() == StatusCode::SWITCHING_PROTOCOLS
            && named.is_some_and(|named| named.as_bytes().eq_ignore_ascii_case(self.protocol.as_bytes()))
    }

    /// Passes bytes both ways until both sides have ended.
    pub(super) async fn run(self, upstream: OnUpgrade, exchange: Arc<Exchange>) {
        let passed = async {
            let (function, upstream) = tokio::try_join!(self.function, upstream).map_err(|error| error.to_string())?;
            let mut function = Counted::new(TokioIo::new(function), exchange.counters.clone());
            let mut upstream: TokioIo<Upgraded> = TokioIo::new(upstream);
            let copied = copy_bidirectional_with_sizes(&mut function, &mut upstream, BUFFER, BUFFER).await;
            copied.map_err(|error| error.to_string())
        };
        if let Err(error) = passed.await {
            let _ = exchange.error.set(error);
        }
    }
}

//! A request of the agent itself: judged, logged and sent like a function's.
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::time::timeout;

use super::exchange::Exchange;
use super::judge;
use crate::proxy::allowed::Allowed;
use crate::proxy::body;
use crate::proxy::own::OwnError;
use crate::proxy::upstream::{Dialect, UpstreamError};

/// For all of it: whoever waits has other things to do.
const ANSWER: Duration = Duration::from_secs(30);

/// What comes back: status, header, and at most `limit` bytes of the body.
pub(in crate::proxy) async fn send(
    connection: &Arc<Allowed>,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(StatusCode, HeaderMap, Bytes), OwnError> {
    let (rule, place) = match judge::request(connection, &request) {
        Ok(permitted) => permitted,
        Err(refusal) => {
            let refusal = *refusal;
            connection.refuse(refusal.reason, refusal.detail.clone(), &refusal.rule, refusal.attempt).await;
            return Err(OwnError::Refused(refusal.detail));
        }
    };
    let (exchange, _waiting) = Exchange::begin(connection, &rule, place, &request).await?;
    let asking = async {
        let client = connection.context.upstream.client(&connection.route, &rule, Dialect::Http1);
        let client = client.map_err(|error| failed(&error))?;
        let (parts, text) = request.into_parts();
        let text = text.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        exchange.counters.read.fetch_add(text.len() as u64, Ordering::Relaxed);
        let answer = match client.request(Request::from_parts(parts, body::full(text))).await {
            Ok(answer) => answer,
            Err(error) => {
                let Some(upstream) = error.source().and_then(|source| source.downcast_ref::<UpstreamError>()) else {
                    return Err(failed(&error));
                };
                connection.refuse_upstream(upstream).await;
                return Err(failed(upstream));
            }
        };
        let (parts, answer) = answer.into_parts();
        let _ = exchange.status.set(parts.status.as_u16());
        let text = Limited::new(answer, limit)
            .collect()
            .await
            .map_err(|error| if error.is::<LengthLimitError>() { OwnError::TooLong(limit) } else { failed(&*error) })?;
        let text = text.to_bytes();
        exchange.counters.written.fetch_add(text.len() as u64, Ordering::Relaxed);
        Ok((parts.status, parts.headers, text))
    };
    let result = timeout(ANSWER, asking).await.unwrap_or(Err(OwnError::Slow(ANSWER)));
    if let Err(error) = &result {
        let _ = exchange.error.set(error.to_string());
    }
    result
}

fn failed(error: &(dyn Error + 'static)) -> OwnError {
    OwnError::Upstream(error.to_string())
}

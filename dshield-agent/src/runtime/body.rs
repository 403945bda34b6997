//! Reads a request body whole, never holding more of it than its limit.
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::BodyExt;

/// How much of a body that is too large is read and thrown away, so that a client which writes before it
/// reads still gets the answer instead of a reset connection, …
const DISCARD_BYTES: usize = 32 * 1024 * 1024;
/// … and for how long.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is larger than its limit.
    #[error("the body is too large")]
    TooLarge,
    /// The connection ended, or the framing was wrong, before the body was complete.
    #[error("the body is incomplete")]
    Truncated,
}

/// The whole body, at most `limit` bytes, and its trailers.
pub(crate) async fn read_body(mut body: Body, limit: usize) -> Result<(Bytes, HeaderMap), BodyError> {
    let declared = body.size_hint().lower();
    if declared > limit as u64 {
        discard(body).await;
        return Err(BodyError::TooLarge);
    }
    // The declared length is only a promise; a page at a time is enough for those who break it.
    let mut bytes = BytesMut::with_capacity(declared.min(64 * 1024) as usize);
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Truncated)?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > limit => {
                discard(body).await;
                return Err(BodyError::TooLarge);
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes.freeze(), trailers))
}

async fn discard(mut body: Body) {
    let mut left = DISCARD_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(size) else { return };
            left = rest;
        }
    };
    // Whether it ended, failed or took too long: the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

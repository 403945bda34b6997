//! The log as a transparency log: checkpoints, proofs and tiles (C2SP tlog-checkpoint, tlog-proof, tlog-tiles).
//!
//! Numbers and paths flow in, and what is signed or follows from what is signed flows out. A full tile never changes, nor
//! does a partial one: their width is in their path, so anybody may keep them for ever.
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use dshield_common::tlog::TilePath;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::Shared;
use super::error::ApiError;
use super::query::{Parameters, invalid, known, number};
use crate::log::SignedCheckpoint;

const TEXT: &str = "text/plain; charset=utf-8";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// `GET /v1/log/checkpoint`: size and root of what is durable, signed.
pub(super) async fn checkpoint(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    known(query, &[])?;
    let signed = shared.state.log.checkpoint()?;
    Ok(published(&headers, &signed))
}

/// `GET /v1/log/tlog/checkpoint`: the newest that witnesses have cosigned; where there are none, as above.
pub(super) async fn witnessed(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    known(query, &[])?;
    let log = &shared.state.log;
    let signed = log.witnessed().map_or_else(|| log.checkpoint(), Ok)?;
    Ok(published(&headers, &signed))
}

fn published(headers: &HeaderMap, signed: &SignedCheckpoint) -> Response {
    // A cosignature more is another note.
    let signatures = signed.note.signatures().len();
    let tag = format!("\"{}-{}-{signatures}\"", signed.size, signed.root.to_hex());
    tagged(headers, &tag, TEXT, "no-cache", || signed.note.to_string().into_bytes())
}

/// `GET /v1/log/proof/{seq}`: that the entry is in the log, for somebody who has the keys and nothing else.
pub(super) async fn proof(
    State(shared): State<Arc<Shared>>,
    seq: Result<Path<u64>, PathRejection>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    known(query, &[])?;
    let Ok(Path(seq)) = seq else {
        return Err(invalid(
            "{seq} in /v1/log/proof/{seq}",
            "must be the number of an entry: a whole number, 0 or more",
        ));
    };
    let receipt = shared.state.log.receipt(seq).await?;
    Ok(([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-cache")], receipt.to_string()).into_response())
}

/// `GET /v1/log/consistency?old=&new=`: that the log of `old` entries is the beginning of the one of `new` (the
/// present one, where it is not said).
pub(super) async fn consistency(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let parameters = known(query, &["old", "new"])?;
    let old =
        number(&parameters, "old")?.ok_or_else(|| invalid("old", "is missing: the number of entries at that time"))?;
    let log = &shared.state.log;
    let signed = log.checkpoint()?;
    let asked = number(&parameters, "new")?;
    // What is said of the present one is another thing later.
    let keep = if asked.is_some() { FOR_EVER } else { "no-cache" };
    let new = asked.unwrap_or(signed.size);
    if old > new {
        return Err(invalid("old", "is larger than new"));
    }
    let hashes = log.consistency(old, new).await?;
    let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
    let body = json!({ "hashes": hashes, "new": new, "old": old }).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, keep)], body).into_response())
}

/// `GET /v1/log/tlog/tile/…`
pub(super) async fn tile(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    known(query, &[])?;
    let path = path.map(|Path(path)| format!("tile/{path}")).unwrap_or_default();
    let wanted: TilePath = path.parse().map_err(|error| ApiError::InvalidParameter {
        parameter: format!("the path {path}"),
        problem: format!("names no tile: {error}"),
    })?;
    let log = &shared.state.log;
    let bytes = match wanted {
        TilePath::Tile(tile) => log.tile(tile).await?,
        TilePath::Bundle(bundle) => log.bundle(bundle).await?,
    };
    let bytes = bytes.ok_or_else(|| ApiError::NotThere(format!("the log has not come as far as {wanted} yet")))?;
    Ok(tagged(&headers, &format!("\"{wanted}\""), "application/octet-stream", FOR_EVER, || bytes))
}

/// What is known by a tag, or only that it is still the same.
fn tagged(asked: &HeaderMap, tag: &str, kind: &str, keep: &str, body: impl FnOnce() -> Vec<u8>) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let headers = [(header::ETAG, tag.to_owned()), (header::CACHE_CONTROL, keep.to_owned())];
    if known.any(|known| known == tag || known == "*") {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, [(header::CONTENT_TYPE, kind.to_owned())], body()).into_response()
}

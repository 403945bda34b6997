//! `GET /v1/attestation`: what the hardware vouches for, for a question of the caller's.
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse, Response};
use dshield_common::attestation::Nonce;
use http::header;

use super::Shared;
use super::error::ApiError;
use super::query::{Parameters, invalid, known};
use crate::attest::Asker;
use crate::runtime::Peer;

/// With `nonce`, evidence that was made for it; without, evidence that may be minutes old.
pub(super) async fn attestation(
    State(shared): State<Arc<Shared>>,
    peer: Option<Extension<Peer>>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let parameters = known(query, &["nonce"])?;
    let nonce = parameters.get("nonce").map(|nonce| nonce.parse::<Nonce>());
    let nonce = nonce.transpose().map_err(|error| invalid("nonce", &format!("is none: {error}")))?;
    let asker = peer.and_then(|Extension(peer)| peer.address()).map_or(Asker::Shared, Asker::Address);
    let evidence = shared.state.attester.evidence(asker, nonce).await?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, evidence.to_json()).into_response())
}

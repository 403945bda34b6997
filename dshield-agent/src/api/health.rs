//! `/healthz`: the process answers. `/readyz`: it can also do its work.
use std::sync::Arc;

use axum::extract::State;

use super::Shared;
use super::error::ApiError;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Result<&'static str, ApiError> {
    shared.state.log.check().map_err(|error| ApiError::NotReady(error.to_string()))?;
    (shared.state.health)().map_err(ApiError::NotReady)?;
    Ok("ok\n")
}

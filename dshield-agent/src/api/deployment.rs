//! What is deployed: the functions, and the policy as it is attested.
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};

use super::Shared;
use crate::snapshot::FrozenFunction;

pub(super) async fn functions(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let deployed = shared.deployed();
    let functions: Vec<_> = deployed
        .functions
        .values()
        .map(|pool| {
            let FrozenFunction { spec, code_sha256, .. } = pool.function();
            json!({
                "code_sha256": code_sha256,
                "concurrency": spec.concurrency,
                "name": spec.name.as_str(),
                "runtime": spec.runtime.as_str(),
            })
        })
        .collect();
    axum::Json(json!({ "functions": functions }))
}

pub(super) async fn policy(State(shared): State<Arc<Shared>>) -> Response {
    let deployed = shared.deployed();
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json"),
        ("x-dshield-policy-sha256", deployed.policy_sha256.as_str()),
    ];
    (headers, deployed.policy.clone()).into_response()
}

//! Connections that were used once and then stay open.
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};

use super::Dialler;
use crate::client::{self, Error};

/// Opens them one after the other and gets `path` over each; then gets `hold` over one more, and closes all when that
/// is answered. Whoever answers `hold` knows that the others are open and idle.
pub(super) async fn run(dialler: &Dialler, path: &str, hold: &str, connections: usize) -> Result<Value, Error> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut sender = dialler.sender().await?;
        get(dialler, &mut sender, path).await?;
        open.push(sender);
    }
    let mut last = dialler.sender().await?;
    get(dialler, &mut last, hold).await?;
    if let Some(closed) = open.iter().position(SendRequest::is_closed) {
        return Err(format!("connection {closed} was closed while it was idle").into());
    }
    Ok(json!({ "connections": open.len() }))
}

async fn get(dialler: &Dialler, sender: &mut SendRequest<Full<Bytes>>, path: &str) -> Result<(), Error> {
    let request = Request::get(path).header("host", &dialler.host).body(Full::default())?;
    let answer = client::send(sender, request).await?;
    if answer.status == 200 { Ok(()) } else { Err(format!("status {}: {}", answer.status, answer.text()).into()) }
}

//! One HTTPS request in which every name can be chosen separately.
use dshield_tests::client;
use http_body_util::Full;
use hyper::Request;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpStream;

use crate::actions::{Stop, bundle, step, text};
use crate::grease;

/// With `grease` the hello pretends to hide another. `host` is resolved (unless `address` is given), `sni` and `host_header` default to it.
pub async fn request(event: &Value) -> Result<Value, Stop> {
    let host = text(event, "host")?;
    let or_host = |field: &str| event[field].as_str().unwrap_or(host);
    let port = event["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let target: SocketAddr = match event["address"].as_str() {
        Some(address) => address.parse().map_err(|error| Stop::Error(format!("{address}: {error}")))?,
        None => {
            let found = step("resolve", tokio::net::lookup_host((host, port)).await)?.next();
            found.ok_or_else(|| Stop::Error(format!("{host} has no address")))?
        }
    };
    let stream = step("connect", TcpStream::connect(target).await)?;
    let connector = if event["grease"] == true { grease::connector } else { client::connector };
    let tls = step("bundle", connector(&bundle()?))?;
    let name = step("tls", ServerName::try_from(or_host("sni").to_owned()))?;
    let stream = step("tls", tls.connect(name, stream).await)?;
    let mut request = Request::builder()
        .method(text(event, "method")?)
        .uri(text(event, "path")?)
        .header("host", or_host("host_header"));
    for (field, value) in event["headers"].as_object().into_iter().flatten() {
        request = request.header(field, value.as_str().unwrap_or_default());
    }
    let body = event["body"].as_str().unwrap_or_default().to_owned();
    let request = step("request", request.body(Full::from(body)))?;
    let answer = step("http", client::exchange(stream, request).await)?;
    let chunks: Vec<_> = answer.chunks.iter().map(|(after, bytes)| json!([after.as_millis() as u64, bytes])).collect();
    Ok(json!({"status": answer.status, "body": answer.text(), "chunks": chunks}))
}

//! One large body in one direction.
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::{Value, json};

use super::{Dialler, Repeat};
use crate::client::Error;

/// Fetches `path`, whose answer must have so many bytes.
pub(super) async fn down(dialler: &Dialler, path: &str, bytes: u64) -> Result<Value, Error> {
    let mut sender = dialler.sender().await?;
    let request = Request::get(path).header("host", &dialler.host).body(Full::<Bytes>::default())?;
    let started = Instant::now();
    let mut answer = sender.send_request(request).await?;
    let mut received = 0;
    while let Some(frame) = answer.frame().await {
        received += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    outcome(answer.status().as_u16(), bytes, received, started)
}

/// Posts so many bytes to `path`, which answers how many arrived.
pub(super) async fn up(dialler: &Dialler, path: &str, bytes: u64) -> Result<Value, Error> {
    let mut sender = dialler.sender().await?;
    let request = Request::post(path).header("host", &dialler.host).body(Repeat::new(bytes))?;
    let started = Instant::now();
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let arrived = answer.into_body().collect().await?.to_bytes();
    outcome(status, bytes, std::str::from_utf8(&arrived)?.parse()?, started)
}

fn outcome(status: u16, asked: u64, passed: u64, started: Instant) -> Result<Value, Error> {
    if status != 200 || passed != asked {
        return Err(format!("status {status}, {passed} of {asked} bytes").into());
    }
    Ok(json!({"bytes": passed, "seconds": started.elapsed().as_secs_f64()}))
}

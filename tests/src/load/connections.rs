//! Connections that carry one request each.
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;

use super::{Dialler, Figures};
use crate::client::{self, Error};

/// Connects, gets the small answer at `path` and closes, so many at a time, until the time is over. The latency is
/// that of all this: the answer fits one TLS record, so its first byte and its last come together.
pub(super) async fn run(dialler: &Dialler, path: &str, clients: usize, duration: Duration) -> Result<Figures, Error> {
    let started = Instant::now();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let (dialler, path) = (dialler.clone(), path.to_owned());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                let ended = drive(&dialler, &path, started + duration, &mut latencies).await;
                (latencies, ended)
            })
        })
        .collect();
    let mut measured = Vec::with_capacity(clients);
    for worker in workers {
        measured.push(worker.await?);
    }
    Ok(Figures::of(measured, started.elapsed()))
}

async fn drive(dialler: &Dialler, path: &str, until: Instant, latencies: &mut Vec<u64>) -> Result<(), Error> {
    while Instant::now() < until {
        let request = Request::get(path).header("host", &dialler.host).body(Full::<Bytes>::default())?;
        let begun = Instant::now();
        let answer = client::exchange(dialler.open().await?, request).await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()).into());
        }
        latencies.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(())
}

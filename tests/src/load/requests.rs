//! Requests over connections that are kept alive.
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1::SendRequest;

use super::{Dialler, Figures};
use crate::client::{self, Error};

/// Posts `body_bytes` over each of so many connections, one request after the other, until the time is over. It
/// begins when all are open. Each request goes to `path` followed by `<connection>-<number>`, so that it can be found
/// again. Each connection is used at least once.
pub(super) async fn run(
    dialler: &Dialler,
    path: &str,
    body_bytes: usize,
    connections: usize,
    duration: Duration,
) -> Result<Figures, Error> {
    let opening: Vec<_> = (0..connections)
        .map(|_| {
            let dialler = dialler.clone();
            tokio::spawn(async move { dialler.sender().await })
        })
        .collect();
    let mut senders = Vec::with_capacity(connections);
    for opened in opening {
        senders.push(opened.await??);
    }
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let started = Instant::now();
    let workers = senders.into_iter().enumerate().map(|(number, mut sender)| {
        let (host, path, body) = (dialler.host.clone(), format!("{path}{number}-"), body.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            let ended = drive(&mut sender, &host, &path, &body, started + duration, &mut latencies).await;
            (latencies, ended)
        })
    });
    let mut measured = Vec::with_capacity(connections);
    for worker in workers.collect::<Vec<_>>() {
        measured.push(worker.await?);
    }
    Ok(Figures::of(measured, started.elapsed()))
}

async fn drive(
    sender: &mut SendRequest<Full<Bytes>>,
    host: &str,
    path: &str,
    body: &Bytes,
    until: Instant,
    latencies: &mut Vec<u64>,
) -> Result<(), Error> {
    let mut count = 0_u64;
    loop {
        let request = Request::post(format!("{path}{count}")).header("host", host).body(Full::new(body.clone()))?;
        let sent = Instant::now();
        let answer = client::send(sender, request).await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()).into());
        }
        latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        count += 1;
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

//! Keep-alive load over TLS: the same client runs inside an instance and, for comparison, outside.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::{self, Error};

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// The name in SNI and `Host`.
    pub host: String,
    /// Where to connect to; resolved from `host` when absent.
    pub address: Option<SocketAddr>,
    /// The port, when `address` is absent.
    pub port: u16,
    /// The certificates to trust, PEM.
    pub bundle: PathBuf,
    /// Each request goes to this path followed by `<connection>-<number>`, so that it can be found again.
    pub path: String,
    /// Bytes of each request's body.
    pub body_bytes: usize,
    /// How many connections send at the same time, each one request after the other.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Requests answered with 200.
    pub requests: u64,
    /// Connections that ended before the time was over, by their reason.
    pub errors: Vec<String>,
    /// Requests per second.
    pub per_second: f64,
    /// The median latency, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl Figures {
    /// As JSON, for a function's answer.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests, "errors": self.errors, "per_second": self.per_second,
            "p50_us": self.p50_us, "p99_us": self.p99_us
        })
    }
}

/// The value at `percent` of the sorted `samples`; 0 when there are none.
#[must_use]
pub fn percentile(samples: &mut [u64], percent: usize) -> u64 {
    samples.sort_unstable();
    let index = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
    samples.get(index).copied().unwrap_or(0)
}

/// Sends POST requests over keep-alive connections until the time is over.
///
/// # Errors
/// When the bundle cannot be read. A broken connection is counted in [`Figures::errors`].
pub async fn run(load: Load) -> Result<Figures, Error> {
    let tls = client::connector(&load.bundle)?;
    let started = Instant::now();
    let workers: Vec<_> =
        (0..load.connections).map(|number| tokio::spawn(one(load.clone(), tls.clone(), number, started))).collect();
    let (mut latencies, mut errors) = (Vec::new(), Vec::new());
    for worker in workers {
        let (mine, ended) = worker.await?;
        latencies.extend(mine);
        errors.extend(ended.err().map(|error| error.to_string()));
    }
    let seconds = started.elapsed().as_secs_f64();
    let requests = latencies.len() as u64;
    Ok(Figures {
        requests,
        errors,
        per_second: requests as f64 / seconds,
        p50_us: percentile(&mut latencies, 50),
        p99_us: percentile(&mut latencies, 99),
    })
}

async fn one(
    load: Load,
    tls: tokio_rustls::TlsConnector,
    number: usize,
    started: Instant,
) -> (Vec<u64>, Result<(), Error>) {
    let mut latencies = Vec::new();
    let ended = drive(&load, tls, number, started, &mut latencies).await;
    (latencies, ended)
}

async fn drive(
    load: &Load,
    tls: tokio_rustls::TlsConnector,
    number: usize,
    started: Instant,
    latencies: &mut Vec<u64>,
) -> Result<(), Error> {
    let stream = match load.address {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((load.host.as_str(), load.port)).await?,
    };
    stream.set_nodelay(true)?;
    let stream = tls.connect(ServerName::try_from(load.host.clone())?, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Bytes::from(vec![b'x'; load.body_bytes]);
    for count in 0_u64.. {
        if started.elapsed() >= load.duration {
            break;
        }
        let request = Request::post(format!("{}{number}-{count}", load.path))
            .header("host", &load.host)
            .body(Full::new(body.clone()))?;
        let sent = Instant::now();
        let answer = client::send(&mut sender, request).await?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()).into());
        }
        latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_sorted_samples() {
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut samples, 50), 51);
        assert_eq!(percentile(&mut samples, 99), 100);
        assert_eq!(percentile(&mut [], 50), 0);
    }
}

//! Load over TLS and HTTP/1.1: the same client runs inside an instance and, for comparison, outside.
//!
//! An event flows in (see [`measure`]), figures flow out. Everything is asked of one [`Target`].
mod connections;
mod idle;
mod repeat;
mod requests;
mod target;
mod transfer;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

pub use repeat::Repeat;
pub use target::{Dialler, Target};

use crate::client::Error;

/// No load takes longer: something hangs.
const LONGEST: Duration = Duration::from_secs(300);

/// What came of sending the same thing again and again.
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
    /// From what each worker measured, in microseconds, and how it ended.
    fn of(workers: Vec<(Vec<u64>, Result<(), Error>)>, time: Duration) -> Self {
        let (mut latencies, mut errors) = (Vec::new(), Vec::new());
        for (mine, ended) in workers {
            latencies.extend(mine);
            errors.extend(ended.err().map(|error| error.to_string()));
        }
        let requests = latencies.len() as u64;
        Self {
            requests,
            errors,
            per_second: requests as f64 / time.as_secs_f64(),
            p50_us: percentile(&mut latencies, 50),
            p99_us: percentile(&mut latencies, 99),
        }
    }

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

/// Does what `event` says, trusting the certificates in the file `bundle`, or the event's own `bundle`.
///
/// | `kind` | what | answer |
/// | --- | --- | --- |
/// | `requests` (default) | POST `body_bytes` to `path` over each of `connections` kept alive, for `ms` | [`Figures`] |
/// | `connections` | GET `path`, each over a connection of its own, `connections` at a time, for `ms` | [`Figures`] |
/// | `down`, `up` | one body of `bytes`, from `path` or to it | `bytes`, `seconds` |
/// | `idle` | open `connections`, use each once, then GET `hold` over one more, and close all when that is answered | `connections` |
///
/// Where to: `host`, and `address` where that is not what it resolves to; through the HTTP proxy there when
/// there is a `tunnel`, the authority to `CONNECT` to.
///
/// # Errors
/// The event lacks something, it took more than five minutes, or nothing could be measured at all. A connection that breaks while requests are
/// counted is in [`Figures::errors`].
pub async fn measure(event: &Value, bundle: PathBuf) -> Result<Value, Error> {
    tokio::time::timeout(LONGEST, act(event, bundle)).await.map_err(|_| format!("not done after {LONGEST:?}"))?
}

async fn act(event: &Value, bundle: PathBuf) -> Result<Value, Error> {
    let text = |field: &str| event[field].as_str().ok_or_else(|| format!("the event has no text {field:?}"));
    let number = |field: &str, default: u64| event[field].as_u64().unwrap_or(default);
    let target = Target {
        host: text("host")?.to_owned(),
        address: event["address"].as_str().map(str::parse).transpose()?,
        port: 443,
        tunnel: event["tunnel"].as_str().map(str::to_owned),
        bundle: event["bundle"].as_str().map_or(bundle, PathBuf::from),
    };
    let dialler = target.dialler().await?;
    let connections = usize::try_from(number("connections", 1))?;
    let duration = Duration::from_millis(number("ms", 1000));
    let path = text("path")?;
    match event["kind"].as_str().unwrap_or("requests") {
        "requests" => {
            let body_bytes = usize::try_from(number("body_bytes", 0))?;
            Ok(requests::run(&dialler, path, body_bytes, connections, duration).await?.to_json())
        }
        "connections" => Ok(connections::run(&dialler, path, connections, duration).await?.to_json()),
        "down" => transfer::down(&dialler, path, number("bytes", 0)).await,
        "up" => transfer::up(&dialler, path, number("bytes", 0)).await,
        "idle" => idle::run(&dialler, path, text("hold")?, connections).await,
        other => Err(format!("unknown kind of load {other:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin::{NAME, Standin};

    #[test]
    fn percentiles_are_taken_from_the_sorted_samples() {
        let mut samples: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&mut samples, 50), 51);
        assert_eq!(percentile(&mut samples, 99), 100);
        assert_eq!(percentile(&mut [], 50), 0);
    }

    fn measured(standin: &Standin, mut event: Value) -> Value {
        event["host"] = json!(NAME);
        event["address"] = json!(standin.addr().to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("epoll");
        runtime.block_on(measure(&event, standin.ca_file().to_owned())).expect("it answers")
    }

    #[test]
    fn requests_stay_on_their_connections_and_connections_do_not() {
        let standin = Standin::start();
        let kept = measured(&standin, json!({"path": "/echo/", "connections": 3, "ms": 100}));
        assert!(kept["requests"].as_u64() >= Some(3) && kept["errors"] == json!([]), "{kept}");
        assert_eq!(standin.connections(), 3);
        let event = json!({"kind": "connections", "path": "/bytes/1", "connections": 2, "ms": 100});
        let fresh = measured(&standin, event);
        assert!(fresh["errors"] == json!([]), "{fresh}");
        assert_eq!(Some(standin.connections() as u64 - 3), fresh["requests"].as_u64());
    }

    #[test]
    fn a_transfer_counts_every_byte_and_idle_connections_are_all_used() {
        let standin = Standin::start();
        let down = measured(&standin, json!({"kind": "down", "path": "/bytes/300000", "bytes": 300_000}));
        assert_eq!(down["bytes"], 300_000);
        let event = json!({"kind": "idle", "path": "/bytes/1", "hold": "/bytes/2", "connections": 4});
        assert_eq!(measured(&standin, event)["connections"], 4);
        assert_eq!(standin.connections(), 6);
        assert_eq!(standin.seen().iter().filter(|seen| seen.path == "/bytes/1").count(), 4);
    }
}

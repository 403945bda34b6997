//! What functions print, into the agent's own log: line by line, bounded, marked as theirs.
//!
//! What a function prints faster than the allowance waits in its pipe: the agent's processors and the operator's disk are
//! shared by all.
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use crate::instance::Instance;

/// A longer line is cut into several.
const MAX_LINE: u64 = 8 << 10;

/// The allowance of a stream that goes on and on: a thousand lines a second, a long line counting once for each KiB, …
const PER_LINE: Duration = Duration::from_millis(1);
/// … and ten thousand at once after a pause.
const BURST: Duration = Duration::from_secs(10);

/// Reads one stream until the instance has closed it.
pub(super) fn forward(instance: Arc<Instance>, stream: &'static str, output: File) {
    let receiver = match pipe::Receiver::from_owned_fd(OwnedFd::from(output)) {
        Ok(receiver) => receiver,
        Err(error) => return tracing::warn!(instance = instance.id(), "{stream}: {error}"),
    };
    tokio::spawn(async move {
        let mut reader = BufReader::new(receiver);
        let mut line = Vec::new();
        // When the allowance for all that was printed is used up; never longer ago than a burst.
        let mut due = burst_before(Instant::now());
        loop {
            line.clear();
            match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    // A function must not write escape sequences to the operator's terminal.
                    let text: String = text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
                    tracing::info!(target: "function", function = instance.function(), instance = instance.id(), stream, "{text}");
                    let now = Instant::now();
                    due = due.max(burst_before(now)) + PER_LINE * (1 + line.len() as u32 / 1024);
                    if due > now {
                        sleep_until(due).await;
                    }
                }
            }
        }
    });
}

/// The clock of a machine that has just booted does not go back so far.
fn burst_before(now: Instant) -> Instant {
    now.checked_sub(BURST).unwrap_or(now)
}

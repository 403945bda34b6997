//! What functions print, into the agent's own log: line by line, bounded, marked as theirs.
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

use crate::instance::Instance;

/// A longer line is cut into several.
const MAX_LINE: u64 = 8 << 10;

/// Reads one stream until the instance has closed it.
pub(super) fn forward(instance: Arc<Instance>, stream: &'static str, output: File) {
    let receiver = match pipe::Receiver::from_owned_fd(OwnedFd::from(output)) {
        Ok(receiver) => receiver,
        Err(error) => return tracing::warn!(instance = instance.id(), "{stream}: {error}"),
    };
    tokio::spawn(async move {
        let mut reader = BufReader::new(receiver);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    // A function must not write escape sequences to the operator's terminal.
                    let text: String = text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
                    tracing::info!(target: "function", function = instance.function(), instance = instance.id(), stream, "{text}");
                }
            }
        }
    });
}

//! Measures what it takes to check and to prove a log:
//! `cargo run --release --example log_check -- --entries 1000000 --dir DIR`.
//!
//! Writes a log of so many entries into the folder, then reads it, checks it by hashes and with signatures, and proves
//! entries of it and of a tree ten times as large. Prints one JSON line.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use dshield_agent::log::check::{Checker, Signatures};
use dshield_agent::log::stored::StoredLog;
use dshield_agent::log::synthetic::SyntheticTree;
use dshield_agent::log::{BootFacts, Log, Storage};
use dshield_common::log::entry::{Connect, Event, Process, Record, Subject};
use dshield_verify::log::Expectations;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// Entries of the log.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// The folder to make the logs in; they are left behind.
    #[arg(long)]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let Arguments { entries, dir } = Arguments::parse();
    let path = dir.join("log.redb");
    let log = {
        let path = path.clone();
        tokio::task::spawn_blocking(|| Log::open(Storage::File(path), BootFacts::default())).await??
    };
    let begun = Instant::now();
    for number in 1..entries {
        drop(log.enqueue(typical(number)).await?);
    }
    log.settled().await;
    let written = begun.elapsed();
    let (memory, receipts) = (resident_kib(), receipts(&log, entries).await?);
    log.close().await;

    let bytes = std::fs::metadata(&path)?.len();
    let hashes = check(&path, Signatures::None)?;
    let signatures = check(&path, Signatures::All)?;
    let small = proofs(&dir.join("small.redb"), entries)?;
    let large = proofs(&dir.join("large.redb"), 10 * entries)?;
    let report = serde_json::json!({
        "entries": entries,
        "written_per_second": per_second(entries, written),
        "resident_kib": memory,
        "bytes_per_entry": bytes as f64 / entries as f64,
        "check_hashes_s": hashes.as_secs_f64(),
        "check_signatures_s": signatures.as_secs_f64(),
        "receipt_us": receipts,
        "proof_us": small,
        "proof_of_ten_times_us": large,
    });
    println!("{report}");
    Ok(())
}

fn per_second(count: u64, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64()).round()
}

/// How long it takes to read the stored log and check all of it.
fn check(path: &Path, signatures: Signatures) -> Result<Duration, Error> {
    let log = StoredLog::open(path)?;
    let begun = Instant::now();
    let mut checker = Checker::new(Expectations::default(), signatures);
    let range = log.range();
    let mut next = range.start;
    while next < range.end {
        for line in log.lines(next, 4096)? {
            checker.push(&line)?;
            next += 1;
        }
    }
    let (_, bad) = checker.finish()?;
    if !bad.is_empty() {
        return Err("signatures that were just made do not verify".into());
    }
    let took = begun.elapsed();
    log.close()?;
    Ok(took)
}

/// Microseconds for a receipt with its signed checkpoint, in the median.
async fn receipts(log: &Log, entries: u64) -> Result<f64, Error> {
    let mut times = Vec::new();
    for number in 0..1000 {
        let begun = Instant::now();
        let receipt = log.receipt(scattered(number, entries)).await?;
        times.push(begun.elapsed());
        drop(receipt);
    }
    Ok(median(times))
}

/// Microseconds for an inclusion proof in a tree of so many leaves, in the median.
fn proofs(path: &Path, leaves: u64) -> Result<f64, Error> {
    let tree = SyntheticTree::make(path, leaves)?;
    let mut times = Vec::new();
    for number in 0..1000 {
        let begun = Instant::now();
        let proof = tree.prove(scattered(number, leaves))?;
        times.push(begun.elapsed());
        drop(proof);
    }
    Ok(median(times))
}

/// Somewhere in the log, each time elsewhere.
fn scattered(number: u64, size: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// The entry that stands before every outgoing connection.
fn typical(connection: u64) -> Record {
    let event = Event::Connect(Connect {
        connection,
        host: "api.anthropic.com".to_owned(),
        port: 443,
        tls: "inspect".to_owned(),
        rule: "summarize.egress[0]".to_owned(),
        process: Some(Process { pid: 4711, comm: "python3".to_owned() }),
    });
    let subject = Subject {
        function: Some("summarize".to_owned()),
        instance: Some("summarize-1".to_owned()),
        request_id: Some("8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
    };
    Record { subject, event }
}

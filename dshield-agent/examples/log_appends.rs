//! Measures durable log appends: `cargo run --release --example log_appends -- --writers 64 --seconds 5 --dir DIR`.
//!
//! Each writer appends one entry after the other and waits until it is durable. Prints one JSON line; beside the
//! figures of the log it gives what the same machine needs for one `fdatasync` of 4 KiB in that folder and for one
//! signature, which bound them.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use dshield_agent::log::{BootFacts, Log, LogError, Storage};
use dshield_common::log::entry::{Connect, Event, Process, Record, Subject};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

#[derive(Parser)]
struct Arguments {
    /// How many tasks append at the same time.
    #[arg(long, default_value_t = 64)]
    writers: u64,
    /// For how long.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The folder to make the log in; `log.redb` in it is left behind.
    #[arg(long)]
    dir: PathBuf,
    /// Keep the log in memory instead.
    #[arg(long)]
    memory: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { writers, seconds, dir, memory } = Arguments::parse();
    let (sync_p50, sync_p99) = fdatasync(&dir)?;
    let sign = sign()?;
    let storage = if memory { Storage::Memory } else { Storage::File(dir.join("log.redb")) };
    let log = tokio::task::spawn_blocking(|| Log::open(storage, BootFacts::default())).await??;
    let before = *log.head().borrow();

    let started = Instant::now();
    let end = started + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..writers).map(|writer| tokio::spawn(append_until(log.clone(), writer, end))).collect();
    let commits = tokio::spawn(count_changes(log.clone()));
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let entries = *log.head().borrow() - before;
    log.close().await;
    let commits = commits.await?;
    latencies.sort_unstable();
    let report = serde_json::json!({
        "writers": writers,
        "seconds": elapsed,
        "entries": entries,
        "appends_per_second": (entries as f64 / elapsed).round(),
        "append_p50_us": percentile(&latencies, 50),
        "append_p99_us": percentile(&latencies, 99),
        "commits_seen": commits,
        "fdatasync_4k_p50_us": sync_p50,
        "fdatasync_4k_p99_us": sync_p99,
        "sign_us": sign,
    });
    println!("{report}");
    Ok(())
}

async fn append_until(log: Log, writer: u64, end: Instant) -> Result<Vec<u64>, LogError> {
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let record = typical(writer);
        let begun = Instant::now();
        log.append(record).await?;
        latencies.push(micros(begun.elapsed()));
    }
    Ok(latencies)
}

/// How often the head moved, which is once a commit as long as this task keeps up.
async fn count_changes(log: Log) -> u64 {
    let mut head = log.head();
    drop(log);
    let mut changes = 0;
    while head.changed().await.is_ok() {
        changes += 1;
    }
    changes
}

/// The entry that stands before every outgoing connection.
fn typical(connection: u64) -> Record {
    let event = Event::Connect(Connect {
        connection,
        host: "api.anthropic.com".to_owned(),
        port: 443,
        tls: "inspect".to_owned(),
        rule: "summarize/egress/0".to_owned(),
        process: Some(Process { pid: 4711, comm: "python3".to_owned() }),
    });
    let subject = Subject {
        function: Some("summarize".to_owned()),
        instance: Some("summarize-1".to_owned()),
        request_id: Some("8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
    };
    Record { subject, event }
}

fn fdatasync(dir: &Path) -> io::Result<(u64, u64)> {
    let path = dir.join("fdatasync.probe");
    let file = File::create(&path)?;
    let mut times = Vec::new();
    for turn in 0..500 {
        let begun = Instant::now();
        // In place after the first round, as a database does it.
        file.write_all_at(&[1; 4096], turn % 64 * 4096)?;
        file.sync_data()?;
        if turn >= 64 {
            times.push(micros(begun.elapsed()));
        }
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok((percentile(&times, 50), percentile(&times, 99)))
}

/// Microseconds for one signature over a typical entry.
fn sign() -> Result<f64, Box<dyn std::error::Error>> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| "no randomness")?;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
        .map_err(|_| "a key that was just made is refused")?;
    let begun = Instant::now();
    for _ in 0..2000 {
        key.sign(&random, &[7; 450]).map_err(|_| "no randomness")?;
    }
    Ok(begun.elapsed().as_micros() as f64 / 2000.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Of sorted values; 0 when there are none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or(0)
}

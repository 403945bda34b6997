//! A disk that fails, stalls and comes back under writers and keeper, and loses power at any moment of that.
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dshield_verify::log::LogVerifier;

use super::disk::{Disk, Random};
use super::*;

/// How many disks; more are asked for with this variable.
const SEEDS: u64 = 40;
const SEEDS_VARIABLE: &str = "DSHIELD_SEEDS";
/// How often each loses power.
const OUTAGES: usize = 4;

/// Everything that was acknowledged before the power went is there, and nothing is missing or moved.
async fn assert_holds(disk: &Disk, acknowledged: &[(u64, u64)], when: &str) {
    let (ledger, found) = disk.ledger().unwrap_or_else(|error| panic!("{when}: {error}"));
    let log = Log::start(ledger, Some(found), "6".repeat(32), facts()).unwrap();
    let lines = lines(&log).await;
    let mut verifier = LogVerifier::new(Expectations::default());
    for line in &lines {
        // Signatures are not what a disk changes, and take longest.
        let _ = verifier.push_unsigned(line).unwrap_or_else(|fault| panic!("{when}: {fault}"));
    }
    for (seq, expected) in acknowledged {
        let line = lines.get(usize::try_from(*seq).unwrap());
        assert_eq!(line.and_then(|line| id(line)), Some(*expected), "{when}: entry {seq}");
    }
}

async fn run(seed: u64) {
    let random = &mut Random::new(seed);
    let disk = Disk::with_journal(128 << 10);
    let (ledger, found) = disk.ledger().unwrap();
    let log = Log::start(ledger, Some(found), "5".repeat(32), facts()).unwrap();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (log, acknowledged, stop) = (log.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move {
                for turn in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let id = 1 << 40 | writer << 20 | turn;
                    match log.append(record(id)).await {
                        Ok(seq) => acknowledged.lock().unwrap().push((seq, id)),
                        Err(LogError::Failed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    // All of it is verified many times over.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    for outage in 0..OUTAGES {
        let when = format!("seed {seed}, outage {outage}");
        for _ in 0..1 + random.next() % 4 {
            match random.next() % 6 {
                0 => disk.fail_after(random.next() % 30),
                1 => disk.fail_journal_after(random.next() % 10),
                2 => disk.stall_journal(),
                3 => disk.stall_database(),
                _ => {
                    disk.repair();
                    disk.resume();
                }
            }
            tokio::time::sleep(Duration::from_millis(random.next() % 12)).await;
        }
        let before: Vec<_> = acknowledged.lock().unwrap().clone();
        for images in disk.images_after_power_failure(random) {
            assert_holds(&Disk::from_images(&images), &before, &when).await;
        }
    }
    disk.repair();
    disk.resume();
    // It goes on by itself.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = log.append(record(7)).await {
        assert!(Instant::now() < deadline, "seed {seed}: {error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    log.close().await;
    let all = acknowledged.lock().unwrap().clone();
    assert_holds(&disk, &all, &format!("seed {seed}, in the end")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_stalls_and_loses_power_under_load_keeps_all_that_was_acknowledged() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        run(seed).await;
    }
}

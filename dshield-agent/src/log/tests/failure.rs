//! A disk that fails, at every single operation in turn.
use std::time::{Duration, Instant};

use super::disk::{Disk, Images, Random};
use super::*;
use crate::log::journal::Appended;
use crate::log::row::Row;

fn start(disk: &Disk) -> Result<Log, LogError> {
    let (ledger, found) = disk.ledger()?;
    Log::start(ledger, Some(found), "5".repeat(32), facts())
}

/// A log that was made, holds one entry and was closed.
async fn images() -> Images {
    let disk = Disk::new();
    let log = start(&disk).unwrap();
    log.append(record(1000)).await.unwrap();
    log.close().await;
    disk.images()
}

/// Appends until it fails: what was acknowledged, and the error.
async fn append_until_failure(log: &Log, most: u64) -> (Vec<(u64, u64)>, Option<LogError>) {
    let mut acknowledged = Vec::new();
    for id in 0..most {
        match log.append(record(id)).await {
            Ok(seq) => acknowledged.push((seq, id)),
            Err(error) => return (acknowledged, Some(error)),
        }
    }
    (acknowledged, None)
}

async fn assert_holds(images: &Images, acknowledged: &[(u64, u64)], when: &str) {
    let log = start(&Disk::from_images(images)).unwrap_or_else(|error| panic!("{when}: does not open: {error}"));
    verify(&log).await;
    let lines = lines(&log).await;
    for &(seq, expected) in acknowledged {
        assert_eq!(id(&lines[usize::try_from(seq).unwrap()]), Some(expected), "{when}");
    }
}

/// Waits until the log takes entries again: the number of the first.
async fn recovered(log: &Log) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match log.append(record(2000)).await {
            Ok(seq) => return seq,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn after_a_failed_write_every_append_fails_and_all_that_was_acknowledged_is_there() {
    let images = images().await;
    let mut failures = 0;
    for count in 0.. {
        let disk = Disk::from_images(&images);
        disk.fail_after(count);
        let Ok(log) = start(&disk) else {
            continue;
        };
        let (acknowledged, error) = append_until_failure(&log, 8).await;
        let Some(error) = error else { break };
        failures += 1;
        assert!(matches!(&error, LogError::Failed { .. }), "{error:?}");
        assert!(error.to_string().contains("no space left on the test disk"), "{error}");
        for refused in [log.append(record(99)).await.map(drop), log.check()] {
            assert!(matches!(refused, Err(LogError::Failed { .. })), "{refused:?}");
        }
        assert_eq!(*log.head().borrow(), 3 + acknowledged.len() as u64);
        for images in disk.images_after_power_failure(&mut Random::new(count)) {
            assert_holds(&images, &acknowledged, &format!("failed at operation {count}")).await;
        }
    }
    assert!(failures > 15, "only {failures} operations failed");
}

/// What was refused was not written, so it must not appear; and the log says how much that was.
#[tokio::test]
async fn when_the_disk_is_in_order_again_the_log_goes_on_and_counts_what_it_refused() {
    let images = images().await;
    for count in [6, 7, 8, 9, 12, 13] {
        let disk = Disk::from_images(&images);
        let log = start(&disk).unwrap();
        disk.fail_after(count);
        let (acknowledged, error) = append_until_failure(&log, 30).await;
        assert!(error.is_some(), "operation {count} did not fail");
        assert!(matches!(log.append(record(99)).await, Err(LogError::Failed { .. })));
        disk.repair();
        let next = recovered(&log).await;
        log.settled().await;
        verify(&log).await;
        let found = lines(&log).await;
        for &(seq, expected) in &acknowledged {
            assert_eq!(id(&found[usize::try_from(seq).unwrap()]), Some(expected));
        }
        let counted: Vec<_> = found.iter().filter(|line| line.contains("while the log could not be written")).collect();
        // One was in the frame that failed, one came afterwards, and those that waited for the disk.
        assert!(counted.iter().filter_map(|line| id(line)).sum::<u64>() >= 2, "{counted:?}");
        assert!(found.iter().all(|line| id(line) != Some(99)));
        log.close().await;
        assert_holds(&disk.images(), &acknowledged, "after the recovery").await;
        let log = start(&disk).unwrap();
        assert_eq!(id(&lines(&log).await[usize::try_from(next).unwrap()]), Some(2000));
    }
}

#[tokio::test]
async fn records_that_were_queued_when_the_disk_failed_are_refused() {
    let disk = Disk::new();
    let log = start(&disk).unwrap();
    disk.stall();
    let mut pending = Vec::new();
    for id in 0..100 {
        pending.push(log.enqueue(record(id)).await.unwrap());
    }
    disk.fail_after(0);
    disk.resume();
    for pending in pending {
        assert!(matches!(pending.durable().await, Err(LogError::Failed { .. })));
    }
    assert_eq!(*log.head().borrow(), 1);
    log.close().await;
    assert!(matches!(log.check(), Err(LogError::Failed { .. })));
}

#[tokio::test]
async fn a_log_that_cannot_write_its_boot_entry_does_not_open() {
    let disk = Disk::from_images(&images().await);
    disk.fail_after(0);
    let refused = start(&disk);
    assert!(matches!(refused, Err(LogError::Io { .. })), "{refused:?}");
}

/// The writer failed while the keeper carried rows over: the keeper's success passed for the end of that failure, so
/// that nobody tried again, or what was not written was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_fails_again_and_again_while_rows_are_carried_over_recovers_each_time() {
    let disk = Disk::with_journal(128 << 10);
    let log = start(&disk).unwrap();
    let random = &mut Random::new(7);
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for round in 0..30 {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let log = log.clone();
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for turn in 0.. {
                        let id = 1 << 40 | round << 20 | writer << 16 | turn;
                        match log.append(record(id)).await {
                            Ok(seq) => done.push((seq, id)),
                            Err(LogError::Failed { .. }) => return done,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    done
                })
            })
            .collect();
        disk.fail_journal_after(random.next() % 200);
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
            refused += 1;
        }
        disk.repair();
        acknowledged.push((recovered(&log).await, 2000));
    }
    log.settled().await;
    let found = lines(&log).await;
    for (seq, expected) in acknowledged {
        assert_eq!(found.get(usize::try_from(seq).unwrap()).and_then(|line| id(line)), Some(expected), "entry {seq}");
    }
    let counted: Vec<_> = found.iter().filter(|line| line.contains("while the log could not be written")).collect();
    assert!(counted.iter().filter_map(|line| id(line)).sum::<u64>() >= refused, "{refused}: {counted:?}");
    verify(&log).await;
}

/// The journal was restarted behind what the database had, not behind what a slow disk was writing at that moment: a
/// crash lost that, or left a gap.
#[test]
fn what_becomes_durable_while_the_log_recovers_is_not_lost() {
    let entry = |seq: u64| format!(r#"{{"boot_id":"","count":1,"kind":"lost","seq":{seq},"source":"","time":""}}"#);
    let row = |seq: u64| Row::new(&entry(seq), &[1]);
    let disk = Disk::new();
    let ledger = disk.ledger().unwrap().0;
    ledger.begin().unwrap();
    ledger.append(&[row(0)]).unwrap();
    std::thread::scope(|scope| {
        disk.stall_journal();
        let slow = scope.spawn(|| ledger.append(&[row(1)]).unwrap());
        let done = |what: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !what() {
                assert!(Instant::now() < deadline);
                std::thread::yield_now();
            }
        };
        done(&|| disk.progress().0 == 1);
        let before = disk.progress().1;
        let recovering = scope.spawn(|| ledger.recover().unwrap());
        // It has carried over what there was, and waits for the journal.
        done(&|| disk.progress().1 > before + 2);
        let mut last = disk.progress().1;
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = disk.progress().1;
            if std::mem::replace(&mut last, now) == now {
                break;
            }
        }
        disk.resume();
        assert_eq!(slow.join().unwrap(), Appended::Durable);
        recovering.join().unwrap();
    });
    ledger.append(&[row(2)]).unwrap();
    for images in disk.images_after_power_failure(&mut Random::new(1)) {
        let (ledger, _) = Disk::from_images(&images).ledger().unwrap();
        assert_eq!(ledger.rows(0, 9, 999).unwrap(), [row(0), row(1), row(2)]);
    }
}

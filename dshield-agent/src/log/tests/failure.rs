//! A disk that fails, at every single operation in turn.
use super::disk::Disk;
use super::*;

fn start(disk: &Disk, new: bool) -> Result<Log, LogError> {
    let store = Store::with_backend(disk.backend(), new)?;
    Log::start(store, "5".repeat(32), facts(), true)
}

/// A log that was made, holds one entry and was closed.
async fn image() -> Vec<u8> {
    let disk = Disk::default();
    let log = start(&disk, true).unwrap();
    log.append(record(1000)).await.unwrap();
    log.close().await;
    disk.image()
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

async fn assert_holds(image: &[u8], acknowledged: &[(u64, u64)], when: &str) {
    let log = start(&Disk::from_image(image), false).unwrap_or_else(|error| panic!("{when}: does not open: {error}"));
    verify(&log).await;
    let lines = lines(&log).await;
    for &(seq, expected) in acknowledged {
        assert_eq!(id(&lines[usize::try_from(seq).unwrap()]), Some(expected), "{when}");
    }
}

#[tokio::test]
async fn after_a_failed_write_every_append_fails_and_all_that_was_acknowledged_is_there() {
    let image = image().await;
    let mut failures = 0;
    for count in 0.. {
        let disk = Disk::from_image(&image);
        disk.fail_after(count);
        let Ok(log) = start(&disk, false) else {
            continue;
        };
        let (acknowledged, error) = append_until_failure(&log, 8).await;
        let Some(error) = error else { break };
        failures += 1;
        assert!(matches!(&error, LogError::Failed { .. }), "{error:?}");
        assert!(error.to_string().contains("no space left on the test disk"), "{error}");

        // Also when the disk is in order again: what the failed write left behind is not known.
        disk.repair();
        for refused in [log.append(record(99)).await.map(drop), log.check()] {
            assert!(matches!(refused, Err(LogError::Failed { .. })), "{refused:?}");
        }
        assert_eq!(*log.head().borrow(), 3 + acknowledged.len() as u64);
        for image in disk.images_after_power_failure(count) {
            assert_holds(&image, &acknowledged, &format!("failed at operation {count}")).await;
        }
    }
    assert!(failures > 50, "only {failures} operations failed");
}

#[tokio::test]
async fn records_that_were_queued_when_the_disk_failed_are_refused() {
    let disk = Disk::default();
    let log = start(&disk, true).unwrap();
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
    let image = image().await;
    let disk = Disk::from_image(&image);
    disk.fail_after(0);
    let refused = start(&disk, false);
    assert!(matches!(refused, Err(LogError::Io { .. })), "{refused:?}");
}

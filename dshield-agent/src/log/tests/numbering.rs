//! Numbers, boots, sizes and order.
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use dshield_common::log::MAX_ENTRY;
use dshield_common::tlog::leaf_hash;

use super::disk::Disk;
use super::*;

#[tokio::test]
async fn a_new_log_begins_with_a_boot_entry_that_lists_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("state/log.redb"));
    let lines = lines(&log).await;
    assert_eq!(lines.len(), 1);
    let first = entry(&lines[0]);
    assert_eq!((first.seq, first.boot_id.as_str()), (0, log.boot_id()));
    let boot = boot(&lines[0]);
    assert_eq!((boot.version.as_str(), boot.memory_only, boot.previous), ("1.2.3", false, None));
    assert_eq!(boot.key, log.public_key_pem());
    assert_eq!(*log.head().borrow(), 1);
}

#[tokio::test]
async fn who_waits_finds_all_that_was_handed_over_before() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir.path().join("log.redb"));
    for number in 0..100 {
        drop(log.enqueue(record(number)).await.unwrap());
    }
    log.settled().await;
    assert_eq!(*log.head().borrow(), 101);
    log.settled().await;
    log.close().await;
    // Nothing more can be on its way.
    log.settled().await;
}

#[tokio::test]
async fn what_is_handed_over_while_the_policy_only_observes_says_so() {
    let mode = Some(Mode::Observe);
    let log = Log::open(Storage::Memory, BootFacts { mode, ..facts() }).unwrap();
    log.append(record(1)).await.unwrap();
    let (first, second) = (log.observing(), log.observing());
    log.append(record(2)).await.unwrap();
    drop(first);
    // Sealed later than it was handed over, and still as it was then.
    let pending = log.enqueue(record(3)).await.unwrap();
    drop(second);
    pending.durable().await.unwrap();
    log.append(record(4)).await.unwrap();
    let lines = lines(&log).await;
    let modes: Vec<_> = lines.iter().map(|line| entry(line).mode).collect();
    assert_eq!(modes, [mode, None, mode, mode, None]);
    assert_eq!(verify(&log).await.entries, 5);
}

#[tokio::test]
async fn every_boot_names_the_head_it_found_and_goes_on_counting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let mut keys = Vec::new();
    for round in 0..3 {
        let log = open(&path);
        keys.push(log.public_key_pem().to_owned());
        assert_eq!(log.append(record(7)).await.unwrap(), round * 2 + 1);
        log.close().await;
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);

    let log = open(&path);
    let lines = lines(&log).await;
    let before = SignedEntry::parse(&lines[5]).unwrap();
    let previous = boot(&lines[6]).previous.unwrap();
    assert_eq!(previous.seq, 5);
    assert_eq!(previous.leaf_hash, leaf_hash(before.entry.as_bytes()).to_hex());
    let summary = verify(&log).await;
    assert_eq!((summary.entries, summary.boots, summary.last_seq), (7, 4, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_leave_no_gap_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let log = open(&path);
    let mut writers = Vec::new();
    for writer in 0..64_u64 {
        let log = log.clone();
        writers.push(tokio::spawn(async move {
            let mut seqs = Vec::new();
            for turn in 0..20 {
                let id = writer * 100 + turn;
                seqs.push((log.append(record(id)).await.unwrap(), id));
            }
            seqs
        }));
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        let seqs = writer.await.unwrap();
        assert!(seqs.is_sorted());
        acknowledged.extend(seqs);
    }
    log.close().await;

    let log = open(&path);
    assert_eq!(verify(&log).await.entries, 1 + 64 * 20 + 1);
    let lines = lines(&log).await;
    acknowledged.sort_unstable();
    let seqs: Vec<u64> = acknowledged.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=64 * 20).collect::<Vec<_>>());
    for (seq, expected) in acknowledged {
        assert_eq!(id(&lines[usize::try_from(seq).unwrap()]), Some(expected));
    }
}

#[tokio::test]
async fn what_is_enqueued_is_written_in_order_even_when_nobody_waits() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    for id in 0..50 {
        drop(log.enqueue(record(id)).await.unwrap());
    }
    let threads = log.clone();
    std::thread::spawn(move || threads.enqueue_now(record(50)).unwrap()).join().unwrap();
    assert_eq!(log.append(record(51)).await.unwrap(), 52);
    let ids: Vec<u64> = lines(&log).await.iter().filter_map(|line| id(line)).collect();
    assert_eq!(ids, (0..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_acknowledged_entry_can_be_read_and_is_counted_at_once() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    let mut head = log.head();
    for expected in 1..20 {
        let seq = log.append(record(expected)).await.unwrap();
        assert_eq!((seq, *head.borrow_and_update()), (expected, expected + 1));
        let page = log.read(seq, 10).await.unwrap();
        assert_eq!(page.iter().map(|line| id(line)).collect::<Vec<_>>(), [Some(expected)]);
    }
}

#[tokio::test]
async fn a_memory_only_log_says_so_and_verifies_like_any_other() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    log.append(record(1)).await.unwrap();
    assert!(boot(&lines(&log).await[0]).memory_only);
    assert_eq!(verify(&log).await.entries, 2);
}

#[tokio::test]
async fn a_page_has_the_lines_asked_for_and_verifies_with_the_key() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    for id in 1..10 {
        log.append(record(id)).await.unwrap();
    }
    let page = log.read(4, 3).await.unwrap();
    assert_eq!(page.iter().map(|line| entry(line).seq).collect::<Vec<_>>(), [4, 5, 6]);
    let key = LogKey::from_pem(log.public_key_pem()).unwrap();
    let expectations = Expectations { start: Start::Page { seq: 4, key }, last_key: None };
    assert_eq!(verify_lines(page, expectations).unwrap().entries, 3);
    assert!(log.read(10, 3).await.unwrap().is_empty());
    assert!(log.read(u64::MAX, usize::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_reader_that_asks_for_everything_gets_it_in_pages() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    for _ in 0..200 {
        log.enqueue(big(60_000)).await.unwrap().durable().await.unwrap();
    }
    let mut all = lines(&log).await;
    assert!(all.len() < 201, "12 MB came in one page");
    while all.len() < 201 {
        let page = log.read(all.len() as u64, usize::MAX).await.unwrap();
        assert!(!page.is_empty());
        all.extend(page);
    }
    verify_lines(all, Expectations::default()).unwrap();
}

/// A record whose entry has `bytes` bytes more than that of an empty source.
fn big(bytes: usize) -> Record {
    Record::agent(Event::Lost { count: 1, source: "x".repeat(bytes) })
}

#[tokio::test]
async fn an_entry_too_large_is_refused_without_taking_a_number() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    assert_eq!(log.append(big(0)).await.unwrap(), 1);
    let empty = SignedEntry::parse(&lines(&log).await[1]).unwrap().entry.len();
    let most = MAX_ENTRY - empty;
    let refused = log.append(big(most + 1)).await;
    assert!(matches!(refused, Err(LogError::TooLarge { size }) if size == MAX_ENTRY + 1), "{refused:?}");
    assert_eq!(log.append(big(most)).await.unwrap(), 2);
    assert_eq!(verify(&log).await.entries, 3);
}

#[tokio::test]
async fn a_record_that_fits_no_entry_and_has_no_listener_leaves_a_lost_entry() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    let threads = log.clone();
    std::thread::spawn(move || threads.enqueue_now(big(MAX_ENTRY)).unwrap()).join().unwrap();
    drop(log.enqueue(record(1 << 60)).await.unwrap());
    assert_eq!(log.append(record(7)).await.unwrap(), 3);
    let lines = lines(&log).await;
    for line in &lines[1..3] {
        assert_eq!(entry(line).record, writer::unfit());
    }
}

/// The writer had answered before the listener went away: nobody heard, and the log said nothing.
#[tokio::test]
async fn a_refusal_that_was_answered_and_not_read_leaves_a_lost_entry_too() {
    let log = Log::open(Storage::Memory, facts()).unwrap();
    let pending = log.enqueue(big(MAX_ENTRY)).await.unwrap();
    log.settled().await;
    drop(pending);
    assert_eq!(log.append(record(7)).await.unwrap(), 2);
    assert_eq!(entry(&lines(&log).await[1]).record, writer::unfit());
}

#[tokio::test]
async fn a_closed_log_has_written_what_was_queued_and_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let log = open(&path);
    let mut pending = Vec::new();
    for id in 0..100 {
        pending.push(log.enqueue(record(id)).await.unwrap());
    }
    let other = log.clone();
    tokio::join!(log.close(), other.close());
    for (expected, pending) in (1..).zip(pending) {
        assert_eq!(pending.durable().await.unwrap(), expected);
    }
    assert!(matches!(other.append(record(0)).await, Err(LogError::Closed)));
    assert!(matches!(other.check(), Err(LogError::Closed)));
    assert!(matches!(other.read(0, 1).await, Err(LogError::Closed)));
    other.close().await;
    assert_eq!(verify(&open(&path)).await.entries, 102);
}

/// The last entry of a connection, handed over by a destructor while the queue was full, came after the end.
#[tokio::test]
async fn what_came_when_the_queue_was_full_is_written_before_the_log_closes() {
    let disk = Disk::new();
    let (ledger, found) = disk.ledger().unwrap();
    let log = Log::start(ledger, Some(found), "0".repeat(32), facts()).unwrap();
    disk.stall();
    let many = 3 * QUEUE as u64;
    for id in 0..many {
        log.enqueue_now(record(id)).unwrap();
    }
    let closing = tokio::spawn({
        let log = log.clone();
        async move { log.close().await }
    });
    disk.resume();
    closing.await.unwrap();
    let (ledger, _) = disk.ledger().unwrap();
    assert_eq!(ledger.next(), 1 + many);
}

#[tokio::test]
async fn writers_wait_while_the_queue_is_full() {
    let disk = Disk::new();
    let (ledger, found) = disk.ledger().unwrap();
    let log = Log::start(ledger, Some(found), "0".repeat(32), facts()).unwrap();
    disk.stall();
    let mut pending = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let mut enqueue = pin!(log.enqueue(record(1)));
        match enqueue.as_mut().poll(&mut context) {
            Poll::Ready(taken) => pending.push(taken.unwrap()),
            Poll::Pending => break,
        }
        // Twice the queue: one that is in the writer's hands, one that waits.
        assert!(pending.len() <= 2 * QUEUE + 1, "the queue has no bound");
    }
    disk.resume();
    for (expected, pending) in (1..).zip(pending) {
        assert_eq!(pending.durable().await.unwrap(), expected);
    }
}

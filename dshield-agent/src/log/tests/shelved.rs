//! A log that no agent writes: each damage is found where it is, and what was shortened stays provable.
use std::ops::Deref;
use std::path::PathBuf;

use redb::{Database, ReadableTable, Table, TableDefinition};

use super::*;
use crate::log::check::Signatures;
use crate::log::fsck::{Report, fsck};
use crate::log::stored::StoredLog;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const TILES: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("tiles");

/// A folder with a log in it.
struct Shelved(tempfile::TempDir);

impl Deref for Shelved {
    type Target = Path;

    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl Shelved {
    fn file(&self) -> PathBuf {
        self.join("log.redb")
    }

    fn fsck(&self) -> Report {
        let log = StoredLog::open_damaged(&self.file()).unwrap();
        let report = fsck(&log, Signatures::All).unwrap();
        log.close().unwrap();
        report
    }

    /// Changes a table behind everybody's back.
    fn change<K: redb::Key>(
        &self,
        table: TableDefinition<'_, K, &'static [u8]>,
        how: impl FnOnce(&mut Table<'_, K, &'static [u8]>),
    ) {
        let database = Database::open(self.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        how(&mut transaction.open_table(table).unwrap());
        transaction.commit().unwrap();
    }

    fn change_entry(&self, seq: u64, how: impl FnOnce(&mut Vec<u8>)) {
        self.change(ENTRIES, |table| {
            let mut value = table.get(seq).unwrap().unwrap().value().to_vec();
            how(&mut value);
            table.insert(seq, value.as_slice()).unwrap();
        });
    }
}

/// A log of boots with so many entries each, their own included; closed in order.
async fn shelved(boots: &[u64]) -> Shelved {
    let shelved = Shelved(tempfile::tempdir().unwrap());
    for entries in boots {
        let log = open(&shelved.file());
        for id in 1..*entries {
            drop(log.enqueue(record(1000 + id)).await.unwrap());
        }
        log.close().await;
    }
    shelved
}

/// All findings are about this entry, and those before it are good.
#[track_caller]
fn assert_found_at(report: &Report, seq: u64, how: &str) {
    assert!(!report.findings.is_empty(), "{how} of entry {seq} was not found");
    for finding in &report.findings {
        assert_eq!(finding.seq, Some(seq), "{how} of entry {seq}: {report:#?}");
    }
    assert!(report.good >= seq - report.first, "{how} of entry {seq}: only {} are good", report.good);
}

/// First and last of a tile, a boot entry, in a full tile, in the last one, the last of all.
const PLACES: [u64; 7] = [1, 255, 256, 300, 301, 520, 599];

#[tokio::test]
async fn a_whole_log_has_nothing_wrong_and_its_closing_checkpoint_holds() {
    let log = shelved(&[300, 300]).await;
    let report = log.fsck();
    assert_eq!(report.findings, []);
    assert_eq!((report.good, report.boots, report.closed, report.checkpoint), (600, 2, true, Some(true)));
    // To look is not to touch.
    assert_eq!(log.fsck(), report);
}

#[tokio::test]
async fn a_signature_that_was_changed_is_found_where_it_is() {
    let log = shelved(&[300, 300]).await;
    for seq in PLACES {
        let flip = |value: &mut Vec<u8>| value[20] ^= 1;
        log.change_entry(seq, flip);
        let report = log.fsck();
        assert_found_at(&report, seq, "the signature");
        assert_eq!(report.good, seq);
        log.change_entry(seq, flip);
    }
    assert_eq!(log.fsck().findings, []);
}

#[tokio::test]
async fn an_entry_that_was_changed_is_found_where_it_is() {
    let log = shelved(&[300, 300]).await;
    for seq in PLACES {
        let flip = |value: &mut Vec<u8>| {
            // A digit of its date: it stays well-formed.
            let at = value.windows(8).position(|text| text == b"\"time\":\"").unwrap() + 8 + 24;
            value[at] ^= 1;
        };
        log.change_entry(seq, flip);
        let report = log.fsck();
        assert_found_at(&report, seq, "a digit");
        assert_eq!(report.good, seq);
        log.change_entry(seq, flip);
    }
    assert_eq!(log.fsck().findings, []);
}

#[tokio::test]
async fn an_entry_that_was_removed_or_is_garbage_is_found_where_it_is() {
    let log = shelved(&[300, 300]).await;
    // The journal would bring back the last ones.
    std::fs::write(log.join("log.journal"), vec![0; 8 << 20]).unwrap();
    for seq in PLACES {
        let mut value = Vec::new();
        log.change(ENTRIES, |table| value = table.remove(seq).unwrap().unwrap().value().to_vec());
        let report = log.fsck();
        assert_found_at(&report, seq, "the absence");
        assert_eq!(report.good, seq);
        assert!(Log::open(Storage::File(log.file()), facts()).is_err(), "an agent started without entry {seq}");
        log.change(ENTRIES, |table| drop(table.insert(seq, [9, 9, 9].as_slice()).unwrap()));
        assert_found_at(&log.fsck(), seq, "garbage in place");
        log.change(ENTRIES, |table| drop(table.insert(seq, value.as_slice()).unwrap()));
    }
    assert_eq!(log.fsck().findings, []);
}

#[tokio::test]
async fn entries_that_the_database_lost_at_its_end_come_back_from_the_journal() {
    let log = shelved(&[300, 300]).await;
    log.change(ENTRIES, |table| {
        for seq in 590..600 {
            table.remove(seq).unwrap();
        }
    });
    let report = log.fsck();
    assert_eq!((report.findings, report.next, report.closed), (Vec::new(), 600, true));
}

#[tokio::test]
async fn entries_that_were_swapped_or_repeated_are_found_where_they_are() {
    let log = shelved(&[300, 300]).await;
    log.change(ENTRIES, |table| {
        let [first, second] = [10, 11].map(|seq| table.get(seq).unwrap().unwrap().value().to_vec());
        table.insert(10, second.as_slice()).unwrap();
        table.insert(11, first.as_slice()).unwrap();
    });
    let report = log.fsck();
    assert_eq!(report.good, 10);
    assert_found_at(&report, 10, "the swap");
}

#[tokio::test]
async fn a_tile_that_was_changed_or_removed_is_found_where_it_is() {
    let log = shelved(&[300, 300]).await;
    for (tile, hash) in [(0, 0), (0, 255), (1, 7)] {
        let seq = tile * 256 + hash as u64;
        let mut whole = Vec::new();
        log.change(TILES, |table| {
            whole = table.get((0, tile)).unwrap().unwrap().value().to_vec();
            let mut changed = whole.clone();
            changed[hash * 32 + 5] ^= 1;
            table.insert((0, tile), changed.as_slice()).unwrap();
        });
        let report = log.fsck();
        assert_found_at(&report, seq, "the hash");
        assert_eq!((report.good, &report.bad_tiles), (600, &vec![(0, tile)]), "the entries are as they were");
        log.change(TILES, |table| drop(table.remove((0, tile)).unwrap()));
        let report = log.fsck();
        assert_eq!((report.good, report.findings.len()), (600, 1), "{report:#?}");
        assert_eq!(report.findings[0].seq, Some(tile * 256));
        log.change(TILES, |table| drop(table.insert((0, tile), whole.as_slice()).unwrap()));
    }
    assert_eq!(log.fsck().findings, []);
}

/// The key of the first entry that is kept was taken for that of the boot before it.
#[tokio::test]
async fn a_log_that_is_pruned_where_a_boot_begins_is_good() {
    for boots in [[256, 100], [255, 100], [257, 300]] {
        let log = shelved(&boots).await;
        let stored = StoredLog::open(&log.file()).unwrap();
        assert_eq!(stored.prune(256).unwrap(), 256);
        stored.close().unwrap();
        let report = log.fsck();
        assert_eq!(report.findings, [], "{boots:?}");
        let total = boots.iter().sum::<u64>();
        assert_eq!((report.first, report.next, report.good), (256, total, total - 256));
        // And goes on.
        let running = open(&log.file());
        assert_eq!(running.append(record(1)).await.unwrap(), total + 1);
        assert!(matches!(running.read(255, 1).await, Err(LogError::Pruned { first: 256 })));
        for seq in [0, 255, 256, total] {
            let receipt = running.receipt(seq).await.unwrap();
            assert_eq!(receipt.index(), seq);
        }
        running.close().await;
        assert_eq!(log.fsck().findings, [], "{boots:?}");
    }
}

#[tokio::test]
async fn the_last_entry_and_whole_bundles_stay_when_a_log_is_pruned() {
    let log = shelved(&[300, 300]).await;
    let stored = StoredLog::open(&log.file()).unwrap();
    for (before, first) in [(0, 0), (255, 0), (256, 256), (100, 256), (511, 256), (u64::MAX, 512)] {
        assert_eq!(stored.prune(before).unwrap(), first, "before {before}");
    }
    stored.close().unwrap();
    assert_eq!(log.fsck().findings, []);
}

/// The first start complained that it is missing and made one, so that the second start missed nothing.
#[tokio::test]
async fn a_log_that_was_killed_and_lost_its_journal_is_refused_each_time() {
    let log = shelved(&[10]).await;
    let running = open(&log.file());
    running.append(record(1)).await.unwrap();
    let copy = Shelved(tempfile::tempdir().unwrap());
    std::fs::copy(log.file(), copy.file()).unwrap();
    running.close().await;
    for _ in 0..2 {
        let said = Log::open(Storage::File(copy.file()), facts()).unwrap_err().to_string();
        assert!(said.contains("the journal that belongs to it is missing"), "{said}");
        assert!(!copy.join("log.journal").exists());
    }
    let report = copy.fsck();
    assert!(report.findings[0].what.contains("journal"), "{report:#?}");
}

#[tokio::test]
async fn a_log_that_was_closed_needs_no_journal() {
    let log = shelved(&[10]).await;
    std::fs::remove_file(log.join("log.journal")).unwrap();
    assert_eq!(log.fsck().findings, []);
    assert_eq!(verify(&open(&log.file())).await.entries, 11);
}

//! Files that are not, or no longer, a log of ours.
use std::fs;
use std::path::PathBuf;

use redb::{Database, TableDefinition};

use super::*;

fn refusal(path: &Path) -> String {
    match Log::open(Storage::File(path.to_owned()), facts()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

/// A folder, and in it a log of two boots, closed.
async fn closed_log() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    for boot in 0..2 {
        let log = open(&path);
        for id in 0..40 {
            log.append(record(boot * 100 + id)).await.unwrap();
        }
        log.close().await;
    }
    (dir, path)
}

fn assert_says(said: &str, path: &Path, what: &str, hint: &str) {
    for part in [path.to_str().unwrap(), what, hint] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn garbage_in_place_of_the_log_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    for garbage in [&b""[..], b"x", &[0; 8192], &[0xa5; 100_000], b"redb\x1a\x0a\xa9\x0d\x0a"] {
        fs::write(&path, garbage).unwrap();
        assert_says(&refusal(&path), &path, "damaged or not a D-Shield log", "move it away");
        assert_eq!(fs::read(&path).unwrap(), garbage, "the file was changed");
    }
}

#[tokio::test]
async fn a_truncated_log_is_refused_with_advice() {
    let (_dir, path) = closed_log().await;
    let whole = fs::read(&path).unwrap();
    for length in [10, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_says(&refusal(&path), &path, "damaged or not a D-Shield log", "restore it");
    }
}

#[test]
fn another_programs_redb_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("other");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_says(&refusal(&path), &path, "its tables are not those of a log", "move it away");
}

#[tokio::test]
async fn a_newer_format_is_refused_with_the_advice_to_upgrade() {
    let (_dir, path) = closed_log().await;
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(meta).unwrap().insert("format", store::FORMAT + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_says(&refusal(&path), &path, "format 3", "upgrade dshield");
}

#[tokio::test]
async fn a_log_that_misses_entries_is_refused() {
    let entries: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
    for missing in [0, 40, 81] {
        let (_dir, path) = closed_log().await;
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(entries).unwrap().remove(missing).unwrap();
        if missing == 81 {
            // Cutting off the end leaves a shorter log without gaps; a last entry under a wrong number does not.
            transaction.open_table(entries).unwrap().insert(90, [0, 0].as_slice()).unwrap();
        }
        transaction.commit().unwrap();
        drop(database);
        let said = refusal(&path);
        assert_says(&said, &path, "damaged or not a D-Shield log", "restore it");
    }
}

#[tokio::test]
async fn a_log_in_use_is_refused() {
    let (_dir, path) = closed_log().await;
    let log = open(&path);
    assert_says(&refusal(&path), &path, "in use by another process", "--state");
    log.append(record(1)).await.unwrap();
}

#[test]
fn a_folder_in_place_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).starts_with("cannot open"), "{}", refusal(dir.path()));
}

/// The host owns the disk: whatever byte it changes, the agent lives, and an auditor gets true entries or none.
#[tokio::test]
async fn no_changed_byte_gets_a_false_entry_past_the_verifier() {
    let (_dir, path) = closed_log().await;
    let log = open(&path);
    let truth = lines(&log).await;
    log.close().await;
    let whole = fs::read(&path).unwrap();
    let mut noticed = 0;
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    // A sample, at a stride that hits every part of a page in time; denser in the header.
    for offset in (0..320).step_by(5).chain((320..=used).step_by(5333)) {
        let mut changed = whole.clone();
        changed[offset] ^= 0x04;
        fs::write(&path, &changed).unwrap();
        let Ok(log) = Log::open(Storage::File(path.clone()), facts()) else {
            noticed += 1;
            continue;
        };
        let verdict = match log.read(0, usize::MAX).await {
            Ok(lines) => verify_lines(&lines, Expectations::default()).map(|_| lines).ok(),
            Err(_) => None,
        };
        log.close().await;
        match verdict {
            Some(lines) => assert_eq!(lines[..truth.len()], truth, "byte {offset}"),
            None => noticed += 1,
        }
    }
    assert!(noticed > 20, "only {noticed} changes were noticed");
}

/// Format 1 had neither tiles nor a journal nor a name.
#[tokio::test]
async fn a_log_of_the_first_format_gets_its_tree_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.redb");
    let log = open(&path);
    for id in 0..600 {
        drop(log.enqueue(record(id)).await.unwrap());
    }
    log.close().await;
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let tiles: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("tiles");
    let texts: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    assert!(transaction.delete_table(tiles).unwrap() && transaction.delete_table(texts).unwrap());
    transaction.open_table(meta).unwrap().insert("format", 1).unwrap();
    transaction.open_table(meta).unwrap().remove("closed").unwrap();
    transaction.commit().unwrap();
    drop(database);
    fs::remove_file(path.with_extension("journal")).unwrap();

    let log = open(&path);
    assert_eq!(log.append(record(7)).await.unwrap(), 602);
    assert_eq!(verify(&log).await.root, Some(log.tree_head().1));
    let receipt = log.receipt(300).await.unwrap();
    let leaf = SignedEntry::parse(&lines(&log).await[300]).unwrap().entry;
    receipt.verify(&dshield_common::tlog::leaf_hash(leaf.as_bytes()), log.checkpoint_keys()).unwrap();
    log.close().await;
    assert_eq!(lines(&open(&path)).await.len(), 604);
}

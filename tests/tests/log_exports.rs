//! `dshield log export` of a log that somebody damaged: what comes out verifies, and what is wrong is said.
use std::fs;

use dshield_common::log::line::SignedEntry;
use dshield_tests::command::dshield;
use dshield_tests::shelf::{Shelf, lines, verify};
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::json;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

/// What becomes of an entry's bytes; none: it is removed.
type Change = Option<fn(&mut Vec<u8>)>;

/// Changes entry `seq` of the stored log.
fn change(shelf: &Shelf, seq: u64, how: Change) {
    let database = Database::open(shelf.project.state().join("log.redb")).expect("the agent is stopped");
    let transaction = database.begin_write().expect("it can be written");
    {
        let mut table = transaction.open_table(ENTRIES).expect("it is a log");
        let mut value = table.get(seq).expect("it can be read").expect("it is there").value().to_vec();
        match how {
            Some(how) => {
                how(&mut value);
                table.insert(seq, value.as_slice()).expect("it can be written");
            }
            None => drop(table.remove(seq).expect("it can be written")),
        }
    }
    transaction.commit().expect("it can be written");
}

#[test]
fn a_damaged_log_is_copied_as_far_as_it_is_good_and_the_entry_is_named() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.filled(250);
    let truth = lines(&shelf.export("whole"));
    assert!(truth.len() > 400, "{} entries", truth.len());
    let flip_entry = |value: &mut Vec<u8>| {
        let at = value.len() - 4;
        value[at] ^= 1;
    };
    let ways: [(&str, u64, Change); 3] =
        [("signature", 390, Some(|value| value[20] ^= 1)), ("text", 300, Some(flip_entry)), ("absence", 270, None)];
    // Each one further at the front than the one before.
    for (way, seq, how) in ways {
        change(&shelf, seq, how);
        let report = shelf.fsck();
        assert_eq!((&report["findings"][0]["seq"], &report["good"]), (&json!(seq), &json!(seq)), "{way}: {report:#}");
        let into = shelf.path(way);
        let said = dshield(["log", "export", &into.to_string_lossy(), "--state", &shelf.state()]);
        said.failed_saying(&[&format!("entry {seq}: "), &format!("holds {seq} entries that are good")]);
        let good = usize::try_from(seq).expect("small");
        assert_eq!(lines(&into)[..], truth[..good], "{way}");
        assert!(verify(&into, &[]).printed().contains(&format!("{seq} entries, 0 to {}", seq - 1)), "{way}");
        assert!(!into.join("checkpoint").exists(), "{way}: it is about a longer log");
        let tile = fs::read(into.join("tile/0/000")).expect("the first tile is whole");
        let first = SignedEntry::parse(&truth[0]).expect("a line").entry;
        assert_eq!(tile[..32], dshield_common::tlog::leaf_hash(first.as_bytes()).as_bytes()[..]);
    }
    // An agent starts on none of this that it would have to count on.
    let pruned = dshield(["log", "prune", "--before", "256", "--state", &shelf.state()]);
    pruned.failed_saying(&["damaged or not a D-Shield log", "restore it from a copy"]);
}

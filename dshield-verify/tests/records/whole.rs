//! Each entry is looked at: none missing, none changed, none too many.
use dshield_common::log::entry::{Connect, Event};
use dshield_verify::expect::Entries;
use dshield_verify::record::Record;
use dshield_verify::verdict::{StepId, StepResult};

use crate::log::{Keys, TestLog};
use crate::scene::{ATTESTED, SIZE, Scene, verdict};

fn scene() -> Scene {
    Scene::new(Entries::All)
}

/// Changes text inside an entry and signs it again with `keys`, where there are some.
fn forge(scene: &mut Scene, seq: usize, keys: Option<&Keys>) {
    let mut signed = scene.log.entries[seq].clone();
    let (from, to) = if signed.entry.contains("\"test\"") { ("\"test\"", "\"tesu\"") } else { ("\"0\"", "\"1\"") };
    assert!(signed.entry.contains(from), "{}", signed.entry);
    signed.entry = signed.entry.replacen(from, to, 1);
    if let Some(keys) = keys {
        signed.signature = keys.sign(signed.entry.as_bytes());
    }
    scene.lines[seq] = signed.to_line();
}

#[test]
fn what_was_looked_at_is_told() {
    let step = scene().verdict().step(StepId::Entries).unwrap().clone();
    assert!(step.says.starts_with("all 13 entries"), "{}", step.says);
    assert_eq!(step.observed[0].value, "2");
}

#[test]
fn an_entry_that_is_missing() {
    for at in 0..SIZE as usize - 1 {
        let mut scene = scene();
        scene.lines.remove(at);
        scene.fails_only(StepId::Entries, 12, &format!("entry {at} should come next"));
    }
}

#[test]
fn entries_that_are_missing_at_the_end() {
    for left in [0, 1, 8, 9, 12] {
        let mut scene = scene();
        scene.lines.truncate(left);
        let what = if left < ATTESTED as usize { "the statement covers 9" } else { "the checkpoint covers 13" };
        scene.fails_only(StepId::Entries, 12, &format!("there are {left} entries, and {what}: entries are missing"));
    }
}

#[test]
fn entries_beyond_the_checkpoint_are_not_in_its_tree() {
    let mut scene = scene();
    scene.log.grow(1);
    scene.lines = scene.log.lines(SIZE + 1);
    scene.fails_only(StepId::Entries, 12, "more entries than the 13 that the checkpoint covers");
}

#[test]
fn an_entry_that_was_changed() {
    for seq in [2, 6, 11] {
        let mut scene = scene();
        forge(&mut scene, seq, None);
        scene.fails_only(StepId::Entries, 12, &format!("entry {seq}: the signature does not verify"));
        // Nor by a key of its own, or that of the other boot.
        for number in [9, if seq < 4 { 2 } else { 1 }] {
            forge(&mut scene, seq, Some(&Keys::new(number)));
            scene.fails_only(StepId::Entries, 12, &format!("entry {seq}: the signature does not verify"));
        }
    }
}

/// Whoever has the key can sign other entries, yet they make another tree.
#[test]
fn an_entry_that_its_own_key_signed_anew() {
    for (seq, says) in [
        (5, "the statement says that the first 9 entries"),
        (8, "the statement says that the first 9 entries"),
        (9, "the checkpoint says that the first 13 entries"),
        (12, "the checkpoint says that the first 13 entries"),
    ] {
        let mut scene = scene();
        forge(&mut scene, seq, Some(&Keys::new(2)));
        scene.fails_only(StepId::Entries, 12, says);
    }
    let mut scene = scene();
    forge(&mut scene, 2, Some(&Keys::new(1)));
    scene.fails_only(StepId::Entries, 12, "boot entry 4 does not name");
}

#[test]
fn a_log_that_goes_on_under_another_key() {
    let mut log = TestLog::new();
    let keys = log.keys.clone();
    log.boot(3);
    log.grow(1);
    let mut scene = scene();
    scene.note = keys.note(crate::log::ORIGIN, 15, log.root(15)).to_string();
    scene.proof = log.consistency(ATTESTED, 15);
    scene.history = log.consistency(crate::scene::SEEN, 15);
    scene.lines = log.lines(15);
    scene.witnessed_proof = log.consistency(crate::scene::WITNESSED, 15);
    scene.fails_only(StepId::Entries, 12, "the last boot in the log is not the one that was quoted");
}

/// The boot has the name that was quoted, and another key; or the key, and another name.
#[test]
fn a_last_boot_that_is_only_half_the_quoted_one() {
    let mut scene = scene();
    scene.statement.boot_id = "0".repeat(32);
    scene.fails_only(StepId::Entries, 12, "the last boot in the log is not the one that was quoted");

    let mut log = TestLog::new();
    log.keys = Keys::new(3);
    let mut scene = Scene::of(log, Entries::All);
    scene.statement.boot_id = format!("{:032x}", 2);
    scene.fails_only(StepId::Entries, 12, "the last boot in the log is not the one that was quoted");
}

#[test]
fn after_a_fault_nothing_mends_it() {
    let scene = scene();
    let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
    assert!(record.checkpoint(&scene.note, &scene.proof));
    let mut whole = record.whole();
    assert!(whole.push(&scene.lines[0]));
    assert!(!whole.push(&scene.lines[2]));
    assert!(!whole.push(&scene.lines[1]));
    assert!(!scene.lines[1..].iter().any(|line| whole.push(line)));
    record.checked_whole(whole);
    assert_eq!(record.seen(), None);
    assert_eq!(record.into_steps()[1].result, StepResult::Fail);
}

/// As it lies in a file, where there is no checkpoint: what the statement names is its beginning.
#[test]
fn a_log_in_a_file_begins_with_what_the_statement_names() {
    let scene = scene();
    let step = |lines: &[String]| {
        let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
        let mut whole = record.whole();
        let _ = lines.iter().all(|line| whole.push(line));
        record.checked_whole(whole);
        assert_eq!(record.seen(), None, "there was no checkpoint");
        record.into_steps().remove(0)
    };
    for count in [ATTESTED as usize, SIZE as usize] {
        let step = step(&scene.lines[..count]);
        assert_eq!(step.result, StepResult::Pass, "{}", step.says);
        assert!(step.says.contains("begin with those that the statement names"), "{}", step.says);
    }
    let cut = step(&scene.lines[..8]);
    assert!(cut.says.contains("the statement covers 9: entries are missing"), "{}", cut.says);
    assert_eq!(verdict(vec![cut]).outcome.exit_code(), 12);
}

#[test]
fn a_connection_without_an_end_is_noted() {
    let mut log = TestLog::empty();
    log.boot(1);
    log.push(Event::Connect(Connect {
        connection: 1,
        host: "a.example".to_owned(),
        port: 443,
        tls: "inspect".to_owned(),
        rule: "f/egress/0".to_owned(),
        process: None,
    }));
    log.grow(2);
    log.boot(2);
    log.grow(8);
    let verdict = Scene::of(log, Entries::All).verdict();
    assert_eq!(verdict.step(StepId::Entries).unwrap().notes, ["the connection of entry 1 has no end in the log"]);
}

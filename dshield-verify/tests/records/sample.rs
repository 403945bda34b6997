//! Some entries are looked at: each is in the one tree, under its number, and the boot's own are signed.
use dshield_common::tlog::{Checkpoint, Note};
use dshield_verify::expect::Entries;
use dshield_verify::record::Record;
use dshield_verify::verdict::{StepId, StepResult};

use crate::forked;
use crate::log::{Keys, ORIGIN, TestLog};
use crate::scene::{BOOT, SIZE, Scene, shown};

fn scene() -> Scene {
    Scene::new(Entries::Sample)
}

/// Entry 7, shown among the others.
const AT: usize = 2;
/// Entry 1, of the boot before.
const BEFORE: usize = 0;

#[test]
fn what_was_looked_at_is_told() {
    let step = scene().verdict().step(StepId::Entries).unwrap().clone();
    assert!(step.says.starts_with("4 entries were looked at"), "{}", step.says);
    assert!(step.says.contains("3 of the boot that was quoted are signed"), "{}", step.says);
    assert!(step.notes[0].contains("nor signatures of other boots"), "{}", step.notes[0]);
}

#[test]
fn an_entry_that_was_shown_twice_counts_once() {
    let mut scene = scene();
    scene.shown.extend(scene.shown.clone());
    scene.holds();
    assert!(scene.verdict().step(StepId::Entries).unwrap().says.starts_with("4 entries"));
}

#[test]
fn entries_that_were_removed_are_told_and_stand_for_nothing() {
    let mut scene = scene();
    scene.kept_from = 2;
    scene.holds();
    let step = scene.verdict().step(StepId::Entries).unwrap().clone();
    assert!(step.says.starts_with("4 entries were looked at"), "{}", step.says);
    assert!(step.notes[1].contains("does not keep the entries before number 2 any more"), "{:?}", step.notes);
    scene.shown.clear();
    scene.fails_only(StepId::Entries, 12, "did not show the boot entry");
}

#[test]
fn nothing_shown_is_no_sample() {
    let mut scene = scene();
    scene.shown.clear();
    scene.fails_only(StepId::Entries, 12, "did not show the boot entry");
}

#[test]
fn a_boot_entry_that_is_not_shown() {
    let mut scene = scene();
    scene.shown.retain(|shown| shown.seq != BOOT);
    scene.fails_only(StepId::Entries, 12, "did not show the boot entry");
    // That of another boot does not stand in for it.
    scene.shown.push(shown(&scene.log, 0, SIZE));
    scene.fails_only(StepId::Entries, 12, "did not show the boot entry");
}

#[test]
fn another_entry_than_was_asked_for() {
    let mut scene = scene();
    scene.shown[AT] = crate::scene::Shown { seq: 7, ..shown(&scene.log, 8, SIZE) };
    scene.fails_only(StepId::Entries, 12, "entry 7: the deployment gave entry 8 instead");
    // Under the number that was asked for.
    scene.shown[AT].line = scene.log.line(8).replacen("{\"seq\":8", "{\"seq\":7", 1);
    scene.fails_only(StepId::Entries, 12, "entry 7: it says that it is entry 8");
}

#[test]
fn a_receipt_for_another_entry() {
    let mut scene = scene();
    scene.shown[AT].receipt = scene.log.receipt(8, SIZE);
    scene.fails_only(StepId::Entries, 12, "entry 7: its proof is about entry 8");
    scene.shown[AT].receipt = scene.log.receipt(8, SIZE).replacen("index 8", "index 7", 1);
    scene.fails_only(StepId::Entries, 12, "entry 7: its proof does not hold");
    scene.shown[AT].receipt = String::new();
    scene.fails_only(StepId::Entries, 12, "entry 7: its proof is not understood");
}

#[test]
fn an_entry_that_was_changed() {
    for at in [BEFORE, AT] {
        let mut scene = scene();
        scene.shown[at].line = scene.shown[at].line.replacen("\"test\"", "\"tesu\"", 1);
        scene.fails_only(StepId::Entries, 12, "its proof does not hold");
    }
}

#[test]
fn a_wrong_signature_in_the_boot_that_was_quoted() {
    let mut scene = scene();
    for keys in [Keys::new(1), Keys::new(9)] {
        let mut signed = scene.log.entries[7].clone();
        signed.signature = keys.sign(signed.entry.as_bytes());
        scene.shown[AT].line = signed.to_line();
        scene.fails_only(StepId::Entries, 12, "entry 7: its signature is not the attested key's");
    }
}

#[test]
fn what_is_no_entry() {
    for (entry, says) in [
        ("{}".to_owned(), "is not a log entry"),
        ("null".to_owned(), "is not a log entry"),
        (TestLog::new().entries[7].entry.replacen("\"seq\":", "\"seq\": ", 1), "not in canonical form"),
        (TestLog::new().entries[7].entry.replacen("\"seq\":", "\"seq\":1,\"seq\":", 1), "not in canonical form"),
    ] {
        let mut scene = scene();
        let signature = scene.log.keys.sign(entry.as_bytes());
        scene.shown[AT].line = dshield_common::log::line::SignedEntry { seq: 7, entry, signature }.to_line();
        scene.fails_only(StepId::Entries, 12, says);
    }
    let mut scene = scene();
    scene.shown[AT].line = "a line".to_owned();
    scene.fails_only(StepId::Entries, 12, "the line does not have the form");
}

#[test]
fn a_receipt_of_another_log() {
    let mut scene = scene();
    let root = scene.log.root(SIZE);
    let other = scene.log.keys.note("other.example", SIZE, root);
    scene.shown[AT].receipt = scene.log.receipt_in(7, SIZE, other);
    scene.fails_only(StepId::Entries, 12, "of the log other.example");
    for number in [1, 9] {
        let strangers = Keys::new(number).note(ORIGIN, SIZE, root);
        scene.shown[AT].receipt = scene.log.receipt_in(7, SIZE, strangers);
        scene.fails_only(StepId::Entries, 12, "not signed by the attested keys");
    }
}

/// Where the Ed25519 key is made from a seed, the deployer has it: he can sign any tree with it, but not with the key of the
/// boot. Of entries of other boots no signature is looked at, so the receipt is all there is.
#[test]
fn a_receipt_by_the_key_that_the_deployer_may_have() {
    let mut forged = TestLog::empty();
    forged.boot(1);
    forged.push(dshield_common::log::entry::Event::Tamper { what: "never happened".to_owned() });
    forged.grow(11);
    let scene = scene();
    let text = Checkpoint::new(ORIGIN, SIZE, forged.root(SIZE)).unwrap().to_string();
    for place in [0, 1] {
        let mut scene = scene.clone();
        let signatures = scene.log.keys.signatures(ORIGIN, &text, &[place]);
        let note = Note::new(text.clone(), signatures).unwrap();
        scene.shown[BEFORE].line = forged.line(1);
        scene.shown[BEFORE].receipt = forged.receipt_in(1, SIZE, note);
        scene.fails_only(StepId::Entries, 12, "entry 1: its proof does not hold: the checkpoint lacks the signature");
    }
}

#[test]
fn receipts_may_be_older_or_newer_than_the_checkpoint() {
    let mut scene = scene();
    scene.log.grow(4);
    for size in [8, 10, SIZE, SIZE + 1, SIZE + 4] {
        scene.shown[AT] = shown(&scene.log, 7, size);
        scene.holds();
    }
}

/// Both keys have signed two logs: each is well in itself.
#[test]
fn a_receipt_of_a_tree_that_is_not_the_checkpoints() {
    let fork = forked();
    for size in [9, SIZE, 16] {
        for seq in [1, 8] {
            let mut scene = scene();
            scene.log.grow(4);
            scene.shown[AT] = shown(&fork, seq, size);
            for proof in [scene.shown[AT].proof.clone(), shown(&scene.log, seq, size).proof, Vec::new()] {
                scene.shown[AT].proof = proof;
                scene.fails_only(StepId::Entries, 12, "its proof is of another tree than the checkpoint's");
            }
        }
    }
}

#[test]
fn a_receipt_without_the_proof_that_ties_it() {
    let mut scene = scene();
    let good = shown(&scene.log, 7, 10);
    let hash = scene.log.root(1);
    for proof in [Vec::new(), good.proof[1..].to_vec(), [&good.proof[..], &[hash]].concat(), vec![hash; 70]] {
        scene.shown[AT] = crate::scene::Shown { proof, ..good.clone() };
        scene.fails_only(StepId::Entries, 12, "there are two logs");
    }
}

#[test]
fn an_entry_beyond_the_checkpoint() {
    let mut scene = scene();
    scene.log.grow(4);
    scene.shown[AT] = shown(&scene.log, SIZE, SIZE + 2);
    scene.fails_only(StepId::Entries, 12, "entry 13: the checkpoint covers 13 entries, so not this one");
    let line = scene.log.line(7).replacen("{\"seq\":7", &format!("{{\"seq\":{}", u64::MAX), 1);
    scene.shown[AT] = crate::scene::Shown { seq: u64::MAX, line, ..shown(&scene.log, 7, SIZE) };
    scene.fails_only(StepId::Entries, 12, "it says that it is entry 7");
}

#[test]
fn a_boot_entry_that_lists_another_key() {
    let mut log = TestLog::empty();
    log.boot(1);
    log.grow(3);
    for pem in [Keys::new(3).pem(), "no key".to_owned()] {
        let mut log = log.clone();
        log.boot_listing(2, &pem);
        log.grow(8);
        Scene::of(log, Entries::Sample).fails_only(StepId::Entries, 12, "lists another key than the attested one");
    }
}

/// As a boot with the quoted name that is not the quoted one.
#[test]
fn a_boot_entry_of_the_quoted_name_by_another_key() {
    let mut log = TestLog::new();
    let statement = crate::scene::statement(&log, 9);
    log.keys = Keys::new(3);
    let mut scene = Scene::of(log, Entries::Sample);
    scene.statement.boot_id = statement.boot_id;
    scene.fails_only(StepId::Entries, 12, "entry 4: its signature is not the attested key's");
}

#[test]
fn a_log_that_goes_on_under_another_key() {
    let mut log = TestLog::empty();
    log.boot(1);
    log.grow(3);
    log.boot(2);
    log.grow(5);
    let keys = log.keys.clone();
    log.boot(3);
    log.grow(2);
    let boot_id = format!("{:032x}", 2);
    log.keys = keys;
    let mut scene = Scene::of(log, Entries::Sample);
    scene.statement.boot_id = boot_id;
    scene.fails_only(StepId::Entries, 12, "entry 12 is of another boot, after the one that was quoted");
}

#[test]
fn a_boot_that_began_twice_or_late() {
    let mut log = TestLog::empty();
    log.boot(1);
    log.grow(3);
    log.boot(2);
    log.grow(3);
    let mut twice = log.clone();
    twice.boot(2);
    twice.grow(4);
    let mut scene = Scene::of(twice, Entries::Sample);
    scene.shown.push(shown(&scene.log, 8, SIZE));
    scene.fails_only(StepId::Entries, 12, "entry 8: entry 4 is the boot entry of the same boot already");
    scene.shown.retain(|shown| shown.seq != BOOT);
    scene.fails_only(StepId::Entries, 12, "entry 7 is of the boot that was quoted, whose boot entry is only entry 8");
}

/// What the sentence says: only the tree vouches for them.
#[test]
fn signatures_of_other_boots_are_not_looked_at() {
    let mut scene = scene();
    let mut signed = scene.log.entries[1].clone();
    signed.signature = vec![0];
    scene.shown[BEFORE].line = signed.to_line();
    scene.holds();
}

#[test]
fn without_a_checkpoint_no_entry_is_proven() {
    let scene = scene();
    let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
    let mut sample = record.sample();
    for shown in &scene.shown {
        record.check_one(&mut sample, shown.seq, &shown.line, &shown.receipt, &shown.proof);
    }
    record.checked_sample(sample);
    let step = record.into_steps().remove(0);
    assert_eq!(step.result, StepResult::Fail);
    assert!(step.says.contains("no checkpoint to compare with"), "{}", step.says);
}

//! Each step over a log, broken by itself: the step that fails, the exit code, the sentence, and that it is not remembered.
#![allow(clippy::unwrap_used)]
use dshield_common::tlog::{Checkpoint, Note, empty_root, leaf_hash};
use dshield_verify::Outcome;
use dshield_verify::expect::Entries;
use dshield_verify::record::Record;
use dshield_verify::verdict::{StepId, StepResult};

use self::log::{Keys, ORIGIN, TestLog};
use self::scene::{ATTESTED, SIZE, Scene};

mod history;
mod log;
mod sample;
mod scene;
mod whole;
mod witnesses;

#[test]
fn a_log_that_holds_in_every_respect_is_verified_and_remembered() {
    for entries in [Entries::All, Entries::Sample] {
        let scene = Scene::new(entries);
        scene.holds();
        let (verdict, seen) = scene.look();
        let ids: Vec<_> = verdict.steps.iter().map(|step| step.step).collect();
        assert_eq!(ids, [StepId::Checkpoint, StepId::History, StepId::Entries, StepId::Witnesses]);
        let seen = seen.unwrap();
        assert_eq!((seen.origin.as_str(), seen.size), (ORIGIN, SIZE));
        assert_eq!(seen.root, scene.log.root(SIZE).to_hex());
    }
}

#[test]
fn entries_that_nobody_asked_for_are_said_to_be_skipped() {
    let verdict = Scene::new(Entries::None).verdict();
    assert_eq!(verdict.step(StepId::Entries).unwrap().result, StepResult::Skipped);
    assert_eq!(verdict.outcome, Outcome::Verified);
}

#[test]
fn a_swapped_log_key() {
    let mut scene = Scene::new(Entries::All);
    scene.note = Keys::new(9).note(ORIGIN, SIZE, scene.log.root(SIZE)).to_string();
    scene.fails_only(StepId::Checkpoint, 12, "its key was swapped");
    // Nor is that of the boot before good for this one.
    scene.note = Keys::new(1).note(ORIGIN, SIZE, scene.log.root(SIZE)).to_string();
    scene.fails_only(StepId::Checkpoint, 12, "its key was swapped");
}

#[test]
fn a_checkpoint_by_one_of_the_two_keys() {
    let mut scene = Scene::new(Entries::All);
    let text = scene.log.note(SIZE).text().to_owned();
    for places in [&[0][..], &[1], &[0, 0], &[1, 1]] {
        let signatures = scene.log.keys.signatures(ORIGIN, &text, places);
        scene.note = Note::new(text.clone(), signatures).unwrap().to_string();
        scene.fails_only(StepId::Checkpoint, 12, "lacks the signature of one of the two attested keys");
    }
}

#[test]
fn a_checkpoint_that_was_changed_after_it_was_signed() {
    let mut scene = Scene::new(Entries::All);
    let (before, after) = (format!("\n{SIZE}\n"), format!("\n{}\n", SIZE - 1));
    scene.note = scene.note.replacen(&before, &after, 1);
    scene.fails_only(StepId::Checkpoint, 12, "does not verify");
}

#[test]
fn strangers_may_sign_beside_the_attested_keys() {
    let mut scene = Scene::new(Entries::All);
    let note = scene.log.note(SIZE);
    let stranger = Keys::new(9).signatures(ORIGIN, note.text(), &[0, 1]);
    let note = stranger.into_iter().fold(note, |note, line| note.with_signature(line).unwrap());
    scene.note = note.to_string();
    scene.holds();
}

#[test]
fn what_is_no_checkpoint() {
    let mut scene = Scene::new(Entries::All);
    let good = scene.note.clone();
    for (note, says) in [
        (String::new(), "no signed note"),
        ("<html>".to_owned(), "no signed note"),
        (good.split_once("\n\n").unwrap().0.to_owned(), "no signed note"),
        (good.trim_end().to_owned(), "no signed note"),
        (good.replacen(&format!("\n{SIZE}\n"), "\nmany\n", 1), "no checkpoint"),
    ] {
        scene.note = note;
        scene.fails_only(StepId::Checkpoint, 12, says);
    }
}

#[test]
fn another_log_of_the_same_keys() {
    let mut scene = Scene::new(Entries::All);
    scene.note = scene.log.keys.note("other.example", SIZE, scene.log.root(SIZE)).to_string();
    scene.fails_only(StepId::Checkpoint, 12, "the checkpoint is of the log other.example");
}

#[test]
fn another_log_than_the_expected_one() {
    let mut scene = Scene::new(Entries::All);
    scene.expect.origin = Some("mine.example".to_owned());
    scene.fails_only(StepId::Checkpoint, 12, "mine.example is expected");
}

#[test]
fn keys_in_the_statement_that_are_none() {
    let [ecdsa, ed25519] = Keys::new(2).verifiers(ORIGIN).map(|key| key.to_string());
    let elsewhere = Keys::new(2).verifiers("other.example").map(|key| key.to_string());
    let witness = log::witness_key(1).to_string();
    for (keys, says) in [
        ([String::new(), ed25519.clone()], "P-256 key is not understood"),
        ([ecdsa.clone(), "x".to_owned()], "Ed25519 key is not understood"),
        ([elsewhere[0].clone(), ed25519.clone()], "P-256 key is for the log other.example"),
        ([ecdsa.clone(), elsewhere[1].clone()], "Ed25519 key is for the log other.example"),
        ([ed25519.clone(), ecdsa.clone()], "P-256 key is none: it is of another type"),
        ([ed25519.clone(), ed25519], "P-256 key is none: it is of another type"),
        ([ecdsa.clone(), ecdsa.clone()], "Ed25519 key is none: it is of another type"),
        ([ecdsa, witness], "Ed25519 key is none: it is of another type"),
    ] {
        let mut scene = Scene::new(Entries::None);
        [scene.statement.log.ecdsa_p256, scene.statement.log.ed25519] = keys;
        scene.fails_only(StepId::Checkpoint, 12, says);
    }
}

#[test]
fn a_root_in_the_statement_that_is_none() {
    let mut scene = Scene::new(Entries::None);
    for root in [String::new(), "f".repeat(63), scene.log.root(ATTESTED).to_string()] {
        scene.statement.log.root = root;
        scene.fails_only(StepId::Checkpoint, 12, "is no hash");
    }
}

#[test]
fn a_log_that_was_cut_below_what_the_statement_says() {
    let mut scene = Scene::new(Entries::All);
    scene.note = scene.log.note(ATTESTED - 1).to_string();
    scene.proof = scene.log.consistency(ATTESTED - 1, ATTESTED);
    scene.fails_only(StepId::Checkpoint, 12, "the log has 8 entries, and the statement says 9: it was cut");
}

/// The same keys, the same beginning, other entries before the statement was made.
fn forked() -> TestLog {
    let mut log = TestLog::empty();
    log.boot(1);
    log.grow(3);
    log.boot(2);
    log.grow(2);
    log.push(dshield_common::log::entry::Event::Tamper { what: "this one differs".to_owned() });
    log.grow(20);
    log
}

#[test]
fn two_logs_of_the_same_keys() {
    let fork = forked();
    for size in [ATTESTED, ATTESTED + 1, SIZE, 16] {
        let mut scene = Scene::new(Entries::All);
        scene.note = fork.note(size).to_string();
        for proof in [fork.consistency(ATTESTED, size), scene.log.consistency(ATTESTED, SIZE), Vec::new()] {
            scene.proof = proof;
            scene.fails_only(StepId::Checkpoint, 12, "there are two logs");
        }
    }
}

#[test]
fn a_proof_of_another_length_proves_nothing() {
    let mut scene = Scene::new(Entries::All);
    let good = scene.proof.clone();
    let hash = scene.log.root(1);
    for proof in [Vec::new(), good[1..].to_vec(), [&good[..], &[hash]].concat(), vec![hash; 70]] {
        scene.proof = proof;
        scene.fails_only(StepId::Checkpoint, 12, "hashes instead of");
    }
}

#[test]
fn after_a_checkpoint_that_does_not_hold_nothing_else_is_checked() {
    let mut scene = Scene::new(Entries::All);
    scene.note = String::new();
    let verdict = scene.verdict();
    for step in [StepId::History, StepId::Entries, StepId::Witnesses] {
        assert_eq!(verdict.step(step).unwrap().result, StepResult::NotChecked, "{step}");
    }
}

#[test]
fn an_empty_log_is_no_log() {
    let mut scene = Scene::new(Entries::None);
    scene.statement.log = scene::statement_log(&scene.log.keys, 0, empty_root());
    scene.note = scene.log.note(0).to_string();
    scene.proof = Vec::new();
    scene.seen = None;
    scene.fails_only(StepId::Checkpoint, 12, "the log is empty");
}

/// An agent whose statement names nothing of its log says less than it could; what it publishes is checked all the same.
#[test]
fn a_statement_before_the_first_entry_is_the_beginning_of_any_log() {
    for entries in [Entries::All, Entries::Sample] {
        let mut scene = Scene::new(entries);
        scene.statement.log = scene::statement_log(&scene.log.keys, 0, empty_root());
        scene.proof = Vec::new();
        scene.holds();
        scene.statement.log.root = "0".repeat(64);
        scene.fails_only(StepId::Checkpoint, 12, "there are two logs");
    }
}

#[test]
fn sizes_at_the_end_of_the_numbers_are_refused_without_panic() {
    let root = leaf_hash(b"x");
    for (attested, size) in [(u64::MAX, SIZE), (ATTESTED, u64::MAX), (1 << 63, u64::MAX), (u64::MAX - 1, u64::MAX)] {
        for length in [0, 1, 63, 64, 65] {
            let mut scene = Scene::new(Entries::All);
            scene.statement.log.size = attested;
            scene.note = scene.log.keys.note(ORIGIN, size, root).to_string();
            scene.proof = vec![root; length];
            assert_eq!(scene.verdict().outcome.exit_code(), 12);
        }
    }
    // Where both say the same, nobody has as many entries to show.
    for entries in [Entries::All, Entries::Sample] {
        let mut scene = Scene::new(entries);
        scene.statement.log = scene::statement_log(&scene.log.keys, u64::MAX, root);
        scene.note = scene.log.keys.note(ORIGIN, u64::MAX, root).to_string();
        scene.proof = Vec::new();
        scene.seen = None;
        let verdict = scene.verdict();
        assert_eq!(verdict.step(StepId::Entries).unwrap().result, StepResult::Fail);
        assert_eq!(verdict.outcome.exit_code(), 12);
    }
}

#[test]
fn a_log_that_cannot_be_reached_is_not_checked_from_there_on() {
    let scene = Scene::new(Entries::All);
    let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
    record.unreachable("nobody answers");
    assert_eq!(record.seen(), None);
    let steps = record.into_steps();
    assert_eq!((steps[0].step, steps[0].result), (StepId::Checkpoint, StepResult::NotChecked));
    assert_eq!(scene::verdict(steps).outcome.exit_code(), 20);

    let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
    assert!(record.checkpoint(&scene.note, &scene.proof));
    record.history(None, &[]);
    assert!(record.seen().is_some());
    record.unreachable("nobody answers any more");
    assert_eq!(record.seen(), None, "what was only half looked at is remembered");
    let verdict = scene::verdict(record.into_steps());
    assert_eq!(verdict.step(StepId::Entries).unwrap().result, StepResult::NotChecked);
    assert_eq!(verdict.outcome.exit_code(), 20);
}

#[test]
fn whoever_fetches_is_told_which_proof_ties_an_answer_to_the_checkpoint() {
    let mut scene = Scene::new(Entries::All);
    let mut record = Record::new(&scene.statement, &scene.expect).unwrap();
    assert_eq!(record.proof_wanted(&scene.witnessed), None, "before there is a checkpoint");
    assert!(record.checkpoint(&scene.note, &scene.proof));
    scene.log.grow(3);
    let log = &scene.log;
    for (answer, proof) in [
        (log.note(10).to_string(), Some((10, SIZE))),
        (log.note(SIZE).to_string(), None),
        (log.note(16).to_string(), Some((SIZE, 16))),
        (log.receipt(7, 10), Some((10, SIZE))),
        (log.receipt(7, SIZE), None),
        (log.receipt(7, 16), Some((SIZE, 16))),
        (log.note(0).to_string(), None),
        (String::new(), None),
        (log.line(3), None),
    ] {
        assert_eq!(record.proof_wanted(&answer), proof, "{answer}");
    }
    let size = Checkpoint::from_note(&scene.note.parse().unwrap()).unwrap().size();
    assert_eq!((record.size(), record.attested_size()), (Some(size), ATTESTED));
}

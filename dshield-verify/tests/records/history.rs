//! Rolled back, rewritten, exchanged: what this verifier saw before tells.
use dshield_common::tlog::empty_root;
use dshield_verify::expect::Entries;
use dshield_verify::record::Seen;
use dshield_verify::verdict::{StepId, StepResult};

use crate::log::{ORIGIN, TestLog};
use crate::scene::{SEEN, SIZE, Scene};

fn seen(log: &TestLog, size: u64) -> Option<Seen> {
    Some(Seen { origin: ORIGIN.to_owned(), size, root: log.root(size).to_hex() })
}

#[test]
fn the_first_look_has_nothing_to_compare_with_and_is_remembered() {
    let mut scene = Scene::new(Entries::All);
    scene.seen = None;
    let (verdict, seen) = scene.look();
    let step = verdict.step(StepId::History).unwrap();
    assert_eq!(step.result, StepResult::Skipped);
    assert!(step.says.contains("first time"), "{}", step.says);
    assert_eq!(verdict.outcome.exit_code(), 0);
    assert!(seen.is_some());
}

#[test]
fn what_is_remembered_is_found_again_while_the_log_grows() {
    let scene = Scene::new(Entries::Sample);
    let (_, seen) = scene.look();
    let kept = serde_json::to_string(&seen.unwrap()).unwrap();
    let mut log = scene.log;
    log.grow(5);
    let mut later = Scene::of(log, Entries::None);
    later.seen = Some(serde_json::from_str(&kept).unwrap());
    later.note = later.log.note(18).to_string();
    later.proof = later.log.consistency(crate::scene::ATTESTED, 18);
    later.history = later.log.consistency(SIZE, 18);
    later.witnessed_proof = later.log.consistency(crate::scene::WITNESSED, 18);
    let verdict = later.verdict();
    assert_eq!(verdict.step(StepId::History).unwrap().result, StepResult::Pass);
    assert_eq!(verdict.outcome.exit_code(), 0);
    // And while it does not.
    let mut again = Scene::new(Entries::All);
    again.seen = Some(serde_json::from_str(&kept).unwrap());
    again.history = Vec::new();
    again.holds();
}

#[test]
fn a_log_that_was_rolled_back() {
    let mut scene = Scene::new(Entries::All);
    let mut before = scene.log.clone();
    before.grow(1);
    scene.seen = seen(&before, SIZE + 1);
    scene.fails_only(StepId::History, 13, "the log has 13 entries, and this verifier has seen 14: it was rolled back");
    scene.seen = Some(Seen { size: u64::MAX, ..scene.seen.unwrap() });
    scene.fails_only(StepId::History, 13, "rolled back");
}

/// The disk is set back to an earlier state, and the next boot goes on from there: all else holds.
#[test]
fn a_log_that_was_set_back_and_went_on() {
    let mut before = TestLog::empty();
    before.boot(1);
    before.grow(6);
    for size in [6, 7] {
        let mut scene = Scene::new(Entries::All);
        scene.seen = seen(&before, size);
        scene.history = scene.log.consistency(size, SIZE);
        scene.fails_only(StepId::History, 13, "it was rewritten");
    }
    // What it had until then is still there.
    let mut scene = Scene::new(Entries::All);
    scene.seen = seen(&before, 4);
    scene.history = scene.log.consistency(4, SIZE);
    scene.holds();
}

#[test]
fn a_log_of_the_same_size_that_was_rewritten() {
    let mut scene = Scene::new(Entries::All);
    let other = Seen { origin: ORIGIN.to_owned(), size: SIZE, root: scene.log.root(3).to_hex() };
    scene.seen = Some(other);
    scene.history = Vec::new();
    scene.fails_only(StepId::History, 13, "it was rewritten");
}

#[test]
fn a_proof_of_another_length_does_not_show_that_the_log_was_kept() {
    let mut scene = Scene::new(Entries::All);
    let good = scene.history.clone();
    let hash = scene.log.root(1);
    for proof in [Vec::new(), good[1..].to_vec(), [&good[..], &[hash]].concat(), scene.log.consistency(SEEN + 1, SIZE)]
    {
        scene.history = proof;
        scene.fails_only(StepId::History, 13, "it was rewritten");
    }
}

#[test]
fn a_log_that_was_exchanged() {
    let mut scene = Scene::new(Entries::All);
    scene.seen = Some(Seen { origin: "old.example".to_owned(), ..scene.seen.unwrap() });
    scene.fails_only(StepId::History, 13, "it was old.example when this verifier last looked: it was exchanged");
}

/// Or else whoever damages the memory makes every look the first one.
#[test]
fn a_damaged_memory_is_no_first_look_and_not_replaced() {
    let mut scene = Scene::new(Entries::All);
    for root in [String::new(), "00".to_owned(), scene.log.root(SEEN).to_string()] {
        scene.seen = Some(Seen { root, ..scene.seen.unwrap() });
        let (verdict, seen) = scene.look();
        let step = verdict.step(StepId::History).unwrap();
        assert_eq!(step.result, StepResult::NotChecked);
        assert!(step.says.contains("damaged"), "{}", step.says);
        assert_eq!(verdict.outcome.exit_code(), 20);
        assert_eq!(seen, None);
    }
}

#[test]
fn nothing_seen_is_contained_in_every_log_and_is_the_empty_tree_only() {
    let mut scene = Scene::new(Entries::All);
    scene.history = Vec::new();
    scene.seen = Some(Seen { origin: ORIGIN.to_owned(), size: 0, root: empty_root().to_hex() });
    scene.holds();
    scene.seen = Some(Seen { origin: ORIGIN.to_owned(), size: 0, root: "0".repeat(64) });
    scene.fails_only(StepId::History, 13, "it was rewritten");
}

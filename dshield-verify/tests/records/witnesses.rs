//! What witnesses have signed is enough of them, and the same log.
use dshield_common::tlog::{Note, TrustPolicy};
use dshield_verify::expect::Entries;
use dshield_verify::verdict::{StepId, StepResult};

use crate::forked;
use crate::log::{Keys, ORIGIN, cosigned, witness_key};
use crate::scene::{SIZE, Scene, WITNESSED};

#[test]
fn who_witnessed_how_much_and_when_is_told() {
    let verdict = Scene::new(Entries::All).verdict();
    let step = verdict.step(StepId::Witnesses).unwrap();
    assert_eq!(step.says, "the log's first 10 entries were witnessed by W1, W2");
    let observed: Vec<_> = step.observed.iter().map(|seen| (seen.name.as_str(), seen.value.as_str())).collect();
    let expected = [
        ("witnessed size", "10"),
        ("witnessed by W1", "1970-01-01T00:00:01Z"),
        ("witnessed by W2", "1970-01-01T00:00:02Z"),
    ];
    assert_eq!(observed, expected);
}

#[test]
fn too_few_witnesses() {
    let mut scene = Scene::new(Entries::All);
    for (witnesses, says) in [(&[][..], "no quorum: none"), (&[1], "no quorum: W1"), (&[2, 9], "no quorum: W2")] {
        scene.witnessed = cosigned(scene.log.note(WITNESSED), witnesses).to_string();
        scene.fails_only(StepId::Witnesses, 12, says);
    }
}

#[test]
fn witnesses_that_saw_another_log() {
    let fork = forked();
    for size in [9, WITNESSED, SIZE, 16] {
        let mut scene = Scene::new(Entries::All);
        scene.witnessed = cosigned(fork.note(size), &[1, 2]).to_string();
        for proof in [fork.consistency(size.min(SIZE), size.max(SIZE)), scene.witnessed_proof.clone()] {
            scene.witnessed_proof = proof;
            scene.fails_only(StepId::Witnesses, 12, "there are two logs");
        }
    }
}

/// The log grew, and was witnessed, after the checkpoint was fetched.
#[test]
fn witnesses_may_have_seen_more_than_the_checkpoint() {
    let mut scene = Scene::new(Entries::All);
    scene.log.grow(3);
    scene.witnessed = cosigned(scene.log.note(16), &[1, 2]).to_string();
    scene.witnessed_proof = scene.log.consistency(SIZE, 16);
    scene.holds();
    scene.witnessed_proof = Vec::new();
    scene.fails_only(StepId::Witnesses, 12, "there are two logs");
}

#[test]
fn witnesses_of_an_empty_log_vouch_for_nothing() {
    let mut scene = Scene::new(Entries::All);
    scene.witnessed = cosigned(scene.log.note(0), &[1, 2]).to_string();
    scene.witnessed_proof = Vec::new();
    scene.fails_only(StepId::Witnesses, 12, "vouch for no entry");
}

/// Where the Ed25519 key is made from a seed, the deployer has it, and witnesses take its word.
#[test]
fn witnesses_do_not_stand_in_for_the_key_of_the_boot() {
    let mut scene = Scene::new(Entries::All);
    let text = scene.log.note(WITNESSED).text().to_owned();
    let signatures = scene.log.keys.signatures(ORIGIN, &text, &[1]);
    let note = Note::new(text, signatures).unwrap();
    scene.witnessed = cosigned(note, &[1, 2]).to_string();
    scene.fails_only(StepId::Witnesses, 12, "lacks the signature of one of the two attested keys");
    let strangers = Keys::new(9).note(ORIGIN, WITNESSED, scene.log.root(WITNESSED));
    scene.witnessed = cosigned(strangers, &[1, 2]).to_string();
    scene.fails_only(StepId::Witnesses, 12, "not signed by the attested keys");
}

#[test]
fn a_witness_whose_signature_does_not_verify() {
    let mut scene = Scene::new(Entries::All);
    let note = cosigned(scene.log.note(WITNESSED), &[1, 2]);
    let mut lines = note.signatures().to_vec();
    lines[3].signature[70] ^= 1;
    scene.witnessed = Note::new(note.text(), lines).unwrap().to_string();
    scene.fails_only(StepId::Witnesses, 12, "the witnesses do not vouch for the log");
    scene.witnessed = String::new();
    scene.fails_only(StepId::Witnesses, 12, "no signed note");
}

#[test]
fn without_witnesses_that_are_expected_the_step_is_skipped() {
    let mut scene = Scene::new(Entries::All);
    scene.expect.witnesses = None;
    scene.witnessed = String::new();
    let (verdict, seen) = scene.look();
    assert_eq!(verdict.step(StepId::Witnesses).unwrap().result, StepResult::Skipped);
    assert_eq!(verdict.outcome.exit_code(), 0);
    assert!(seen.is_some());
}

#[test]
fn a_policy_that_asks_for_nobody_says_so() {
    let mut scene = Scene::new(Entries::All);
    let policy = format!("witness W1 {}\nquorum none\n", witness_key(1));
    scene.expect.witnesses = Some(TrustPolicy::parse(policy.as_bytes()).unwrap());
    scene.witnessed = scene.log.note(WITNESSED).to_string();
    scene.holds();
    assert!(scene.verdict().step(StepId::Witnesses).unwrap().says.contains("nobody"));
}

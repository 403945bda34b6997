#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::tlog::hash::leaf_hash;
use crate::tlog::proof::prove_inclusion;
use crate::tlog::tests::{Grown, TestSigner, any_hash, entry, mutated, number};

const ORIGIN: &str = "log.example";

/// A receipt of a log of 20 entries that signs with both of its keys, and has one witness.
fn receipt(index: u64) -> Receipt {
    let grown = Grown::to(20);
    let text = Checkpoint::new(ORIGIN, 20, grown.tree.root()).unwrap().to_string();
    let lines = [
        TestSigner::ecdsa_p256(1).sign(ORIGIN, &text),
        TestSigner::ed25519(1).sign(ORIGIN, &text),
        TestSigner::witness(2).sign_at("w.example", &text, 99),
    ];
    let proof = prove_inclusion(index, 20, |node| grown.read(node)).unwrap();
    Receipt::new(index, proof, Note::new(text, lines).unwrap()).unwrap()
}

fn keys() -> [VerifierKey; 2] {
    [TestSigner::ecdsa_p256(1).key(ORIGIN), TestSigner::ed25519(1).key(ORIGIN)]
}

#[test]
fn a_receipt_is_the_text_of_the_specification() {
    let receipt = receipt(13).with_extra(b"extra".to_vec());
    let text = receipt.to_string();
    let (head, note) = text.split_once("\n\n").unwrap();
    let lines: Vec<_> = head.lines().collect();
    assert_eq!(lines[..3], ["c2sp.org/tlog-proof@v1", "extra ZXh0cmE=", "index 13"]);
    // The leaf's sibling is entry 12.
    assert_eq!(lines[3], leaf_hash(&entry(12)).to_string());
    assert_eq!(lines.len(), 3 + receipt.proof().len());
    assert_eq!(note, receipt.note().to_string());
    let read: Receipt = text.parse().unwrap();
    assert_eq!(read, receipt);
    assert_eq!((read.extra(), read.index()), (Some(b"extra".as_slice()), 13));
    assert_eq!(receipt.with_extra(vec![]).extra(), None);
}

#[test]
fn a_receipt_proves_its_entry_to_who_has_a_key_of_the_log() {
    for index in [0, 13, 19] {
        let receipt: Receipt = receipt(index).to_string().parse().unwrap();
        let leaf = leaf_hash(&entry(index));
        for key in &keys() {
            assert_eq!(receipt.verify(&leaf, [key]).unwrap().size(), 20);
        }
        assert!(receipt.verify(&leaf, &keys()).is_ok());
        let other = leaf_hash(&entry(index + 1));
        assert_eq!(receipt.verify(&other, &keys()), Err(ReceiptRejection::Inclusion(InclusionError::Root)));
    }
}

#[test]
fn a_receipt_with_another_index_or_proof_does_not_verify() {
    let good = receipt(13);
    let leaf = leaf_hash(&entry(13));
    for index in (0..21).chain([u64::MAX]).filter(|index| *index != 13) {
        let moved = Receipt { index, ..good.clone() };
        assert!(matches!(moved.verify(&leaf, &keys()), Err(ReceiptRejection::Inclusion(_))), "{index}");
    }
    for at in 0..good.proof.len() {
        let mut damaged = good.clone();
        damaged.proof[at] = leaf;
        assert_eq!(damaged.verify(&leaf, &keys()), Err(ReceiptRejection::Inclusion(InclusionError::Root)));
        damaged.proof.remove(at);
        assert!(matches!(damaged.verify(&leaf, &keys()), Err(ReceiptRejection::Inclusion(_))));
    }
}

#[test]
fn a_receipt_of_an_unknown_log_does_not_verify() {
    let receipt = receipt(13);
    let leaf = leaf_hash(&entry(13));
    let unverified = Err(ReceiptRejection::Note(VerifyError::Unverified));
    assert_eq!(receipt.verify(&leaf, []), unverified);
    assert_eq!(receipt.verify(&leaf, [&TestSigner::ed25519(7).key(ORIGIN)]), unverified);
    // A witness vouches for no entry.
    let not_by_log = || ReceiptRejection::NotByLog { origin: ORIGIN.to_owned() };
    assert_eq!(receipt.verify(&leaf, [&TestSigner::witness(2).key("w.example")]), Err(not_by_log()));
    // Another known log signed a checkpoint in this one's name.
    let text = receipt.note().text();
    let other = TestSigner::ed25519(7);
    let note = Note::new(text, [other.sign("other.example", text)]).unwrap();
    let forged = Receipt::new(13, receipt.proof.clone(), note).unwrap();
    assert_eq!(forged.verify(&leaf, &[other.key("other.example"), keys()[0].clone()]), Err(not_by_log()));
}

#[test]
fn a_policy_accepts_a_receipt_when_its_witnesses_signed() {
    let receipt = receipt(13);
    let leaf = leaf_hash(&entry(13));
    let policy = |quorum: &str| {
        let (w, v) = (TestSigner::witness(2).key("w.example"), TestSigner::witness(3).key("v.example"));
        let file = format!("witness w {w}\nwitness v {v}\ngroup both all w v\nquorum {quorum}\n");
        let file = if quorum == "both" { file } else { file.replace("group both all w v\n", "") };
        TrustPolicy::parse(file.as_bytes()).unwrap()
    };
    assert_eq!(receipt.accept(&leaf, &policy("w"), &keys()).unwrap().witnesses[0].timestamp, 99);
    assert!(matches!(
        receipt.accept(&leaf, &policy("both"), &keys()),
        Err(ReceiptRejection::Policy(Rejection::NoQuorum { .. }))
    ));
    assert!(matches!(
        receipt.accept(&leaf_hash(b""), &policy("w"), &keys()),
        Err(ReceiptRejection::Inclusion(InclusionError::Root))
    ));
    let unknown = Rejection::NotByLog { origin: ORIGIN.to_owned() };
    assert_eq!(receipt.accept(&leaf, &policy("w"), &[]).unwrap_err(), ReceiptRejection::Policy(unknown));
}

#[test]
fn the_extra_data_is_not_part_of_what_is_proved() {
    let forged = receipt(13).with_extra(b"forged".to_vec());
    assert!(forged.verify(&leaf_hash(&entry(13)), &keys()).is_ok());
}

#[test]
fn every_other_spelling_is_refused() {
    let text = receipt(13).to_string();
    let (head, note) = text.split_once("\n\n").unwrap();
    let with_head = |head: &str| format!("{head}\n\n{note}").parse::<Receipt>();
    let hash = leaf_hash(b"").to_string();
    for (head, why) in [
        ("".to_owned(), ReceiptError::Header),
        ("c2sp.org/tlog-proof@v2\nindex 0".to_owned(), ReceiptError::Header),
        (format!(" {HEADER}\nindex 0"), ReceiptError::Header),
        (format!("{HEADER}\r\nindex 0"), ReceiptError::Header),
        (HEADER.to_owned(), ReceiptError::Index),
        (format!("{HEADER}\n{hash}"), ReceiptError::Index),
        (format!("{HEADER}\nindex"), ReceiptError::Index),
        (format!("{HEADER}\nindex "), ReceiptError::Index),
        (format!("{HEADER}\nindex  0"), ReceiptError::Index),
        (format!("{HEADER}\nindex 00"), ReceiptError::Index),
        (format!("{HEADER}\nindex -1"), ReceiptError::Index),
        (format!("{HEADER}\nindex 18446744073709551616"), ReceiptError::Index),
        (format!("{HEADER}\nIndex 0"), ReceiptError::Index),
        (format!("{HEADER}\nextra\nindex 0"), ReceiptError::Index),
        (format!("{HEADER}\nextra \nindex 0"), ReceiptError::Extra),
        (format!("{HEADER}\nextra AA=\nindex 0"), ReceiptError::Extra),
        (format!("{HEADER}\nextra AB==\nindex 0"), ReceiptError::Extra),
        (format!("{HEADER}\nextra AA==\nextra AA==\nindex 0"), ReceiptError::Index),
        (format!("{HEADER}\nindex 0\nextra AA=="), ReceiptError::Hash { number: 1 }),
        (format!("{HEADER}\nindex 0\n{hash}\nAAAA"), ReceiptError::Hash { number: 2 }),
        (format!("{HEADER}\nindex 0\n{hash} "), ReceiptError::Hash { number: 1 }),
        (format!("{HEADER}\nindex 0{}", format!("\n{hash}").repeat(65)), ReceiptError::TooManyHashes),
    ] {
        assert_eq!(with_head(&head), Err(why), "{head:?}");
    }
    assert!(with_head(&format!("{HEADER}\nindex 0{}", format!("\n{hash}").repeat(64))).is_ok());
    assert_eq!(head.parse::<Receipt>(), Err(ReceiptError::NoCheckpoint));
    assert_eq!(format!("{head}\n\n").parse::<Receipt>(), Err(ReceiptError::Note(NoteError::NoEmptyLine)));
    assert_eq!(
        format!("{head}\n\n\n{note}").parse::<Receipt>(),
        Err(ReceiptError::Checkpoint(CheckpointError::Origin))
    );
    let signed = Note::new("text\n", [TestSigner::ed25519(1).sign(ORIGIN, "text\n")]).unwrap();
    let no_checkpoint = ReceiptError::Checkpoint(CheckpointError::Lines);
    assert_eq!(format!("{head}\n\n{signed}").parse::<Receipt>(), Err(no_checkpoint));
    assert_eq!(Receipt::new(0, vec![], signed), Err(no_checkpoint));
    let too_long = Receipt::new(0, vec![leaf_hash(b""); 65], receipt(13).note);
    assert_eq!(too_long, Err(ReceiptError::TooManyHashes));
}

proptest! {
    #[test]
    fn any_text_is_a_receipt_or_refused_without_panic(text in "(.|\n)*", near in mutated(&receipt(13).to_string())) {
        for text in [text.clone(), format!("{HEADER}\nindex 1\n\n{text}"), near] {
            if let Ok(receipt) = text.parse::<Receipt>() {
                prop_assert_eq!(receipt.to_string(), text);
            }
        }
    }

    #[test]
    fn a_changed_receipt_proves_the_same_or_nothing(near in mutated(&receipt(13).to_string())) {
        let good = receipt(13);
        if let Ok(changed) = near.parse::<Receipt>()
            && changed.verify(&leaf_hash(&entry(13)), &keys()).is_ok()
        {
            // What is neither signed nor hashed may have changed: the lines of signatures of unknown keys.
            prop_assert_eq!((changed.index, &changed.proof, &changed.checkpoint), (13, &good.proof, &good.checkpoint));
        }
    }

    #[test]
    fn what_is_written_is_read_back_alike(
        index in number(), extra: Vec<u8>, proof in prop::collection::vec(any_hash(), 0..=MAX_HASHES),
    ) {
        let receipt = Receipt::new(index, proof, receipt(0).note).unwrap().with_extra(extra);
        prop_assert_eq!(receipt.to_string().parse(), Ok(receipt));
    }
}

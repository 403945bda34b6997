//! Notes and Ed25519 keys, compared with those of `signed_note`, a port of Go's `sumdb/note`.
use signed_note::{StandardSigner, StandardVerifier, VerifierList};

use super::*;

/// Our key and signer, and the oracle's of the same name and seed.
fn both(name: &str, seed: u8) -> (TestSigner, StandardSigner) {
    let signer = TestSigner::ed25519(seed);
    let id = signer.key(name).id();
    let private = text::to_base64([[1].as_slice(), &[seed; 32]].concat());
    (signer, StandardSigner::new(&format!("PRIVATE+KEY+{name}+{id}+{private}")).unwrap())
}

fn verifiers(vkeys: &[String]) -> VerifierList {
    let verifier = |vkey: &String| Box::new(StandardVerifier::new(vkey).unwrap()) as Box<dyn signed_note::Verifier>;
    VerifierList::new(vkeys.iter().map(verifier).collect())
}

fn example() -> String {
    let note = |text: &str, names: &[&str]| {
        let signers = names.iter().zip(1u8..).map(|(name, seed)| TestSigner::ed25519(seed).sign(name, text));
        Note::new(text, signers).unwrap().to_string()
    };
    note("first\n\nsecond\n", &["one.example", "two.example"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_note_that_we_or_they_signed_is_the_same(
        text in "([ -~é—]|\n){0,40}\n", names in prop::collection::vec("[!-*,-~é]{1,12}", 1..5), known in 1..16u8,
    ) {
        let signers: Vec<_> = names.iter().zip(1..).map(|(name, seed)| (name, both(name, seed))).collect();
        let ours = Note::new(text.as_str(), signers.iter().map(|(name, (ours, _))| ours.sign(name, &text))).unwrap();
        let mut theirs = signed_note::Note::new(text.as_bytes(), &[]).unwrap();
        let their_signers: Vec<_> = signers.iter().map(|(_, (_, theirs))| theirs as &dyn signed_note::Signer).collect();
        theirs.add_sigs(&their_signers).unwrap();
        prop_assert_eq!(ours.to_string().into_bytes(), theirs.to_bytes());

        let known = signers.iter().enumerate().filter(|(at, _)| known >> at & 1 == 1);
        let keys: Vec<_> = known.map(|(_, (name, (ours, _)))| ours.key(name)).collect();
        let vkeys: Vec<_> = keys.iter().map(VerifierKey::to_string).collect();
        let verified = ours.verified_by(&keys).map(|verified| verified.len());
        let their_verified = theirs.verify(&verifiers(&vkeys)).map(|(verified, _)| verified.len());
        prop_assert_eq!(verified.ok(), their_verified.ok());
    }

    #[test]
    fn a_damaged_note_is_read_and_judged_alike(note in mutated(&example())) {
        let ours = Note::parse(note.as_bytes());
        let theirs = signed_note::Note::from_bytes(note.as_bytes());
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?} and {:?}", note, ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.text().as_bytes(), theirs.text());
            prop_assert_eq!(ours.to_string().into_bytes(), theirs.to_bytes());
            // Go's way is to look at the first signature of a key only; ours have all to be right.
            let names: Vec<_> = ours.signatures().iter().map(|line| (&line.name, line.id)).collect();
            prop_assume!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
            let keys = [TestSigner::ed25519(1).key("one.example"), TestSigner::ed25519(2).key("two.example")];
            let vkeys = keys.each_ref().map(VerifierKey::to_string);
            let verified = ours.verified_by(&keys).map(|verified| verified.len());
            let their_verified = theirs.verify(&verifiers(&vkeys)).map(|(verified, _)| verified.len());
            prop_assert_eq!(verified.ok(), their_verified.ok(), "{:?}", note);
        }
    }

    #[test]
    fn a_damaged_vkey_is_read_alike(
        vkey in mutated("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"),
    ) {
        // They take digits of the ID in capitals, and control characters in names.
        prop_assume!(text::is_note_text(&vkey) && !vkey.contains("530D"));
        let ours = VerifierKey::parse(&vkey);
        let theirs = StandardVerifier::new(&vkey);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?}", vkey, ours);
    }

    #[test]
    fn vkeys_are_those_of_signed_note(name in "[!-*,-~é]{1,20}", seed: u8) {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
        let theirs = signed_note::new_ed25519_verifier_key(&name, &key);
        prop_assert_eq!(TestSigner::ed25519(seed).key(&name).to_string(), theirs);
    }
}

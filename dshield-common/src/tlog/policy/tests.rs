#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::parse::{PolicyCause, PolicyError};
use super::*;
use crate::tlog::hash::empty_root;
use crate::tlog::key::{KeyError, SignatureType};
use crate::tlog::tests::{TestSigner, mutated};

const ORIGIN: &str = "log.example";

fn witness(seed: u8) -> String {
    TestSigner::witness(seed).key(&format!("w{seed}.example")).to_string()
}

fn log() -> String {
    TestSigner::ed25519(1).key(ORIGIN).to_string()
}

/// The example of C2SP tlog-policy, with keys.
fn example() -> String {
    let mut file = format!("# An example\n\nlog {}\n\n", log());
    for (name, seed) in [("X1", 1), ("X2", 2), ("X3", 3)] {
        file += &format!("witness {name} {}\n", witness(seed));
    }
    file += "group X-witnesses 2 X1 X2 X3\n\n";
    for (name, seed) in [("Y1", 4), ("Y2", 5), ("Y3", 6)] {
        file += &format!("witness {name} {} https://{name}.example/\n", witness(seed));
    }
    file + "group Y-witnesses any Y1 Y2 Y3\n\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
}

fn text() -> String {
    Checkpoint::new(ORIGIN, 7, empty_root()).unwrap().to_string()
}

/// A checkpoint by the log and these witnesses, each at the time that is its number.
fn signed_by(witnesses: &[u8]) -> Note {
    let by = |seed: &u8| TestSigner::witness(*seed).sign_at(&format!("w{seed}.example"), &text(), u64::from(*seed));
    let log = TestSigner::ed25519(1).sign(ORIGIN, &text());
    Note::new(text(), [log].into_iter().chain(witnesses.iter().map(by))).unwrap()
}

fn names(evaluation: &Evaluation) -> Vec<(String, u64)> {
    evaluation.witnesses.iter().map(|signed| (signed.witness.name.to_string(), signed.timestamp)).collect()
}

#[test]
fn two_of_the_x_and_one_of_the_y_are_the_quorum_of_the_example() {
    let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 6));
    for signed in 0..64u8 {
        let seeds: Vec<u8> = (1..=6).filter(|seed| signed >> (seed - 1) & 1 == 1).collect();
        let enough = (signed & 0b111).count_ones() >= 2 && signed >> 3 != 0;
        let note = signed_by(&seeds);
        let evaluation = policy.evaluate(&note, &[]).unwrap();
        assert_eq!(evaluation.quorum, enough, "{seeds:?}");
        assert_eq!(evaluation.witnesses.len(), seeds.len());
        assert_eq!(policy.accept(&note, &[]).is_ok(), enough);
    }
}

#[test]
fn who_signed_and_when_is_told() {
    let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
    let note = signed_by(&[5, 2, 9]);
    let evaluation = policy.evaluate(&note, &[]).unwrap();
    assert_eq!(names(&evaluation), [("Y2".to_owned(), 5), ("X2".to_owned(), 2)]);
    assert_eq!(evaluation.checkpoint.size(), 7);
    assert_eq!(evaluation.logs, [&policy.logs()[0].key]);
    assert_eq!(evaluation.witnesses[0].witness.url.as_ref().unwrap().to_string(), "https://Y2.example/");
    let error = policy.accept(&note, &[]).unwrap_err();
    assert_eq!(error.to_string(), "the witnesses that signed are no quorum: Y2, X2");
    assert!(policy.accept(&signed_by(&[]), &[]).unwrap_err().to_string().ends_with(": none"));
}

#[test]
fn a_checkpoint_is_the_logs_only_by_a_key_of_its_name() {
    let policy = |lines: &str| TrustPolicy::parse(format!("{lines}quorum none\n").as_bytes()).unwrap();
    let note = signed_by(&[2]);
    assert!(policy(&format!("log {}\n", log())).accept(&note, &[]).unwrap().quorum);
    // Another known log signed as itself.
    let other = TestSigner::ed25519(2);
    let by_other = Note::new(text(), [other.sign("other.example", &text())]).unwrap();
    let both = policy(&format!("log {}\nlog {}\n", log(), other.key("other.example")));
    assert_eq!(both.accept(&by_other, &[]), Err(Rejection::NotByLog { origin: ORIGIN.to_owned() }));
    // A witness is not the log, whatever it is called.
    let posing = TestSigner::witness(3);
    let by_witness = Note::new(text(), [posing.sign(ORIGIN, &text())]).unwrap();
    let posing = policy(&format!("log {}\nwitness w {}\n", log(), posing.key(ORIGIN)));
    assert_eq!(posing.accept(&by_witness, &[]), Err(Rejection::NotByLog { origin: ORIGIN.to_owned() }));
    // Nobody knows the log.
    assert_eq!(policy("").accept(&note, &[]), Err(Rejection::Note(VerifyError::Unverified)));
}

#[test]
fn a_log_may_be_known_from_elsewhere() {
    let ecdsa = TestSigner::ecdsa_p256(1);
    let keys = [ecdsa.key(ORIGIN)];
    assert_eq!(keys[0].signature_type(), SignatureType::EcdsaP256);
    let file = format!("witness w {}\nquorum w\n", witness(2));
    let policy = TrustPolicy::parse(file.as_bytes()).unwrap();
    let lines = [ecdsa.sign(ORIGIN, &text()), TestSigner::witness(2).sign_at("w2.example", &text(), 2)];
    let note = Note::new(text(), lines).unwrap();
    let evaluation = policy.accept(&note, &keys).unwrap();
    assert_eq!(
        (evaluation.logs, names(&policy.accept(&note, &keys).unwrap())),
        (vec![&keys[0]], vec![("w".to_owned(), 2)])
    );
    assert_eq!(policy.accept(&note, &[]), Err(Rejection::NotByLog { origin: ORIGIN.to_owned() }));
}

#[test]
fn a_bad_signature_of_a_known_witness_rejects_the_checkpoint() {
    let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
    let mut forged = TestSigner::witness(6).sign_at("w6.example", &text(), 6);
    // The time is signed too.
    forged.signature[7] ^= 1;
    let note = signed_by(&[1, 2, 4]).with_signature(forged).unwrap();
    assert!(matches!(policy.evaluate(&note, &[]), Err(Rejection::Note(VerifyError::BadSignature { .. }))));
}

#[test]
fn what_is_no_checkpoint_is_rejected() {
    let policy = TrustPolicy::parse(format!("log {}\nquorum none\n", log()).as_bytes()).unwrap();
    let note = Note::new("text\n", [TestSigner::ed25519(1).sign(ORIGIN, "text\n")]).unwrap();
    assert_eq!(policy.evaluate(&note, &[]), Err(Rejection::Checkpoint(CheckpointError::Lines)));
}

#[test]
fn blanks_comments_and_a_missing_last_newline_mean_nothing() {
    let policy = TrustPolicy::parse(example().as_bytes()).unwrap();
    let spaced = example().replace(' ', " \t ").replace('\n', "\t\n \n  # log witness ünïcode\n#\n");
    assert_eq!(TrustPolicy::parse(spaced.as_bytes()), Ok(policy.clone()));
    assert_eq!(TrustPolicy::parse(example().trim_end().as_bytes()), Ok(policy));
    let latin1 = [example().as_bytes(), b"# caf\xe9\n"].concat();
    assert!(TrustPolicy::parse(&latin1).is_ok());
}

#[test]
fn names_are_octets() {
    let file = |member: &[u8]| {
        let key = witness(1);
        let lines = [b"witness caf\xe9 ".as_slice(), key.as_bytes(), b"\nquorum ", member, b"\n"];
        TrustPolicy::parse(&lines.concat())
    };
    assert_eq!(file(b"caf\xe9").unwrap().witnesses()[0].name.as_bytes(), b"caf\xe9");
    let unknown = file("café".as_bytes()).unwrap_err();
    assert_eq!(unknown.to_string(), "line 2 of the trust policy: no line above defines café");
}

#[test]
fn the_line_that_is_wrong_is_named_with_its_reason() {
    let (w1, w2) = (format!("witness a {}\n", witness(1)), format!("witness b {}\n", witness(2)));
    let octets = |text: &str| Octets(text.as_bytes().to_owned());
    let plain = TestSigner::ed25519(1).key("w1.example");
    let ecdsa = TestSigner::ecdsa_p256(1).key("w1.example");
    let id = |signer: TestSigner, name| signer.key(name).id();
    let group = |line: &str| format!("{w1}{w2}group {line}\nquorum none\n");
    let threshold = |members| PolicyCause::Threshold { members };
    let quorum_usage = || PolicyCause::Arguments("quorum <name|none>");
    let group_usage = || PolicyCause::Arguments("group <name> <number|any|all> <member>…");
    for (file, line, cause) in [
        (String::new(), 1, PolicyCause::NoQuorum),
        (format!("{w1}{w2}"), 2, PolicyCause::NoQuorum),
        ("quorum none\nquorum none\n".to_owned(), 2, PolicyCause::SecondQuorum),
        (format!("quorum a\n{w1}"), 1, PolicyCause::UnknownName(octets("a"))),
        ("quorum\n".to_owned(), 1, quorum_usage()),
        ("quorum none none\n".to_owned(), 1, quorum_usage()),
        ("\nQuorum none\n".to_owned(), 2, PolicyCause::Keyword(octets("Quorum"))),
        ("quorum none\r\n".to_owned(), 1, PolicyCause::ControlCharacter(b'\r')),
        ("# \u{7f}\n".to_owned(), 1, PolicyCause::ControlCharacter(0x7f)),
        ("# \0\n".to_owned(), 1, PolicyCause::ControlCharacter(0)),
        ("quorum\u{a0}none\n".to_owned(), 1, PolicyCause::Keyword(octets("quorum\u{a0}none"))),
        ("log\n".to_owned(), 1, PolicyCause::Arguments("log <vkey> [<url>]")),
        (format!("log {} https://a b\n", log()), 1, PolicyCause::Arguments("log <vkey> [<url>]")),
        (format!("log {} # no comment\n", log()), 1, PolicyCause::Arguments("log <vkey> [<url>]")),
        (format!("log {}0\n", log()), 1, PolicyCause::Key(KeyError::Base64)),
        (format!("log {0}\nlog {0}\n", log()), 2, PolicyCause::DuplicateKey { id: id(TestSigner::ed25519(1), ORIGIN) }),
        // Under another name it is the same key still, and of another type too.
        (
            format!("log {}\nlog {}\n", log(), TestSigner::witness(1).key("other")),
            2,
            PolicyCause::DuplicateKey { id: id(TestSigner::witness(1), "other") },
        ),
        ("witness a\n".to_owned(), 1, PolicyCause::Arguments("witness <name> <vkey> [<url>]")),
        (format!("witness a {plain}\n"), 1, PolicyCause::WitnessType { instead: Some(witness(1)) }),
        (format!("witness a {ecdsa}\n"), 1, PolicyCause::WitnessType { instead: None }),
        (format!("witness none {}\n", witness(1)), 1, PolicyCause::NameTaken(octets("none"))),
        (format!("{w1}witness a {}\n", witness(2)), 2, PolicyCause::NameTaken(octets("a"))),
        (
            format!("{w1}witness b {}\n", TestSigner::witness(1).key("other")),
            2,
            PolicyCause::DuplicateKey { id: id(TestSigner::witness(1), "other") },
        ),
        ("group g any\n".to_owned(), 1, group_usage()),
        ("group g\n".to_owned(), 1, group_usage()),
        (group("a any b"), 3, PolicyCause::NameTaken(octets("a"))),
        (group("none any b"), 3, PolicyCause::NameTaken(octets("none"))),
        (group("g any c"), 3, PolicyCause::UnknownName(octets("c"))),
        (group("g any g"), 3, PolicyCause::UnknownName(octets("g"))),
        (group("g any none"), 3, PolicyCause::UnknownName(octets("none"))),
        (group("g any a a"), 3, PolicyCause::MemberTwice(octets("a"))),
        (group("g any a\ngroup h any a b"), 4, PolicyCause::MemberTwice(octets("a"))),
        (group("g 0 a b"), 3, threshold(2)),
        (group("g 3 a b"), 3, threshold(2)),
        (group("g 02 a b"), 3, threshold(2)),
        (group("g +2 a b"), 3, threshold(2)),
        (group("g -1 a b"), 3, threshold(2)),
        (group("g ALL a b"), 3, threshold(2)),
        (group("g 18446744073709551617 a b"), 3, threshold(2)),
    ] {
        assert_eq!(TrustPolicy::parse(file.as_bytes()), Err(PolicyError { line, cause }), "{file}");
    }
}

#[test]
fn the_error_for_a_plain_key_says_what_to_write() {
    let plain = TestSigner::ed25519(1).key("w1.example");
    let error = TrustPolicy::parse(format!("witness a {plain}\nquorum a\n").as_bytes()).unwrap_err();
    let expected = format!("line 1 of the trust policy: a witness has a key of type 0x04; write {}", witness(1));
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_chain_of_a_thousand_groups_is_judged_without_recursion() {
    let mut file = format!("witness w {}\ngroup g0 all w\n", witness(1));
    for at in 1..1000 {
        file += &format!("group g{at} all g{}\n", at - 1);
    }
    let policy = TrustPolicy::parse(format!("{file}quorum g999\n").as_bytes()).unwrap();
    assert!(policy.is_quorum(|_| true));
    assert!(!policy.is_quorum(|_| false));
}

proptest! {
    #[test]
    fn any_octets_are_a_policy_or_refused_without_panic(
        octets: Vec<u8>, words in "((log|witness|group|quorum|none|any|all|a|b|[0-9]|#|\\PC)[ \t\n]){0,20}",
    ) {
        let _ = TrustPolicy::parse(&octets);
        let _ = TrustPolicy::parse(words.as_bytes());
    }

    #[test]
    fn a_damaged_policy_is_read_or_refused_by_a_line_it_has(file in mutated(&example())) {
        if let Err(error) = TrustPolicy::parse(file.as_bytes()) {
            prop_assert!((1..=file.lines().count().max(1)).contains(&error.line), "{}", error);
        }
    }
}

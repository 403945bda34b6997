//! Logs as an agent writes them, and as a forger would.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use dshield_common::log::MAX_ENTRY;
use dshield_common::log::entry::{Boot, Connect, Entry, Event, LOST_BY_LOG, Previous, Record};
use dshield_common::log::line::{LineError, SignedEntry};
use dshield_common::tlog::{Tree, leaf_hash};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;

use super::*;

/// Writes logs as an agent does, and as a forger would.
struct Log {
    key: SigningKey,
    boot_id: String,
    entries: Vec<SignedEntry>,
}

impl Log {
    /// Two boots: entries 0 to 3 of the first, 4 to 6 of the second.
    fn new() -> Self {
        let mut log = Self { key: key(1), boot_id: String::new(), entries: Vec::new() };
        for (boot, events) in [(1, 3), (2, 2)] {
            log.boot(boot);
            for count in 0..events {
                log.push(Event::Lost { count, source: "test".to_owned() });
            }
        }
        log
    }

    fn boot(&mut self, number: u8) {
        self.key = key(number);
        self.boot_id = format!("{number:032x}");
        let previous = self.entries.last().map(|last| Previous {
            seq: last.seq,
            leaf_hash: leaf_hash(last.entry.as_bytes()).to_hex(),
            root: Some(self.root()),
            closed: Some(true),
        });
        let key = log_key(number).to_pem();
        let version = "0".to_owned();
        let sha256 = BTreeMap::new();
        self.push(Event::Boot(Boot {
            version,
            key,
            sha256,
            isolation: None,
            memory_only: false,
            log_id: None,
            checkpoint_keys: Vec::new(),
            tpm_boots: None,
            previous,
        }));
    }

    fn root(&self) -> String {
        let mut tree = Tree::new();
        for signed in &self.entries {
            tree.append(leaf_hash(signed.entry.as_bytes()));
        }
        tree.root().to_hex()
    }

    fn push(&mut self, event: Event) {
        let seq = self.entries.len() as u64;
        let entry = Entry {
            seq,
            time: "2026-01-02T03:04:05.000006Z".to_owned(),
            boot_id: self.boot_id.clone(),
            mode: None,
            record: Record::agent(event),
        };
        let entry = entry.canonical().unwrap();
        let signature = sign(&self.key, &entry);
        self.entries.push(SignedEntry { seq, entry, signature });
    }

    /// Replaces text inside an entry and signs it again with the key of boot `signer`.
    fn forge(&mut self, at: usize, from: &str, to: &str, signer: u8) {
        let entry = &mut self.entries[at];
        assert!(entry.entry.contains(from), "{}", entry.entry);
        entry.entry = entry.entry.replacen(from, to, 1);
        entry.signature = sign(&key(signer), &entry.entry);
    }

    fn lines(&self) -> Vec<String> {
        self.entries.iter().map(SignedEntry::to_line).collect()
    }

    fn verdict(&self) -> Result<LogSummary, LogFault> {
        verify_lines(self.lines(), Expectations::default())
    }
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 32]).unwrap()
}

fn log_key(number: u8) -> LogKey {
    LogKey(*key(number).verifying_key())
}

fn sign(key: &SigningKey, entry: &str) -> Vec<u8> {
    let signature: Signature = key.sign(entry.as_bytes());
    signature.to_der().as_bytes().to_vec()
}

fn expecting(number: u8) -> Expectations {
    Expectations { start: Start::Beginning, last_key: Some(log_key(number)) }
}

#[test]
fn a_true_log_passes_and_is_summed_up() {
    let log = Log::new();
    let summary = verify_lines(log.lines(), expecting(2)).unwrap();
    let last = &log.entries[6];
    assert_eq!((summary.entries, summary.boots), (7, 2));
    assert_eq!((summary.first_seq, summary.last_seq), (0, 6));
    assert_eq!(summary.last_leaf_hash, leaf_hash(last.entry.as_bytes()).to_hex());
    assert_eq!(summary.last_boot_id, format!("{:032x}", 2));
    assert_eq!(summary.last_key, log_key(2));
}

#[test]
fn a_log_whose_last_key_is_not_the_attested_one_fails() {
    let verdict = verify_lines(Log::new().lines(), expecting(1));
    assert_eq!(verdict, Err(LogFault::WrongKey { seq: 6 }));
}

#[test]
fn nothing_does_not_pass_for_a_log() {
    let nothing: [&str; 0] = [];
    assert_eq!(verify_lines(nothing, Expectations::default()), Err(LogFault::Empty));
    let start = Start::Page { seq: 3, key: log_key(1) };
    let page = Expectations { start, last_key: Some(log_key(1)) };
    assert_eq!(verify_lines(nothing, page), Err(LogFault::Empty));
}

#[test]
fn a_changed_character_fails() {
    let mut log = Log::new();
    log.entries[2].entry = log.entries[2].entry.replace("test", "tesu");
    assert_eq!(log.verdict(), Err(LogFault::BadSignature { seq: 2 }));
}

#[test]
fn every_flipped_bit_of_a_signature_fails() {
    for bit in 0..Log::new().entries[1].signature.len() * 8 {
        let mut log = Log::new();
        log.entries[1].signature[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(log.verdict(), Err(LogFault::BadSignature { seq: 1 }), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_a_line_fails() {
    let lines = Log::new().lines();
    for bit in 0..lines[2].len() * 8 {
        let mut bytes = lines[2].clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        let mut lines = lines.clone();
        lines[2] = changed;
        assert!(verify_lines(lines, Expectations::default()).is_err(), "bit {bit}");
    }
}

#[test]
fn a_removed_line_fails() {
    for at in 0..6 {
        let mut log = Log::new();
        log.entries.remove(at);
        let (expected, found) = (at as u64, at as u64 + 1);
        assert_eq!(log.verdict(), Err(LogFault::WrongNumber { expected, found }));
    }
}

#[test]
fn a_repeated_line_fails() {
    let mut log = Log::new();
    log.entries.insert(3, log.entries[2].clone());
    assert_eq!(log.verdict(), Err(LogFault::WrongNumber { expected: 3, found: 2 }));
}

#[test]
fn swapped_lines_fail() {
    let mut log = Log::new();
    log.entries.swap(1, 2);
    assert_eq!(log.verdict(), Err(LogFault::WrongNumber { expected: 1, found: 2 }));
    // Also when the outside of the lines is made to look right.
    log.entries[1].seq = 1;
    log.entries[2].seq = 2;
    assert_eq!(log.verdict(), Err(LogFault::Renumbered { seq: 1, signed: 2 }));
}

#[test]
fn lines_renumbered_to_hide_a_removed_one_fail() {
    let mut log = Log::new();
    log.entries.remove(2);
    for (seq, entry) in (0..).zip(&mut log.entries) {
        entry.seq = seq;
    }
    assert_eq!(log.verdict(), Err(LogFault::Renumbered { seq: 2, signed: 3 }));
}

#[test]
fn an_entry_signed_by_a_foreign_key_fails() {
    for (at, signer) in [(0, 9), (2, 9), (2, 2), (4, 1), (5, 1)] {
        let mut log = Log::new();
        let entry = log.entries[at].entry.clone();
        log.entries[at].signature = sign(&key(signer), &entry);
        assert_eq!(log.verdict(), Err(LogFault::BadSignature { seq: at as u64 }));
    }
}

#[test]
fn a_boot_entry_that_replaces_the_end_of_the_boot_before_it_fails() {
    // The holder of the second key drops entry 3, and lets the boot follow entry 2 under number 3.
    let mut log = Log::new();
    log.entries.truncate(3);
    log.boot(2);
    assert!(log.verdict().is_ok(), "cut before the second boot began: not to be seen here");
    for (from, to) in [("\"seq\":2", "\"seq\":1"), ("\"leaf_hash\":\"", "\"leaf_hash\":\"0")] {
        let mut log = Log::new();
        let part = log.entries[4].entry.find("\"previous\"").unwrap();
        assert!(log.entries[4].entry[part..].contains("\"seq\":3"));
        let (from, to) = (from.replace('2', "3"), to.replace('1', "2"));
        log.forge(4, &from, &to, 2);
        assert_eq!(log.verdict(), Err(LogFault::WrongPrevious { seq: 4 }));
    }
}

#[test]
fn an_entry_changed_by_the_holder_of_an_old_key_shows_at_the_next_boot() {
    let mut log = Log::new();
    log.forge(3, "test", "tesu", 1);
    assert_eq!(log.verdict(), Err(LogFault::WrongPrevious { seq: 4 }));
}

/// Its own hash is named by nobody else, but the tree over all is.
#[test]
fn an_earlier_entry_changed_by_the_holder_of_an_old_key_shows_at_the_next_boot() {
    let mut log = Log::new();
    log.forge(1, "test", "tesu", 1);
    assert_eq!(log.verdict(), Err(LogFault::WrongPrevious { seq: 4 }));
}

#[test]
fn a_first_boot_that_claims_a_past_and_a_later_one_that_denies_it_fail() {
    let mut log = Log::new();
    log.entries.truncate(4);
    log.boot_id = format!("{:032x}", 3);
    log.key = key(3);
    let (version, key) = ("0".to_owned(), log_key(3).to_pem());
    let (sha256, previous) = (BTreeMap::new(), None);
    log.push(Event::Boot(Boot {
        version,
        key,
        sha256,
        isolation: None,
        memory_only: false,
        log_id: None,
        checkpoint_keys: Vec::new(),
        tpm_boots: None,
        previous,
    }));
    assert_eq!(log.verdict(), Err(LogFault::WrongPrevious { seq: 4 }));
}

#[test]
fn a_log_that_does_not_begin_with_a_boot_entry_fails() {
    let mut log = Log { key: key(1), boot_id: "0".repeat(32), entries: Vec::new() };
    log.push(Event::Tamper { what: "test".to_owned() });
    assert_eq!(log.verdict(), Err(LogFault::NoBoot { seq: 0 }));
}

#[test]
fn an_entry_of_another_boot_fails_even_when_rightly_signed() {
    let mut log = Log::new();
    let (old, new) = (format!("{:032x}", 1), format!("{:032x}", 7));
    log.forge(2, &old, &new, 1);
    let fault = LogFault::WrongBoot { seq: 2, expected: old, found: new };
    assert_eq!(log.verdict(), Err(fault));
}

#[test]
fn an_entry_that_is_not_canonical_fails_even_when_rightly_signed() {
    for (from, to) in [
        ("\"seq\":2", "\"seq\": 2"),
        ("\"seq\":2", "\"seq\":2.0"),
        ("\"seq\":2", "\"seq\":1,\"seq\":2"),
        ("\"test\"", "\"\\u0074est\""),
        ("{\"boot_id\"", "{\"a\":{\"c\":0,\"b\":0},\"boot_id\""),
        ("{\"boot_id\"", "{\"z\":0,\"boot_id\""),
    ] {
        let mut log = Log::new();
        log.forge(2, from, to, 1);
        assert_eq!(log.verdict(), Err(LogFault::NotCanonical { seq: 2 }), "{to}");
    }
}

#[test]
fn entries_of_a_kind_that_this_build_does_not_know_are_checked_like_any_other() {
    let mut log = Log::new();
    log.forge(5, "\"lost\"", "\"from_the_future\"", 2);
    assert!(log.verdict().is_ok());
    log.entries[5].signature = sign(&key(9), "");
    assert_eq!(log.verdict(), Err(LogFault::BadSignature { seq: 5 }));
}

#[test]
fn what_is_no_entry_fails() {
    let mut log = Log::new();
    for (entry, fault) in [
        ("", LogFault::NotAnEntry { seq: 2 }),
        ("{", LogFault::NotAnEntry { seq: 2 }),
        ("null", LogFault::NotAnEntry { seq: 2 }),
        ("{\"seq\":2}", LogFault::NotAnEntry { seq: 2 }),
    ] {
        log.entries[2].entry = entry.to_owned();
        assert_eq!(log.verdict(), Err(fault));
    }
    log.entries[2].entry = format!("\"{}\"", "x".repeat(MAX_ENTRY));
    assert_eq!(log.verdict(), Err(LogFault::TooLarge { seq: 2, size: MAX_ENTRY + 2 }));
    let verdict = verify_lines(["not a line"], Expectations::default());
    assert_eq!(verdict, Err(LogFault::Line { seq: 0, why: LineError::Form }));
}

#[test]
fn a_boot_entry_without_a_key_fails() {
    let mut log = Log::new();
    log.forge(0, "BEGIN PUBLIC", "BEGIN PIBLUC", 1);
    assert_eq!(log.verdict(), Err(LogFault::BootKey { seq: 0, why: KeyError }));
}

#[test]
fn a_page_passes_with_the_key_of_its_boot_only() {
    let lines = Log::new().lines();
    let page = |seq: u64, number| {
        let start = Start::Page { seq, key: log_key(number) };
        let from = usize::try_from(seq).unwrap();
        verify_lines(&lines[from..], Expectations { start, last_key: Some(log_key(2)) })
    };
    assert_eq!(page(2, 1).unwrap().boots, 1);
    assert_eq!(page(4, 2).unwrap().first_seq, 4);
    assert_eq!(page(5, 2).unwrap().entries, 2);
    assert_eq!(page(2, 2), Err(LogFault::BadSignature { seq: 2 }));
    assert_eq!(page(4, 1), Err(LogFault::WrongKey { seq: 4 }));
    let start = Start::Page { seq: 3, key: log_key(1) };
    let verdict = verify_lines(&lines[2..], Expectations { start, last_key: None });
    assert_eq!(verdict, Err(LogFault::WrongNumber { expected: 3, found: 2 }));
}

#[test]
fn after_a_fault_a_verifier_waits_for_the_right_line() {
    let lines = Log::new().lines();
    let mut verifier = LogVerifier::new(Expectations::default());
    verifier.push(&lines[0]).unwrap();
    assert!(verifier.push(&lines[2]).is_err());
    verifier.push(&lines[1]).unwrap();
    assert_eq!(verifier.finish().unwrap().last_seq, 1);
}

#[test]
fn a_connection_without_an_end_is_left_open_unless_the_log_lost_records_or_was_killed() {
    let connect = |connection| {
        Event::Connect(Connect {
            connection,
            host: "a.example".to_owned(),
            port: 443,
            tls: "inspect".to_owned(),
            rule: "f/egress/0".to_owned(),
            process: None,
        })
    };
    let lost = |source: &str| Event::Lost { count: 1, source: source.to_owned() };
    let left_open = |events: Vec<Event>| {
        let mut log = Log { key: key(1), boot_id: String::new(), entries: Vec::new() };
        for boot in [1, 2] {
            log.boot(boot);
            events.iter().for_each(|event| log.push(event.clone()));
        }
        let left = log.verdict().unwrap().left_open;
        (left.in_order, left.last_boot)
    };
    assert_eq!(left_open(vec![connect(7)]), (vec![1], vec![3]));
    assert_eq!(left_open(vec![connect(7), lost("ring buffer")]), (vec![1], vec![4]));
    assert_eq!(left_open(vec![connect(7), lost(LOST_BY_LOG)]), (vec![], vec![]));
    assert_eq!(left_open(vec![lost(LOST_BY_LOG), connect(7)]), (vec![2], vec![5]));
}

/// A boot that listed another P-256 key for its checkpoints could sign a tree that its entries do not make.
#[test]
fn keys_for_checkpoints_are_the_boots_own_or_none() {
    let with_keys = |keys: Vec<String>| {
        let mut log = Log { key: key(1), boot_id: format!("{:032x}", 1), entries: Vec::new() };
        log.push(Event::Boot(Boot {
            version: "0".to_owned(),
            key: log_key(1).to_pem(),
            sha256: BTreeMap::new(),
            isolation: None,
            memory_only: false,
            log_id: None,
            checkpoint_keys: keys,
            tpm_boots: None,
            previous: None,
        }));
        log.verdict().map(|summary| summary.checkpoint_keys.len())
    };
    let vkey = |number: u8| {
        let spki = p256::pkcs8::EncodePublicKey::to_public_key_der(key(number).verifying_key()).unwrap();
        VerifierKey::ecdsa_p256("log".parse().unwrap(), spki.as_bytes()).unwrap().to_string()
    };
    assert_eq!(with_keys(vec![vkey(1)]), Ok(1));
    assert_eq!(with_keys(vec![vkey(2)]), Err(LogFault::OtherKey { seq: 0 }));
    assert!(matches!(with_keys(vec!["x".to_owned()]), Err(LogFault::CheckpointKey { seq: 0, .. })));
}

//! `dshield log verify` for somebody who was given a log by its keeper: whatever that one changed, cut or put back is
//! refused, in a sentence that says where.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dshield_common::log::line::SignedEntry;
use dshield_tests::agent::Agent;
use dshield_tests::shelf::{Shelf, lines, verify};
use serde_json::Value;

/// A file with these lines.
fn file(shelf: &Shelf, lines: &[String]) -> PathBuf {
    let path = shelf.path("given.ndjson");
    fs::write(&path, lines.join("\n") + "\n").expect("the folder is ours");
    path
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The agent's present checkpoint, in a file.
fn checkpoint(shelf: &Shelf, agent: &Agent, name: &str) -> String {
    let note = agent.get("/v1/log/checkpoint");
    assert_eq!(note.status, 200);
    let path = shelf.path(name);
    fs::write(&path, note.body).expect("the folder is ours");
    text(&path)
}

/// The keys for checkpoints that the last boot entry lists, as arguments.
fn vkeys(lines: &[String]) -> Vec<String> {
    let mut boots = lines.iter().rev().filter(|line| line.contains("\"kind\":\"boot\""));
    let boot: Value = serde_json::from_str(boots.next().expect("each log has one")).expect("a line");
    let keys = boot["entry"]["checkpoint_keys"].as_array().expect("it lists them");
    keys.iter().flat_map(|key| ["--vkey".to_owned(), key.as_str().expect("text").to_owned()]).collect()
}

fn copy_state(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is everywhere");
    assert!(copied.success());
}

#[test]
fn what_was_changed_removed_moved_or_cut_is_refused_with_the_entry() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.filled(60);
    // A second boot, whose entry names the hash of all before it.
    shelf.filled(60);
    let copy = shelf.export("copy");
    let truth = lines(&copy);
    let refuses = |lines: &[String], more: &[&str], words: &[&str]| {
        verify(file(&shelf, lines), more).failed_saying(words);
    };
    let (seq, last) = (20, truth.len() - 1);
    let boot = truth.iter().rposition(|line| line.contains("\"kind\":\"boot\"")).expect("each log has one");
    for seq in [seq, boot, last] {
        let mut changed = truth.clone();
        let mut signed = SignedEntry::parse(&truth[seq]).expect("a line");
        let end = signed.signature.len() - 3;
        signed.signature[end] ^= 1;
        changed[seq] = signed.to_line();
        refuses(&changed, &[], &["signatures of 1 entries are wrong", &format!("entry {seq}\n")]);

        let mut signed = SignedEntry::parse(&truth[seq]).expect("a line");
        let digit = signed.entry.find("\"time\":\"").expect("each has one") + 8 + 24;
        let other = if signed.entry.as_bytes()[digit] == b'1' { "2" } else { "1" };
        signed.entry.replace_range(digit..=digit, other);
        changed[seq] = signed.to_line();
        refuses(&changed, &[], &["signatures of 1 entries are wrong", &format!("entry {seq}\n")]);
    }
    let mut removed = truth.clone();
    removed.remove(seq);
    refuses(&removed, &[], &["entry 20 should come next, but this is entry 21"]);
    let mut swapped = truth.clone();
    swapped.swap(seq, seq + 1);
    refuses(&swapped, &[], &["entry 20 should come next, but this is entry 21"]);
    let mut renumbered = removed.clone();
    for (seq, line) in renumbered.iter_mut().enumerate().skip(seq) {
        let signed = SignedEntry::parse(line).expect("a line");
        *line = SignedEntry { seq: seq as u64, ..signed }.to_line();
    }
    refuses(&renumbered, &[], &["says it is entry 20, the signed entry says 21"]);
    let mut garbage = truth.clone();
    garbage[seq] = "garbage".to_owned();
    refuses(&garbage, &[], &["line for entry 20"]);
    refuses(&[], &[], &["line for entry 0"]);
    // What is cut off at the end nobody misses who was told nothing before.
    let closing = text(&copy.join("checkpoint"));
    for end in [seq, boot, last] {
        assert_eq!(verify(file(&shelf, &truth[..end]), &[]).code, Some(0));
        let words = [&format!("there were {} entries, and there are {end}", truth.len()), "cut or rolled back"];
        refuses(&truth[..end], &["--checkpoint", &closing], &words);
    }
}

#[test]
fn another_key_than_the_one_that_was_given_is_refused_and_hashes_alone_need_a_checkpoint() {
    let Some(shelf) = Shelf::make() else { return };
    let mut agent = shelf.start();
    let _ = agent.call("native", &shelf.load(2, 20));
    let (key, early) = (shelf.path("key.pem"), checkpoint(&shelf, &agent, "early"));
    fs::write(&key, agent.get("/v1/log/key").body).expect("the folder is ours");
    assert_eq!(agent.stop(), Some(0));
    let copy = shelf.export("copy");
    let said = verify(&copy, &["--key", &text(&key)]).printed();
    assert!(said.contains("key is the one that") && !said.contains("NOT checked"), "{said}");

    let vkeys = vkeys(&lines(&copy));
    let with =
        |more: &[&str]| -> Vec<String> { vkeys.iter().cloned().chain(more.iter().map(|s| (*s).to_owned())).collect() };
    let verify_with = |path: &Path, more: &[&str]| {
        let more = with(more);
        verify(path, &more.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = verify_with(&copy, &["--hashes-only"]).printed();
    assert!(said.contains("signatures were not checked") && said.contains("signed by a key that you gave"), "{said}");
    let entries = copy.join("entries.ndjson");
    verify_with(&entries, &["--hashes-only"]).failed_saying(&["a checkpoint over all", "has to vouch", "--checkpoint"]);
    // One over the first of them does not vouch for the rest.
    verify_with(&entries, &["--hashes-only", "--checkpoint", &early]).failed_saying(&["has to vouch"]);
    let closing = text(&copy.join("checkpoint"));
    let _ = verify_with(&entries, &["--hashes-only", "--checkpoint", &closing, "--checkpoint", &early]).printed();
    let alone = verify(&copy, &["--hashes-only"]);
    assert_eq!((alone.code, alone.stdout.as_str()), (Some(2), ""), "{alone:?}");
    assert!(alone.stderr.contains("--vkey"), "{alone:?}");
    // The keeper's own keys vouch for nothing where others are asked for.
    let other = "--vkey=example.com/foo+530d903a+AekyeRkt8DmX3pMsMnnrbDHrMjvMTmsMoRqFmPhIiCwL";
    let said = verify(&copy, &["--hashes-only", other]);
    assert!(matches!(said.code, Some(1 | 2)), "{said:?}");
    // A changed entry has another hash.
    let mut changed = lines(&copy);
    let signed = SignedEntry::parse(&changed[5]).expect("a line");
    let entry = signed.entry.replacen("\"time\":\"2", "\"time\":\"3", 1);
    assert_ne!(entry, signed.entry);
    changed[5] = SignedEntry { entry, ..signed }.to_line();
    verify_with(&file(&shelf, &changed), &["--hashes-only", "--checkpoint", &closing])
        .failed_saying(&["does not hold", "entries were changed, or there are two logs"]);

    shelf.filled(5);
    let later = shelf.export("later");
    verify(&later, &["--key", &text(&key)]).failed_saying(&["another key than the expected one"]);
    // What was said before still holds, also by the keys of that time.
    let said = verify_with(&later, &["--checkpoint", &early]).printed();
    assert!(said.contains("early holds") && said.contains("by a key that you gave"), "{said}");
    let mut broken: Vec<u8> = fs::read(&early).expect("it is there");
    let end = broken.len() - 9;
    broken[end] = if broken[end] == b'A' { b'B' } else { b'A' };
    let forged = shelf.path("forged");
    fs::write(&forged, broken).expect("the folder is ours");
    verify(&later, &["--checkpoint", &text(&forged)]).failed_saying(&["forged does not hold", "does not verify"]);
}

/// The keeper puts back yesterday's files: no copy of the log shows it, only what somebody remembers.
#[test]
fn a_log_that_was_rolled_back_or_forked_does_not_stand_up_to_a_checkpoint_of_before() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.filled(30);
    let (state, old) = (shelf.project.state(), shelf.path("old"));
    copy_state(&state, &old);
    let mut agent = shelf.start();
    let _ = agent.call("native", &shelf.load(2, 50));
    let remembered = checkpoint(&shelf, &agent, "remembered");
    assert_eq!(agent.stop(), Some(0));
    let truth = shelf.export("truth");
    let _ = verify(&truth, &["--checkpoint", &remembered]).printed();
    let first = lines(&truth);

    copy_state(&old, &state);
    let mut agent = shelf.start();
    let url = format!("http://{}", agent.address());
    assert_eq!(verify(&url, &[]).code, Some(0), "by itself it is a log like any other");
    verify(&url, &["--checkpoint", &remembered]).failed_saying(&["remembered does not hold", "cut or rolled back"]);
    assert_eq!(agent.stop(), Some(0));
    shelf.whole();

    // It goes on until it is the longer one.
    shelf.filled(first.len());
    let fork = shelf.export("fork");
    let second = lines(&fork);
    assert!(second.len() > first.len(), "{} and {}", second.len(), first.len());
    assert_eq!(verify(&fork, &[]).code, Some(0));
    verify(&fork, &["--checkpoint", &remembered]).failed_saying(&["remembered does not hold", "or there are two logs"]);
    let vkeys = vkeys(&first);
    let more: Vec<_> = vkeys.iter().map(String::as_str).chain(["--checkpoint", &remembered]).collect();
    verify(&fork, &more).failed_saying(&["remembered does not hold", "or there are two logs"]);
    // Nor can the two be mixed.
    let same = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
    assert!(same > 30);
    let mixed: Vec<_> = first[..=same].iter().chain(&second[same + 1..]).cloned().collect();
    verify(file(&shelf, &mixed), &[]).failed_saying(&[&format!("entry {}", same + 1)]);
}

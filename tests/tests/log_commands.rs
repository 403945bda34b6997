//! `dshield log`: the stored log of a real agent after real traffic is found whole, copied, shortened and proved.
use std::fs;
use std::path::Path;

use dshield_common::log::entry::Event;
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::tile::{Bundle, Tile, bundles, tiles};
use dshield_common::tlog::{Checkpoint, Note, Receipt, Tree, VerifierKey, leaf_hash};
use dshield_tests::agent::Log;
use dshield_tests::command::dshield;
use dshield_tests::shelf::{Shelf, lines, verify};
use serde_json::{Value, json};

/// What the last boot entry says of the end of the boot before it.
fn last_boot_found_it_closed(log: &Log) -> Option<bool> {
    let boots = log.events().filter_map(|(_, event)| if let Event::Boot(boot) = event { Some(boot) } else { None });
    boots.last()?.previous.as_ref()?.closed
}

/// Close entries of connections that were in full use when the agent was told to stop came after the log's end.
#[test]
fn after_traffic_and_a_stop_in_order_nothing_is_wrong_and_each_connection_has_its_end() {
    let Some(shelf) = Shelf::make() else { return };
    for round in 1..=2 {
        assert_eq!(shelf.busy(150).stop(), Some(0));
        let report = shelf.whole();
        assert_eq!(
            (&report["closed"], &report["checkpoint"], &report["boots"]),
            (&json!(true), &json!(true), &json!(round))
        );
    }
    let told = dshield(["log", "fsck", "--state", &shelf.state()]).printed();
    for words in ["closed in order", "entries of 2 boots are good", "the closing checkpoint is the log's"] {
        assert!(told.contains(words), "{told}");
    }
    let fast = dshield(["log", "fsck", "--hashes-only", "--state", &shelf.state()]).printed();
    assert!(fast.contains("signatures were not checked"), "{fast}");
    let mut agent = shelf.start();
    assert_eq!(last_boot_found_it_closed(&agent.log()), Some(true));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn after_kill_9_under_traffic_nothing_is_wrong_and_the_next_boot_says_that_it_was_killed() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.busy(150).kill9();
    let report = shelf.whole();
    assert_eq!((&report["closed"], &report["checkpoint"]), (&json!(false), &Value::Null));
    assert_eq!(shelf.whole(), report, "to look is not to close");
    let mut agent = shelf.start();
    let log = agent.log();
    assert_eq!((log.verify(), last_boot_found_it_closed(&log)), (Ok(()), Some(false)));
    assert_eq!(agent.stop(), Some(0));
    assert_eq!(shelf.whole()["closed"], true);
}

#[test]
fn a_running_agents_log_is_left_alone() {
    let Some(shelf) = Shelf::make() else { return };
    let mut agent = shelf.start();
    let copy = shelf.path("copy");
    for command in [&["fsck"][..], &["prune", "--before", "1"], &["export", &copy.to_string_lossy()]] {
        let said = dshield(["log"].iter().chain(command).chain(&["--state", &shelf.state()]));
        said.failed_saying(&["in use by another process"]);
    }
    let nowhere = shelf.path("nowhere").to_string_lossy().into_owned();
    dshield(["log", "fsck", "--state", &nowhere]).failed_saying(&["cannot open", "log.redb", "not found"]);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn an_export_is_what_c2sp_says_and_verifies_as_folder_as_file_and_from_a_running_agent() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.filled(200);
    let into = shelf.export("copy");
    let lines = lines(&into);
    let size = lines.len() as u64;
    assert!(size > 300, "{size} entries fill no tile");
    let entries: Vec<String> =
        lines.iter().map(|line| SignedEntry::parse(line).expect("a signed line").entry).collect();
    let read = |path: String| fs::read(into.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));

    let mut files = vec!["checkpoint".to_owned(), "entries.ndjson".to_owned()];
    for bundle in bundles(size) {
        let bytes = read(bundle.to_string());
        let found = Bundle::decode(bundle, &bytes).expect("a bundle");
        let range = bundle.entries().expect("not beyond 2^64");
        let expected = &entries[usize::try_from(range.start).expect("few")..usize::try_from(range.end).expect("few")];
        assert!(found.iter().copied().eq(expected.iter().map(String::as_bytes)), "{bundle}");
        files.push(bundle.to_string());
    }
    let mut tree = Tree::new();
    let mut nodes = std::collections::HashMap::new();
    for entry in &entries {
        let leaf = leaf_hash(entry.as_bytes());
        nodes.insert((0, tree.size()), leaf);
        tree.append_with(leaf, |node, hash| {
            nodes.insert((node.level, node.index), *hash);
        });
    }
    for tile in tiles(size) {
        let hashes = Tile::decode(tile, &read(tile.to_string())).expect("a tile");
        for (node, hash) in tile.nodes().zip(&hashes) {
            assert_eq!(nodes.get(&(node.level, node.index)), Some(hash), "{tile}: {node:?}");
        }
        files.push(tile.to_string());
    }
    assert_eq!(all_files(&into), {
        files.sort();
        files
    });
    let note: Note = String::from_utf8(read("checkpoint".to_owned())).expect("text").parse().expect("a note");
    let checkpoint = Checkpoint::from_note(&note).expect("a checkpoint");
    assert_eq!((checkpoint.size(), checkpoint.root()), (size, tree.root()));

    for path in [into.clone(), into.join("entries.ndjson")] {
        let said = verify(&path, &[]).printed();
        assert!(said.contains(&format!("{size} entries, 0 to {}, of 1 boots", size - 1)), "{said}");
        assert!(
            said.contains(&tree.root().to_string()) && said.contains("NOT checked: whose keys these are"),
            "{said}"
        );
    }
    let checked: Value = serde_json::from_str(&verify(&into, &["--json"]).printed()).expect("JSON");
    assert_eq!((&checked["entries"], &checked["signatures"]), (&json!(size), &json!(true)));

    let mut agent = shelf.start();
    let url = format!("http://{}", agent.address());
    let closing = into.join("checkpoint").to_string_lossy().into_owned();
    let said = verify(&url, &["--checkpoint", &closing]).printed();
    assert!(said.contains(&format!("holds: {size} entries")) && said.contains("of 2 boots"), "{said}");
    assert!(said.contains("the agent's checkpoint holds") && said.contains("names"), "{said}");
    assert_eq!(agent.stop(), Some(0));
    dshield(["log", "export", &into.to_string_lossy(), "--state", &shelf.state()]).failed_saying(&["is not empty"]);
}

fn all_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("it was exported").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("below it").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_pruned_log_goes_on_is_whole_and_proves_what_was_removed() {
    let Some(shelf) = Shelf::make() else { return };
    shelf.filled(300);
    let all = lines(&shelf.export("all"));
    let before = all.len() as u64;
    assert!(before > 512, "{before} entries");
    let prune = |before: &str| dshield(["log", "prune", "--before", before, "--state", &shelf.state()]).printed();
    assert!(prune("300").contains("removed entries 0 to 255; the first that is kept is 256"));
    assert!(prune("511").contains("nothing to remove"));
    let report = shelf.whole();
    assert_eq!((&report["first"], &report["next"], &report["checkpoint"]), (&json!(256), &json!(before), &json!(true)));
    let copy = shelf.export("shortened");
    assert_eq!(lines(&copy)[..], all[256..]);
    let closing = fs::read_to_string(copy.join("checkpoint")).expect("it was exported");
    let said = verify(&copy, &[]).printed();
    assert!(said.contains(&format!("256 to {}", before - 1)) && said.contains("checkpoint holds"), "{said}");
    verify(copy.join("entries.ndjson"), &[]).failed_saying(&["begins with entry 256", "dshield log export"]);

    let mut agent = shelf.start();
    let gone = agent.get("/v1/log/entries?from=255");
    assert_eq!((gone.status, gone.text().contains("before number 256")), (410, true), "{}", gone.text());
    assert_eq!(agent.get("/v1/log/stream?from=0").status, 410);
    verify(format!("http://{}", agent.address()), &[]).failed_saying(&["before number 256", "`dshield log export`"]);
    assert_eq!(agent.get("/v1/log/entries?from=256&limit=1").text().trim_end(), all[256]);
    let boots = json_lines(&agent.get(&format!("/v1/log/entries?from={before}&kind=boot")).text());
    let keys: Vec<VerifierKey> = boots.iter().find_map(checkpoint_keys).expect("a boot entry lists them");
    for seq in [0, 17, 255, 256] {
        let receipt: Receipt = agent.get(&format!("/v1/log/proof/{seq}")).text().parse().expect("a receipt");
        let entry = SignedEntry::parse(&all[seq]).expect("a line").entry;
        let proved = receipt.verify(&leaf_hash(entry.as_bytes()), &keys);
        assert!(proved.is_ok_and(|checkpoint| checkpoint.size() > before), "entry {seq}");
    }
    let tile = agent.get("/v1/log/tlog/tile/0/000");
    assert_eq!((tile.status, tile.body.len()), (200, 8192));
    assert_eq!(agent.get("/v1/log/tlog/tile/entries/000").status, 410);
    assert_eq!(agent.call("native", &shelf.load(2, 50))["errors"], json!([]));
    assert_eq!(agent.stop(), Some(0));
    shelf.whole();
    let old = shelf.path("closing");
    fs::write(&old, closing).expect("the folder is ours");
    let said = verify(shelf.export("later"), &["--checkpoint", &old.to_string_lossy()]).printed();
    assert_eq!(said.matches(" holds: ").count(), 2, "{said}");
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

fn checkpoint_keys(line: &Value) -> Option<Vec<VerifierKey>> {
    let keys = line["entry"]["checkpoint_keys"].as_array()?;
    Some(keys.iter().map(|key| key.as_str().expect("text").parse().expect("a vkey")).collect())
}

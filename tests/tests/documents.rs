//! What the documents name exists: a promise whose test was renamed or removed would be held by nothing.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dshield_tests::workspace;

/// The pages that name tests.
const PAGES: [&str; 2] = ["SPECIFICATION.md", "docs/explanation/bypasses.md"];

#[test]
fn every_test_that_a_page_names_exists() {
    let tests = tests();
    let files: BTreeSet<_> = tests.iter().map(|(file, _)| file.as_str()).collect();
    assert!(tests.len() > 100, "{tests:?}");
    let mut missing = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(workspace().join(page)).expect("the page is there");
        for line in text.lines() {
            let mut file = "";
            // Every second part stands between backticks.
            for named in line.split('`').skip(1).step_by(2) {
                let (written, test) = named.split_once("::").unwrap_or((named, ""));
                file = if written == "…" { file } else { written };
                let is_path = named.contains('/') && [".rs", "/"].iter().any(|end| named.ends_with(end));
                let absent = if test.is_empty() {
                    is_path && !workspace().join(named).exists()
                } else {
                    let name = test.rsplit("::").next().unwrap_or_default();
                    // `security::name` says how tests are named.
                    name != "name" && files.contains(file) && !tests.contains(&(file.to_owned(), name.to_owned()))
                };
                if absent {
                    missing.push(format!("{page}: {file}::{test} ({named})"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Each test with the file or folder that it is in.
fn tests() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let folder = workspace().join("tests/tests");
    for entry in fs::read_dir(folder).expect("the tests are there").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        collect(&entry.path(), &name, &mut found);
    }
    collect(&workspace().join("tests/security"), "security", &mut found);
    found
}

fn collect(path: &Path, file: &str, found: &mut BTreeSet<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("it can be listed").flatten() {
            collect(&entry.path(), file, found);
        }
        return;
    }
    let text = fs::read_to_string(path).expect("source is text");
    let mut lines = text.lines().skip_while(|line| line.trim() != "#[test]");
    while let Some(line) = lines.next() {
        if line.trim() == "#[test]" {
            let function = lines.find_map(|line| line.trim().strip_prefix("fn ")).unwrap_or_default();
            let name = function.split('(').next().unwrap_or_default();
            found.insert((file.to_owned(), name.to_owned()));
        }
    }
}

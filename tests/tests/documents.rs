//! What the documents name exists, and what they give as an example works: a promise whose test was renamed or removed would
//! be held by nothing, and a reader copies what is there.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dshield_common::canonical::Sha256Digest;
use dshield_common::policy::Deployment;
use dshield_tests::workspace;
use dshield_verify::Outcome;
use dshield_verify::compose::{AppCompose, Expectations, lint};
use dshield_verify::expect::{Compose, Entries, Expect, Starts, TcbPolicy};
use serde_json::json;

/// The pages that name tests.
const PAGES: [&str; 3] = ["SPECIFICATION.md", "docs/explanation/bypasses.md", "docs/explanation/what-is-proven.md"];
/// Where tests are that the pages name by their file or folder.
const TESTS: [(&str, &str); 5] = [
    ("security", "tests/security"),
    ("verdicts", "dshield-verify/tests/verdicts"),
    ("records", "dshield-verify/tests/records"),
    ("vectors", "dshield-verify/tests/vectors.rs"),
    ("verification", "dshield-development/tests/verification.rs"),
];
const EXAMPLES: &str = "docs/how-to/dstack";

#[test]
fn every_test_that_a_page_names_exists() {
    let tests = tests();
    let files: BTreeSet<_> = tests.iter().map(|(file, _)| file.as_str()).collect();
    assert!(tests.len() > 100, "{tests:?}");
    let mut missing = Vec::new();
    for page in PAGES {
        let text = read(page);
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

#[test]
fn every_link_of_a_page_leads_to_a_page_and_a_heading_that_are_there() {
    let pages = pages();
    assert!(pages.len() > 20, "{pages:?}");
    let (mut links, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).expect("it is text");
        let prose = prose(&text);
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let beside = page.parent().expect("a file is in a folder");
            let there = if file.is_empty() { page.clone() } else { beside.join(file) };
            let has = |heading: &str| fs::read_to_string(&there).is_ok_and(|text| headings(&text).contains(heading));
            if !there.exists() || !(heading.is_empty() || has(heading)) {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(links > 50, "only {links} links were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// A verifier would refuse a deployment that was made from an example that the lint refuses.
#[test]
fn the_compose_file_of_the_example_passes_the_lint_and_holds_the_policy_beside_it() {
    let compose = read(&format!("{EXAMPLES}/docker-compose.yaml"));
    let policy = read(&format!("{EXAMPLES}/dshield.toml"));
    let indented: String =
        policy.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("      {line}\n") }).collect();
    assert!(compose.ends_with(&format!("    content: |\n{indented}")), "the policy in it is another one");
    Deployment::parse(&policy, &mut |_| Err(String::new())).expect("the example is a policy");

    let app = json!({
        "manifest_version": 2,
        "name": "dshield",
        "runner": "docker-compose",
        "docker_compose_file": compose,
        "kms_enabled": true,
        "gateway_enabled": true,
        "public_logs": false,
        "public_sysinfo": false,
        "allowed_envs": ["ANTHROPIC_API_KEY"],
        "no_instance_id": false,
        "secure_time": true,
    })
    .to_string();
    let app = AppCompose::parse(&app, &Sha256Digest::of(app.as_bytes())).expect("dstack would take it");
    let (_, digest) = compose.split_once("@sha256:").expect("the image is pinned");
    let dshield_image = digest.lines().next().and_then(dshield_common::hex::decode_array::<32>).map(Sha256Digest::from);
    assert!(dshield_image.is_some(), "the digest is none: {digest}");
    let found = lint(&app, &Expectations { dshield_image, ..Expectations::default() });
    assert_eq!(found.findings, []);
    assert_eq!(found.dshield.map(|shield| shield.service).as_deref(), Some("dshield"));
    // The one note says how D-Shield is started.
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
}

#[test]
fn the_expectations_of_the_example_are_understood_and_leave_out_nothing() {
    let page = read("docs/reference/expect-toml.md");
    let (_, text) = page.split_once("```toml\n").expect("the page has an example");
    let (text, _) = text.split_once("```").expect("the example ends");
    let mut read_file = |name: &str| match name {
        "release.json" => {
            let hashes =
                ["agent", "ebpf_cgroup", "ebpf_lsm", "ebpf_netns", "seccomp"].map(|name| (name, "0".repeat(64)));
            Ok(json!(BTreeMap::from(hashes)).to_string().into_bytes())
        }
        "dshield.toml" => Ok(read(&format!("{EXAMPLES}/dshield.toml")).into_bytes()),
        "witnesses.policy" => Ok(b"quorum none\n".to_vec()),
        _ => Err("there is none in the example".to_owned()),
    };
    let expect = Expect::parse(text, &mut read_file).unwrap_or_else(|error| panic!("{error}"));
    let Expect { machines, tcb, compose, releases, policy, functions, log, tpm_keys, tpm_pcrs, .. } = expect;
    assert!(machines.iter().all(|machine| machine.name.is_some()));
    assert_eq!(machines.iter().map(|machine| machine.starts).collect::<Vec<_>>(), [Starts::Compose, Starts::Dshield]);
    let TcbPolicy { statuses, grace_days, min_evaluation_number, reject_advisories, .. } = tcb;
    assert!(!statuses.is_empty() && grace_days > 0 && min_evaluation_number > 0 && !reject_advisories.is_empty());
    let Compose { sha256, image_digest, .. } = compose;
    assert!(!sha256.is_empty() && image_digest.is_some());
    assert!(releases.len() == 2, "by its manifest and written out: {releases:?}");
    assert!(policy.sha256.len() == 2 && policy.canonical.is_some(), "by hash and by file: {policy:?}");
    assert!(functions.contains_key("summarize") && !tpm_keys.is_empty() && !tpm_pcrs.is_empty());
    assert!(log.origin.is_some() && log.entries == Entries::All && log.witnesses.is_some());
}

#[test]
fn the_page_of_exit_codes_has_those_of_a_verdict() {
    let page = read("docs/reference/exit-codes.md");
    let outcomes =
        [Outcome::Verified, Outcome::Attestation, Outcome::Policy, Outcome::Log, Outcome::Stale, Outcome::NotChecked];
    for outcome in outcomes {
        let code = outcome.exit_code();
        assert!(page.lines().any(|line| line.starts_with(&format!("| {code} |"))), "{outcome:?} is {code}");
    }
}

fn read(page: &str) -> String {
    fs::read_to_string(workspace().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Each page of the documentation.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<_> =
        ["README.md", "SPECIFICATION.md", "CONTRIBUTING.md"].map(|page| workspace().join(page)).into();
    let mut folders = vec![workspace().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|end| end == "md") => pages.push(path),
                _ => {}
            }
        }
    }
    pages
}

/// The lines of a page that are no code.
fn outside_code(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !fence && !inside
    })
}

/// A page without code, in blocks or between backticks, which is no link whatever it looks like.
fn prose(text: &str) -> String {
    outside_code(text).map(|line| line.split('`').step_by(2).collect::<String>() + "\n").collect()
}

/// The anchors of a page's headings, as GitHub makes them: lower case, blanks to hyphens, letters, digits and hyphens kept.
fn headings(text: &str) -> BTreeSet<String> {
    let of_anchor = |one: &char| one.is_alphanumeric() || matches!(one, '-' | '_' | ' ');
    let titles = outside_code(text).filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    titles.map(|title| title.to_lowercase().chars().filter(of_anchor).collect::<String>().replace(' ', "-")).collect()
}

/// Each test with the file or folder that it is in.
fn tests() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let folder = workspace().join("tests/tests");
    for entry in fs::read_dir(folder).expect("the tests are there").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        collect(&entry.path(), &name, &mut found);
    }
    for (name, path) in TESTS {
        collect(&workspace().join(path), name, &mut found);
    }
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

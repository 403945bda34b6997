//! What a machine was told to run, as anybody may have written it: an `app-compose.json`, or the compose file in one.
use dshield_common::canonical::Sha256Digest;
use dshield_verify::compose::{AppCompose, Expectations, Findings, lint};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "services:\n",
    "volumes:\n",
    "  web:\n",
    "    image: a@sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\n",
    "    privileged: true\n",
    "    privileged: false\n",
    "    volumes:\n",
    "      - /run:/x\n",
    "      - data:/var/lib/dshield\n",
    "    network_mode: host\n",
    "    cap_add: [ALL]\n",
    "    x-a: |\n",
    "x-a:\n",
    "<<: ",
    "&a ",
    "*a",
    "!!str ",
    "? ",
    "---\n",
    "...\n",
    "${A:-b}",
    "\"\\x70\"",
    "\t",
    "\u{85}",
    "\u{2028}",
    "\r",
    " #",
    "|2\n",
    ">-\n",
    "{ a: b }",
    "\"pre_launch_script\":\"a\",",
    "\"docker_compose_file\":\"services:\\n\",",
];

/// The digest of D-Shield's image in the corpus.
const DSHIELD: [u8; 32] = [0xdd; 32];
/// The digest of no image there.
const NOBODY: [u8; 32] = [0x99; 32];

/// Where nothing is found, that is so because of who is D-Shield: a machine without it does not pass, and a comment changes
/// nothing.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(app) = read(text) {
        judged(&app, NOBODY);
    }
    let Some(app) = read(&manifest(text)) else { return };
    let Findings { dshield, findings, .. } = judged(&app, DSHIELD);
    if !findings.is_empty() {
        return;
    }
    let dshield = dshield.expect("it passes, so somebody is D-Shield");
    assert_eq!(dshield.digest, DSHIELD.into());
    assert!(text.contains(&dshield.image), "an image that the text does not have");
    assert!(!judged(&app, NOBODY).findings.is_empty(), "a machine without D-Shield passes");
    let commented = read(&manifest(&format!("{text}\n# privileged: true\n"))).expect("it is as long as before");
    assert_eq!(judged(&commented, DSHIELD).findings, [], "a comment is found");
}

/// What is found in a compose file whose D-Shield is that of the corpus.
#[must_use]
pub fn judged_text(compose: &str) -> Option<Findings> {
    read(&manifest(compose)).map(|app| judged(&app, DSHIELD))
}

fn manifest(compose: &str) -> String {
    serde_json::json!({ "runner": "docker-compose", "docker_compose_file": compose, "allowed_envs": ["A"] }).to_string()
}

fn read(text: &str) -> Option<AppCompose> {
    AppCompose::parse(text, &Sha256Digest::of(text.as_bytes())).ok()
}

fn judged(app: &AppCompose, digest: [u8; 32]) -> Findings {
    lint(app, &Expectations { dshield_image: Some(digest.into()), compose_hash_approved: true })
}

//! Cases for the test of the browser's verifier: a folder's name flows in, and flows out full of requests, each with the
//! verdict that the judge gives here.
//!
//! Made anew at each run, under keys of its own: whatever the formats become, the cases follow.
#![allow(clippy::unwrap_used, reason = "part of a test")]
#![allow(dead_code, reason = "the scene is shared with the tests of the verdict, which use more of it")]
use std::fs;
use std::path::PathBuf;

use dshield_common::attestation::{Evidence, Provider};
use dshield_common::hex;
use dshield_verify::expect::Expect;
use dshield_verify::quote::Root;
use dshield_verify::{Channel, Options, Presented, judge};
use serde_json::{Value, json};

use self::scene::{NONCE, NOW, SPKI, Scene};

#[path = "../../tests/verdicts/scene.rs"]
mod scene;

/// How a case differs from the deployment that holds in every respect.
struct Case {
    name: &'static str,
    evidence: Evidence,
    expect: String,
    nonce: [u8; 32],
    channel: (Value, Channel),
    now: u64,
    insecure_development: bool,
}

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("usage: browser-fixture FOLDER"));
    fs::create_dir_all(&folder).unwrap();
    for case in cases() {
        let Case { name, evidence, expect, nonce, channel: (channel, over), now, insecure_development } = case;
        let evidence = evidence.to_json();
        let request = json!({
            "evidence": evidence, "expect": expect, "nonce": hex::encode(&nonce), "now": now, "channel": channel,
            "insecure_development": insecure_development,
        });
        // Not through the module's own reading of the request: that is to be tested too.
        let presented = Presented {
            evidence: &evidence,
            nonce: Some(dshield_common::attestation::Nonce::new(nonce)),
            channel: over,
        };
        let options = Options { now, root: Root::Intel, insecure_development, insecure_any_measurement: false };
        let expect = Expect::parse(&expect, &mut |_| Err("no files".to_owned())).unwrap();
        let verdict = judge(&presented, &expect, &options).verdict;
        fs::write(folder.join(format!("{name}.request.json")), request.to_string()).unwrap();
        fs::write(folder.join(format!("{name}.verdict.json")), serde_json::to_string(&verdict).unwrap()).unwrap();
    }
}

fn cases() -> Vec<Case> {
    let mut scene = Scene::new();
    // Intel is the only root that a browser's verifier knows; for development it takes any, and says so.
    scene.provider = Provider::Development;
    scene.options.root = Root::Intel;
    scene.options.insecure_development = true;
    let expect = scene.judge().saw.expect("whatever is attested can be expected");
    let evidence = scene.evidence();
    let holds = |name| Case {
        name,
        evidence: evidence.clone(),
        expect: expect.clone(),
        nonce: NONCE,
        channel: (json!({ "tls_spki_sha256": hex::encode(&SPKI) }), Channel::Tls { spki_sha256: SPKI }),
        now: NOW,
        insecure_development: true,
    };
    let mut flipped = evidence.clone();
    let mut quote = hex::decode(flipped.quote.as_ref().unwrap()).unwrap();
    // In the report data: the signature covers it.
    quote[570] ^= 1;
    flipped.quote = Some(hex::encode(&quote));
    let mut other_policy = evidence.clone();
    other_policy.policy = scene::policy("evil.com");
    vec![
        holds("holds"),
        Case { channel: (json!("file"), Channel::File), ..holds("file") },
        Case { channel: (json!("plain"), Channel::Plain), ..holds("plain") },
        Case { evidence: flipped, ..holds("flipped") },
        Case { evidence: other_policy, ..holds("other-policy") },
        Case { nonce: [8; 32], ..holds("replayed") },
        Case {
            channel: (json!({ "tls_spki_sha256": "01".repeat(32) }), Channel::Tls { spki_sha256: [1; 32] }),
            ..holds("other-key")
        },
        Case { expect: String::new(), ..holds("nothing-expected") },
        Case { insecure_development: false, ..holds("development") },
        // Ten years on.
        Case { now: NOW + 315_360_000, ..holds("expired") },
    ]
}

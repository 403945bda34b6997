//! How long a verdict without network takes, and how large its evidence is.
//!
//! `cargo run --release -p dshield-verify --example verdict`
#![allow(clippy::unwrap_used, reason = "an example that fails says where")]
use std::time::Instant;

#[allow(dead_code, reason = "the tests' own, of which this needs little")]
#[path = "../tests/verdicts/scene.rs"]
mod scene;

/// How often it is judged.
const ROUNDS: usize = 500;

fn main() {
    let scene = scene::Scene::new();
    let evidence = scene.evidence();
    println!("evidence: {} bytes", evidence.to_json().len());
    let mut took: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            let verdict = scene.judged(&evidence).verdict;
            assert_eq!(verdict.outcome, dshield_verify::Outcome::Verified);
            started.elapsed()
        })
        .collect();
    took.sort_unstable();
    let at = |part: usize| took[ROUNDS * part / 100].as_secs_f64() * 1000.0;
    println!("a verdict: p50 {:.1} ms, p99 {:.1} ms, of {ROUNDS}", at(50), at(99));
}

//! Every target on stable: the inputs that are kept, then others made from them, for a few seconds.
//!
//! `DSHIELD_FUZZ_SECONDS` is how long each target's mutations run (5 unless said otherwise), `DSHIELD_FUZZ_SEED`
//! where they start, `DSHIELD_FUZZ_TARGET` the only target to run. An input that fails is written below
//! `fuzz/artifacts/`; when its cause is mended it moves to `fuzz/corpus/`.
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::slice::Iter;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dshield_agent::proxy::fuzz;
use dshield_common::attestation::Statement;
use dshield_common::hex;
use dshield_common::tlog::{Checkpoint, Note, Receipt, TrustPolicy};
use dshield_fuzz::mutate::Mutator;
use dshield_fuzz::{TARGETS, Target, app_compose, deployment, dns, event_log, evidence, expect};
use dshield_verify::Outcome;
use dshield_verify::log::{Expectations, verify_lines};
use dshield_verify::quote::VerifiedQuote;

/// No input of a few kilobytes may take this long, on the slowest machine.
const LONGEST: Duration = Duration::from_secs(10);

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target.name)
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder("corpus", target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("the folder can be read").path()).collect();
    // The order of a folder differs from machine to machine.
    paths.sort();
    assert!(paths.len() > 1, "{} has no corpus", target.name);
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes)).expect("the file can be read");
    paths.into_iter().map(read).collect()
}

/// Runs the target on `input`; keeps the input when that fails.
fn check(target: &Target, input: &[u8]) {
    let started = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    let late = started.elapsed() > LONGEST;
    if done.is_ok() && !late {
        return;
    }
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = folder("artifacts", target);
    let file = folder.join(format!("{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input)).expect("the folder can be written");
    eprintln!("{}: this input failed, and is kept as {}: {}", target.name, file.display(), input.escape_ascii());
    assert!(!late, "{}: an input took {:?}", target.name, started.elapsed());
    if let Err(panic) = done {
        resume_unwind(panic);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a whole number"))
}

#[test]
fn every_input_that_is_kept_holds() {
    for target in TARGETS {
        for (_, input) in corpus(target) {
            check(target, &input);
        }
    }
}

#[test]
fn inputs_made_from_those_hold() {
    let seconds = Duration::from_secs(number("DSHIELD_FUZZ_SECONDS", 5));
    let seed = number("DSHIELD_FUZZ_SEED", 1);
    let only = std::env::var("DSHIELD_FUZZ_TARGET").ok();
    let chosen: Vec<Target> =
        TARGETS.iter().copied().filter(|target| only.as_deref().is_none_or(|only| target.name == only)).collect();
    assert!(!chosen.is_empty(), "there is no target {only:?}");
    let left = Mutex::new(chosen.iter());
    // Each has a processor to itself, so that its seconds are its own.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = next(&left) {
                    let count = run(target, seed, seconds);
                    eprintln!("{}: {count} inputs from seed {seed}", target.name);
                }
            });
        }
    });
}

fn next<'t>(left: &Mutex<Iter<'t, Target>>) -> Option<&'t Target> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Checks inputs made from the corpus until the time is over: how many.
fn run(target: &Target, seed: u64, seconds: Duration) -> u64 {
    let inputs: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(seed, target.words);
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < seconds {
        check(target, &mutator.next(&inputs));
        count += 1;
    }
    count
}

/// A target that never gets past its parser's first refusal would hold whatever the parser did.
#[test]
fn the_good_inputs_are_understood() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it needs nothing");
    let three = include_bytes!("../corpus/framing/three");
    let given = runtime.block_on(async { fuzz::given_on(three, 3) });
    assert_eq!(given.escape_ascii().to_string(), three.escape_ascii().to_string());
    let hello = runtime.block_on(fuzz::client_hello(include_bytes!("../corpus/client_hello/tls13"), 3));
    let (name, encrypted) = hello.expect("a hello");
    assert_eq!((name.map(|name| name.to_string()).as_deref(), encrypted), (Some("a.example"), false));
    let text = |bytes: &'static [u8]| std::str::from_utf8(bytes).expect("text");
    let note: Note = text(include_bytes!("../corpus/note/checkpoint1")).parse().expect("a note");
    assert!(Checkpoint::from_note(&note).is_ok_and(|checkpoint| checkpoint.size() == 8));
    let receipt: Receipt = text(include_bytes!("../corpus/receipt/last1")).parse().expect("a receipt");
    assert_eq!(receipt.proof().len(), 3);
    let policy = TrustPolicy::parse(include_bytes!("../corpus/trust_policy/example")).expect("a policy");
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (1, 3));
    let lines = text(include_bytes!("../corpus/log/two-boots")).lines();
    assert!(verify_lines(lines, Expectations::default()).is_ok_and(|summary| summary.boots == 2));
    for log in [include_str!("../corpus/event_log/version1"), include_str!("../corpus/event_log/version2")] {
        let replayed = event_log::replayed_where_measured(log).expect("a log of dstack");
        assert_eq!(replayed.identity.compose_hash.as_bytes(), &[0xc0; 32]);
    }
    let found = app_compose::judged_text(include_str!("../corpus/app_compose/good")).expect("a compose file");
    assert!(found.findings.is_empty() && found.dshield.is_some_and(|shield| shield.service == "dshield"));
    let known = deployment::deployment();
    let quote = hex::encode(include_bytes!("../corpus/quote/good"));
    let collateral = known.evidence.collateral.as_ref().expect("collateral");
    assert!(VerifiedQuote::verify(&quote, collateral, &known.options.root, deployment::NOW).is_ok());
    assert!(Statement::parse(include_str!("../corpus/statement/good")).is_ok());
    for document in [include_str!("../corpus/evidence/good"), include_str!("../corpus/evidence/tcb")] {
        assert_eq!(evidence::judged(document).outcome, Outcome::Verified);
    }
    assert!(expect::verified(include_str!("../corpus/expect/good")));
    assert!(expect::verified(include_str!("../corpus/expect/all")));
    let reply = dns::answer(include_bytes!("../corpus/dns/a")).expect("a reply");
    assert_eq!(reply.answers.len(), 1);
}

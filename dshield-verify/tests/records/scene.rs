//! A log that holds in every respect, and a verifier that asks a deployment for it; to break in one.
use dshield_common::attestation::statement::{self, Agent, Ebpf, Isolation, Statement};
use dshield_common::tlog::{Hash, TrustPolicy};
use dshield_verify::Outcome;
use dshield_verify::expect::{self, Entries};
use dshield_verify::record::{Record, Seen};
use dshield_verify::verdict::{FORMAT, StepId, StepResult, Verdict};

use crate::log::{Keys, ORIGIN, TestLog, cosigned, witness_key};

/// How many entries the statement names, what this verifier saw before, what witnesses saw, and the checkpoint.
pub const ATTESTED: u64 = 9;
pub const SEEN: u64 = 5;
pub const WITNESSED: u64 = 10;
pub const SIZE: u64 = 13;
/// The boot entry of the boot that made the statement.
pub const BOOT: u64 = 4;

/// One entry that a sample asked for, and what came.
#[derive(Clone)]
pub struct Shown {
    pub seq: u64,
    pub line: String,
    pub receipt: String,
    pub proof: Vec<Hash>,
}

/// What a deployment answers; each can be a lie.
#[derive(Clone)]
pub struct Scene {
    pub log: TestLog,
    pub statement: Statement,
    pub expect: expect::Log,
    pub seen: Option<Seen>,
    pub note: String,
    pub proof: Vec<Hash>,
    pub history: Vec<Hash>,
    pub lines: Vec<String>,
    pub shown: Vec<Shown>,
    /// The first entry that was not removed.
    pub kept_from: u64,
    pub witnessed: String,
    pub witnessed_proof: Vec<Hash>,
}

impl Scene {
    pub fn new(entries: Entries) -> Self {
        Self::of(TestLog::new(), entries)
    }

    /// All answers as `log` gives them.
    pub fn of(log: TestLog, entries: Entries) -> Self {
        let statement = statement(&log, ATTESTED);
        let policy = format!(
            "witness W1 {}\nwitness W2 {}\ngroup both all W1 W2\nquorum both\n",
            witness_key(1),
            witness_key(2)
        );
        let expect = expect::Log {
            origin: Some(ORIGIN.to_owned()),
            entries,
            witnesses: Some(TrustPolicy::parse(policy.as_bytes()).unwrap()),
        };
        Self {
            seen: Some(Seen { origin: ORIGIN.to_owned(), size: SEEN, root: log.root(SEEN).to_hex() }),
            note: log.note(SIZE).to_string(),
            proof: log.consistency(ATTESTED, SIZE),
            history: log.consistency(SEEN, SIZE),
            lines: log.lines(SIZE),
            shown: [1, BOOT, 7, SIZE - 1].map(|seq| shown(&log, seq, SIZE)).to_vec(),
            kept_from: 0,
            witnessed: cosigned(log.note(WITNESSED), &[1, 2]).to_string(),
            witnessed_proof: log.consistency(WITNESSED, SIZE),
            log,
            statement,
            expect,
        }
    }

    /// Looks, as whoever fetches does.
    pub fn look(&self) -> (Verdict, Option<Seen>) {
        let mut record = match Record::new(&self.statement, &self.expect) {
            Ok(record) => record,
            Err(step) => return (verdict(vec![step]), None),
        };
        if record.checkpoint(&self.note, &self.proof) {
            record.history(self.seen.as_ref(), &self.history);
            match record.wanted() {
                Entries::All => {
                    let mut whole = record.whole();
                    let _ = self.lines.iter().all(|line| whole.push(line));
                    record.checked_whole(whole);
                }
                Entries::Sample => {
                    let mut sample = record.sample();
                    for Shown { seq, line, receipt, proof } in &self.shown {
                        record.check_one(&mut sample, *seq, line, receipt, proof);
                    }
                    sample.kept_from(self.kept_from);
                    record.checked_sample(sample);
                }
                Entries::None => record.entries_skipped("nobody wanted to"),
            }
            record.witnessed(&self.witnessed, &self.witnessed_proof);
        }
        let seen = record.seen();
        (verdict(record.into_steps()), seen)
    }

    pub fn verdict(&self) -> Verdict {
        self.look().0
    }

    /// That it fails at `step`, at no other, with this code and sentence, and that nothing is remembered of it.
    pub fn fails_only(&self, step: StepId, code: u8, says: &str) {
        let (verdict, seen) = self.look();
        let failed: Vec<_> = verdict.steps.iter().filter(|step| step.result == StepResult::Fail).collect();
        let names: Vec<_> = failed.iter().map(|step| (step.step, step.says.as_str())).collect();
        assert_eq!(failed.iter().map(|step| step.step).collect::<Vec<_>>(), [step], "{names:?}");
        assert!(failed[0].says.contains(says), "{:?} does not say {says:?}", failed[0].says);
        assert_eq!(verdict.outcome.exit_code(), code);
        assert_eq!(seen, None);
    }

    pub fn holds(&self) {
        let (verdict, seen) = self.look();
        let wrong: Vec<_> = verdict.steps.iter().filter(|step| step.result != StepResult::Pass).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(verdict.outcome, Outcome::Verified);
        assert!(seen.is_some());
    }
}

/// An entry as `log` shows it while it has `size` entries, for whoever accepted the checkpoint over [`SIZE`].
pub fn shown(log: &TestLog, seq: u64, size: u64) -> Shown {
    let proof = if size == SIZE { Vec::new() } else { log.consistency(size.min(SIZE), size.max(SIZE)) };
    Shown { seq, line: log.line(seq), receipt: log.receipt(seq, size), proof }
}

/// What the present boot of `log` says of itself while it has `size` entries.
pub fn statement(log: &TestLog, size: u64) -> Statement {
    let sha256 = || "a".repeat(64);
    Statement {
        kind: statement::TYPE.to_owned(),
        nonce: None,
        boot_id: log.boot_id.clone(),
        agent: Agent { version: "0".to_owned(), sha256: sha256() },
        ebpf: Ebpf { objects: Vec::new(), programs: Vec::new() },
        policy_sha256: sha256(),
        functions: Vec::new(),
        isolation: Isolation {
            netns: "sealed".to_owned(),
            seccomp_sha256: sha256(),
            landlock_abi: 6,
            lsm_bpf: true,
            cgroup_controllers: Vec::new(),
        },
        log: statement_log(&log.keys, size, log.root(size)),
        tls_spki_sha256: None,
    }
}

pub fn statement_log(keys: &Keys, size: u64, root: Hash) -> statement::Log {
    let [ecdsa_p256, ed25519] = keys.verifiers(ORIGIN).map(|key| key.to_string());
    statement::Log { origin: ORIGIN.to_owned(), ecdsa_p256, ed25519, size, root: root.to_hex() }
}

pub fn verdict(steps: Vec<dshield_verify::verdict::Step>) -> Verdict {
    let mut verdict = Verdict {
        format: FORMAT.to_owned(),
        outcome: Outcome::NotChecked,
        development: false,
        at: 0,
        steps: Vec::new(),
        destinations: Vec::new(),
        saw: None,
    };
    verdict.extend(steps);
    verdict
}

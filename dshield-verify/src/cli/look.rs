//! Looks at a deployment or a file, in the order of the steps: questions go out, a verdict comes back.
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use dshield_common::attestation::{Evidence, Nonce, Statement};
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::{Checkpoint, Hash, Note};

use super::deployment::{AskError, Deployment};
use super::memory::{Memory, MemoryError};
use crate::expect::{Entries, Expect};
use crate::judge::{Channel, Options, Presented, judge};
use crate::record::{Record, Seen};
use crate::verdict::{Step, StepId, StepResult, Verdict};

/// Entries at the end of the log that a sample looks at, and entries elsewhere.
const LAST: u64 = 16;
const ELSEWHERE: u64 = 16;

/// What to look at, and how.
#[derive(Debug)]
pub(super) struct Look {
    /// A URL, or a file with evidence.
    pub(super) subject: String,
    pub(super) expect: Expect,
    pub(super) options: Options,
    /// The moment to judge for besides the present one.
    pub(super) at: Option<u64>,
    /// Of evidence in a file: what it was asked for with.
    pub(super) nonce: Option<Nonce>,
    /// Of evidence in a file: the log, as `dshield log export` made it, or its lines.
    pub(super) log: Option<PathBuf>,
    /// Where what was seen is remembered; nowhere, where nothing is to be.
    pub(super) memory: Option<Memory>,
    /// Where collateral is fetched that the evidence lacks.
    pub(super) pccs: Option<String>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) verdict: Verdict,
    /// For the moment that was asked for besides the present one.
    pub(super) then: Option<Verdict>,
    /// The evidence, as it was judged.
    pub(super) evidence: String,
    /// What it was asked for with.
    pub(super) nonce: Option<Nonce>,
    /// The log's head as the deployment showed it; none where the log was not asked for.
    pub(super) checkpoint: Option<String>,
}

/// Why nothing could be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LookError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("no randomness for a nonce: {0}")]
    Random(String),
}

impl Look {
    /// Looks.
    pub(super) async fn run(self) -> Result<Found, LookError> {
        if crate::client::is_url(&self.subject) { self.at_deployment().await } else { self.at_file().await }
    }

    async fn at_deployment(self) -> Result<Found, LookError> {
        let deployment = Deployment::new(&self.subject)?;
        let seen = match &self.memory {
            Some(memory) => memory.recall(&self.subject)?,
            None => None,
        };
        let nonce = fresh()?;
        let (evidence, channel) = deployment.evidence(nonce).await?;
        let evidence = self.completed(evidence).await;
        let presented = Presented { evidence: &evidence, nonce: Some(nonce), channel };
        let (mut found, statement) = self.judged(&presented);
        if let Some(statement) = &statement {
            let (steps, now_seen) = self.record(&deployment, statement, seen.as_ref(), &mut found.checkpoint).await;
            if let Some(then) = &mut found.then {
                then.extend(steps.clone());
            }
            found.verdict.extend(steps);
            // Of a deployment that failed, anybody may have made the log: remembered, it would make the real one look rewritten.
            let failed = found.verdict.steps.iter().any(|step| step.result == StepResult::Fail);
            if let (Some(memory), Some(seen), false) = (&self.memory, now_seen, failed) {
                memory.keep(&self.subject, seen, self.options.now)?;
            }
        }
        Ok(Found { evidence, ..found })
    }

    async fn at_file(self) -> Result<Found, LookError> {
        let path = PathBuf::from(&self.subject);
        let evidence = fs::read_to_string(&path).map_err(|source| LookError::File { path, source })?;
        let evidence = self.completed(evidence).await;
        self.in_hand(evidence)
    }

    /// The verdict on evidence that came over no connection. Asks nobody.
    pub(super) fn in_hand(&self, evidence: String) -> Result<Found, LookError> {
        let presented = Presented { evidence: &evidence, nonce: self.nonce, channel: Channel::File };
        let (mut found, statement) = self.judged(&presented);
        if let Some(statement) = &statement {
            let mut steps = match &self.log {
                Some(log) => self.record_in_file(statement, log)?,
                None => vec![Step::skipped(StepId::Entries, "nobody gave the log (--log), so nothing is known of it")],
            };
            let says = "only a deployment that is asked shows its log's head, so that it can be compared";
            for id in [StepId::Checkpoint, StepId::History, StepId::Witnesses] {
                if !steps.iter().any(|step| step.step == id) {
                    steps.push(Step::skipped(id, says));
                }
            }
            steps.sort_by_key(|step| step.step);
            if let Some(then) = &mut found.then {
                then.extend(steps.clone());
            }
            found.verdict.extend(steps);
        }
        Ok(Found { evidence, ..found })
    }

    fn judged(&self, presented: &Presented<'_>) -> (Found, Option<Statement>) {
        let judged = judge(presented, &self.expect, &self.options);
        let then = self.at.map(|at| judge(presented, &self.expect, &Options { now: at, ..self.options.clone() }));
        let statement = judged.statement.or_else(|| then.as_ref().and_then(|then| then.statement.clone()));
        let then = then.map(|then| then.verdict);
        let found =
            Found { verdict: judged.verdict, then, evidence: String::new(), nonce: presented.nonce, checkpoint: None };
        (found, statement)
    }

    /// With collateral, where there was none and somebody can be asked for it.
    async fn completed(&self, evidence: String) -> String {
        let Some(pccs) = &self.pccs else { return evidence };
        let Ok(mut parsed) = Evidence::parse(&evidence) else { return evidence };
        let Some(quote) = parsed.quote.as_ref().filter(|_| parsed.collateral.is_none()) else { return evidence };
        match super::collateral::fetch(pccs, quote).await {
            Ok(collateral) => {
                parsed.collateral = Some(collateral);
                parsed.to_json()
            }
            Err(error) => {
                eprintln!("dshield-verify: no collateral from {pccs}: {error}");
                evidence
            }
        }
    }

    /// The steps about a log that can be asked, and what to remember of it.
    async fn record(
        &self,
        deployment: &Deployment,
        statement: &Statement,
        seen: Option<&Seen>,
        checkpoint: &mut Option<String>,
    ) -> (Vec<Step>, Option<Seen>) {
        let mut record = match Record::new(statement, &self.expect.log) {
            Ok(record) => record,
            Err(step) => return (vec![step], None),
        };
        if let Err(error) = ask(&mut record, deployment, statement, seen, checkpoint).await {
            record.unreachable(&format!("the log could not be looked at: {error}"));
            return (record.into_steps(), None);
        }
        let seen = record.seen();
        (record.into_steps(), seen)
    }

    /// The steps about a log that lies in a file or folder.
    fn record_in_file(&self, statement: &Statement, log: &Path) -> Result<Vec<Step>, LookError> {
        let mut record = match Record::new(statement, &self.expect.log) {
            Ok(record) => record,
            Err(step) => return Ok(vec![step]),
        };
        let lines = if log.is_dir() { log.join("entries.ndjson") } else { log.to_owned() };
        let unreadable = |source| LookError::File { path: lines.clone(), source };
        let mut whole = record.whole();
        for line in BufReader::new(fs::File::open(&lines).map_err(unreadable)?).lines() {
            if !whole.push(&line.map_err(unreadable)?) {
                break;
            }
        }
        record.checked_whole(whole);
        Ok(record.into_steps())
    }
}

async fn ask(
    record: &mut Record<'_>,
    deployment: &Deployment,
    statement: &Statement,
    seen: Option<&Seen>,
    checkpoint: &mut Option<String>,
) -> Result<(), AskError> {
    let note = &*checkpoint.insert(deployment.checkpoint().await?);
    let size = size_of(note);
    let attested = record.attested_size();
    let proof = if attested < size { deployment.consistency(attested, size).await? } else { Vec::new() };
    if !record.checkpoint(note, &proof) {
        return Ok(());
    }
    let known = seen.filter(|seen| seen.origin == statement.log.origin && seen.size < size && seen.size > 0);
    let proof = match known {
        Some(seen) => deployment.consistency(seen.size, size).await?,
        None => Vec::new(),
    };
    record.history(seen, &proof);
    match record.wanted() {
        Entries::None => record
            .entries_skipped("entries were not looked at (log.entries = \"none\"): the signed head stands for them"),
        Entries::All => {
            let mut whole = record.whole();
            let mut next = 0;
            'pages: while next < size {
                let page = deployment.entries(next, None).await?;
                let before = next;
                for line in page.lines().take((size - next) as usize) {
                    next += 1;
                    if !whole.push(line) {
                        break 'pages;
                    }
                }
                if next == before {
                    break;
                }
            }
            record.checked_whole(whole);
        }
        Entries::Sample => {
            let mut sample = record.sample();
            let first = deployment.first().await?.min(size);
            sample.kept_from(first);
            let mut chosen = chosen(first, size);
            // The boot that made the statement: its entry lists the keys that were quoted.
            chosen.extend(boot_entry(deployment, &statement.boot_id, first).await?);
            chosen.sort_unstable();
            chosen.dedup();
            for seq in chosen {
                let line = deployment.entries(seq, Some(1)).await?;
                let receipt = deployment.receipt(seq).await?;
                let proof = tie(record, deployment, &receipt).await?;
                record.check_one(&mut sample, seq, line.lines().next().unwrap_or_default(), &receipt, &proof);
            }
            record.checked_sample(sample);
        }
    }
    let witnessed = deployment.witnessed().await?;
    let proof = tie(record, deployment, &witnessed).await?;
    record.witnessed(&witnessed, &proof);
    Ok(())
}

/// The proof that ties a receipt or a checkpoint to the accepted checkpoint.
async fn tie(record: &Record<'_>, deployment: &Deployment, answer: &str) -> Result<Vec<Hash>, AskError> {
    match record.proof_wanted(answer) {
        Some((old, new)) => deployment.consistency(old, new).await,
        None => Ok(Vec::new()),
    }
}

/// What a checkpoint says that it covers; whether that is true is for the judge.
fn size_of(note: &str) -> u64 {
    let note = note.parse::<Note>().ok();
    note.and_then(|note| Checkpoint::from_note(&note).ok()).map_or(0, |checkpoint| checkpoint.size())
}

/// Numbers to look at among the entries from `first` to `size`: the last ones, and some that nobody could know beforehand.
fn chosen(first: u64, size: u64) -> Vec<u64> {
    let mut chosen: Vec<u64> = (size.saturating_sub(LAST).max(first)..size).collect();
    let mut bytes = [0; 8 * ELSEWHERE as usize];
    // Without randomness the last entries have to do.
    if size > first && ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).is_ok() {
        let numbers = bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes));
        chosen.extend(numbers.map(|number| first + number % (size - first)));
    }
    chosen
}

/// Where the deployment says that the entry of the boot `id` is, among those from `first` on.
async fn boot_entry(deployment: &Deployment, id: &str, first: u64) -> Result<Option<u64>, AskError> {
    #[derive(serde::Deserialize)]
    struct Head {
        boot_id: String,
    }
    let mut from = first;
    loop {
        let page = deployment.boots(from).await?;
        let mut last = None;
        for line in page.lines() {
            let Ok(signed) = SignedEntry::parse(line) else { return Ok(None) };
            last = Some(signed.seq);
            if serde_json::from_str::<Head>(&signed.entry).is_ok_and(|head| head.boot_id == id) {
                return Ok(Some(signed.seq));
            }
        }
        match last {
            Some(seq) => from = seq + 1,
            None => return Ok(None),
        }
    }
}

fn fresh() -> Result<Nonce, LookError> {
    let mut bytes = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|error| LookError::Random(error.to_string()))?;
    Ok(Nonce::new(bytes))
}

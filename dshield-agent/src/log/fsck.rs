//! Looks a stored log over: numbers, hashes, signatures, the tree, the closing checkpoint, and that what began has an
//! end.
//!
//! A [`StoredLog`] flows in, a [`Report`] flows out that names each entry with which something is wrong.
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::{Checkpoint, Hash, Note, leaf_hash};
use dshield_verify::log::{Expectations, LogFault, LogKey, LogSummary, Start};
use serde::{Deserialize, Serialize};

use super::check::{Checker, Signatures};
use super::error::LogError;
use super::stored::StoredLog;
use super::tiles::{Edge, Tile};

/// Entries that are read at a time.
const PAGE: usize = 4096;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The number of the entry, where it is about one.
    pub seq: Option<u64>,
    /// What is wrong, in words.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Names the log.
    pub log_id: String,
    /// The number of the first entry that is kept: those before it were pruned.
    pub first: u64,
    /// The number behind the last entry.
    pub next: u64,
    /// How many entries are good, from `first` on: the first `good` of them verify.
    pub good: u64,
    /// How many boots there are among them.
    pub boots: u64,
    /// Whether the agent that wrote it last closed it.
    pub closed: bool,
    /// Whether there is a closing checkpoint, and it is the tree's.
    pub checkpoint: Option<bool>,
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
    /// The tiles, by level and index, that are not what the entries make them.
    #[serde(skip)]
    pub bad_tiles: Vec<(u8, u64)>,
}

/// Checks all of it. `signatures` says whether those of the entries are checked too, which takes most of the time.
///
/// # Errors
/// The file cannot be read at all; what is wrong with what it holds is in the report.
pub fn fsck(log: &StoredLog, signatures: Signatures) -> Result<Report, LogError> {
    let range = log.range();
    let mut report = Report {
        log_id: log.log_id().to_owned(),
        first: range.start,
        next: range.end,
        closed: log.closed(),
        ..Report::default()
    };
    if let Some(damage) = log.damage() {
        report.find(damage.seq, damage.what.clone());
    }
    if range.is_empty() && log.refusal().is_none() {
        // The agent that made it did not get to its boot entry.
        return Ok(report);
    }
    let Some(start) = start(log, &mut report)? else { return Ok(report) };
    let mut checker = Checker::new(Expectations { start, last_key: None }, signatures);
    let mut tree = Tiles::new(log, range.start);
    let mut next = range.start;
    while next < range.end {
        let lines = match log.lines(next, PAGE) {
            Ok(lines) if !lines.is_empty() => lines,
            Ok(_) => {
                report.find(Some(next), "it is not there".to_owned());
                break;
            }
            Err(error) => {
                report.find(Some(next), error.to_string());
                break;
            }
        };
        let mut fault = None;
        for line in &lines {
            tree.push(line, &mut report);
            if let Err(found) = checker.push(line) {
                fault = Some(found);
                break;
            }
            next += 1;
        }
        if let Some(fault) = fault {
            // A boot entry names all before it: one that was changed makes it wrong, and is found itself.
            let follows = matches!(fault, LogFault::WrongPrevious { .. });
            let explained = follows && !(checker.bad().is_empty() && report.bad_tiles.is_empty());
            if !explained {
                report.find(Some(next), fault.to_string());
            }
            // What follows hangs on it.
            break;
        }
    }
    report.good = next - range.start;
    let root = tree.finish(next, &mut report);
    match checker.finish() {
        Ok((summary, bad)) => conclude(log, &summary, root, &bad, &mut report)?,
        Err(fault) if report.findings.is_empty() => report.find(None, fault.to_string()),
        Err(_) => {}
    }
    if let Some(refusal) = log.refusal().filter(|_| report.findings.is_empty()) {
        report.find(None, refusal.to_owned());
    }
    report.findings.sort_by_key(|finding| finding.seq);
    Ok(report)
}

impl Report {
    fn find(&mut self, seq: Option<u64>, what: String) {
        self.findings.push(Finding { seq, what });
    }
}

/// Where the check begins; nowhere, when there is no key to begin with.
fn start(log: &StoredLog, report: &mut Report) -> Result<Option<Start>, LogError> {
    if report.first == 0 {
        return Ok(Some(Start::Beginning));
    }
    // An entry that is a boot entry itself brings its own.
    let first = log.lines(report.first, 1).ok().and_then(|mut lines| lines.pop());
    let key = first.as_deref().and_then(boot_key);
    let key = if key.is_none() { log.pruned_boot()?.as_deref().and_then(boot_key) } else { key };
    if key.is_none() {
        report.find(None, "the boot entry with the key of the first entries that are kept is missing".to_owned());
    }
    Ok(key.map(|key| Start::Page { seq: report.first, key }))
}

/// The key that a boot entry lists; none where the line is no boot entry.
#[must_use]
pub fn boot_key(line: &str) -> Option<LogKey> {
    #[derive(Deserialize)]
    struct Boot {
        kind: String,
        key: String,
    }
    let signed = SignedEntry::parse(line).ok()?;
    let Boot { key, .. } = serde_json::from_str(&signed.entry).ok().filter(|boot: &Boot| boot.kind == "boot")?;
    LogKey::from_pem(&key).ok()
}

/// Compares the hashes of the entries with the tiles that are stored.
struct Tiles<'a> {
    log: &'a StoredLog,
    /// Hashes of the tile in the making.
    leaves: Vec<Hash>,
    next: u64,
    edge: Option<Edge>,
}

impl<'a> Tiles<'a> {
    fn new(log: &'a StoredLog, first: u64) -> Self {
        // Pruned is in whole bundles, and of those before the tiles are still there.
        let tile = |id| log.ledger.tile(id).ok().flatten().ok_or(());
        Self { log, leaves: Vec::new(), next: first, edge: Edge::load(first, Vec::new(), tile).ok() }
    }

    fn push(&mut self, line: &str, report: &mut Report) {
        let Ok(signed) = SignedEntry::parse(line) else { return };
        let leaf = leaf_hash(signed.entry.as_bytes());
        if let Some(edge) = &mut self.edge {
            edge.push(leaf);
        }
        self.leaves.push(leaf);
        self.next += 1;
        if self.leaves.len() as u64 == super::tiles::WIDTH {
            let index = self.next / super::tiles::WIDTH - 1;
            let leaves = std::mem::take(&mut self.leaves);
            self.compare(0, index, &leaves, report);
        }
    }

    fn compare(&self, level: u8, index: u64, hashes: &[Hash], report: &mut Report) {
        let stored: Option<Tile> = match self.log.ledger.tile((level, index)) {
            Ok(stored) => stored,
            Err(error) => return report.find(None, error.to_string()),
        };
        let seq = index.saturating_mul(super::tiles::WIDTH.saturating_pow(u32::from(level) + 1));
        if stored.as_deref() != Some(hashes) {
            report.bad_tiles.push((level, index));
        }
        let Some(stored) = stored else {
            return report.find(Some(seq), format!("tile {index} of level {level}, which begins there, is missing"));
        };
        if let Some(at) = hashes.iter().zip(stored.iter()).position(|(made, stored)| made != stored) {
            let seq = seq + at as u64 * super::tiles::WIDTH.saturating_pow(u32::from(level));
            report.find(Some(seq), format!("the tree has another hash on level {level} than the entries give"));
        }
    }

    /// The levels above, and the root, where all entries are there.
    fn finish(self, good: u64, report: &mut Report) -> Option<Hash> {
        // A wrong entry makes all above it wrong, and is found itself.
        let whole = report.bad_tiles.is_empty();
        let edge = self.edge.as_ref().filter(|edge| whole && edge.size() == good)?;
        for ((level, index), tile) in edge.full().iter().filter(|((level, _), _)| *level > 0) {
            self.compare(*level, *index, tile, report);
        }
        Some(edge.root())
    }
}

/// What can be said when the chain is whole.
fn conclude(
    log: &StoredLog,
    summary: &LogSummary,
    root: Option<Hash>,
    bad: &[u64],
    report: &mut Report,
) -> Result<(), LogError> {
    report.boots = summary.boots;
    let whole = report.findings.is_empty() && bad.is_empty();
    for seq in bad {
        report.find(Some(*seq), "the signature does not verify with the key of its boot".to_owned());
    }
    if let Some(first) = bad.first() {
        report.good = report.good.min(first - report.first);
    }
    for seq in &summary.left_open.in_order {
        report.find(Some(*seq), "the connection has no close entry, though its boot was closed in order".to_owned());
    }
    if log.closed() && whole {
        for seq in &summary.left_open.last_boot {
            report.find(Some(*seq), "the connection has no close entry, though the log was closed in order".to_owned());
        }
    }
    let Some(text) = log.checkpoint()?.filter(|_| log.closed()) else { return Ok(()) };
    let stored = log.ledger.head();
    let verdict = text.parse::<Note>().map_err(|error| error.to_string()).and_then(|note| {
        let checkpoint = Checkpoint::from_note(&note).map_err(|error| error.to_string())?;
        let of_tree = (checkpoint.size(), checkpoint.root());
        if of_tree != stored || root.is_some_and(|root| root != checkpoint.root()) {
            return Err(format!("it is about {} entries with another root", checkpoint.size()));
        }
        if summary.checkpoint_keys.is_empty() {
            // The boot entry that lists them was pruned, and nobody says that this is its key.
            return Ok(());
        }
        note.verified_by(&summary.checkpoint_keys).map(drop).map_err(|error| error.to_string())
    });
    report.checkpoint = Some(verdict.is_ok());
    // Where entries are wrong it cannot hold, and says nothing more.
    if let Err(why) = verdict
        && whole
    {
        report.find(None, format!("the closing checkpoint is not the log's: {why}"));
    }
    Ok(())
}

//! Each entry of a log, in order, up to the accepted checkpoint.
use dshield_common::tlog::Tree;

use super::{Head, Record};
use crate::log::{Expectations, LogSummary, LogVerifier};
use crate::verdict::{Step, StepId};

/// Checks each entry, in order.
#[derive(Debug)]
pub struct Whole {
    verifier: LogVerifier,
    /// What the entries have to come to, and have not yet; the smallest first.
    heads: Vec<(&'static str, Head)>,
    /// How many entries the checkpoint covers.
    end: Option<u64>,
    fault: Option<String>,
    count: u64,
}

impl Record<'_> {
    /// To check each entry with.
    #[must_use]
    pub fn whole(&self) -> Whole {
        let mut heads = vec![("the statement", self.attested.clone())];
        heads.extend(self.head.clone().map(|head| ("the checkpoint", head)));
        heads.sort_by_key(|(_, head)| head.size);
        let verifier = LogVerifier::new(Expectations::default());
        let mut whole = Whole { verifier, heads, end: self.size(), fault: None, count: 0 };
        whole.fault = whole.compare().err();
        whole
    }

    /// Takes what came out of checking each entry.
    pub fn checked_whole(&mut self, whole: Whole) {
        let step = match self.judge_whole(whole) {
            Ok(summary) => {
                let count = summary.entries;
                let says = match &self.head {
                    Some(_) => format!(
                        "all {count} entries are numbered without a gap, signed, and in the tree that the checkpoint names"
                    ),
                    None => format!(
                        "all {count} entries are numbered without a gap, signed, and begin with those that the statement names"
                    ),
                };
                let step = Step::pass(StepId::Entries, says).saw("boots", summary.boots.to_string());
                summary
                    .left_open
                    .in_order
                    .iter()
                    .fold(step, |step, seq| step.note(format!("the connection of entry {seq} has no end in the log")))
            }
            Err(says) => Step::fail(StepId::Entries, says),
        };
        self.steps.push(step);
    }

    fn judge_whole(&self, whole: Whole) -> Result<LogSummary, String> {
        let Whole { verifier, heads, fault, count, .. } = whole;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if let Some((what, head)) = heads.first() {
            return Err(format!(
                "there are {count} entries, and {what} covers {}: entries are missing at the end",
                head.size
            ));
        }
        let summary = verifier.finish().map_err(|fault| fault.to_string())?;
        // The last boot is the one that made the statement.
        if summary.last_boot_id != self.statement.boot_id || summary.last_key != self.key {
            return Err(
                "the last boot in the log is not the one that was quoted: the log goes on under another key".to_owned()
            );
        }
        Ok(summary)
    }
}

impl Whole {
    /// Takes the next entry's line; there are as many as the checkpoint covers ([`Record::size`]), and no more. False where
    /// the log does not hold: then the rest says nothing.
    pub fn push(&mut self, line: &str) -> bool {
        if self.fault.is_none()
            && let Err(fault) = self.take(line)
        {
            self.fault = Some(fault);
        }
        self.fault.is_none()
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        if self.end == Some(self.count) {
            return Err(format!("there are more entries than the {} that the checkpoint covers", self.count));
        }
        self.verifier.push(line).map_err(|fault| fault.to_string())?;
        self.count += 1;
        self.compare()
    }

    /// Compares with what should be the root over as many entries.
    fn compare(&mut self) -> Result<(), String> {
        while let Some((what, head)) = self.heads.first().filter(|(_, head)| head.size == self.count) {
            let root = self.verifier.tree().map(Tree::root);
            if root.as_ref() != Some(&head.root) {
                return Err(format!(
                    "{what} says that the first {} entries have the root {}, and these have another: there are two logs",
                    head.size,
                    head.root.to_hex()
                ));
            }
            self.heads.remove(0);
        }
        Ok(())
    }
}

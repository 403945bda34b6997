//! Which connections have no end in the log.
use std::collections::BTreeMap;

use dshield_common::log::entry::LOST_BY_LOG;

use super::verifier::EntryHead;

/// Numbers of connect entries without an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeftOpen {
    /// Of boots that were closed in order, and so should have written it.
    pub in_order: Vec<u64>,
    /// Of the last boot: they may still be open.
    pub last_boot: Vec<u64>,
}

/// The connections of the present boot that are open, by their number, with that of their connect entry.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: BTreeMap<u64, u64>,
    in_order: Vec<u64>,
}

impl Connections {
    pub(super) fn take(&mut self, seq: u64, head: &EntryHead) {
        match (head.kind.as_str(), head.connection) {
            ("connect", Some(connection)) => {
                self.open.insert(connection, seq);
            }
            ("close", Some(connection)) => {
                self.open.remove(&connection);
            }
            // All connections end when the log cannot be written, and their ends are among what was lost.
            ("lost", _) if head.source.as_ref().is_some_and(|source| source == LOST_BY_LOG) => self.open.clear(),
            ("boot", _) => {
                let open = std::mem::take(&mut self.open);
                // Otherwise the boot entry is the mark of a crash, which ended them.
                if head.previous.as_ref().is_some_and(|previous| previous.closed == Some(true)) {
                    self.in_order.extend(open.into_values());
                }
            }
            _ => {}
        }
    }

    pub(super) fn left_open(self) -> LeftOpen {
        let mut last_boot: Vec<u64> = self.open.into_values().collect();
        last_boot.sort_unstable();
        LeftOpen { in_order: self.in_order, last_boot }
    }
}

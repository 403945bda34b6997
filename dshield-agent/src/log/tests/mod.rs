//! The log as its users see it, on real files, on failing disks and in killed processes.
#![allow(clippy::unwrap_used)]
mod chaos;
mod damage;
mod disk;
mod failure;
mod faults;
mod hostile;
mod kill;
mod numbering;
mod power;
mod random;
mod shelved;

use std::path::Path;

use dshield_common::log::entry::{Boot, Entry, Event, Record};
use dshield_common::log::line::SignedEntry;
use dshield_verify::log::{Expectations, LogKey, LogSummary, Start, verify_lines};

use super::*;

fn facts() -> BootFacts {
    BootFacts { version: "1.2.3".to_owned(), ..BootFacts::default() }
}

fn open(path: &Path) -> Log {
    Log::open(Storage::File(path.to_owned()), facts()).unwrap()
}

/// A record that can be told from others by `id`.
fn record(id: u64) -> Record {
    Record::agent(Event::Lost { count: id, source: "test".to_owned() })
}

async fn lines(log: &Log) -> Vec<String> {
    log.read(0, usize::MAX).await.unwrap()
}

fn entry(line: &str) -> Entry {
    SignedEntry::parse(line).unwrap().decode().unwrap()
}

/// The `id` of a [`record`].
fn id(line: &str) -> Option<u64> {
    match entry(line).record.event {
        Event::Lost { count, .. } => Some(count),
        _ => None,
    }
}

fn boot(line: &str) -> Boot {
    match entry(line).record.event {
        Event::Boot(boot) => boot,
        other => panic!("not a boot entry: {other:?}"),
    }
}

/// Checks every line as an auditor would, against the key of the running log.
async fn verify(log: &Log) -> LogSummary {
    let last_key = Some(LogKey::from_pem(log.public_key_pem()).unwrap());
    let expectations = Expectations { start: Start::Beginning, last_key };
    verify_lines(lines(log).await, expectations).unwrap()
}

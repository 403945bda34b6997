//! `dshield log export`: a folder with everything that a check needs, in public formats.
//!
//! ```text
//! entries.ndjson       the signed lines
//! boots.ndjson         where entries were pruned: the boot entry whose key signs the first that are there
//! checkpoint           the closing checkpoint (C2SP tlog-checkpoint), where the log was closed in order
//! tile/…               hashes and entries (C2SP tlog-tiles), as a static site has them
//! ```
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::tile::{Bundle, tiles};
use dshield_common::tlog::{Checkpoint, Note, bundle};

use super::State;
use crate::log::LogError;
use crate::log::check::Signatures;
use crate::log::fsck::{Finding, fsck};
use crate::log::stored::StoredLog;

/// What `dshield log export` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dshield log export copy && dshield log verify copy")]
pub(in crate::cli) struct ExportArgs {
    /// The folder to make; it must not exist, or be empty.
    #[arg(value_name = "DIR")]
    into: PathBuf,
    #[command(flatten)]
    state: State,
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not empty; give a folder that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error(
        "the log is damaged: {}{what}; {} holds {count} entries that are good, and `dshield log fsck` says more",
        seq.map_or_else(String::new, |seq| format!("entry {seq}: ")), into.display()
    )]
    Damaged { seq: Option<u64>, what: String, count: u64, into: PathBuf },
}

pub(super) fn run(args: &ExportArgs) -> ExitCode {
    let exported = args.state.open_damaged().map_err(ExportError::from).and_then(|log| {
        let count = export(&log, &args.into)?;
        log.close()?;
        Ok(count)
    });
    match exported {
        Ok(count) => {
            super::print(&format!("wrote {count} entries and the tree over them to {}\n", args.into.display()));
            ExitCode::SUCCESS
        }
        Err(error) => super::failed(&error),
    }
}

fn export(log: &StoredLog, into: &Path) -> Result<u64, ExportError> {
    fs::create_dir_all(into).map_err(at(into))?;
    if fs::read_dir(into).map_err(at(into))?.next().is_some() {
        return Err(ExportError::NotEmpty(into.to_owned()));
    }
    // What goes out is what verifies.
    let report = fsck(log, Signatures::All)?;
    let (first, end) = (report.first, report.first + report.good);
    if let Some(line) = log.pruned_boot()?.filter(|_| first > 0) {
        write(&into.join("boots.ndjson"), format!("{line}\n").as_bytes())?;
    }
    let path = into.join("entries.ndjson");
    let mut out = BufWriter::new(File::create(&path).map_err(at(&path))?);
    let mut making = Making::default();
    let mut next = first;
    while next < end {
        let limit = usize::try_from(end - next).unwrap_or(usize::MAX).min(4096);
        for line in log.lines(next, limit)? {
            writeln!(out, "{line}").map_err(at(&path))?;
            // What was found good is readable.
            let entry = SignedEntry::parse(&line).map(|signed| signed.entry).unwrap_or_default();
            making.push(next, entry.as_bytes());
            next += 1;
            making.write(next, end, into)?;
        }
    }
    out.into_inner().map_err(|error| at(&path)(error.into_error()))?.sync_all().map_err(at(&path))?;
    for tile in tiles(end).filter(|tile| !report.bad_tiles.contains(&(tile.level(), tile.index()))) {
        if let Some(bytes) = log.tile(tile)? {
            write(&into.join(tile.to_string()), &bytes)?;
        }
    }
    // One that is about another size would only mislead.
    let closing = log.checkpoint()?.filter(|text| {
        let checkpoint = text.parse::<Note>().ok().and_then(|note| Checkpoint::from_note(&note).ok());
        checkpoint.is_some_and(|checkpoint| checkpoint.size() == end) && report.checkpoint != Some(false)
    });
    if let Some(text) = closing {
        write(&into.join("checkpoint"), text.as_bytes())?;
    }
    let damaged =
        end < report.next || log.is_damaged() || !report.bad_tiles.is_empty() || report.checkpoint == Some(false);
    match report.findings.into_iter().next().filter(|_| damaged) {
        Some(Finding { seq, what }) => {
            Err(ExportError::Damaged { seq, what, count: report.good, into: into.to_owned() })
        }
        None => Ok(report.good),
    }
}

/// The entry bundle in the making.
#[derive(Default)]
struct Making {
    first: u64,
    bytes: Vec<u8>,
}

impl Making {
    fn push(&mut self, seq: u64, entry: &[u8]) {
        if self.bytes.is_empty() {
            self.first = seq;
        }
        // An entry that was stored fits.
        let _ = bundle::push_entry(&mut self.bytes, entry);
    }

    /// Writes it when it is full, or the last one.
    fn write(&mut self, next: u64, size: u64, into: &Path) -> Result<(), ExportError> {
        let full = next.is_multiple_of(256);
        if !full && next < size {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let bundle = Bundle::at(self.first / 256, size).filter(|_| self.first.is_multiple_of(256));
        bundle.map_or(Ok(()), |bundle| write(&into.join(bundle.to_string()), &bytes))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    fs::write(path, bytes).map_err(at(path))
}

fn at(path: &Path) -> impl Fn(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use dshield_common::tlog::tile::bundles;

    #[test]
    fn the_bundles_of_a_tree_are_those_that_are_written() {
        let written = |size: u64| -> Vec<String> { bundles(size).map(|bundle| bundle.to_string()).collect() };
        assert_eq!(written(513), ["tile/entries/000", "tile/entries/001", "tile/entries/002.p/1"]);
    }
}

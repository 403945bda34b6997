//! `dshield log prune`.
use std::process::ExitCode;

use super::State;

/// What `dshield log prune` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Export them before: what is removed is gone. Entries go in whole bundles of 256, and the last \
                        one stays; boot entries and all hashes are kept."
)]
pub(in crate::cli) struct PruneArgs {
    #[command(flatten)]
    state: State,
    /// The number of the first entry to keep.
    #[arg(long, value_name = "N")]
    before: u64,
}

pub(super) fn run(args: &PruneArgs) -> ExitCode {
    let pruned = args.state.open().and_then(|log| {
        let before = log.range().start;
        let first = log.prune(args.before)?;
        log.close()?;
        Ok((before, first))
    });
    match pruned {
        Ok((before, first)) if before == first => {
            super::print(&format!("nothing to remove: the first entry that is kept is {first}\n"));
            ExitCode::SUCCESS
        }
        Ok((before, first)) => {
            super::print(&format!("removed entries {before} to {}; the first that is kept is {first}\n", first - 1));
            ExitCode::SUCCESS
        }
        Err(error) => super::failed(&error),
    }
}

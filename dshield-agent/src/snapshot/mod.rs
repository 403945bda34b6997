//! What runs of a function's code: a copy that only the agent can write, hashed as it is made.
//!
//! Code folders flow in, as `config` has found them; out flow [`FrozenFunction`]s, whose code lies in the agent's own
//! memory file system and whose hash was taken from the very bytes that were written there. A folder may change while
//! it is copied and afterwards: what was copied is what runs, and what the hash says.
//!
//! * `copy`: one folder, copied and hashed in one pass, or only hashed
//! * `store`: the file system that holds the copies, and the copies of one deployment
mod copy;
mod store;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dshield_common::policy::{Function, FunctionPolicy};

use self::copy::{Fault, copy};
pub use self::store::{Snapshot, Store};
use crate::config::LoadedFunction;

/// A function whose code changes no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenFunction {
    /// How it is to be run.
    pub spec: Function,
    /// Where its data may go.
    pub policy: Arc<FunctionPolicy>,
    /// Its code, copied: what instances see.
    pub code: PathBuf,
    /// SHA-256 (hex) of what is in `code`; see [`dshield_common::attestation::code`].
    pub code_sha256: String,
}

/// Why there is no copy, or no hash. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The machine's, or the operator's: the memory that code may take is full.
    #[error(
        "the code of `{function}` does not fit into memory: {} holds {} MiB, and of the {} MiB that code may take on this machine {} MiB were free; leave out what the functions do not need, or give the machine more memory",
        folder.display(), mebibytes(*bytes), mebibytes(*limit), free >> 20
    )]
    Full {
        /// The function.
        function: String,
        /// Its folder.
        folder: PathBuf,
        /// How large the folder is.
        bytes: u64,
        /// How much all code together may take.
        limit: u64,
        /// How much of it was left for the folder.
        free: u64,
    },
    /// The machine's: the copy cannot be kept.
    #[error("cannot keep the functions' code in {}: {source}", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The operator's: something in the folder is no code, or cannot be read.
    #[error("the code of `{function}`: {message}; {hint}")]
    Unfit {
        /// The function.
        function: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: &'static str,
    },
}

/// The hash of each function's folder as it is now, by the function's name: what [`Store::take`] would give. Blocks.
///
/// # Errors
/// A folder cannot be read, or is not what a code folder may be.
pub fn measure(functions: &[Arc<LoadedFunction>]) -> Result<BTreeMap<String, String>, SnapshotError> {
    let hash = |function: &Arc<LoadedFunction>| {
        let name = function.spec.name.to_string();
        match copy(&function.code, None) {
            Ok(manifest) => Ok((name, manifest.hash().to_string())),
            Err(Fault::Unfit(unfit)) => {
                Err(SnapshotError::Unfit { function: name, message: unfit.message, hint: unfit.hint })
            }
            Err(Fault::Keep(source)) => Err(SnapshotError::Store { path: function.code.clone(), source }),
        }
    };
    functions.iter().map(hash).collect()
}

/// Rounded up.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

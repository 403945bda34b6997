//! How the pool gets a new instance: it asks the launcher, which knows kernel, sandbox and proxy.
use std::error::Error;
use std::sync::Arc;

use crate::instance::{BoxFuture, Running};
use crate::log::LogError;
use crate::snapshot::FrozenFunction;

/// Starts an instance of a function, writing its `function` entries to the log.
pub type Launcher = Arc<dyn Fn(Arc<FrozenFunction>) -> BoxFuture<Result<Running, LaunchError>> + Send + Sync>;

/// Why an instance did not start. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The operator's: the sandbox could not be prepared; the source says what is missing.
    #[error("the sandbox of function {function} could not be started")]
    Sandbox {
        /// The function.
        function: String,
        /// What failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The operator's: the log did not take the instance's entry, so it was not started.
    #[error("the log did not take the instance's entry")]
    Log(#[from] LogError),
}

//! How long a connection may do nothing, and how long an upstream may take.
use std::time::Duration;

/// As long as an invocation may take.
const INVOCATION: Duration = Duration::from_secs(15 * 60);

/// The times that bound what waits. Each is noticed after twice that time at the latest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// An HTTP connection without a request under way.
    pub(super) next_request: Duration,
    /// A connection on which nothing passes in either direction; with HTTP/2, of whose requests nothing passes.
    pub(super) silence: Duration,
    /// A request, until the head of its answer is whole.
    pub(super) answer: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { next_request: Duration::from_secs(75), silence: INVOCATION, answer: INVOCATION }
    }
}

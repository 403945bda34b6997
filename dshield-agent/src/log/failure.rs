//! Whether the log takes entries: everybody who lets something leave asks here, or waits here to be told.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::error::LogError;

/// The failure that there is now, if there is one.
#[derive(Debug)]
pub(super) struct Failure {
    cause: watch::Sender<Option<Arc<str>>>,
    /// Records that were refused for it.
    lost: AtomicU64,
}

impl Default for Failure {
    fn default() -> Self {
        Self { cause: watch::Sender::new(None), lost: AtomicU64::new(0) }
    }
}

impl Failure {
    /// The error that every operation returns while there is a failure.
    pub(super) fn error(&self) -> Option<LogError> {
        self.cause.borrow().as_ref().map(|cause| LogError::Failed { cause: cause.clone() })
    }

    pub(super) fn set(&self, error: &LogError) {
        // What was wrong first explains the rest.
        let new = self.cause.send_if_modified(|now| {
            let new = now.is_none();
            now.get_or_insert_with(|| error.cause());
            new
        });
        if new {
            tracing::error!(%error, "the log stopped accepting entries");
        }
    }

    /// The log takes entries again.
    pub(super) fn clear(&self) {
        if self.cause.send_replace(None).is_some() {
            tracing::warn!("the log accepts entries again");
        }
    }

    /// So many records were refused because of the failure.
    pub(super) fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::SeqCst);
    }

    /// How many were refused since this was asked last.
    pub(super) fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::SeqCst)
    }

    /// Resolves with the failure, as soon as there is one.
    pub(super) async fn raised(&self) -> LogError {
        let mut cause = self.cause.subscribe();
        loop {
            if let Some(error) = self.error() {
                return error;
            }
            // The sender is `self`.
            let _ = cause.changed().await;
        }
    }
}

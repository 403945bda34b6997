//! What went wrong while a first process set itself up: the step, and the kernel's answer.
use std::io;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct StepError {
    step: String,
    source: io::Error,
}

/// Names the step that an error belongs to.
pub(super) fn step<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> StepError {
    move |error| StepError { step: step.into(), source: error.into() }
}

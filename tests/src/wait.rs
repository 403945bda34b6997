//! Waiting for a condition, never for luck.
use std::time::{Duration, Instant};

/// Long enough for anything on a loaded two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `condition` until it gives a value. Panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Asks `condition` until it gives a value or the time is over.
pub fn within<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

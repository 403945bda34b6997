//! Waiting for a condition, never for luck.
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Long enough for anything on a loaded two-core machine; to be given to [`scaled`] or [`within`].
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How many times longer deadlines are here: `DSHIELD_PATIENCE`, for machines that are emulated; otherwise 1.
static FACTOR: LazyLock<u32> = LazyLock::new(|| match std::env::var("DSHIELD_PATIENCE") {
    Ok(factor) => factor.parse().unwrap_or_else(|_| panic!("DSHIELD_PATIENCE={factor} is not a whole number")),
    Err(_) => 1,
});

/// A deadline as long as this machine needs. Only for what ends earlier by itself when all is well.
#[must_use]
pub fn scaled(patience: Duration) -> Duration {
    patience * *FACTOR
}

/// Asks `condition` until it gives a value. Panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition).unwrap_or_else(|| panic!("waited {:?} in vain for {what}", scaled(PATIENCE)))
}

/// Asks `condition` until it gives a value or the time, [`scaled`], is over.
pub fn within<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + scaled(patience);
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

//! Refusals of one instance on their way to the log: each one an entry, until there are too many.
//!
//! Hostile code can be refused a hundred thousand times a second. Beyond [`SINGLE_ENTRIES`] a second, alike
//! refusals become one entry with a count, so the log stays readable and no refusal goes uncounted.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dshield_common::log::entry::{Event, Record, Refused};

use crate::instance::Instance;
use crate::log::Log;

/// Refusals that get an entry of their own in each window.
const SINGLE_ENTRIES: u32 = 32;
const WINDOW: Duration = Duration::from_secs(1);

/// The refusals of one instance.
#[derive(Debug)]
pub struct Refusals {
    instance: Arc<Instance>,
    log: Log,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// Single entries in the window that is open; `None` when none is.
    open: Option<u32>,
    /// The first refusal of each kind beyond those, and how many there were.
    folded: HashMap<(String, String, String), (Refused, u64)>,
}

impl Refusals {
    /// For this instance.
    #[must_use]
    pub fn new(instance: Arc<Instance>, log: Log) -> Arc<Self> {
        Arc::new(Self { instance, log, window: Mutex::default() })
    }

    /// Writes the refusal into the log, on its own or with its like. Never waits for the disk.
    pub fn report(self: &Arc<Self>, refused: Refused) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let singles = match &mut window.open {
            Some(singles) => singles,
            closed => {
                let this = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(WINDOW).await;
                    this.flush();
                });
                closed.insert(0)
            }
        };
        if *singles < SINGLE_ENTRIES {
            *singles += 1;
            drop(window);
            return self.write(refused);
        }
        let key = (refused.layer.clone(), refused.reason.clone(), refused.rule.clone());
        window.folded.entry(key).or_insert((refused, 0)).1 += 1;
    }

    /// Closes the window: writes what was folded.
    pub fn flush(&self) {
        let window = std::mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner));
        for (mut refused, count) in window.folded.into_values() {
            if count > 1 {
                refused.count = Some(count);
                refused.detail.push_str(" (the first of several)");
            }
            self.write(refused);
        }
    }

    fn write(&self, refused: Refused) {
        tracing::info!(
            function = self.instance.function(),
            instance = self.instance.id(),
            reason = refused.reason,
            rule = refused.rule,
            count = refused.count,
            "refused: {}",
            refused.detail
        );
        let record = Record { subject: self.instance.subject(), event: Event::Refused(refused) };
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.log.enqueue_now(record);
    }
}

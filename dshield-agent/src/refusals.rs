//! What one instance can cause at any rate, on its way to the log: refusals, and answers to DNS questions.
//!
//! Hostile code can be refused a hundred thousand times a second. Beyond [`SINGLE_ENTRIES`] a second, alike
//! refusals become one entry with a count, and answers become a number, so the log stays readable, the disk
//! does not fill at the function's pace, and nothing goes unlisted.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dshield_common::log::entry::{Dns, Event, Record, Refused};
use dshield_common::policy::Mode;

use crate::instance::Instance;
use crate::log::{Log, Observing};

/// Refusals, and answers, that get an entry of their own in each window.
const SINGLE_ENTRIES: u32 = 32;
const WINDOW: Duration = Duration::from_secs(1);

/// The refusals of one instance.
#[derive(Debug)]
pub struct Refusals {
    instance: Arc<Instance>,
    log: Log,
    window: Mutex<Window>,
    /// Whatever still writes about an instance holds its refusals: what it writes says that the policy only observed.
    _observing: Option<Observing>,
}

#[derive(Debug, Default)]
struct Window {
    open: bool,
    /// Entries of their own in this window.
    refused: u32,
    answered: u32,
    /// The first refusal of each kind beyond those, and how many there were.
    folded: HashMap<(String, String, String, bool), (Refused, u64)>,
    /// Answers beyond those.
    unlisted: u64,
}

impl Refusals {
    /// For this instance.
    #[must_use]
    pub fn new(instance: Arc<Instance>, log: Log) -> Arc<Self> {
        let observing = (instance.policy().mode == Mode::Observe).then(|| log.observing());
        Arc::new(Self { instance, log, window: Mutex::default(), _observing: observing })
    }

    /// Writes the refusal into the log, on its own or with its like. Never waits for the disk.
    pub fn report(self: &Arc<Self>, refused: Refused) {
        if let Some(alone) = self.fold(refused) {
            self.write(alone);
        }
    }

    /// Gives back a refusal that gets an entry of its own; the others are counted.
    fn fold(self: &Arc<Self>, refused: Refused) -> Option<Refused> {
        let mut window = self.window();
        if window.refused < SINGLE_ENTRIES {
            window.refused += 1;
            return Some(refused);
        }
        let key = (refused.layer.clone(), refused.reason.clone(), refused.rule.clone(), refused.let_through);
        window.folded.entry(key).or_insert((refused, 0)).1 += 1;
        None
    }

    /// [`Self::report`], and waits for the entry: its number, where it has one of its own.
    pub async fn report_numbered(self: &Arc<Self>, refused: Refused) -> Option<u64> {
        let alone = self.fold(refused)?;
        tell(&self.instance, &alone);
        // In a task of its own: it is written also when nobody waits for the number any more.
        let (log, record) = (self.log.clone(), self.record(Event::Refused(alone)));
        tokio::spawn(async move { log.append(record).await.ok() }).await.ok().flatten()
    }

    /// Writes the answer into the log, or counts it. Waits while the log's queue is full.
    pub async fn answered(self: &Arc<Self>, dns: Dns) {
        {
            let mut window = self.window();
            if window.answered >= SINGLE_ENTRIES {
                window.unlisted += 1;
                return;
            }
            window.answered += 1;
        }
        // A log that has failed lets no connection to the answered address out.
        let _ = self.log.enqueue(self.record(Event::Dns(dns))).await;
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
        if window.unlisted > 0 {
            let lost = Event::Lost { count: window.unlisted, source: "answers to DNS questions".into() };
            let _ = self.log.enqueue_now(self.record(lost));
        }
    }

    /// The window that is open now; it closes by itself.
    fn window(self: &Arc<Self>) -> MutexGuard<'_, Window> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if !window.open {
            window.open = true;
            let this = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WINDOW).await;
                this.flush();
            });
        }
        window
    }

    fn record(&self, event: Event) -> Record {
        Record { subject: self.instance.subject(), event }
    }

    fn write(&self, refused: Refused) {
        tell(&self.instance, &refused);
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = self.log.enqueue_now(self.record(Event::Refused(refused)));
    }
}

/// For the operator who watches the agent.
fn tell(instance: &Instance, refused: &Refused) {
    tracing::info!(
        function = instance.function(),
        instance = instance.id(),
        reason = refused.reason,
        rule = refused.rule,
        count = refused.count,
        "{}: {}",
        if refused.let_through { "let through" } else { "refused" },
        refused.detail
    );
}

#[cfg(test)]
mod tests {
    use dshield_common::log::line::SignedEntry;
    use dshield_common::policy::Deployment;

    use super::*;
    use crate::log::{BootFacts, Storage};

    /// A function that asked for an allowed name without a pause wrote megabytes of log a second, until the
    /// disk was full and nobody could send anything.
    #[tokio::test]
    async fn a_flood_is_a_few_entries_and_its_count() {
        let text = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n";
        let policy = Deployment::parse(text, &mut |_| unreachable!()).unwrap().policy.functions[0].clone();
        let log = Log::open(Storage::Memory, BootFacts::default()).unwrap();
        let refusals = Refusals::new(Arc::new(Instance::new("f-0".into(), policy, 1)), log.clone());
        let refused = Refused {
            layer: "dns".into(),
            reason: "name_not_allowed".into(),
            detail: "dns A a.example".into(),
            rule: "default".into(),
            let_through: false,
            connection: None,
            attempt: None,
            process: None,
            count: None,
        };
        for _ in 0..1000 {
            refusals.report(refused.clone());
            refusals.answered(Dns { name: "b.example".into(), qtype: "A".into(), answer: None }).await;
        }
        refusals.flush();
        log.settled().await;
        let lines = log.read(1, 1000).await.unwrap();
        assert!(lines.len() <= 2 * SINGLE_ENTRIES as usize + 2, "{} entries", lines.len());
        let events = lines.iter().map(|line| SignedEntry::parse(line).unwrap().decode().unwrap().record.event);
        let (mut refusals, mut answers) = (0, 0);
        for event in events {
            match event {
                Event::Refused(refused) => refusals += refused.count.unwrap_or(1),
                Event::Dns(_) => answers += 1,
                Event::Lost { count, .. } => answers += count,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((refusals, answers), (1000, 1000));
    }
}

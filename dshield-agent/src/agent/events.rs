//! The kernel's refusals on their way to the log: whose were they?
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dshield_common::log::entry::{Event, Record, Refused};

use crate::kernel::{Events, KernelEvent, KernelRefusal};
use crate::log::Log;
use crate::refusals::Refusals;

/// An instance that has ended is still known for this long: its last refusals may be on their way.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// Instances by what the kernel knows of them.
#[derive(Debug, Default)]
pub(super) struct Registry {
    instances: Mutex<HashMap<Key, Arc<Refusals>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Netns(u64),
    Cgroup(u64),
}

impl Registry {
    pub(super) fn add(&self, netns: u64, cgroup: u64, refusals: &Arc<Refusals>) {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.insert(Key::Netns(netns), refusals.clone());
        instances.insert(Key::Cgroup(cgroup), refusals.clone());
    }

    pub(super) fn remove_later(self: &Arc<Self>, netns: u64, cgroup: u64) {
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(AFTERLIFE).await;
            let mut instances = this.instances.lock().unwrap_or_else(PoisonError::into_inner);
            instances.remove(&Key::Netns(netns));
            instances.remove(&Key::Cgroup(cgroup));
        });
    }

    fn find(&self, refusal: &KernelRefusal) -> Option<Arc<Refusals>> {
        let instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        // The cgroup first: a function that got into another namespace is still in its own cgroup.
        instances.get(&Key::Cgroup(refusal.cgroup)).or_else(|| instances.get(&Key::Netns(refusal.netns))).cloned()
    }
}

/// Writes what the kernel reports into the log, until aborted.
pub(super) async fn run(mut events: Events, registry: Arc<Registry>, log: Log) {
    loop {
        let batch = match events.next().await {
            Ok(batch) => batch,
            Err(error) => return tracing::error!("the kernel's refusals cannot be read any more: {error}"),
        };
        for event in batch {
            match event {
                KernelEvent::Refused(refusal) if refusal.orders_addresses => {}
                KernelEvent::Refused(refusal) => {
                    let owner = registry.find(&refusal);
                    let refused = entry(refusal);
                    match owner {
                        Some(owner) => owner.report(refused),
                        None => write(&log, Event::Refused(refused)),
                    }
                }
                KernelEvent::Lost(count) => write(&log, Event::Lost { count, source: "DS_EVENTS".into() }),
            }
        }
    }
}

fn write(log: &Log, event: Event) {
    // A log that has failed has stopped all egress already, and says so itself.
    let _ = log.enqueue_now(Record::agent(event));
}

fn entry(refusal: KernelRefusal) -> Refused {
    Refused {
        layer: "kernel".into(),
        reason: refusal.reason.as_str().into(),
        detail: refusal.detail,
        rule: refusal.program.into(),
        connection: None,
        let_through: false,
        attempt: None,
        process: refusal.process,
        count: None,
    }
}

//! Whether the kernel's gate still stands: looked at every second, away from the runtime's threads.
//!
//! In: the agent's cgroup and the links that were pinned at start. Out: the last answer, for `/readyz` and
//! for invocations; when something is missing, a `tamper` entry, and the end of every instance. The sealed
//! namespaces do not depend on the gate, so what is late by a second is the answer, not a way out.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use dshield_common::log::entry::{Event, Record};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::MissedTickBehavior;

use crate::api::Deployed;
use crate::kernel::PROGRAMS;
use crate::log::Log;

const INTERVAL: Duration = Duration::from_secs(1);

/// What was attached when the agent started.
#[derive(Debug)]
pub(super) struct Gate {
    cgroup: u64,
    links: Vec<Link>,
}

/// One program's link to the cgroup.
#[derive(Debug)]
struct Link {
    program: &'static str,
    pin: PathBuf,
    link: u32,
    program_id: u32,
    /// Where the kernel tells of a link that stays open as long as this lives.
    fdinfo: PathBuf,
    _open: PinnedLink,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the kernel gate is not as it was set up: {what}; nothing runs until dshield is restarted")]
pub(super) struct Broken {
    what: Arc<str>,
}

impl Gate {
    /// Notes what is attached to the cgroup and pinned in `links` now. Blocks.
    ///
    /// # Errors
    /// A link is not there, or not attached.
    pub(super) fn take(cgroup: &Path, links: &Path) -> Result<Self, Broken> {
        let metadata = fs::metadata(cgroup).map_err(|error| broken(format!("{}: {error}", cgroup.display())))?;
        let links = PROGRAMS.into_iter().map(|program| Link::open(program, links.join(program)));
        let gate = Self { cgroup: metadata.ino(), links: links.collect::<Result<_, _>>()? };
        gate.check()?;
        Ok(gate)
    }

    /// Compares with what was noted. Blocks for the time of some forty system calls.
    fn check(&self) -> Result<(), Broken> {
        self.links.iter().try_for_each(|link| link.check(self.cgroup))
    }

    /// Watches from now on, until the handle is aborted. The receiver says how things stand; that its sender
    /// is gone means that nobody watches.
    pub(super) fn watch(
        self,
        log: Log,
        deployed: watch::Receiver<Arc<Deployed>>,
    ) -> (JoinHandle<()>, watch::Receiver<Result<(), Broken>>) {
        let (sender, state) = watch::channel(Ok(()));
        (tokio::spawn(run(Arc::new(self), log, deployed, sender)), state)
    }
}

/// The last answer, as `/readyz` says it.
pub(super) fn health(state: &watch::Receiver<Result<(), Broken>>) -> Result<(), String> {
    if state.has_changed().is_err() {
        return Err("nobody watches the kernel gate any more; restart dshield".to_owned());
    }
    state.borrow().clone().map_err(|error| error.to_string())
}

async fn run(
    gate: Arc<Gate>,
    log: Log,
    deployed: watch::Receiver<Arc<Deployed>>,
    state: watch::Sender<Result<(), Broken>>,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looking = gate.clone();
        let seen = spawn_blocking(move || looking.check()).await;
        let Err(error) = seen.unwrap_or_else(|error| Err(broken(format!("it cannot be looked at: {error}")))) else {
            continue;
        };
        // It never gets well again: what ran meanwhile is not known.
        let _ = state.send_replace(Err(error.clone()));
        tracing::error!("{error}");
        let tamper = Record::agent(Event::Tamper { what: error.what.to_string() });
        // A log that has failed has stopped all egress already, and says so itself.
        let _ = log.enqueue_now(tamper);
        return stop_all(deployed).await;
    }
}

/// Ends every instance, also those of a deployment that was on its way.
async fn stop_all(mut deployed: watch::Receiver<Arc<Deployed>>) {
    loop {
        let now = deployed.borrow_and_update().clone();
        for pool in now.functions.values() {
            pool.shutdown().await;
        }
        if deployed.changed().await.is_err() {
            return;
        }
    }
}

impl Link {
    fn open(program: &'static str, pin: PathBuf) -> Result<Self, Broken> {
        let fault = |error: String| broken(format!("{program}: {}: {error}", pin.display()));
        let open = PinnedLink::from_pin(&pin).map_err(|error| fault(error.to_string()))?;
        let (link, program_id) = ids(&pin).map_err(fault)?;
        let fdinfo = find_fdinfo(link).ok_or_else(|| fault("/proc/self/fdinfo does not show the link".to_owned()))?;
        Ok(Self { program, pin, link, program_id, fdinfo, _open: open })
    }

    fn check(&self, cgroup: u64) -> Result<(), Broken> {
        let Self { program, pin, .. } = self;
        let fault = |what: &str| broken(format!("{program}: {what}"));
        // Without its pin the program would go with the agent, and a surviving process would be free of it.
        let (link, program_id) = ids(pin).map_err(|error| fault(&format!("{}: {error}", pin.display())))?;
        if (link, program_id) != (self.link, self.program_id) {
            return Err(fault(&format!("{} is another link than it was", pin.display())));
        }
        let text = fs::read_to_string(&self.fdinfo).map_err(|error| fault(&error.to_string()))?;
        if field(&text, "link_id") != Some(link.into()) {
            return Err(fault("its link was closed"));
        }
        match field(&text, "cgroup_id") {
            // What the kernel shows of a link that was detached and is still open.
            Some(0) | None => Err(fault("it was detached from the cgroup")),
            Some(attached) if attached != cgroup => Err(fault("it is attached to another cgroup")),
            Some(_) => Ok(()),
        }
    }
}

/// Link and program behind a pin.
fn ids(pin: &Path) -> Result<(u32, u32), String> {
    let link = PinnedLink::from_pin(pin).map_err(|error| chain(&error))?;
    let info = FdLink::from(link).info().map_err(|error| chain(&error))?;
    Ok((info.id(), info.program_id()))
}

/// aya does not give the descriptor of a link away, and only the kernel's text names its cgroup.
fn find_fdinfo(link: u32) -> Option<PathBuf> {
    let files = fs::read_dir("/proc/self/fdinfo").ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| {
        fs::read_to_string(path)
            .is_ok_and(|text| field(&text, "link_id") == Some(link.into()) && field(&text, "cgroup_id").is_some())
    })
}

/// A number in a text of `name:\tnumber` lines (proc_pid_fdinfo(5)).
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

fn broken(what: String) -> Broken {
    Broken { what: what.into() }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_detached_shows_cgroup_0() {
        let text = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t1106\nprog_id:\t1985\ncgroup_id:\t0\nattach_type:\t2\n";
        assert_eq!(field(text, "cgroup_id"), Some(0));
        assert_eq!(field(text, "link_id"), Some(1106));
        assert_eq!(field(text, "id"), None, "a name is a whole one");
    }
}

//! Whether what was attached still stands: each program's link, its pin and its cgroup.
//!
//! In: the agent's cgroup and the links that were pinned at start. Out: yes, or what differs.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::links::{FdLink, PinnedLink};

use super::error::chain;

/// What was attached when the agent started.
#[derive(Debug)]
pub struct Gate {
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
pub struct Broken {
    /// What differs.
    pub what: Arc<str>,
}

impl Gate {
    /// Notes what is attached to the cgroup and pinned in `links` now. Blocks.
    ///
    /// # Errors
    /// A link is not there, or not attached.
    pub(super) fn take(cgroup: &Path, links: &Path) -> Result<Self, Broken> {
        let metadata = fs::metadata(cgroup).map_err(|error| broken(format!("{}: {error}", cgroup.display())))?;
        let links = super::attached().map(|program| Link::open(program, links.join(program)));
        let gate = Self { cgroup: metadata.ino(), links: links.collect::<Result<_, _>>()? };
        gate.check()?;
        Ok(gate)
    }

    /// Compares with what was noted. Blocks for the time of some forty system calls.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self) -> Result<(), Broken> {
        self.links.iter().try_for_each(|link| link.check(self.cgroup))
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

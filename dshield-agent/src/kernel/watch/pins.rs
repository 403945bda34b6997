//! One thing that is pinned: is it still there, and still the same?
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::kernel::bpf::{self, Info, LinkInfo};
use crate::kernel::broken::Broken;

/// A program, link or map, and the file in bpffs that keeps it.
#[derive(Debug)]
pub(super) struct Pin<I> {
    /// Whose it is.
    name: String,
    path: PathBuf,
    /// A pin cannot be pointed at another thing: it would be another file.
    file: (u64, u64),
    open: Arc<OwnedFd>,
    info: I,
}

impl<I: Info + Differs> Pin<I> {
    /// Notes what is pinned there now.
    pub(super) fn take(name: String, path: PathBuf) -> Result<Self, Broken> {
        let fault = |error| Broken::io(format_args!("{name}: {}", path.display()), &error);
        let open = bpf::get(&path).map_err(fault)?;
        let info = I::of(open.as_fd()).map_err(fault)?;
        let metadata = path.metadata().map_err(fault)?;
        Ok(Self { file: (metadata.dev(), metadata.ino()), name, path, open: Arc::new(open), info })
    }

    /// What was noted.
    pub(super) fn info(&self) -> &I {
        &self.info
    }

    /// What was noted stays open as long as this lives.
    pub(super) fn open(&self) -> &Arc<OwnedFd> {
        &self.open
    }

    /// Compares with what was noted. Needs no new descriptor.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let Self { name, path, .. } = self;
        let fault = |error| Broken::io(format_args!("{name}: {}", path.display()), &error);
        // Without its pin it would go with the agent, and a surviving process would be free of it.
        let metadata = path.metadata().map_err(fault)?;
        if (metadata.dev(), metadata.ino()) != self.file {
            return Err(Broken::changed(format!("{name}: {} is another {} than it was", path.display(), I::WHAT)));
        }
        let now = I::of(self.open.as_fd()).map_err(fault)?;
        if now == self.info {
            return Ok(());
        }
        Err(Broken::changed(format!("{name}: {}", self.info.difference(&now))))
    }
}

impl Pin<LinkInfo> {
    /// The link attaches this program to this cgroup or namespace.
    pub(super) fn expect_attached(&self, program: u32, target: u64) -> Result<(), Broken> {
        if (self.info.program, self.info.target) == (program, target) {
            return Ok(());
        }
        Err(Broken::changed(format!("{}: its link does not attach it where it belongs", self.name)))
    }
}

/// Says what is not the same any more.
pub(super) trait Differs {
    fn difference(&self, now: &Self) -> String;
}

impl Differs for LinkInfo {
    fn difference(&self, now: &Self) -> String {
        if now.target == 0 {
            // What the kernel shows of a link that was detached and is still open.
            "it was detached".to_owned()
        } else if now.program != self.program {
            format!("its link now runs {}", program(now.program))
        } else {
            format!("its link is another one than it was: {now:?}")
        }
    }
}

impl Differs for bpf::ProgramInfo {
    fn difference(&self, now: &Self) -> String {
        if self.maps == now.maps {
            format!("it is another program than it was: {now:?}")
        } else {
            format!("it uses the maps {:?} and used {:?}", now.maps, self.maps)
        }
    }
}

impl Differs for bpf::MapInfo {
    fn difference(&self, now: &Self) -> String {
        format!("it is another map than it was: {now:?}")
    }
}

/// A program by its id, in words.
pub(super) fn program(id: u32) -> String {
    let info = bpf::program(id).and_then(|fd| bpf::ProgramInfo::of(fd.as_fd()));
    match info {
        Ok(info) if !info.name.is_empty() => format!("program {} (id {id})", info.name),
        _ => format!("program id {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_how_it_changed() {
        let link = |program, target| LinkInfo { id: 1, kind: 3, program, target, attach_type: 10 };
        let before = link(2_000_000_001, 5);
        assert_eq!(before.difference(&link(2_000_000_001, 0)), "it was detached");
        assert_eq!(before.difference(&link(2_000_000_002, 5)), "its link now runs program id 2000000002");
    }
}

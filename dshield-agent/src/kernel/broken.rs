//! What a look at the kernel side can find.
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

/// What was found in place of what was set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Somebody with root's rights changed something.
    #[error("the kernel gate is not as it was set up: {0}; nothing runs until dshield is restarted")]
    Changed(Arc<str>),
    /// The machine is too short of descriptors or memory to look, which says nothing about what is watched.
    #[error("the kernel gate cannot be looked at: {0}; free memory or descriptors")]
    Unseen(Arc<str>),
}

impl Broken {
    /// Something differs.
    pub fn changed(what: impl Into<Arc<str>>) -> Self {
        Self::Changed(what.into())
    }

    /// What it means that the kernel does not tell about `what`.
    pub(super) fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        const SHORTAGES: [Errno; 6] =
            [Errno::ENOMEM, Errno::ENOBUFS, Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN, Errno::EINTR];
        let text = format!("{what}: {error}").into();
        let short = SHORTAGES.iter().any(|shortage| error.raw_os_error() == Some(*shortage as i32));
        if short || error.kind() == io::ErrorKind::Interrupted { Self::Unseen(text) } else { Self::Changed(text) }
    }

    /// Says where it was found.
    pub(super) fn at(self, place: &str) -> Self {
        match self {
            Self::Changed(what) => Self::changed(format!("{place}: {what}")),
            Self::Unseen(what) => Self::Unseen(format!("{place}: {what}").into()),
        }
    }

    /// What differs, for the log.
    #[must_use]
    pub fn what(&self) -> &str {
        match self {
            Self::Changed(what) | Self::Unseen(what) => what,
        }
    }
}

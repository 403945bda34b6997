//! Network namespaces of the tests' own: made, entered by a thread, gone with their last user.
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, which lives as long as this value or anything in it.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes an empty one. Needs root.
    #[must_use]
    pub fn make() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
            File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
        });
        Self(made.join().expect("the thread has told why"))
    }

    /// A file that names it, for `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` in a thread that is in it; sockets and processes that it makes stay in it.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let enter = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
                work()
            };
            scope.spawn(enter).join().expect("the thread has told why")
        })
    }

    /// Runs a command line in it; words are separated by single spaces. Panics when it fails.
    #[track_caller]
    pub fn run(&self, command: &str) {
        let words = command.split(' ');
        let output = Command::new("nsenter").arg(format!("--net={}", self.path())).args(words).output();
        let output = output.unwrap_or_else(|error| panic!("nsenter: {error}"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

//! The stored log of a real agent: filled by real traffic, and looked at with `dshield log`.
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::agent::{Agent, Egress, Function, Project};
use crate::command::{Left, dshield};
use crate::requires::require_root;
use crate::standin::{NAME, Standin};
use crate::wait;

/// A project whose function posts to a stand-in, and the log that its agents leave.
#[derive(Debug)]
pub struct Shelf {
    /// What the function may reach.
    pub standin: Standin,
    /// What agents are started with.
    pub project: Project,
}

impl Shelf {
    /// None where this machine cannot run agents.
    #[must_use]
    pub fn make() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let standin = Standin::start();
        let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/echo/*"]);
        let project = Project::new().with(&Function::probe("native").timeout("120s").concurrency(4).egress(&rule));
        Some(Self { standin, project })
    }

    /// An agent, ready.
    #[must_use]
    pub fn start(&self) -> Agent {
        Agent::start(&self.project)
    }

    /// The event that makes the function send for so long.
    #[must_use]
    pub fn load(&self, connections: u32, ms: u32) -> Value {
        json!({"do": "load", "host": NAME, "path": "/echo/", "connections": connections, "ms": ms, "body_bytes": 20})
    }

    /// An agent that ran until `requests` more had arrived, and goes on sending.
    #[must_use]
    pub fn busy(&self, requests: usize) -> Agent {
        let before = self.standin.seen().len();
        let agent = self.start();
        for _ in 0..2 {
            drop(agent.invoke_aside("native", &self.load(4, 60_000)));
        }
        wait::until("traffic", || (self.standin.seen().len() >= before + requests).then_some(()));
        agent
    }

    /// Adds a boot with so many requests or more, and closes the log.
    pub fn filled(&self, requests: usize) {
        let before = self.standin.seen().len();
        let mut agent = self.start();
        while self.standin.seen().len() < before + requests {
            let _ = agent.call("native", &self.load(2, 20));
        }
        assert_eq!(agent.stop(), Some(0));
    }

    /// The agents' folder.
    #[must_use]
    pub fn state(&self) -> String {
        self.project.state().to_string_lossy().into_owned()
    }

    /// A name in the project's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.project.folder().join(name)
    }

    /// What `dshield log fsck` reports; its exit code says whether there are findings.
    #[must_use]
    pub fn fsck(&self) -> Value {
        let said = dshield(["log", "fsck", "--json", "--state", &self.state()]);
        let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let found = report["findings"].as_array().is_some_and(|findings| !findings.is_empty());
        assert_eq!((said.code, said.stderr.as_str()), (Some(i32::from(found)), ""), "{report:#}");
        report
    }

    /// [`Self::fsck`] that finds nothing.
    #[track_caller]
    pub fn whole(&self) -> Value {
        let report = self.fsck();
        assert_eq!(report["findings"], json!([]), "{report:#}");
        assert_eq!(report["good"].as_u64(), report["next"].as_u64().zip(report["first"].as_u64()).map(|(n, f)| n - f));
        report
    }

    /// Exports the log into a folder of this name.
    #[track_caller]
    pub fn export(&self, name: &str) -> PathBuf {
        let into = self.path(name);
        let said = dshield(["log", "export", &into.to_string_lossy(), "--state", &self.state()]).printed();
        assert!(said.contains("and the tree over them"), "{said}");
        into
    }
}

/// `dshield log verify` of a file, a folder or an agent.
#[must_use]
pub fn verify(what: impl AsRef<OsStr>, more: &[&str]) -> Left {
    let start = ["log", "verify"].map(OsStr::new);
    dshield(start.into_iter().chain([what.as_ref()]).chain(more.iter().map(OsStr::new)))
}

/// The lines of an exported log.
#[must_use]
pub fn lines(folder: &Path) -> Vec<String> {
    fs::read_to_string(folder.join("entries.ndjson")).expect("it was exported").lines().map(str::to_owned).collect()
}

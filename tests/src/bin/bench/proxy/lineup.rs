//! Who takes part: everything is started before anything is measured.
use std::path::Path;
use std::time::Duration;

use dshield_tests::client::Error;

use super::disk;
use super::options::Options;
use super::peers::{Ground, Peer};
use super::pki::Pki;
use super::subject::{Kind, Proxy, Subject, Walled};
use super::task::{Effort, Task};
use super::upstream::Upstream;

/// The subjects, and who could not take part.
#[derive(Debug)]
pub struct Lineup {
    /// In the order in which they take turns.
    pub subjects: Vec<Subject>,
    /// Mode, name and why.
    pub skipped: Vec<(Kind, &'static str, String)>,
}

/// The names of peers, as targets have them.
pub const HAPROXY: &str = "HAProxy";
pub const NGINX: &str = "nginx";
pub const SQUID: &str = "Squid";
pub const MITMPROXY: &str = "mitmproxy";

type Starter = fn(&Ground) -> Result<Peer, Error>;

const PEERS: [(Kind, &str, Starter); 5] = [
    (Kind::Passthrough, HAPROXY, Peer::haproxy),
    (Kind::Passthrough, NGINX, Peer::nginx_stream),
    (Kind::Inspect, NGINX, Peer::nginx_http),
    (Kind::Inspect, SQUID, Peer::squid),
    (Kind::Inspect, MITMPROXY, Peer::mitmproxy),
];

/// Settings of `[policy]`, the values as TOML.
type Settings = &'static [(&'static str, &'static str)];

/// D-Shield's own: where the log is matters for both modes, its level only for what is inspected. Each has an agent of
/// its own, whose memory nothing else has grown.
const OURS: [(Kind, &str, Settings); 5] = [
    (Kind::Passthrough, "D-Shield", &[]),
    (Kind::Passthrough, "D-Shield, memory_only", &[("memory_only", "true")]),
    (Kind::Inspect, "D-Shield", &[]),
    (Kind::Inspect, "D-Shield, log_level connection", &[("log_level", "\"connection\"")]),
    (Kind::Inspect, "D-Shield, memory_only", &[("memory_only", "true")]),
];

impl Lineup {
    /// Starts all that `options` includes, and uses each once.
    pub fn start(folder: &Path, pki: &Pki, upstream: &Upstream, options: &Options) -> Result<Self, Error> {
        let mut lineup = Self { subjects: Vec::new(), skipped: Vec::new() };
        for (kind, name, settings) in OURS {
            if options.includes(name, kind.word()) {
                let walled = Walled::start(kind, settings, pki, upstream, &disk::of_logs()?)?;
                let subject = Subject { name, kind, proxy: Proxy::Agent(walled) };
                used(&subject, upstream)?;
                lineup.subjects.push(subject);
            }
        }
        for (kind, name, start) in PEERS {
            if options.includes(name, kind.word()) {
                lineup.add(kind, name, start, &Ground { folder, pki, upstream, host: kind.host() });
            }
        }
        Ok(lineup)
    }

    fn add(&mut self, kind: Kind, name: &'static str, start: Starter, ground: &Ground) {
        let started = start(ground).and_then(|peer| {
            let subject = Subject { name, kind, proxy: Proxy::Peer(peer) };
            used(&subject, ground.upstream).map(|()| subject)
        });
        match started {
            Ok(subject) => self.subjects.push(subject),
            Err(why) => {
                eprintln!("skipped: {name} ({}): {why}", kind.word());
                self.skipped.push((kind, name, why.to_string()));
            }
        }
    }

    /// The places of a mode's subjects, D-Shield's or the peers'.
    pub fn places(&self, kind: Kind, ours: bool) -> impl Iterator<Item = usize> {
        let subjects = self.subjects.iter().enumerate();
        subjects.filter(move |(_, subject)| subject.kind == kind && subject.is_ours() == ours).map(|(place, _)| place)
    }
}

/// It works, and has done what it does only once.
fn used(subject: &Subject, upstream: &Upstream) -> Result<(), Error> {
    let little = Effort { rounds: 1, load: Duration::from_millis(100), bytes: 1, idle: 1 };
    Task::Connections(1).run(little, subject, upstream).map(drop)
}

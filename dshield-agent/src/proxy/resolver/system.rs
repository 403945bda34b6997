//! The machine's own way to addresses: `/etc/hosts`, then the name servers of `/etc/resolv.conf`. Both are read again
//! when they have changed.
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

use super::{ResolveError, build};

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where an answer is.
pub(super) enum Found {
    /// Here: the machine's owner says so, and nobody else is asked.
    InHosts(Vec<IpAddr>),
    /// With these.
    Ask(Result<Arc<TokioResolver>, ResolveError>),
}

/// The two files, and what they said last.
pub(super) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    hosts: (Option<Stamp>, Hosts),
    servers: (Option<Stamp>, Option<Result<Arc<TokioResolver>, String>>),
}

/// What changes when a file does: device, inode, size, and when it was changed, in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Default for System {
    fn default() -> Self {
        Self::with_files("/etc/hosts".into(), "/etc/resolv.conf".into())
    }
}

impl System {
    pub(super) fn with_files(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self { hosts, resolv_conf, state: Mutex::default() }
    }

    /// Says where the addresses of `name` are to be found. Looks at two small files now and then; waits for nothing else.
    pub(super) fn look(&self, name: &Name) -> Found {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN) {
            state.look_again(&self.hosts, &self.resolv_conf);
            state.looked = Some(Instant::now());
        }
        let addresses = in_hosts(&state.hosts.1, name);
        if !addresses.is_empty() {
            return Found::InHosts(addresses);
        }
        Found::Ask(match &state.servers.1 {
            Some(Ok(resolver)) => Ok(resolver.clone()),
            Some(Err(error)) => Err(ResolveError::Configuration(error.clone())),
            None => Err(ResolveError::Configuration(format!("{} cannot be read", self.resolv_conf.display()))),
        })
    }
}

impl State {
    fn look_again(&mut self, hosts: &Path, resolv_conf: &Path) {
        let stamped = stamp(hosts);
        if stamped != self.hosts.0 {
            self.hosts = (stamped, read_hosts(hosts));
        }
        let stamped = stamp(resolv_conf);
        if stamped != self.servers.0 {
            // A new resolver: what other servers said before is forgotten.
            self.servers = (stamped, stamped.map(|_| read_servers(resolv_conf)));
        }
    }
}

/// `None` when it is not there.
fn stamp(file: &Path) -> Option<Stamp> {
    let is = fs::metadata(file).ok()?;
    Some((is.dev(), is.ino(), is.size(), is.mtime(), is.mtime_nsec()))
}

/// A line that cannot be read is left out, as the C library does; so is a file.
fn read_hosts(file: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = File::open(file).and_then(|file| hosts.read_hosts_conf(file)) {
        tracing::warn!("{}: {error}", file.display());
    }
    hosts
}

fn read_servers(file: &Path) -> Result<Arc<TokioResolver>, String> {
    let say = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = fs::read(file).map_err(|error| say(&error))?;
    let (config, options) = parse_resolv_conf(text).map_err(|error| say(&error))?;
    build(config, options, None).map(Arc::new).map_err(|error| say(&error))
}

fn in_hosts(hosts: &Hosts, name: &Name) -> Vec<IpAddr> {
    let found =
        [RecordType::AAAA, RecordType::A].map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)));
    let records = found.iter().flatten().flat_map(|lookup| lookup.answers());
    records.filter_map(|record| record.data.ip_addr()).collect()
}

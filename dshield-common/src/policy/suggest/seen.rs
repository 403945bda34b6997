//! What one function tried, taken from its entries: what a rule could allow, and what none may.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::{is_synthetic, special_purpose};
use crate::destination::Destination;
use crate::log::entry::{Attempt, Connect, Refused, Request as RequestEntry};
use crate::name::HostName;
use crate::policy::decide::OBSERVE;
use crate::policy::parse::is_method;
use crate::policy::path::PathPattern;
use crate::policy::types::TlsMode;

/// Everything that one function tried and was refused.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What a rule could allow, by destination and port. No port: its name was asked for, no more.
    pub(super) destinations: BTreeMap<Destination, BTreeMap<u16, Use>>,
    /// What no rule may allow, or none can say.
    pub(super) notes: BTreeMap<Note, u64>,
    /// Refusals of which only the number is known.
    pub(super) only_counted: u64,
}

/// What was done at one port of one destination.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// What became of TLS, where the log tells.
    pub(super) tls: Option<TlsMode>,
    /// The requests that a rule can name.
    pub(super) requests: BTreeSet<Request>,
    /// There was one that no rule can name: a rule without methods and paths would say more than was seen.
    pub(super) unnameable: bool,
    /// A rule for the destination is there already.
    pub(super) has_rule: bool,
}

/// A request that a rule can name: an upper-case method and an exact path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// It asked for another protocol on its connection.
    pub(super) upgrade: bool,
}

/// A kind of refusal that no rule changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    pub(super) reason: String,
    pub(super) host: Option<String>,
    pub(super) advice: Option<String>,
}

/// What the log says of an allowed connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    port: u16,
    tls: Option<TlsMode>,
    /// No rule allowed it.
    observed: bool,
}

impl Connection {
    pub(super) fn of(connect: &Connect) -> Self {
        Self { port: connect.port, tls: connect.tls.parse().ok(), observed: connect.rule == OBSERVE }
    }
}

impl Seen {
    /// Takes a refusal; `connection` is the one that it was on.
    pub(super) fn refused(&mut self, function: &str, refused: &Refused, connection: Option<&Connection>) {
        let times = refused.count.unwrap_or(1);
        match learnable(refused) {
            Ok((to, attempt)) => {
                // The entry is the first one's; the others may have been for anything.
                self.only_counted = self.only_counted.saturating_add(times.saturating_sub(1));
                self.wanted(to, attempt, refused, connection);
            }
            Err(advice) => {
                let host = refused.attempt.as_ref().map(|attempt| attempt.host.clone());
                let advice = advice.or_else(|| refused.hint(function));
                self.note(Note { reason: refused.reason.clone(), host, advice }, times);
            }
        }
    }

    /// Takes a connection that was let through without a rule.
    pub(super) fn observed_connection(&mut self, connect: &Connect) {
        let Ok(to) = destination(&connect.host) else { return };
        let used = self.destinations.entry(to).or_default().entry(connect.port).or_default();
        used.tls = used.tls.or(connect.tls.parse().ok());
    }

    /// Takes a request that was let through without a rule, on `connection`.
    pub(super) fn observed_request(&mut self, request: &RequestEntry, connection: &Connection) {
        let RequestEntry { host: Some(host), method: Some(method), path: Some(path), .. } = request else { return };
        let Ok(to) = destination(host) else { return };
        let used = self.destinations.entry(to).or_default().entry(connection.port).or_default();
        used.tls = used.tls.or(connection.tls);
        used.has_rule |= !connection.observed;
        if !used.request(method, path, false) {
            self.unnameable(OBSERVE, host, method, path);
        }
    }

    fn wanted(&mut self, to: Destination, attempt: &Attempt, refused: &Refused, connection: Option<&Connection>) {
        let ports = self.destinations.entry(to).or_default();
        let Some(port) = attempt.port.filter(|port| *port != 0) else { return };
        let used = ports.entry(port).or_default();
        used.tls = used.tls.or(connection.and_then(|connection| connection.tls));
        used.has_rule |= !matches!(refused.reason.as_str(), "name_not_allowed" | "address_not_allowed");
        let (Some(method), Some(path)) = (&attempt.method, &attempt.path) else { return };
        if !used.request(method, path, refused.reason == "upgrade_not_allowed") {
            self.unnameable(&refused.reason, &attempt.host, method, path);
        }
    }

    fn unnameable(&mut self, reason: &str, host: &str, method: &str, path: &str) {
        let advice = Some(format!("no rule can name the request {method} {path}"));
        self.note(Note { reason: reason.to_owned(), host: Some(host.to_owned()), advice }, 1);
    }

    fn note(&mut self, note: Note, times: u64) {
        let count = self.notes.entry(note).or_default();
        *count = count.saturating_add(times);
    }
}

impl Use {
    /// Takes a request; false when no rule can name it.
    fn request(&mut self, method: &str, path: &str, upgrade: bool) -> bool {
        let nameable = is_method(method) && PathPattern::names_exactly(path);
        if nameable {
            self.requests.insert(Request { method: method.to_owned(), path: path.to_owned(), upgrade });
        } else {
            self.unnameable = true;
        }
        nameable
    }
}

/// A rule's `host` that means what the log calls so; or advice of its own why none may be made from a log.
fn destination(host: &str) -> Result<Destination, Option<String>> {
    let Ok(address) = host.parse::<IpAddr>() else {
        return HostName::parse(host).map(Destination::from).map_err(|_| None);
    };
    let to = Destination::from(address);
    let Destination::Address(address) = to else { return Ok(to) };
    if is_synthetic(address) {
        return Err(None);
    }
    match special_purpose(address) {
        None => Ok(to),
        Some(why) => Err(Some(format!(
            "{why}, not on the public internet; if it is meant, write a rule with host = \"{address}\" yourself, \
             or one for a name with `resolve`"
        ))),
    }
}

/// What a rule would have to allow, or why none may: advice of its own, where the reason's is not enough.
fn learnable(refused: &Refused) -> Result<(Destination, &Attempt), Option<String>> {
    let by_rules = [
        "name_not_allowed",
        "address_not_allowed",
        "port_not_allowed",
        "method_not_allowed",
        "path_not_allowed",
        "upgrade_not_allowed",
    ];
    if !by_rules.contains(&refused.reason.as_str()) {
        return Err(None);
    }
    let attempt = refused.attempt.as_ref().ok_or(None)?;
    destination(&attempt.host).map(|to| (to, attempt))
}

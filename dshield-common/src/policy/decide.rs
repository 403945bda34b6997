//! May it leave? From a destination, a port, a method and a path to the rule that allows it, or to the reason why none does.
//!
//! The most specific host pattern that matches speaks alone: an exact host before a wildcard, a longer wildcard before a
//! shorter one, a narrow network before a broad one. So a narrow rule for one host is never widened by a broad one.
//!
//! This is also the one place that knows [`Mode::Observe`]: what the rules alone would deny is then decided on like the
//! rest, and comes with the [`Denied`] that it would have been, for the log. What no rule could allow stays denied.
use std::sync::Arc;

use super::denied::{Denied, shown};
use super::path;
use super::spki::SpkiPin;
use super::types::{FunctionPolicy, HostPattern, Mode, Pin, Protocol, Rule, TlsMode};
use crate::address::{Network, is_synthetic, special_purpose};
use crate::destination::Destination;
use crate::name::HostName;

impl FunctionPolicy {
    /// Whether DNS may know `name`. What it would have been denied for comes along where the policy observes.
    ///
    /// # Errors
    /// [`Denied::Name`] when no rule is for the name.
    pub fn look_up(&self, name: &HostName) -> Result<Option<Denied>, Denied> {
        if self.allows_name(name) {
            return Ok(None);
        }
        let denied = self.denies_name(name);
        if self.mode == Mode::Observe { Ok(Some(denied)) } else { Err(denied) }
    }

    /// The decision about connecting to `port` of `to`.
    ///
    /// # Errors
    /// [`Denied::Name`] or [`Denied::Address`] when no rule is for the destination, [`Denied::SpecialPurpose`] when one
    /// is that does not mean such addresses, [`Denied::Port`] when those that are do not list the port.
    pub fn route(&self, to: &Destination, port: u16) -> Result<Route, Denied> {
        match self.route_by_rules(to, port) {
            Err(denied) if self.mode == Mode::Observe && is_for_rules(&denied) && is_public(to) => {
                Ok(Route::observed(to, port, denied))
            }
            decided => decided,
        }
    }

    /// True when some rule is for this name, whatever the port.
    #[must_use]
    pub fn allows_name(&self, name: &HostName) -> bool {
        let name = Destination::Name(name.clone());
        self.egress.iter().any(|rule| rule.host.matches(&name))
    }

    /// [`Self::route`] by the rules alone.
    pub(super) fn route_by_rules(&self, to: &Destination, port: u16) -> Result<Route, Denied> {
        let best = self.speaks_for(to)?;
        let speaking = || self.egress.iter().filter(|rule| rule.host == *best);
        let rules: Vec<Arc<Rule>> = speaking().filter(|rule| rule.ports.contains(&port)).cloned().collect();
        if rules.is_empty() {
            let mut allowed: Vec<u16> = speaking().flat_map(|rule| rule.ports.iter().copied()).collect();
            allowed.sort_unstable();
            allowed.dedup();
            return Err(Denied::Port { host: best.to_string(), port, allowed });
        }
        Ok(Route { to: to.clone(), port, rules, mode: self.mode, observed: None })
    }

    fn denies_name(&self, name: &HostName) -> Denied {
        Denied::Name { function: self.name.to_string(), host: name.to_string() }
    }

    /// The most specific pattern that matches, when it means such a destination.
    fn speaks_for(&self, to: &Destination) -> Result<&HostPattern, Denied> {
        let matching = self.egress.iter().map(|rule| &rule.host).filter(|host| host.matches(to));
        let best = matching.max_by_key(|host| specificity(host));
        match (to, best) {
            (Destination::Name(_), Some(best)) => Ok(best),
            (Destination::Name(name), None) => Err(self.denies_name(name)),
            (Destination::Address(address), Some(best)) if !is_synthetic(*address) => {
                // A broad network is written for the public internet; it opens nobody's machine or cloud.
                let meant = matches!(best, HostPattern::Network(network) if network.special_purpose().is_some());
                match special_purpose(*address).filter(|_| !meant) {
                    Some(why) => Err(Denied::SpecialPurpose { address: *address, why, host: best.to_string() }),
                    None => Ok(best),
                }
            }
            // An address that stands for a name, but was not given to this instance, is nobody's.
            (Destination::Address(address), _) => {
                Err(Denied::Address { function: self.name.to_string(), address: *address })
            }
        }
    }
}

/// The id of the rule that lets through what no other allows, while the policy observes. No rule of a policy has it:
/// theirs are made of a function's name and a place.
pub const OBSERVE: &str = "observe";

/// Whether a rule could allow it, and nothing but a rule is missing.
fn is_for_rules(denied: &Denied) -> bool {
    matches!(
        denied,
        Denied::Name { .. }
            | Denied::Address { .. }
            | Denied::Port { .. }
            | Denied::Method { .. }
            | Denied::Path { .. }
            | Denied::Upgrade { .. }
    )
}

/// Not an address that only its own rule opens, nor one that stands for a name.
fn is_public(to: &Destination) -> bool {
    match to {
        Destination::Name(_) => true,
        Destination::Address(address) => special_purpose(*address).is_none() && !is_synthetic(*address),
    }
}

fn specificity(host: &HostPattern) -> (bool, usize) {
    match host {
        HostPattern::Exact(name) => (true, name.as_str().len()),
        HostPattern::Wildcard(apex) => (false, apex.as_str().len()),
        HostPattern::Network(network) => (true, network.length().into()),
    }
}

/// A destination that at least one rule allows, with those rules.
#[derive(Clone, Debug)]
pub struct Route {
    /// The one name of the flow, or its address.
    pub to: Destination,
    /// The port that the function asked for.
    pub port: u16,
    /// Never empty; all with the same host pattern and `port`, so the parser made them agree about the connection.
    rules: Vec<Arc<Rule>>,
    mode: Mode,
    observed: Option<Denied>,
}

/// A request that goes on.
#[derive(Clone, Debug)]
pub struct Permit {
    /// The rule that allows it: its `max_request_bytes` is the one that holds.
    pub rule: Arc<Rule>,
    /// What it would have been denied for, where it goes on only because the policy observes.
    pub observed: Option<Denied>,
}

impl Route {
    /// To what the rules do not allow: with what a rule for it would most likely say.
    fn observed(to: &Destination, port: u16, denied: Denied) -> Self {
        let host = match to {
            Destination::Name(name) => HostPattern::Exact(name.clone()),
            Destination::Address(address) => HostPattern::Network(Network::host(*address)),
        };
        let (tls, protocol) = match port {
            443 => (TlsMode::Inspect, Protocol::Http),
            80 => (TlsMode::None, Protocol::Http),
            _ => (TlsMode::None, Protocol::Tcp),
        };
        let rule = Arc::new(Rule::any(OBSERVE.to_owned(), host, port, tls, protocol));
        Self { to: to.clone(), port, rules: vec![rule], mode: Mode::Observe, observed: Some(denied) }
    }

    /// What it would have been denied for, where it goes on only because the policy observes.
    #[must_use]
    pub fn would_be(&self) -> Option<&Denied> {
        self.observed.as_ref()
    }

    /// What becomes of TLS.
    #[must_use]
    pub fn tls(&self) -> TlsMode {
        self.rule().tls
    }

    /// What is spoken.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.rule().protocol
    }

    /// The addresses to connect to; empty means: ask DNS.
    #[must_use]
    pub fn resolve(&self) -> &[Pin] {
        &self.rule().resolve
    }

    /// Certificates (DER) that may anchor the upstream's chain, besides the usual ones.
    #[must_use]
    pub fn ca(&self) -> &[Vec<u8>] {
        &self.rule().ca
    }

    /// The keys that the upstream's certificate may have; empty means: any.
    #[must_use]
    pub fn pin_spki(&self) -> &[SpkiPin] {
        &self.rule().pin_spki
    }

    /// The first rule: the one that counts where requests are not seen.
    #[must_use]
    pub fn rule(&self) -> &Arc<Rule> {
        &self.rules[0] // `route` makes no Route without a rule
    }

    /// True when requests are seen: decided and logged one by one.
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.tls() != TlsMode::Passthrough && self.protocol() == Protocol::Http
    }

    /// True when some rule says which methods are allowed.
    #[must_use]
    pub fn limits_methods(&self) -> bool {
        self.rules.iter().any(|rule| rule.methods.is_some())
    }

    /// The first rule's id: what the log names before a request is known.
    #[must_use]
    pub fn rule_id(&self) -> &str {
        &self.rule().id
    }

    /// The decision about a request: the first rule that allows `method` on `path`, the path in origin form, without its
    /// query, byte for byte as it will be sent.
    ///
    /// # Errors
    /// [`Denied::AmbiguousPath`], [`Denied::Method`] or [`Denied::Path`].
    pub fn request(&self, method: &str, path: &str) -> Result<Permit, Denied> {
        match self.request_by_rules(method, path) {
            Ok(rule) => Ok(Permit { rule: rule.clone(), observed: None }),
            Err(denied) if self.mode == Mode::Observe && is_for_rules(&denied) => {
                // On the same connection, but with nothing that its rules give to requests that they allow.
                let Rule { host, tls, protocol, .. } = self.rule().as_ref();
                let rule = Rule::any(OBSERVE.to_owned(), host.clone(), self.port, *tls, *protocol);
                Ok(Permit { rule: Arc::new(rule), observed: Some(denied) })
            }
            Err(denied) => Err(denied),
        }
    }

    /// The decision about a request that `rule` allows, and that asks for another protocol on its connection. What it
    /// would have been denied for comes along where the policy observes.
    ///
    /// # Errors
    /// [`Denied::Upgrade`].
    pub fn upgrade(&self, rule: &Rule) -> Result<Option<Denied>, Denied> {
        match rule.denies_upgrade() {
            Some(denied) if self.mode == Mode::Enforce => Err(denied),
            observed => Ok(observed),
        }
    }

    /// [`Self::request`] by the rules alone.
    pub(super) fn request_by_rules(&self, method: &str, path: &str) -> Result<&Arc<Rule>, Denied> {
        let host = || self.rule().host.to_string();
        let rule = || self.rule_id().to_owned();
        if self.rules.iter().any(|rule| rule.paths.is_some()) && path::is_ambiguous(path) {
            return Err(Denied::AmbiguousPath { host: host(), path: shown(path), rule: rule() });
        }
        let mut for_method = self.rules.iter().filter(|rule| allows_method(rule, method)).peekable();
        if for_method.peek().is_none() {
            let mut allowed: Vec<String> =
                self.rules.iter().flat_map(|rule| rule.methods.iter().flatten().cloned()).collect();
            allowed.sort();
            allowed.dedup();
            return Err(Denied::Method { host: host(), method: shown(method), allowed, rule: rule() });
        }
        for_method.find(|rule| allows_path(rule, path)).ok_or_else(|| Denied::Path {
            host: host(),
            method: shown(method),
            path: shown(path),
            rule: rule(),
        })
    }
}

fn allows_method(rule: &Rule, method: &str) -> bool {
    rule.methods.as_ref().is_none_or(|methods| methods.iter().any(|own| own == method))
}

fn allows_path(rule: &Rule, path: &str) -> bool {
    rule.paths.as_ref().is_none_or(|paths| paths.iter().any(|own| own.matches(path)))
}

#[cfg(test)]
mod tests;

//! From what a function tried to the smallest rules that would allow it, beside those that it has.
use std::collections::{BTreeMap, BTreeSet};

use super::seen::{Request, Seen, Use};
use crate::destination::Destination;
use crate::policy::decide::Route;
use crate::policy::denied::Denied;
use crate::policy::types::{FunctionPolicy, HostPattern, Protocol, Rule, TlsMode};

/// What is missing.
#[derive(Debug, Default)]
pub(super) struct Drafted {
    pub(super) rules: Vec<Draft>,
    /// What to change in rules that are there, in words.
    pub(super) changes: BTreeSet<String>,
}

/// A rule to add.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) host: String,
    pub(super) ports: BTreeSet<u16>,
    pub(super) way: Way,
    pub(super) shape: Shape,
    /// Nothing is known but the name.
    pub(super) name_only: bool,
    /// There is a rule for the host, and it is not known what it says.
    pub(super) beside: bool,
}

/// What all rules for one host and port have to agree about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) tls: &'static str,
    pub(super) protocol: &'static str,
    pub(super) resolve: Vec<String>,
    pub(super) pin_spki: Vec<String>,
}

/// Which requests: each of the methods on each of the paths, and no others. Without any: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) methods: BTreeSet<String>,
    pub(super) paths: BTreeSet<String>,
    pub(super) upgrade: bool,
}

/// What is missing in `rules`; without them, in a function that has none.
pub(super) fn draft(seen: &Seen, rules: Option<&FunctionPolicy>) -> Drafted {
    let mut drafted = Drafted::default();
    for (to, ports) in &seen.destinations {
        if ports.is_empty() && !rules.is_some_and(|rules| to.name().is_some_and(|name| rules.allows_name(name))) {
            let way = Way::new(TlsMode::Inspect, Protocol::Http);
            let (host, ports) = (to.to_string(), BTreeSet::from([443]));
            drafted.rules.push(Draft { host, ports, way, shape: Shape::default(), name_only: true, beside: false });
        }
        // Ports with the same requests share a rule.
        let mut missing: BTreeMap<(Way, Shape), (BTreeSet<u16>, bool)> = BTreeMap::new();
        for (port, used) in ports {
            let unlisted = || (used.way(*port), used.requests.clone(), false);
            let (way, requests, connects) = match rules.map(|rules| (rules, rules.route_by_rules(to, *port))) {
                None | Some((_, Err(Denied::Name { .. } | Denied::Address { .. }))) => unlisted(),
                Some((rules, Err(_))) if stands_alone(rules, to) => unlisted(),
                Some((_, Err(denied))) => {
                    drafted.changes.insert(denied.hint());
                    continue;
                }
                Some((_, Ok(route))) => {
                    let lacking = lacking(&route, used, &mut drafted.changes);
                    (Way::of(route.rule()), lacking, true)
                }
            };
            let beside = rules.is_none() && used.has_rule;
            for shape in shapes(&requests, used, connects) {
                let (ports, is_beside) = missing.entry((way.clone(), shape)).or_default();
                ports.insert(*port);
                *is_beside |= beside;
            }
        }
        drafted.rules.extend(missing.into_iter().map(|((way, shape), (ports, beside))| Draft {
            host: to.to_string(),
            ports,
            way,
            shape,
            name_only: false,
            beside,
        }));
    }
    drafted
}

/// The requests that need a rule of their own beside those of `route`. What can only be had by changing one of them is
/// said in `changes`.
fn lacking(route: &Route, used: &Use, changes: &mut BTreeSet<String>) -> BTreeSet<Request> {
    let mut lacking = BTreeSet::new();
    for request in &used.requests {
        match route.request_by_rules(&request.method, &request.path) {
            Ok(rule) => {
                // Of the rules that allow a request the first counts: one more behind it changes nothing.
                if let Some(denied) = rule.denies_upgrade().filter(|_| request.upgrade) {
                    changes.insert(denied.hint());
                }
            }
            Err(_) if can_stand_beside(route.rule(), &route.to) => {
                lacking.insert(request.clone());
            }
            Err(denied) => {
                changes.insert(change(route.rule(), request, &denied));
            }
        }
    }
    lacking
}

/// How to make `rule` allow a request.
fn change(rule: &Rule, request: &Request, denied: &Denied) -> String {
    let Request { method, path, .. } = request;
    let hint = denied.hint();
    let other_path = rule.paths.as_ref().is_some_and(|paths| !paths.iter().any(|own| own.matches(path)));
    match denied {
        Denied::Method { .. } if other_path => format!("for {method} {path}: {hint}, and \"{path}\" to its `paths`"),
        _ => format!("for {method} {path}: {hint}"),
    }
}

/// Whether a rule for `to` alone can say everything that `rule` says of the connection. What is in a file named by `ca`
/// is not written twice; beside a wildcard, a rule for one name would take that name away from it.
fn can_stand_beside(rule: &Rule, to: &Destination) -> bool {
    is_only(&rule.host, to) && rule.ca.is_empty()
}

/// Whether all rules for `to` are for it alone, and connect to what it stands for: another port of it needs no more.
fn stands_alone(rules: &FunctionPolicy, to: &Destination) -> bool {
    let mut matching = rules.egress.iter().filter(|rule| rule.host.matches(to));
    matching.all(|rule| {
        is_only(&rule.host, to) && rule.resolve.is_empty() && rule.ca.is_empty() && rule.pin_spki.is_empty()
    })
}

fn is_only(host: &HostPattern, to: &Destination) -> bool {
    match (host, to) {
        (HostPattern::Exact(own), Destination::Name(name)) => own == name,
        (HostPattern::Network(network), Destination::Address(address)) => {
            *network == crate::address::Network::host(*address)
        }
        _ => false,
    }
}

impl Use {
    /// How a rule would treat the connection, by what was seen of it.
    fn way(&self, port: u16) -> Way {
        let has_requests = self.unnameable || !self.requests.is_empty();
        match (self.tls, port) {
            (Some(TlsMode::Passthrough), _) => Way::new(TlsMode::Passthrough, Protocol::Http),
            (Some(TlsMode::Inspect), _) | (None, 443) => Way::new(TlsMode::Inspect, Protocol::Http),
            (_, 80) => Way::new(TlsMode::None, Protocol::Http),
            (Some(TlsMode::None), _) if has_requests => Way::new(TlsMode::None, Protocol::Http),
            (None, _) if has_requests => Way::new(TlsMode::Inspect, Protocol::Http),
            _ => Way::new(TlsMode::None, Protocol::Tcp),
        }
    }
}

impl Way {
    fn new(tls: TlsMode, protocol: Protocol) -> Self {
        Self { tls: tls.as_str(), protocol: protocol.as_str(), resolve: Vec::new(), pin_spki: Vec::new() }
    }

    fn of(rule: &Rule) -> Self {
        Self {
            resolve: rule.resolve.iter().map(ToString::to_string).collect(),
            pin_spki: rule.pin_spki.iter().map(ToString::to_string).collect(),
            ..Self::new(rule.tls, rule.protocol)
        }
    }
}

/// The requests as products of methods and paths, none of which holds a pair that is not among them. Where no request is
/// known, and the connection itself is not allowed yet, any.
fn shapes(requests: &BTreeSet<Request>, used: &Use, connection_is_allowed: bool) -> BTreeSet<Shape> {
    if requests.is_empty() {
        let any = used.requests.is_empty() && !used.unnameable && !connection_is_allowed;
        return any.then(Shape::default).into_iter().collect();
    }
    let mut paths_of: BTreeMap<(bool, &str), BTreeSet<String>> = BTreeMap::new();
    for Request { method, path, upgrade } in requests {
        // A rule that allows the upgrade allows the request without it.
        let covered =
            !upgrade && requests.contains(&Request { method: method.clone(), path: path.clone(), upgrade: true });
        if !covered {
            paths_of.entry((*upgrade, method)).or_default().insert(path.clone());
        }
    }
    let mut methods_of: BTreeMap<(bool, BTreeSet<String>), BTreeSet<String>> = BTreeMap::new();
    for ((upgrade, method), paths) in paths_of {
        methods_of.entry((upgrade, paths)).or_default().insert(method.to_owned());
    }
    methods_of.into_iter().map(|((upgrade, paths), methods)| Shape { methods, paths, upgrade }).collect()
}

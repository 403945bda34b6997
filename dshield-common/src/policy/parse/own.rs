//! Where the agent itself sends: the URL of a service, with what proves who answers there, to a rule.
use std::sync::Arc;

use super::read::Fields;
use super::{ReadCa, upstream};
use crate::address::Network;
use crate::destination::Destination;
use crate::policy::diagnostic::Findings;
use crate::policy::path::PathPattern;
use crate::policy::spki::SpkiPin;
use crate::policy::types::{HostPattern, Pin, Protocol, Rule, TlsMode};

/// What a service's URL says.
pub(super) struct Place {
    tls: TlsMode,
    pub(super) to: Destination,
    pub(super) port: u16,
    /// Its path without slashes at its end, so that another can follow.
    pub(super) prefix: String,
}

impl Place {
    /// Reads `https://host:port/prefix/` or `http://…`. The prefix is checked with what follows it, by [`Place::rule`].
    pub(super) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (tls, default_port) = match scheme {
            "https" => (TlsMode::Inspect, 443),
            "http" => (TlsMode::None, 80),
            _ => return None,
        };
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (to, port) = Destination::parse_authority(authority.as_bytes()).ok()?;
        Some(Self { tls, to, port: port.unwrap_or(default_port), prefix: prefix.trim_end_matches('/').to_owned() })
    }

    /// The rule `id` for `method` on these paths below the prefix, and on nothing else; none where the prefix makes them
    /// paths that could be read in two ways.
    pub(super) fn rule(&self, id: String, method: &str, paths: &[&str], proof: Proof) -> Option<Arc<Rule>> {
        let host = match &self.to {
            Destination::Name(name) => HostPattern::Exact(name.clone()),
            Destination::Address(address) => HostPattern::Network(Network::host(*address)),
        };
        let path = |path: &&str| {
            let path = format!("{}{path}", self.prefix);
            PathPattern::names_exactly(&path).then_some(PathPattern::Exact(path))
        };
        let mut rule = Rule::any(id, host, self.port, self.tls, Protocol::Http);
        rule.methods = Some(vec![method.to_owned()]);
        rule.paths = Some(paths.iter().map(path).collect::<Option<_>>()?);
        (rule.resolve, rule.ca, rule.pin_spki) = (proof.resolve, proof.ca, proof.pin_spki);
        Some(Arc::new(rule))
    }
}

/// Where a service is, and what its certificate is to prove.
pub(super) struct Proof {
    resolve: Vec<Pin>,
    ca: Vec<Vec<u8>>,
    pin_spki: Vec<SpkiPin>,
}

impl Proof {
    /// The fields of it.
    pub(super) const FIELDS: [&str; 3] = ["resolve", "ca", "pin_spki"];

    /// Reads them from the table that has the URL.
    pub(super) fn read(
        fields: &Fields<'_>,
        place: Option<&Place>,
        read_ca: &mut ReadCa<'_>,
        findings: &mut Findings<'_>,
    ) -> Self {
        let proof = Self {
            resolve: upstream::resolve(fields, findings),
            ca: upstream::ca(fields, read_ca, findings),
            pin_spki: upstream::pin_spki(fields, findings),
        };
        let mut useless = |name: &str, why: &str, instead: &str| {
            if fields.has(name) {
                let hint = format!("{instead}, or leave `{name}` out");
                findings.add_with_hint(&fields.at_key(name), format!("`{name}` has no effect {why}"), hint);
            }
        };
        if place.is_some_and(|place| place.tls == TlsMode::None) {
            for name in ["ca", "pin_spki"] {
                useless(name, "with http://: there is no certificate", "write https://");
            }
        }
        if place.is_some_and(|place| place.to.name().is_none()) {
            useless("resolve", "with an address: it is connected to as it is", "write a name into the URL");
        }
        proof
    }
}

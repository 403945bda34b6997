//! What a policy allows that its owner may not have meant. It is allowed all the same: a policy flows in, warnings flow out.
use std::net::IpAddr;

use super::types::{HostPattern, Policy, Rule};
use crate::destination::Destination;
use crate::name::HostName;

/// Public resolvers that answer over HTTPS (RFC 8484), by the names under which their operators offer them. A short
/// list of those that programs come with, not a wall: anyone can run one.
const RESOLVERS: [&str; 16] = [
    "1dot1dot1dot1.cloudflare-dns.com",
    "base.dns.mullvad.net",
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "dns.adguard-dns.com",
    "dns.alidns.com",
    "dns.google",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns9.quad9.net",
    "dns10.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.opendns.com",
    "mozilla.cloudflare-dns.com",
    "one.one.one.one",
];

/// The same by address, of those whose certificates have them.
const RESOLVER_ADDRESSES: [&str; 10] = [
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "149.112.112.112",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "2001:4860:4860::8888",
    "2620:fe::fe",
];

/// Something to think about before the policy is used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// The rule's id, such as `summarize.egress[0]`.
    pub rule: String,
    /// What it allows, and what to write instead.
    pub message: String,
}

impl Policy {
    /// What its rules allow that is rarely meant, in their order.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let rules = self.functions.iter().flat_map(|function| &function.egress);
        rules.flat_map(|rule| [any_name(rule), resolver(rule)]).flatten().collect()
    }
}

fn warning(rule: &Rule, message: String) -> Warning {
    Warning { rule: rule.id.clone(), message }
}

fn any_name(rule: &Rule) -> Option<Warning> {
    let HostPattern::Wildcard(apex) = &rule.host else { return None };
    // Where the addresses are pinned, nobody is asked, and the name goes to them only.
    let reader = if rule.resolve.is_empty() { "the name servers of" } else { "the servers of" };
    let message = format!(
        "a function chooses any name below {apex}, and each goes to {reader} {apex}: the names themselves can carry \
         data; list the hosts that it needs"
    );
    Some(warning(rule, message))
}

fn resolver(rule: &Rule) -> Option<Warning> {
    let names = RESOLVERS.iter().filter_map(|name| HostName::parse(name).ok()).map(Destination::Name);
    let addresses = RESOLVER_ADDRESSES.iter().filter_map(|address| address.parse::<IpAddr>().ok());
    let met = names.chain(addresses.map(Destination::from)).find(|resolver| rule.host.matches(resolver))?;
    let message = format!(
        "{met} answers DNS over HTTPS for anybody: a function can ask it for names of its own making, and each carries \
         data to whoever owns the name; leave it out, the agent resolves what the rules allow"
    );
    Some(warning(rule, message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::parse::tests::{parse, with};

    fn warned(rule: &str) -> Vec<String> {
        let policy = parse(&with(&format!("[[function.egress]]\n{rule}\n"))).unwrap().policy;
        let warnings = policy.warnings();
        assert!(warnings.iter().all(|warning| warning.rule == policy.functions[0].egress[0].id), "{warnings:?}");
        warnings.into_iter().map(|warning| warning.message).collect()
    }

    #[test]
    fn a_rule_that_reaches_a_public_resolver_is_warned_of() {
        for host in ["dns.google", "mozilla.cloudflare-dns.com", "1.1.1.1", "8.8.8.0/24", "2620:fe::fe"] {
            let [message] = &warned(&format!("host = \"{host}\""))[..] else { panic!("{host}") };
            assert!(message.contains("DNS over HTTPS"), "{host}: {message}");
        }
        let both = warned("host = \"*.quad9.net\"");
        assert!(both.len() == 2 && both[1].starts_with("dns.quad9.net "), "{both:?}");
        for host in ["api.example.com", "google.com", "8.8.9.0/24", "192.0.2.1"] {
            assert_eq!(warned(&format!("host = \"{host}\"")), [""; 0], "{host}");
        }
    }

    #[test]
    fn a_wildcard_is_warned_of_and_who_reads_its_names_is_said() {
        let [asked] = &warned("host = \"*.b.com\"")[..] else { panic!() };
        assert!(asked.contains("the name servers of b.com"), "{asked}");
        let [pinned] = &warned("host = \"*.b.com\"\nresolve = [\"9.9.9.1\"]")[..] else { panic!() };
        assert!(pinned.contains("the servers of b.com"), "{pinned}");
    }

    #[test]
    fn every_entry_of_the_lists_can_be_read() {
        assert!(RESOLVERS.iter().all(|name| HostName::parse(name).is_ok()));
        assert!(RESOLVER_ADDRESSES.iter().all(|address| address.parse::<IpAddr>().is_ok()));
    }
}

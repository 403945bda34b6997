//! The `host` of a rule: a name, a domain's wildcard, an address or a network.
use std::ops::Range;

use super::read::{Fields, Spanned};
use crate::address::{Network, NetworkError};
use crate::name::{HostName, NameError};
use crate::policy::diagnostic::Findings;
use crate::policy::types::HostPattern;

pub(super) fn host(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<HostPattern> {
    let Spanned { value, at } = fields.required_string("host", "\"api.example.com\"", findings)?;
    if value == "*" {
        let hint = "name the hosts, or a domain as \"*.example.com\"";
        findings.add_with_hint(&at, "a rule cannot be for every host", hint);
        return None;
    }
    match value.parse::<Network>() {
        Ok(network) => of_network(network, &at, findings),
        // Half an address, or a name.
        Err(NetworkError::Address) => of_name(value, &at, findings),
        Err(error) => {
            findings.add(&at, format!("{value:?} is not a network: {error}"));
            None
        }
    }
}

fn of_network(network: Network, at: &Range<usize>, findings: &mut Findings<'_>) -> Option<HostPattern> {
    if network.is_synthetic() {
        let message = format!("{network} stands for a name inside every instance");
        findings.add_with_hint(at, message, "write a rule for the name");
        return None;
    }
    Some(HostPattern::Network(network))
}

fn of_name(text: &str, at: &Range<usize>, findings: &mut Findings<'_>) -> Option<HostPattern> {
    let (pattern, name): (fn(HostName) -> HostPattern, &str) = match text.strip_prefix("*.") {
        Some(apex) => (HostPattern::Wildcard, apex),
        None => (HostPattern::Exact, text),
    };
    match HostName::parse(name) {
        Ok(name) => return Some(pattern(name)),
        Err(error) => {
            let message = format!("{text:?} is not a host name: {error}");
            match hint(text, error) {
                Some(hint) => findings.add_with_hint(at, message, hint),
                None => findings.add(at, message),
            }
        }
    }
    None
}

fn hint(text: &str, error: NameError) -> Option<&'static str> {
    match error {
        NameError::Address => Some(
            "write an address as \"192.0.2.7\" or \"2001:db8::1\", a network as \"192.0.2.0/24\", its ports into `ports`",
        ),
        NameError::Character('*') => Some("a wildcard is `*.` in front of a name, such as \"*.example.com\""),
        NameError::Character(_) if text.contains("://") => Some("write the host alone, without scheme and path"),
        NameError::Character(':') => Some("write the port into `ports`"),
        NameError::Character('/') => Some("write the path into `paths`"),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::policy::parse::tests::{parse, problems, with_rule};

    #[test]
    fn a_host_is_a_name_or_a_wildcard_below_one() {
        for (host, problem) in [
            ("*", "a rule cannot be for every host; name the hosts, or a domain as \"*.example.com\""),
            (
                "10.0.0.1/8",
                "\"10.0.0.1/8\" is not a network: the bits behind the network's are not zero; did you mean \"10.0.0.0/8\"?",
            ),
            ("::/0", "\"::/0\" is not a network: a network cannot be every address"),
            (
                "2001:db8::/129",
                "\"2001:db8::/129\" is not a network: after `/` stands the number of leading bits that count: 1 to 32, for IPv6 1 to 128",
            ),
            (
                "::ffff:10.0.0.1",
                "\"::ffff:10.0.0.1\" is not a network: it is an IPv4 address in IPv6 form; write it as an IPv4 address",
            ),
            ("198.18.0.7", "198.18.0.7 stands for a name inside every instance; write a rule for the name"),
            (
                "a.*.com",
                "\"a.*.com\" is not a host name: '*' cannot stand in a host name; a wildcard is `*.` in front of a name, such as \"*.example.com\"",
            ),
            (
                "https://a.com/",
                "\"https://a.com/\" is not a host name: ':' cannot stand in a host name; write the host alone, without scheme and path",
            ),
            (
                "a.com:8443",
                "\"a.com:8443\" is not a host name: ':' cannot stand in a host name; write the port into `ports`",
            ),
            ("a.com/x", "\"a.com/x\" is not a host name: '/' cannot stand in a host name; write the path into `paths`"),
            (
                "bücher.de",
                "\"bücher.de\" is not a host name: a host name is ASCII; write an international name in its xn-- form",
            ),
            ("", "\"\" is not a host name: a host name cannot be empty"),
            ("*.", "\"*.\" is not a host name: a host name cannot be empty"),
        ] {
            assert_eq!(problems(&with_rule(&format!("host = \"{host}\""))), [format!("6:8: {problem}")]);
        }
        for host in ["0x7f000001", "2130706433", "[::1]", "*.0.0.1", "127.1", "10.0.0.1:80"] {
            assert!(parse(&with_rule(&format!("host = \"{host}\""))).is_err(), "{host}");
        }
    }

    #[test]
    fn a_host_may_be_an_address_or_a_network() {
        for (host, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fd00::/8", "fd00::/8"),
        ] {
            let deployment = parse(&with_rule(&format!("host = \"{host}\""))).unwrap();
            assert_eq!(deployment.policy.functions[0].egress[0].host.to_string(), shown);
        }
    }
}

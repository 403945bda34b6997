//! One function's `[[function.egress]]` rules.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::read::{Fields, Spanned};
use super::{ReadCa, function, pem};
use crate::name::{HostName, NameError};
use crate::policy::diagnostic::Findings;
use crate::policy::path::PathPattern;
use crate::policy::types::{HostPattern, Pin, Rule, TlsMode};

const FIELDS: &[&str] = &["host", "ports", "tls", "methods", "paths", "max_request_bytes", "resolve", "ca"];
const DEFAULT_PORT: u16 = 443;

/// The rules of the function that messages and rule ids call `label`. Whatever is wrong is reported.
pub(super) fn egress(
    function: &Fields<'_>,
    label: &str,
    read_ca: &mut ReadCa<'_>,
    findings: &mut Findings<'_>,
) -> Vec<Arc<Rule>> {
    let tables =
        function.tables("egress", "[[function.egress]]", "an egress rule", FIELDS, findings).unwrap_or_default();
    let mut rules = Vec::with_capacity(tables.len());
    for (index, fields) in tables.iter().enumerate() {
        if let Some(rule) = rule(fields, format!("{label}.egress[{index}]"), read_ca, findings) {
            rules.push((rule, fields));
        }
    }
    must_agree(&rules, findings);
    rules.into_iter().map(|(rule, _)| Arc::new(rule)).collect()
}

fn rule(fields: &Fields<'_>, id: String, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> Option<Rule> {
    let host = host(fields, findings);
    let ports = ports(fields, findings);
    let tls = fields.word("tls", findings).map_or(TlsMode::Inspect, |word| word.value);
    let methods = methods(fields, findings);
    let paths = paths(fields, findings);
    let max_request_bytes = function::size(fields, "max_request_bytes", findings).map(|size| size.value);
    let resolve = resolve(fields, findings);
    let ca = ca(fields, read_ca, findings);
    must_be_enforceable(fields, tls, findings);
    Some(Rule { id, host: host?, ports, tls, methods, paths, max_request_bytes, resolve, ca })
}

fn host(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<HostPattern> {
    let Spanned { value, at } = fields.required_string("host", "\"api.example.com\"", findings)?;
    if value == "*" {
        let hint = "name the hosts, or a domain as \"*.example.com\"";
        findings.add_with_hint(&at, "a rule cannot be for every host", hint);
        return None;
    }
    let (wildcard, name) = match value.strip_prefix("*.") {
        Some(apex) => (true, apex),
        None => (false, value),
    };
    let error = match HostName::parse(name) {
        Ok(name) if wildcard => return Some(HostPattern::Wildcard(name)),
        Ok(name) => return Some(HostPattern::Exact(name)),
        Err(error) => error,
    };
    match error {
        NameError::Address => findings.add_with_hint(
            &at,
            format!("{value:?} is an IP address; rules for addresses are not supported yet"),
            format!("write a name, and pin its address with resolve = [{name:?}]"),
        ),
        error => {
            let message = format!("{value:?} is not a host name: {error}");
            match host_hint(value, error) {
                Some(hint) => findings.add_with_hint(&at, message, hint),
                None => findings.add(&at, message),
            }
        }
    }
    None
}

fn host_hint(text: &str, error: NameError) -> Option<&'static str> {
    match error {
        NameError::Character('*') => Some("a wildcard is `*.` in front of a name, such as \"*.example.com\""),
        NameError::Character(_) if text.contains("://") => Some("write the host alone, without scheme and path"),
        NameError::Character(':') => Some("write the port into `ports`"),
        NameError::Character('/') => Some("write the path into `paths`"),
        _ => None,
    }
}

fn ports(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Vec<u16> {
    let Some(items) = fields.list("ports", "[443]", findings) else {
        return vec![DEFAULT_PORT];
    };
    let mut ports = Vec::with_capacity(items.len());
    for Spanned { value, at } in items {
        let port = value.as_integer().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        match port {
            Some(port) => ports.push(port),
            None => findings.add_with_hint(
                &at,
                format!("{} is not a port", value.to_string().trim()),
                "a port is a number from 1 to 65535, without quotation marks",
            ),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn methods(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Vec<String>> {
    let items = fields.strings("methods", "[\"POST\"]", findings)?;
    let mut methods = Vec::with_capacity(items.len());
    for Spanned { value, at } in items {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if value.is_empty() || !value.bytes().all(is_token) {
            findings.add_with_hint(
                &at,
                format!("{value:?} is not an HTTP method"),
                "write it like \"POST\"; for any method, leave `methods` out",
            );
        } else if value == "*" {
            findings.add_with_hint(&at, "`methods` has no wildcard", "for any method, leave `methods` out");
        } else if value.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let hint = format!("did you mean {:?}?", value.to_ascii_uppercase());
            findings.add_with_hint(&at, format!("HTTP methods are upper case, not {value:?}"), hint);
        } else {
            methods.push(value.to_owned());
        }
    }
    methods.sort_unstable();
    methods.dedup();
    Some(methods)
}

fn paths(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Vec<PathPattern>> {
    let items = fields.strings("paths", "[\"/v1/*\"]", findings)?;
    let mut paths = Vec::with_capacity(items.len());
    for Spanned { value, at } in items {
        match PathPattern::parse(value) {
            Ok(path) => paths.push(path),
            Err(reason) => findings.add(&at, format!("{value:?} is not a path: it {reason}")),
        }
    }
    paths.sort_by_cached_key(ToString::to_string);
    paths.dedup();
    Some(paths)
}

fn resolve(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Vec<Pin> {
    let items = fields.strings("resolve", "[\"10.0.0.1:8443\"]", findings).unwrap_or_default();
    let mut pins = Vec::with_capacity(items.len());
    for Spanned { value, at } in items {
        match pin(value) {
            Some(pin) => pins.push(pin),
            None => findings.add_with_hint(
                &at,
                format!("{value:?} is not an address"),
                "write an IP address, or one with a port: \"10.0.0.1\", \"10.0.0.1:8443\", \"[::1]:8443\"",
            ),
        }
    }
    pins
}

fn pin(text: &str) -> Option<Pin> {
    if text.contains('%') {
        return None; // an IPv6 zone, which a `SocketAddr` reads and an `IpAddr` would lose
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(Pin { ip: address.ip(), port: Some(address.port()) });
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => text.parse().ok()?,
    };
    Some(Pin { ip, port: None })
}

fn ca(fields: &Fields<'_>, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> Vec<Vec<u8>> {
    let Some(Spanned { value, at }) = fields.string("ca", "\"upstream-ca.pem\"", findings) else {
        return Vec::new();
    };
    let file = match read_ca(value) {
        Ok(file) => file,
        Err(reason) => {
            findings.add_with_hint(
                &at,
                format!("the certificate file {value:?} cannot be read: {reason}"),
                "name a PEM file, relative to this one",
            );
            return Vec::new();
        }
    };
    match pem::certificates(&file) {
        Ok(certificates) => certificates,
        Err(reason) => {
            findings.add(&at, format!("the certificate file {value:?} {reason}"));
            Vec::new()
        }
    }
}

/// Refuses what a rule asks for but nobody could check.
fn must_be_enforceable(fields: &Fields<'_>, tls: TlsMode, findings: &mut Findings<'_>) {
    if tls == TlsMode::Passthrough {
        for name in ["methods", "paths", "max_request_bytes"].into_iter().filter(|name| fields.has(name)) {
            let message = format!("`{name}` cannot be enforced with tls = \"passthrough\", which hides the requests");
            findings.add_with_hint(
                &fields.at_key(name),
                message,
                format!("write tls = \"inspect\", or leave `{name}` out"),
            );
        }
    }
    if tls != TlsMode::Inspect && fields.has("ca") {
        let message =
            format!("`ca` has no effect with tls = \"{tls}\": only `inspect` checks the upstream's certificate");
        findings.add_with_hint(&fields.at_key("ca"), message, "write tls = \"inspect\", or leave `ca` out");
    }
}

/// Which of the fields that a connection has only once differs between two rules.
fn differing(a: &Rule, b: &Rule) -> Option<&'static str> {
    if a.tls != b.tls {
        Some("tls")
    } else if a.resolve != b.resolve {
        Some("resolve")
    } else if a.ca != b.ca {
        Some("ca")
    } else {
        None
    }
}

/// Before a request is read, rules for one host and port are one: they must say the same of the connection.
fn must_agree(rules: &[(Rule, &Fields<'_>)], findings: &mut Findings<'_>) {
    let mut first_for: HashMap<(&HostPattern, u16), &Rule> = HashMap::new();
    for (rule, fields) in rules {
        let mut reported: Vec<&str> = Vec::new();
        for port in &rule.ports {
            let first = *first_for.entry((&rule.host, *port)).or_insert(rule);
            let Some(field) = differing(first, rule) else {
                continue;
            };
            if reported.contains(&first.id.as_str()) {
                continue;
            }
            reported.push(&first.id);
            let message = format!("`{field}` differs from {}, which is for {} port {port} too", first.id, rule.host);
            findings.add_with_hint(
                &fields.at_key(field),
                message,
                format!("give both rules the same `{field}`, or different ports"),
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::policy::parse::tests::{parse, problems, with, with_rule};

    #[test]
    fn a_host_is_a_name_or_a_wildcard_below_one() {
        for (host, problem) in [
            ("*", "a rule cannot be for every host; name the hosts, or a domain as \"*.example.com\""),
            (
                "10.0.0.1",
                "\"10.0.0.1\" is an IP address; rules for addresses are not supported yet; write a name, and pin its address with resolve = [\"10.0.0.1\"]",
            ),
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
        for host in ["0x7f000001", "2130706433", "[::1]", "::1", "*.0.0.1"] {
            assert!(problems(&with_rule(&format!("host = \"{host}\"")))[0].contains("is an IP address"), "{host}");
        }
    }

    #[test]
    fn each_field_is_checked_where_it_stands() {
        for (line, problem) in [
            (
                "ports = []",
                "7:9: `ports` is an empty list, which would allow nothing; leave `ports` out for its default",
            ),
            ("ports = 443", "7:9: `ports` must be a list, not an integer; write it like ports = [443]"),
            (
                "ports = [443, 65536]",
                "7:15: 65536 is not a port; a port is a number from 1 to 65535, without quotation marks",
            ),
            (
                "ports = [\"443\"]",
                "7:10: \"443\" is not a port; a port is a number from 1 to 65535, without quotation marks",
            ),
            ("tls = \"inspcet\"", "7:7: `tls` cannot be \"inspcet\"; did you mean `inspect`?"),
            ("methods = [\"post\"]", "7:12: HTTP methods are upper case, not \"post\"; did you mean \"POST\"?"),
            (
                "methods = [\"PO ST\"]",
                "7:12: \"PO ST\" is not an HTTP method; write it like \"POST\"; for any method, leave `methods` out",
            ),
            ("methods = [\"*\"]", "7:12: `methods` has no wildcard; for any method, leave `methods` out"),
            (
                "methods = []",
                "7:11: `methods` is an empty list, which would allow nothing; leave `methods` out for its default",
            ),
            ("methods = [1]", "7:12: `methods` must be a list of strings; write it like methods = [\"POST\"]"),
            ("paths = [\"v1\"]", "7:10: \"v1\" is not a path: it must start with `/`"),
            (
                "paths = [\"/a?b\"]",
                "7:10: \"/a?b\" is not a path: it is without query and fragment (`?`, `#`), which are not judged",
            ),
            (
                "paths = []",
                "7:9: `paths` is an empty list, which would allow nothing; leave `paths` out for its default",
            ),
            (
                "max_request_bytes = \"1 mb\"",
                "7:21: `max_request_bytes` is not a size: \"1 mb\"; write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MiB\"",
            ),
            (
                "resolve = [\"localhost\"]",
                "7:12: \"localhost\" is not an address; write an IP address, or one with a port: \"10.0.0.1\", \"10.0.0.1:8443\", \"[::1]:8443\"",
            ),
            (
                "ca = \"missing.pem\"",
                "7:6: the certificate file \"missing.pem\" cannot be read: no such file; name a PEM file, relative to this one",
            ),
            (
                "ca = \"empty.pem\"",
                "7:6: the certificate file \"empty.pem\" holds no certificate (a block that begins with -----BEGIN CERTIFICATE-----)",
            ),
        ] {
            assert_eq!(problems(&with_rule(&format!("host = \"a.com\"\n{line}"))), [problem]);
        }
        for pin in [
            "10.0.0.1:0",
            "[::1]:0",
            "10.0.0.1:",
            "10.0.0",
            "[10.0.0.1]",
            "::1:",
            "[fe80::1%1]:80",
            "fe80::1%eth0",
            "10.0.0.1:65536",
        ] {
            let problems = problems(&with_rule(&format!("host = \"a.com\"\nresolve = [\"{pin}\"]")));
            assert!(problems[0].contains("is not an address"), "{pin}");
        }
        assert!(
            problems(&with_rule("host = \"a.com\"\nmax_request_bytes = 9007199254740992"))[0].contains("is not a size")
        );
        assert!(parse(&with_rule("host = \"a.com\"\nmax_request_bytes = 0")).is_ok());
    }

    #[test]
    fn what_passthrough_hides_cannot_be_asked_for() {
        assert_eq!(
            problems(&with_rule(
                "host = \"a.com\"\ntls = \"passthrough\"\nmethods = [\"GET\"]\npaths = [\"/\"]\nmax_request_bytes = 1\nca = \"ca.pem\""
            )),
            [
                "8:1: `methods` cannot be enforced with tls = \"passthrough\", which hides the requests; write tls = \"inspect\", or leave `methods` out",
                "9:1: `paths` cannot be enforced with tls = \"passthrough\", which hides the requests; write tls = \"inspect\", or leave `paths` out",
                "10:1: `max_request_bytes` cannot be enforced with tls = \"passthrough\", which hides the requests; write tls = \"inspect\", or leave `max_request_bytes` out",
                "11:1: `ca` has no effect with tls = \"passthrough\": only `inspect` checks the upstream's certificate; write tls = \"inspect\", or leave `ca` out",
            ]
        );
        assert!(
            problems(&with_rule("host = \"a.com\"\ntls = \"none\"\nca = \"ca.pem\""))[0]
                .starts_with("8:1: `ca` has no effect")
        );
        assert!(parse(&with_rule("host = \"a.com\"\ntls = \"none\"\npaths = [\"/\"]")).is_ok());
    }

    #[test]
    fn rules_for_one_host_and_port_agree_about_the_connection() {
        let two = |a: &str, b: &str| {
            with(&format!("[[function.egress]]\nhost = \"a.com\"\n{a}\n[[function.egress]]\nhost = \"A.com.\"\n{b}"))
        };
        for (line, field) in
            [("tls = \"none\"", "tls"), ("resolve = [\"10.0.0.1\"]", "resolve"), ("ca = \"ca.pem\"", "ca")]
        {
            assert_eq!(
                problems(&two("", line)),
                [format!(
                    "10:1: `{field}` differs from f.egress[0], which is for a.com port 443 too; give both rules the same `{field}`, or different ports"
                )]
            );
            assert!(parse(&two(line, line)).is_ok());
            assert!(parse(&two("ports = [80]", line)).is_ok());
        }
        assert!(
            problems(&two("tls = \"none\"\nports = [80, 443]", "ports = [443, 80]"))[0]
                .starts_with("9:1: `tls` differs")
        );
        assert!(parse(&two("methods = [\"GET\"]\npaths = [\"/a\"]", "max_request_bytes = 1")).is_ok());
    }
}

//! One function's `[[function.egress]]` rules.
use std::collections::HashMap;
use std::sync::Arc;

use super::read::{Fields, Spanned, wrong_kind};
use super::{ReadCa, enforceable, function, host, upstream};
use crate::policy::diagnostic::Findings;
use crate::policy::path::PathPattern;
use crate::policy::rate::{Rate, RateError};
use crate::policy::types::{HostPattern, Protocol, Rule, TlsMode};

const FIELDS: &[&str] = &[
    "host",
    "ports",
    "tls",
    "protocol",
    "methods",
    "paths",
    "max_request_bytes",
    "upgrade",
    "rate",
    "max_concurrent",
    "resolve",
    "ca",
    "pin_spki",
    "inject_header",
];
const DEFAULT_PORT: u16 = 443;
const MOST_CONCURRENT: u32 = 100_000;

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
    let host = host::host(fields, findings);
    let tls = fields.word("tls", findings).map_or(TlsMode::Inspect, |word| word.value);
    let protocol = fields.word("protocol", findings).map_or(Protocol::Http, |word| word.value);
    enforceable::check(fields, host.as_ref(), tls, protocol, findings);
    Some(Rule {
        id,
        ports: ports(fields, findings),
        tls,
        protocol,
        methods: methods(fields, findings),
        paths: paths(fields, findings),
        max_request_bytes: function::size(fields, "max_request_bytes", findings).map(|size| size.value),
        upgrade: fields.boolean("upgrade", findings).unwrap_or(false),
        rate: rate(fields, findings),
        max_concurrent: max_concurrent(fields, findings),
        resolve: upstream::resolve(fields, findings),
        ca: upstream::ca(fields, read_ca, findings),
        pin_spki: upstream::pin_spki(fields, findings),
        inject_header: upstream::inject_header(fields, findings),
        host: host?,
    })
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
        if !is_token(value) {
            findings.add_with_hint(
                &at,
                format!("{value:?} is not an HTTP method"),
                "write it like \"POST\"; for any method, leave `methods` out",
            );
        } else if value == "*" {
            findings.add_with_hint(&at, "`methods` has no wildcard", "for any method, leave `methods` out");
        } else if !is_method(value) {
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

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(belongs)
}

/// What can stand in `methods`.
pub(in crate::policy) fn is_method(text: &str) -> bool {
    is_token(text) && text != "*" && !text.bytes().any(|byte| byte.is_ascii_lowercase())
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

fn rate(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Rate> {
    let Spanned { value, at } = fields.string("rate", "\"10/s\"", findings)?;
    match value.parse() {
        Ok(rate) => Some(rate),
        Err(error) => {
            findings.add_with_hint(&at, format!("`rate` cannot be {value:?}"), RateError::to_string(&error));
            None
        }
    }
}

fn max_concurrent(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<u32> {
    let Spanned { value, at } = fields.value("max_concurrent")?;
    let Some(number) = value.as_integer() else {
        wrong_kind("max_concurrent", "an integer", value, &at, "write it like max_concurrent = 10", findings);
        return None;
    };
    let allowed = u32::try_from(number).ok().filter(|number| (1..=MOST_CONCURRENT).contains(number));
    if allowed.is_none() {
        findings.add_with_hint(&at, format!("`max_concurrent` cannot be {number}"), "write a number from 1 to 100000");
    }
    allowed
}

/// Which of the fields that a connection has only once differs between two rules.
fn differing(a: &Rule, b: &Rule) -> Option<&'static str> {
    if a.tls != b.tls {
        Some("tls")
    } else if a.protocol != b.protocol {
        Some("protocol")
    } else if a.resolve != b.resolve {
        Some("resolve")
    } else if a.ca != b.ca {
        Some("ca")
    } else if a.pin_spki != b.pin_spki {
        Some("pin_spki")
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

    const PIN: &str = "pin_spki = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]";

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
        for (line, problem) in [
            (
                "rate = \"10/m\"",
                "7:8: `rate` cannot be \"10/m\"; write a number from 1 to 1000000 and a period, such as \"10/s\", \"600/min\" or \"1000/h\"",
            ),
            ("max_concurrent = 0", "7:18: `max_concurrent` cannot be 0; write a number from 1 to 100000"),
            ("max_concurrent = 100001", "7:18: `max_concurrent` cannot be 100001; write a number from 1 to 100000"),
            (
                "max_concurrent = \"1\"",
                "7:18: `max_concurrent` must be an integer, not a string; write it like max_concurrent = 10",
            ),
            ("upgrade = 1", "7:11: `upgrade` must be true or false, not an integer; write it without quotation marks"),
            ("protocol = \"udp\"", "7:12: `protocol` cannot be \"udp\"; it can be: http, tcp"),
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
    fn rules_for_one_host_and_port_agree_about_the_connection() {
        let two = |a: &str, b: &str| {
            with(&format!("[[function.egress]]\nhost = \"a.com\"\n{a}\n[[function.egress]]\nhost = \"A.com.\"\n{b}"))
        };
        for (line, field) in [
            ("tls = \"none\"", "tls"),
            ("resolve = [\"10.0.0.1\"]", "resolve"),
            ("ca = \"ca.pem\"", "ca"),
            (PIN, "pin_spki"),
        ] {
            assert_eq!(
                problems(&two("", line)),
                [format!(
                    "10:1: `{field}` differs from f.egress[0], which is for a.com port 443 too; give both rules the same `{field}`, or different ports"
                )]
            );
            assert!(parse(&two(line, line)).is_ok());
            assert!(parse(&two("ports = [80]", line)).is_ok());
        }
        let tcp = "tls = \"none\"\nprotocol = \"tcp\"";
        assert!(problems(&two("tls = \"none\"", tcp))[0].starts_with("11:1: `protocol` differs"));
        assert!(parse(&two(tcp, tcp)).is_ok());
        assert!(
            problems(&two("tls = \"none\"\nports = [80, 443]", "ports = [443, 80]"))[0]
                .starts_with("9:1: `tls` differs")
        );
        assert!(parse(&two("methods = [\"GET\"]\npaths = [\"/a\"]", "max_request_bytes = 1")).is_ok());
    }
}

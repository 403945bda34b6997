//! Refuses what a rule asks for but nobody could enforce, or would have no effect.
use super::read::Fields;
use crate::policy::diagnostic::Findings;
use crate::policy::types::{HostPattern, Protocol, TlsMode};

/// What only a judged request has.
const OF_REQUESTS: [&str; 4] = ["methods", "paths", "max_request_bytes", "upgrade"];

pub(super) fn check(
    fields: &Fields<'_>,
    host: Option<&HostPattern>,
    tls: TlsMode,
    protocol: Protocol,
    findings: &mut Findings<'_>,
) {
    let mut report = |name: &'static str, message: String, instead: &str| {
        let hint = format!("{instead}, or leave `{name}` out");
        findings.add_with_hint(&fields.at_key(name), message, hint);
    };
    let requests_hidden = match (tls, protocol) {
        (TlsMode::Passthrough, _) => {
            Some(("tls = \"passthrough\", which hides the requests", "write tls = \"inspect\""))
        }
        (_, Protocol::Tcp) => Some(("protocol = \"tcp\", which has no requests", "leave `protocol` out")),
        _ => None,
    };
    if protocol == Protocol::Tcp && tls != TlsMode::None {
        let message = format!("`protocol` = \"tcp\" is not possible with tls = \"{tls}\"");
        report("protocol", message, "write tls = \"none\"");
    }
    if let Some((why, instead)) = requests_hidden {
        for name in OF_REQUESTS.into_iter().filter(|name| fields.has(name)) {
            report(name, format!("`{name}` cannot be enforced with {why}"), instead);
        }
    }
    if tls != TlsMode::Inspect {
        for name in ["ca", "pin_spki"].into_iter().filter(|name| fields.has(name)) {
            let message = format!(
                "`{name}` has no effect with tls = \"{tls}\": only `inspect` checks the upstream's certificate"
            );
            report(name, message, "write tls = \"inspect\"");
        }
        if fields.has("inject_header") {
            let message = format!(
                "`inject_header` is not possible with tls = \"{tls}\": a secret goes only to an upstream that has proven its name"
            );
            report("inject_header", message, "write tls = \"inspect\"");
        }
    }
    if matches!(host, Some(HostPattern::Network(_))) && fields.has("resolve") {
        let message = "`resolve` has no effect in a rule for addresses: they are connected to as they are".to_owned();
        report("resolve", message, "write a name into `host`");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::policy::parse::tests::{parse, problems, with_rule};

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
    fn what_needs_requests_or_a_certificate_is_refused_without_them() {
        let problems = |lines: &str| problems(&with_rule(&format!("host = \"a.com\"\n{lines}")));
        assert_eq!(
            problems("tls = \"none\"\nprotocol = \"tcp\"\nmethods = [\"GET\"]"),
            [
                "9:1: `methods` cannot be enforced with protocol = \"tcp\", which has no requests; leave `protocol` out, or leave `methods` out"
            ]
        );
        for line in ["paths = [\"/\"]", "max_request_bytes = 1", "upgrade = true"] {
            assert!(
                problems(&format!("tls = \"none\"\nprotocol = \"tcp\"\n{line}"))[0].contains("which has no requests")
            );
            assert!(problems(&format!("tls = \"passthrough\"\n{line}"))[0].contains("which hides the requests"));
        }
        for tls in ["", "tls = \"passthrough\"\n"] {
            assert!(problems(&format!("{tls}protocol = \"tcp\""))[0].contains("is not possible with tls"), "{tls}");
        }
        let pin = "pin_spki = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]";
        let inject = "inject_header = { a = { secret = \"A\" } }";
        for tls in ["none", "passthrough"] {
            assert!(problems(&format!("tls = \"{tls}\"\n{pin}"))[0].contains("`pin_spki` has no effect"));
            assert!(
                problems(&format!("tls = \"{tls}\"\n{inject}"))[0]
                    .contains("only to an upstream that has proven its name")
            );
        }
        for lines in
            ["tls = \"none\"\nupgrade = true", "tls = \"passthrough\"\nrate = \"1/s\"\nmax_concurrent = 1", pin, inject]
        {
            assert!(parse(&with_rule(&format!("host = \"a.com\"\n{lines}"))).is_ok(), "{lines}");
        }
    }

    #[test]
    fn an_address_is_not_resolved() {
        assert_eq!(
            problems(&with_rule("host = \"192.0.2.7\"\nresolve = [\"10.0.0.1\"]")),
            [
                "7:1: `resolve` has no effect in a rule for addresses: they are connected to as they are; write a name into `host`, or leave `resolve` out"
            ]
        );
    }
}

//! What to change so that something refused is allowed: the one place with these sentences.
//!
//! A [`Denied`] or a log entry's [`Refused`] flows in, a sentence for the policy's owner flows out. It is made when it is
//! shown and never stored: a later version may know better what to advise about an old log.
use std::net::IpAddr;

use super::decide::OBSERVE;
use super::denied::{Denied, shown};
use crate::address::is_synthetic;
use crate::log::entry::{Attempt, Refused};

impl Denied {
    /// What to write into `dshield.toml`, or to change in the function, if this was meant to be allowed.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Name { function, host } => add_rule(function, host),
            Self::Address { function, address } => address_rule(function, *address),
            Self::SpecialPurpose { address, .. } => own_rule(&address.to_string()),
            Self::Port { host, port, .. } => add_port(host, *port),
            Self::Method { method, rule, .. } => add_method(method, rule),
            Self::Path { path, rule, .. } => add_path(path, rule),
            Self::AmbiguousPath { .. } => PLAIN_PATH.to_owned(),
            Self::Upgrade { rule, .. } => allow_upgrade(rule),
            Self::Rate { rule, .. } => raise("rate", rule),
            Self::Concurrency { rule, .. } => raise("max_concurrent", rule),
        }
    }
}

impl Refused {
    /// The same for an entry about `function`; `None` where nothing can be advised, or the reason is a newer version's.
    #[must_use]
    pub fn hint(&self, function: &str) -> Option<String> {
        let Self { layer, reason, rule, attempt, .. } = self;
        let attempt = attempt.as_ref();
        let host = attempt.map(|attempt| shown(&attempt.host));
        let text = |field: fn(&Attempt) -> Option<&String>| Some(shown(field(attempt?)?));
        let sentence = match reason.as_str() {
            "name_not_allowed" => add_rule(function, &host?),
            "address_not_allowed" => address_rule(function, host?.parse().ok()?),
            "special_purpose_address" if layer == "upstream" => pin(rule),
            "special_purpose_address" => own_rule(&host?),
            "port_not_allowed" => add_port(&host?, attempt?.port?),
            "method_not_allowed" => add_method(&text(|attempt| attempt.method.as_ref())?, rule),
            "path_not_allowed" => add_path(&text(|attempt| attempt.path.as_ref())?, rule),
            "upgrade_not_allowed" => allow_upgrade(rule),
            "rate_exceeded" => raise("rate", rule),
            "too_many_at_once" => raise("max_concurrent", rule),
            other => of_reason(other, rule)?,
        };
        Some(sentence)
    }
}

/// What to do about a refusal of which no rule's host, port, method or path is the cause; `None` for any other word.
#[must_use]
pub fn of_reason(reason: &str, rule: &str) -> Option<String> {
    let sentence = match reason {
        "request_too_large" => return Some(format!("raise max_request_bytes in {rule}")),
        "upstream_key" => {
            return Some(format!("find out why the upstream's key changed before you change pin_spki of {rule}"));
        }
        "ambiguous_path" => PLAIN_PATH,
        "ambiguous_framing" => "send the request as RFC 9112 writes it; nothing that readers repair differently passes",
        "authority_invalid" => "send one Host header (HTTP/2: one :authority) with the host's name",
        "authority_mismatch" => "open a connection of its own for each host",
        "alpn_not_http" => {
            "let the client offer h2 or http/1.1 (ALPN), or write tls = \"passthrough\" in the rule if it speaks another protocol"
        }
        "connect_inside" => "connect to the host directly",
        "proxy_request_invalid" => {
            "send CONNECT host:port, or a request for http://host/; or do without a proxy, none is needed here"
        }
        "method_override" => "send the method as the request's own, and list it in `methods` of the rule",
        "target_invalid" => "send the path, from its first slash on",
        "target_too_long" => "shorten it; data belongs into the body or the query",
        "trace_of_injected" => "do without TRACE",
        "not_tls" => "speak TLS there, or write tls = \"none\" in the rule if it is meant to be in the clear",
        "hello_incomplete" => "let the client send its whole ClientHello at once",
        "sni_missing" | "sni_invalid" | "sni_mismatch" => {
            "let the client send the name that it looked up as its server name (SNI)"
        }
        "encrypted_client_hello" => "switch encrypted ClientHello (ECH) off, or inspect the connection",
        "upstream_certificate" => {
            "mend the upstream's certificate, or name the authority that issued it in `ca` of the rule"
        }
        "dns_malformed" | "dns_unsupported" => "ask for the addresses of a name with the system's resolver",
        "names_exhausted" => "ask for fewer names in one instance",
        "udp_port" => "use TCP: no rule allows UDP, QUIC and HTTP/3 among it",
        "socket_type" | "socket_family" => "use TCP: no rule allows other sockets",
        "not_sealed" | "leaves_lo" => "use the network that the instance has: no rule allows another",
        "bpf" | "ptrace" => "do without it: no rule allows it",
        _ => return None,
    };
    Some(sentence.to_owned())
}

const PLAIN_PATH: &str =
    "send the path in its plain form: no `//`, `.`, `..`, `\\` or control characters, neither plain nor encoded";

fn add_rule(function: &str, host: &str) -> String {
    format!("to allow it, add below the function `{function}`: [[function.egress]] host = \"{host}\"")
}

fn address_rule(function: &str, address: IpAddr) -> String {
    if is_synthetic(address) {
        return format!("look the name up again: {address} stands for none that this instance has asked for");
    }
    format!(
        "connect by name, so that the rule can say whose the address is; to allow the address itself, add below \
         the function `{function}`: [[function.egress]] host = \"{address}\""
    )
}

fn own_rule(address: &str) -> String {
    format!("to allow it, add a rule of its own: [[function.egress]] host = \"{address}\"")
}

fn pin(rule: &str) -> String {
    format!("to allow it, pin the address that is meant with `resolve` in {rule}")
}

fn add_port(host: &str, port: u16) -> String {
    format!("to allow it, add {port} to `ports` of the egress rule for \"{host}\"")
}

fn add_method(method: &str, rule: &str) -> String {
    format!("to allow it, add \"{method}\" to `methods` of {rule}")
}

fn add_path(path: &str, rule: &str) -> String {
    format!("to allow it, add \"{path}\" to `paths` of {rule}")
}

fn allow_upgrade(rule: &str) -> String {
    match rule {
        OBSERVE => "to allow it, write upgrade = true in the rule that you add for it".to_owned(),
        _ => format!("to allow it, write upgrade = true in {rule}"),
    }
}

fn raise(limit: &str, rule: &str) -> String {
    format!("try again later, or raise `{limit}` of {rule}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::policy::parse::tests::{parse, with};

    fn refused(layer: &str, reason: &str, rule: &str, attempt: Option<Attempt>) -> Refused {
        let (layer, reason, rule) = (layer.to_owned(), reason.to_owned(), rule.to_owned());
        Refused {
            layer,
            reason,
            detail: String::new(),
            rule,
            let_through: false,
            connection: None,
            attempt,
            process: None,
            count: None,
        }
    }

    fn entry(denied: &Denied, attempt: Attempt) -> Refused {
        refused("http", denied.reason(), denied.rule().unwrap_or("default"), Some(attempt))
    }

    #[test]
    fn the_log_advises_what_the_function_was_told() {
        let text = "[[function.egress]]\nhost = \"a.com\"\nmethods = [\"POST\"]\npaths = [\"/v1\"]\nrate = \"1/s\"\n\
                    max_concurrent = 1\n[[function.egress]]\nhost = \"128.0.0.0/1\"\n";
        let policy = parse(&with(text)).unwrap().policy.functions[0].clone();
        let to = |host: &str| Destination::parse_authority(host.as_bytes()).unwrap().0;
        let attempt = |host: &str, port: u16| Attempt { host: host.into(), port: Some(port), method: None, path: None };
        for (host, port) in
            [("b.com", 443), ("a.com", 22), ("9.9.9.9", 443), ("198.18.0.77", 443), ("169.254.169.254", 443)]
        {
            let denied = policy.route(&to(host), port).unwrap_err();
            assert_eq!(entry(&denied, attempt(host, port)).hint("f"), Some(denied.hint()), "{host}:{port}");
        }
        let route = policy.route(&to("a.com"), 443).unwrap();
        for (method, path) in [("GET", "/v1"), ("POST", "/v2"), ("POST", "/v1/../x")] {
            let denied = route.request(method, path).unwrap_err();
            let request = Attempt { method: Some(method.into()), path: Some(path.into()), ..attempt("a.com", 443) };
            assert_eq!(entry(&denied, request).hint("f"), Some(denied.hint()), "{method} {path}");
        }
        let rule = &policy.egress[0];
        for denied in [rule.denies_upgrade(), rule.denies_rate(), rule.denies_concurrency()].map(Option::unwrap) {
            assert_eq!(entry(&denied, attempt("a.com", 443)).hint("f"), Some(denied.hint()));
        }
    }

    #[test]
    fn an_entry_that_says_too_little_is_no_reason_for_advice() {
        assert_eq!(refused("dns", "name_not_allowed", "default", None).hint("f"), None);
        assert_eq!(refused("http", "of_a_newer_version", "default", None).hint("f"), None);
        let host = Some(Attempt { host: "a.com".into(), port: None, method: None, path: None });
        assert_eq!(refused("connect", "port_not_allowed", "default", host.clone()).hint("f"), None);
        assert_eq!(
            refused("upstream", "special_purpose_address", "f.egress[0]", host).hint("f").unwrap(),
            "to allow it, pin the address that is meant with `resolve` in f.egress[0]"
        );
    }

    #[test]
    fn what_a_function_chose_cannot_end_the_line() {
        let attempt =
            Attempt { host: "a.com".into(), port: Some(443), method: Some("A\n\u{1b}[2J\u{202e}".into()), path: None };
        let hint = refused("http", "method_not_allowed", "f.egress[0]", Some(attempt)).hint("f").unwrap();
        assert!(!hint.contains(|c: char| c.is_control() || c == '\u{202e}'), "{hint:?}");
    }
}

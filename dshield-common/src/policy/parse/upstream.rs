//! What a rule says of the other side: its addresses, what proves who it is, and what it gets that the function lacks.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::read::{Fields, Spanned};
use super::{ReadCa, pem};
use crate::policy::diagnostic::Findings;
use crate::policy::inject::{Injection, SecretName, SecretNameError, is_prefix, may_be_injected};
use crate::policy::spki::{SpkiPin, SpkiPinError};
use crate::policy::types::Pin;

pub(super) fn resolve(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Vec<Pin> {
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

pub(super) fn ca(fields: &Fields<'_>, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> Vec<Vec<u8>> {
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

pub(super) fn pin_spki(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Vec<SpkiPin> {
    let items = fields.strings("pin_spki", "[\"sha256/…\"]", findings).unwrap_or_default();
    let mut pins = Vec::with_capacity(items.len());
    for Spanned { value, at } in items {
        match value.parse() {
            Ok(pin) => pins.push(pin),
            Err(error) => findings.add_with_hint(
                &at,
                format!("{value:?} is not the hash of a key"),
                SpkiPinError::to_string(&error),
            ),
        }
    }
    pins.sort_unstable();
    pins.dedup();
    pins
}

pub(super) fn inject_header(fields: &Fields<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, Injection> {
    let mut headers = BTreeMap::new();
    let example = "{ \"x-api-key\" = { secret = \"API_KEY\" } }";
    for (name, fields) in
        fields.tables_by_name("inject_header", example, "an injected header", &["secret", "prefix"], findings)
    {
        let Spanned { value: name, at } = name;
        let named = may_be_injected(name);
        if !named {
            let (message, hint) = match name.to_ascii_lowercase() {
                lower if lower != name && may_be_injected(&lower) => {
                    ("is written in lower case", format!("did you mean {lower:?}?"))
                }
                _ => (
                    "cannot be injected",
                    "name a field such as \"x-api-key\" or \"authorization\", not one that says where a request goes, how long it is \
                     or how its connection is used"
                        .to_owned(),
                ),
            };
            findings.add_with_hint(&at, format!("the header {name:?} {message}"), hint);
        }
        if let Some(injection) = injection(&fields, findings).filter(|_| named) {
            headers.insert(name.to_owned(), injection);
        }
    }
    headers
}

fn injection(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Injection> {
    let prefix = fields.string("prefix", "\"Bearer \"", findings);
    if let Some(Spanned { value, at }) = prefix.as_ref().filter(|prefix| !is_prefix(prefix.value)) {
        let hint = "write at most 64 visible ASCII characters and spaces";
        findings.add_with_hint(at, format!("`prefix` cannot be {value:?}"), hint);
    }
    let Spanned { value, at } = fields.required_string("secret", "\"API_KEY\"", findings)?;
    match value.parse::<SecretName>() {
        Ok(secret) => {
            Some(Injection { secret, prefix: prefix.map(|prefix| prefix.value.to_owned()).unwrap_or_default() })
        }
        Err(error) => {
            // Not quoted: who takes this for the place of the secret itself should not find it in a terminal or a log.
            let message = "`secret` is not the name of a secret";
            findings.add_with_hint(&at, message, SecretNameError::to_string(&error));
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::policy::parse::tests::{parse, problems, with_rule};

    #[test]
    fn pinned_keys_are_a_sorted_set() {
        let pin = |first: char| format!("sha256/{first}{}=", "A".repeat(42));
        let text = with_rule(&format!("host = \"a.com\"\npin_spki = [{:?}, {:?}, {:?}]", pin('B'), pin('A'), pin('B')));
        let rule = parse(&text).unwrap().policy.functions[0].egress[0].clone();
        assert_eq!(rule.pin_spki.iter().map(ToString::to_string).collect::<Vec<_>>(), [pin('A'), pin('B')]);
        assert_eq!(
            problems(&with_rule("host = \"a.com\"\npin_spki = [\"sha256/AAAA\"]")),
            [
                "7:13: \"sha256/AAAA\" is not the hash of a key; write sha256/ and the base64 of the 32 bytes of the key's SHA-256"
            ]
        );
    }

    #[test]
    fn injected_headers_are_read_from_either_kind_of_table() {
        let inline = "inject_header = { x-api-key = { secret = \"A_1\" }, \"authorization\" = { secret = \"B\", prefix = \"Bearer \" } }";
        let tables = "[function.egress.inject_header.x-api-key]\nsecret = \"A_1\"\n\
                      [function.egress.inject_header.authorization]\nsecret = \"B\"\nprefix = \"Bearer \"";
        for lines in [inline, tables] {
            let rule =
                parse(&with_rule(&format!("host = \"a.com\"\n{lines}"))).unwrap().policy.functions[0].egress[0].clone();
            let shown: Vec<_> =
                rule.inject_header.iter().map(|(n, i)| (n.as_str(), i.secret.as_str(), i.prefix.as_str())).collect();
            assert_eq!(shown, [("authorization", "B", "Bearer "), ("x-api-key", "A_1", "")]);
        }
    }

    #[test]
    fn what_cannot_be_injected_is_told_and_a_secret_is_not_quoted() {
        let inject = |value: &str| problems(&with_rule(&format!("host = \"a.com\"\ninject_header = {value}")));
        assert_eq!(
            inject("{ X-Api-Key = { secret = \"A\" } }"),
            ["7:19: the header \"X-Api-Key\" is written in lower case; did you mean \"x-api-key\"?"]
        );
        for name in ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "x-forwarded-for"] {
            assert!(
                inject(&format!("{{ {name} = {{ secret = \"A\" }} }}"))[0].contains("cannot be injected"),
                "{name}"
            );
        }
        for name in ["", "a b", "a:", ":path", "ä", "a\\n"] {
            assert!(
                inject(&format!("{{ \"{name}\" = {{ secret = \"A\" }} }}"))[0].contains("cannot be injected"),
                "{name}"
            );
        }
        for secret in ["", "sk-ant-very-secret", "a", "1A", "_A", "A-B", &"A".repeat(65)] {
            let problem = &inject(&format!("{{ a = {{ secret = \"{secret}\" }} }}"))[0];
            assert!(problem.contains("`secret` is not the name of a secret; a secret is named like"), "{problem}");
            assert!(!problem.contains("very-secret"), "{problem}");
        }
        for prefix in ["\\t", "\\n", "ä", &"x".repeat(65)] {
            let problem = &inject(&format!("{{ a = {{ secret = \"A\", prefix = \"{prefix}\" }} }}"))[0];
            assert!(problem.contains("`prefix` cannot be"), "{problem}");
        }
        assert_eq!(inject("{ a = {} }"), ["7:23: an injected header needs `secret`; add secret = \"API_KEY\""]);
        assert_eq!(
            inject("{ a = \"A\" }"),
            [
                "7:23: an injected header is a table; write it like inject_header = { \"x-api-key\" = { secret = \"API_KEY\" } }"
            ]
        );
    }
}

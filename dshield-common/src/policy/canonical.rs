//! The text of a policy that is hashed, and its hash.
//!
//! Every default is written out and every set is sorted, so layout, comments, left-out defaults and the order of
//! functions do not change it; the order of a function's rules stays, because the first that allows a request counts.
use std::fmt;

use serde_json::{Value, json};

use super::attestation::AttestationPolicy;
use super::inject::Injection;
use super::types::{FunctionPolicy, Policy, Rule};
use super::witness::{LogPolicy, Witness};
use crate::canonical::{Sha256Digest, sha256_hex, to_canonical_json};

/// SHA-256 of a policy's canonical form: what names a policy in statements and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct PolicyHash(Sha256Digest);

impl PolicyHash {
    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Policy {
    /// The policy as canonical JSON (RFC 8785), type `dshield.policy/v1`.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut functions: Vec<&FunctionPolicy> = self.functions.iter().map(AsRef::as_ref).collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        let value = json!({
            "type": "dshield.policy/v1",
            "log_level": self.log_level,
            "log": log(&self.log),
            "attestation": attestation(&self.attestation),
            "memory_only": self.memory_only,
            "mode": self.mode,
            "resolver": self.resolver.to_string(),
            "functions": functions.into_iter().map(function).collect::<Vec<_>>(),
        });
        to_canonical_json(&value)
            .expect("its only numbers are ports, counts and sizes, and the parser keeps sizes below 2^53")
    }

    /// The SHA-256 of [`Policy::canonical`].
    #[must_use]
    pub fn hash(&self) -> PolicyHash {
        PolicyHash(Sha256Digest::of(self.canonical().as_bytes()))
    }
}

/// The seed by the name of its secret.
fn log(policy: &LogPolicy) -> Value {
    let witness = |witness: &Witness| json!({ "key": witness.key.to_string(), "egress": rule(&witness.rule) });
    json!({
        "origin": policy.origin.as_ref().map(ToString::to_string),
        "seed_secret": policy.seed,
        "interval_ms": policy.interval.as_millis() as u64,
        "witnesses": policy.witnesses.iter().map(witness).collect::<Vec<_>>(),
    })
}

fn attestation(policy: &AttestationPolicy) -> Value {
    json!({ "pccs": policy.pccs.as_ref().map(|pccs| json!({ "egress": rule(&pccs.rule) })) })
}

fn function(policy: &FunctionPolicy) -> Value {
    json!({
        "name": policy.name,
        "egress": policy.egress.iter().map(|each| rule(each)).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let paths = rule.paths.as_ref().map(|paths| paths.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut ca: Vec<String> = rule.ca.iter().map(|der| sha256_hex(der)).collect();
    ca.sort();
    ca.dedup();
    let inject_header: serde_json::Map<String, Value> =
        rule.inject_header.iter().map(|(name, injection)| (name.clone(), self::injection(injection))).collect();
    json!({
        "host": rule.host.to_string(),
        "ports": rule.ports,
        "tls": rule.tls,
        "protocol": rule.protocol,
        "methods": rule.methods,
        "paths": paths,
        "max_request_bytes": rule.max_request_bytes,
        "upgrade": rule.upgrade,
        "rate": rule.rate.map(|rate| rate.to_string()),
        "max_concurrent": rule.max_concurrent,
        "resolve": rule.resolve.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ca_sha256": ca,
        "pin_spki": rule.pin_spki.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "inject_header": inject_header,
    })
}

/// The secret by its name: a policy is public.
fn injection(injection: &Injection) -> Value {
    json!({ "secret": injection.secret, "prefix": injection.prefix })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use crate::policy::parse::tests::{parse, with, with_rule};

    fn canonical(text: &str) -> String {
        parse(text).unwrap().policy.canonical()
    }

    fn hash(text: &str) -> String {
        parse(text).unwrap().policy.hash().to_string()
    }

    #[test]
    fn defaults_are_written_out_and_names_sorted() {
        assert_eq!(
            canonical(&with_rule("host = \"A.com\"")),
            r#"{"attestation":{"pccs":null},"functions":[{"egress":[{"ca_sha256":[],"host":"a.com","inject_header":{},"max_concurrent":null,"max_request_bytes":null,"methods":null,"paths":null,"pin_spki":[],"ports":[443],"protocol":"http","rate":null,"resolve":[],"tls":"inspect","upgrade":false}],"name":"f"}],"log":{"interval_ms":60000,"origin":null,"seed_secret":null,"witnesses":[]},"log_level":"request","memory_only":false,"mode":"enforce","resolver":"system","type":"dshield.policy/v1"}"#
        );
    }

    #[test]
    fn a_known_policy_keeps_its_hash() {
        let text = with_rule(
            "host = \"*.a.com\"\nports = [8443, 443]\nmethods = [\"POST\", \"GET\"]\npaths = [\"/b\", \"/a*\"]\n\
             max_request_bytes = \"1KiB\"\nresolve = [\"[::1]:1\", \"10.0.0.1\"]\nca = \"ca.pem\"\n\
             upgrade = true\nrate = \"10/s\"\nmax_concurrent = 7\n\
             pin_spki = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]\n\
             inject_header = { authorization = { secret = \"TOKEN\", prefix = \"Bearer \" } }",
        );
        assert_eq!(
            canonical(&text),
            r#"{"attestation":{"pccs":null},"functions":[{"egress":[{"ca_sha256":["3f6e6cc25161138d9067ffad9e9eaaf57bbb82fba3cf83c4ec37efa96cf318ba"],"host":"*.a.com","inject_header":{"authorization":{"prefix":"Bearer ","secret":"TOKEN"}},"max_concurrent":7,"max_request_bytes":1024,"methods":["GET","POST"],"paths":["/a*","/b"],"pin_spki":["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],"ports":[443,8443],"protocol":"http","rate":"10/s","resolve":["[::1]:1","10.0.0.1"],"tls":"inspect","upgrade":true}],"name":"f"}],"log":{"interval_ms":60000,"origin":null,"seed_secret":null,"witnesses":[]},"log_level":"request","memory_only":false,"mode":"enforce","resolver":"system","type":"dshield.policy/v1"}"#
        );
        assert_eq!(hash(&text), "d85010ad49fd97a22bd5a7b3f8647c22c0733f5494e28cb4a5082d0512d6c44a");
    }

    #[test]
    fn layout_comments_defaults_and_what_is_not_attested_do_not_change_the_hash() {
        let plain = hash(&with_rule("host = \"a.com\""));
        for same in [
            with_rule("# why\nhost   =   'A.COM.'   # this\n\n"),
            with_rule("host = \"a.com\"\nports = [443, 443]\ntls = \"inspect\"\nprotocol = \"http\"\nupgrade = false"),
            format!(
                "[policy]\nlog_level = \"request\"\nmemory_only = false\nmode = \"enforce\"\nresolver = \"system\"\n{}",
                with_rule("host = \"a.com\"")
            ),
            with("timeout = \"1s\"\nmemory = \"64MiB\"\nenv = { A = \"b\" }\n[[function.egress]]\nhost = \"a.com\""),
            "function = [{ egress = [{ host = \"a.com\" }], code = \"elsewhere\", runtime = \"node\", name = \"f\" }]"
                .to_owned(),
        ] {
            assert_eq!(hash(&same), plain, "{same}");
        }
    }

    #[test]
    fn the_order_of_functions_does_not_change_the_hash_but_that_of_rules_does() {
        let function = |name: &str| with("").replace("\"f\"", &format!("\"{name}\""));
        assert_eq!(hash(&(function("a") + &function("b"))), hash(&(function("b") + &function("a"))));
        let rules = |a: &str, b: &str| {
            with(&format!(
                "[[function.egress]]\nhost = \"a.com\"\npaths = [\"{a}\"]\n[[function.egress]]\nhost = \"a.com\"\npaths = [\"{b}\"]"
            ))
        };
        assert_ne!(hash(&rules("/a", "/b")), hash(&rules("/b", "/a")));
    }

    #[test]
    fn every_change_of_a_rule_changes_the_hash() {
        let lines = [
            "host = \"a.com\"",
            "host = \"b.com\"",
            "host = \"*.a.com\"",
            "host = \"a.com\"\nports = [444]",
            "host = \"a.com\"\nports = [443, 444]",
            "host = \"a.com\"\ntls = \"passthrough\"",
            "host = \"a.com\"\ntls = \"none\"",
            "host = \"a.com\"\nmethods = [\"GET\"]",
            "host = \"a.com\"\nmethods = [\"GET\", \"POST\"]",
            "host = \"a.com\"\npaths = [\"/a\"]",
            "host = \"a.com\"\npaths = [\"/a*\"]",
            "host = \"a.com\"\nmax_request_bytes = 0",
            "host = \"a.com\"\nmax_request_bytes = 1",
            "host = \"a.com\"\nresolve = [\"10.0.0.1\"]",
            "host = \"a.com\"\nresolve = [\"10.0.0.1:443\"]",
            "host = \"a.com\"\nca = \"ca.pem\"",
            "host = \"192.0.2.7\"",
            "host = \"192.0.2.0/24\"",
            "host = \"a.com\"\ntls = \"none\"\nprotocol = \"tcp\"",
            "host = \"a.com\"\nupgrade = true",
            "host = \"a.com\"\nrate = \"60/min\"",
            "host = \"a.com\"\nrate = \"60/s\"",
            "host = \"a.com\"\nmax_concurrent = 1",
            "host = \"a.com\"\npin_spki = [\"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"]",
            "host = \"a.com\"\ninject_header = { a = { secret = \"A\" } }",
            "host = \"a.com\"\ninject_header = { a = { secret = \"B\" } }",
            "host = \"a.com\"\ninject_header = { b = { secret = \"A\" } }",
            "host = \"a.com\"\ninject_header = { a = { secret = \"A\", prefix = \"x \" } }",
        ];
        let mut texts: Vec<String> = lines.iter().map(|lines| with_rule(lines)).collect();
        texts.push(with(""));
        texts.push(with("").replace("\"f\"", "\"g\""));
        texts.push(format!("[policy]\nmemory_only = true\n{}", with("")));
        texts.push(format!("[policy]\nmode = \"observe\"\n{}", with("")));
        texts.push(format!("[policy]\nresolver = \"tls://1.1.1.1#a.example\"\n{}", with("")));
        texts.push(format!("[policy]\nresolver = \"https://1.1.1.1#a.example\"\n{}", with("")));
        texts.push(format!("[policy]\nlog_level = \"connection\"\n{}", with("")));
        texts.push(format!("[attestation]\npccs = \"https://a.com\"\n{}", with("")));
        let hashes: HashSet<String> = texts.iter().map(|text| hash(text)).collect();
        assert_eq!(hashes.len(), texts.len());
    }

    proptest! {
        #[test]
        fn sets_hash_alike_in_any_order(order in Just(["GET", "POST", "PUT", "HEAD"]).prop_shuffle(), ports in Just([1u16, 22, 443]).prop_shuffle()) {
            let text = |methods: &[&str], ports: &[u16]| with_rule(&format!("host = \"a.com\"\nmethods = {methods:?}\nports = {ports:?}"));
            prop_assert_eq!(hash(&text(&order, &ports)), hash(&text(&["GET", "POST", "PUT", "HEAD"], &[1, 22, 443])));
        }

        #[test]
        fn the_canonical_form_is_one_line_of_json(path in "/[ -~é\\n]{0,20}", method in "[A-Z!#$]{1,8}") {
            let text = with_rule(&format!("host = \"a.com\"\nmethods = [{method:?}]\npaths = [{path:?}]"));
            if let Ok(deployment) = parse(&text) {
                let canonical = deployment.policy.canonical();
                prop_assert!(!canonical.contains('\n'));
                let value: serde_json::Value = serde_json::from_str(&canonical).unwrap();
                prop_assert_eq!(value["functions"][0]["egress"][0]["paths"][0].as_str(), Some(path.as_str()));
            }
        }
    }
}

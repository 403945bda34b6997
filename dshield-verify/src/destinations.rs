//! A policy as a person reads it: who can send data where, and how sure that is.
//!
//! The canonical policy's text flows in, rows flow out; so does what differs between two of them.
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The `type` of a canonical policy that this build reads.
const TYPE: &str = "dshield.policy/v1";

/// One place that data can go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    /// The function that can send; `(the agent itself)` for witnesses and the like.
    pub who: String,
    /// Names or addresses, with their ports.
    pub to: String,
    /// How it is made sure that it is who it should be.
    pub how: String,
    /// What bounds it: methods, paths, sizes.
    pub limits: String,
}

/// A policy, read for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Where data can go.
    pub destinations: Vec<Destination>,
    /// Functions that can send nothing anywhere.
    pub closed: Vec<String>,
    /// True where the policy refuses nothing: it only writes down.
    pub observes: bool,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// A text is no canonical policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy is not understood: {0}; use the dshield-verify of its version")]
pub struct PolicyError(String);

/// The agent's own egress, in place of a function's name.
pub const AGENT: &str = "(the agent itself)";

impl View {
    /// Reads a canonical policy.
    ///
    /// # Errors
    /// When it is not one of this version. A member that this build does not know is an error too: it could mean anything.
    pub fn of(canonical: &str) -> Result<Self, PolicyError> {
        let policy: Policy = serde_json::from_str(canonical).map_err(|error| PolicyError(error.to_string()))?;
        if policy.kind != TYPE {
            return Err(PolicyError(format!("it is of type {:?}", policy.kind)));
        }
        let mut view = Self { observes: policy.mode != "enforce", ..Self::default() };
        for function in policy.functions {
            if function.egress.is_empty() {
                view.closed.push(function.name.clone());
            }
            view.destinations.extend(function.egress.into_iter().map(|rule| rule.row(&function.name)));
        }
        view.destinations.extend(policy.log.witnesses.into_iter().map(|witness| witness.egress.row(AGENT)));
        view.destinations.extend(policy.attestation.pccs.map(|pccs| pccs.egress.row(AGENT)));
        if policy.memory_only {
            view.notes.push("the log is kept in memory only: it ends with the agent".to_owned());
        }
        if policy.log_level != "request" {
            view.notes.push(format!("log_level is {:?}: single requests are not in the log", policy.log_level));
        }
        match policy.resolver.as_str() {
            "system" => {
                view.notes.push("names are looked up with the machine's own resolver, which sees them".to_owned())
            }
            resolver => view.notes.push(format!("names are looked up at {resolver}, which sees them")),
        }
        Ok(view)
    }
}

/// Rows that only one of two views has, as lines of a diff: `-` for what was expected, `+` for what is there.
#[must_use]
pub fn diff(expected: &View, found: &View) -> Vec<String> {
    let line = |sign: char, row: &Destination| {
        let Destination { who, to, how, limits } = row;
        format!("{sign} {who} -> {to} ({how}{}{limits})", if limits.is_empty() { "" } else { "; " })
    };
    let gone = expected.destinations.iter().filter(|row| !found.destinations.contains(row)).map(|row| line('-', row));
    let new = found.destinations.iter().filter(|row| !expected.destinations.contains(row)).map(|row| line('+', row));
    let mut lines: Vec<String> = gone.chain(new).collect();
    for (sign, here, there) in [('-', expected, found), ('+', found, expected)] {
        let only = |texts: &[String], others: &[String]| -> Vec<String> {
            texts.iter().filter(|text| !others.contains(text)).cloned().collect()
        };
        lines.extend(only(&here.closed, &there.closed).iter().map(|name| format!("{sign} {name} -> nowhere")));
        lines.extend(only(&here.notes, &there.notes).iter().map(|note| format!("{sign} {note}")));
        if here.observes && !there.observes {
            lines.push(format!("{sign} nothing is refused, only written down (mode = \"observe\")"));
        }
    }
    lines
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    #[serde(rename = "type")]
    kind: String,
    log_level: String,
    log: Log,
    memory_only: bool,
    mode: String,
    resolver: String,
    functions: Vec<Function>,
    attestation: Attestation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attestation {
    pccs: Option<Pccs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pccs {
    egress: Rule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "named, so that an unknown member is an error")]
struct Log {
    origin: Option<String>,
    seed_secret: Option<String>,
    interval_ms: u64,
    witnesses: Vec<Witness>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "named, so that an unknown member is an error")]
struct Witness {
    key: String,
    egress: Rule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    egress: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    host: String,
    ports: Vec<u16>,
    tls: String,
    protocol: String,
    methods: Option<Vec<String>>,
    paths: Option<Vec<String>>,
    max_request_bytes: Option<u64>,
    upgrade: bool,
    rate: Option<String>,
    max_concurrent: Option<u64>,
    resolve: Vec<String>,
    ca_sha256: Vec<String>,
    pin_spki: Vec<String>,
    inject_header: serde_json::Map<String, Value>,
}

impl Rule {
    fn row(self, who: &str) -> Destination {
        let ports: Vec<_> = self.ports.iter().map(ToString::to_string).collect();
        let mut to = format!("{}:{}", self.host, ports.join(","));
        if self.host.starts_with("*.") {
            to.push_str(" (any name below)");
        }
        let mut how = match self.tls.as_str() {
            "inspect" => vec!["certificate checked, each request seen".to_owned()],
            "passthrough" => vec!["end to end encrypted: nobody sees what is sent".to_owned()],
            "none" => vec!["NOT encrypted: anybody on the way can read and change it".to_owned()],
            other => vec![format!("tls = {other}")],
        };
        if self.protocol != "http" {
            how.push(format!("any bytes ({})", self.protocol));
        }
        if !self.ca_sha256.is_empty() {
            how.push(format!("own certificate authority {}", self.ca_sha256.join(", ")));
        }
        if !self.pin_spki.is_empty() {
            how.push(format!("pinned to {}", self.pin_spki.join(", ")));
        }
        if !self.resolve.is_empty() {
            how.push(format!("at {}", self.resolve.join(", ")));
        }
        let mut limits = Vec::new();
        limits.extend(self.methods.map(|methods| format!("only {}", methods.join(", "))));
        limits.extend(self.paths.map(|paths| format!("paths {}", paths.join(", "))));
        limits.extend(self.max_request_bytes.map(|bytes| format!("at most {bytes} bytes a request")));
        limits.extend(self.rate.map(|rate| format!("at most {rate}")));
        limits.extend(self.max_concurrent.map(|most| format!("at most {most} at a time")));
        if self.upgrade {
            limits.push("may change the protocol (WebSocket)".to_owned());
        }
        for (header, injection) in self.inject_header {
            let secret = injection.get("secret").and_then(Value::as_str).unwrap_or_default();
            limits.push(format!("the agent adds the header {header} (secret {secret})"));
        }
        Destination { who: who.to_owned(), to, how: how.join("; "), limits: limits.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_common::policy::Deployment;

    use super::*;

    fn view(rules: &str) -> View {
        let text = format!("[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"c\"\n{rules}");
        let deployment = Deployment::parse(&text, &mut |_| Err(String::new())).unwrap();
        View::of(&deployment.policy.canonical()).unwrap()
    }

    #[test]
    fn a_row_says_who_where_how_and_what_bounds_it() {
        let view = view(
            "[[function.egress]]\nhost = \"*.a.com\"\nports = [443, 8443]\nmethods = [\"POST\"]\npaths = [\"/v1/*\"]\nmax_request_bytes = \"1KiB\"\n\
             [[function.egress]]\nhost = \"b.com\"\ntls = \"passthrough\"\n",
        );
        let [first, second] = view.destinations.as_slice() else { panic!("{view:?}") };
        assert_eq!(first.to, "*.a.com:443,8443 (any name below)");
        assert_eq!(first.limits, "only POST; paths /v1/*; at most 1024 bytes a request");
        assert!(second.how.contains("nobody sees"), "{}", second.how);
        assert!(!view.observes);
    }

    #[test]
    fn whom_the_agent_asks_about_the_platform_is_a_row_of_its_own() {
        let view = view("[attestation]\npccs = \"https://pccs.example.com/x\"\n");
        let [row] = view.destinations.as_slice() else { panic!("{view:?}") };
        assert_eq!((row.who.as_str(), row.to.as_str()), (AGENT, "pccs.example.com:443"));
        assert!(row.limits.starts_with("only GET; paths /x/sgx/certification/v4/pckcrl, "), "{}", row.limits);
    }

    #[test]
    fn a_function_without_rules_sends_nowhere() {
        let view = view("");
        assert!(view.destinations.is_empty());
        assert_eq!(view.closed, ["f"]);
    }

    #[test]
    fn a_difference_shows_what_was_expected_and_what_is_there() {
        let rule = |host: &str| view(&format!("[[function.egress]]\nhost = \"{host}\"\n"));
        let lines = diff(&rule("a.com"), &rule("b.com"));
        assert!(lines[0].starts_with("- f -> a.com:443"), "{lines:?}");
        assert!(lines[1].starts_with("+ f -> b.com:443"), "{lines:?}");
        assert!(diff(&rule("a.com"), &rule("a.com")).is_empty());
        assert_eq!(diff(&rule("a.com"), &view(""))[1], "+ f -> nowhere");
    }

    #[test]
    fn a_member_that_nobody_knows_is_not_passed_over() {
        let canonical =
            Deployment::parse("", &mut |_| Err(String::new())).map(|deployment| deployment.policy.canonical());
        let text = canonical.unwrap_or_else(|_| r#"{"attestation":{"pccs":null},"functions":[],"log":{"interval_ms":1,"origin":null,"seed_secret":null,"witnesses":[]},"log_level":"request","memory_only":false,"mode":"enforce","resolver":"system","type":"dshield.policy/v1"}"#.to_owned());
        assert!(View::of(&text).is_ok());
        let more = text.replacen('{', "{\"backdoor\":true,", 1);
        assert!(View::of(&more).unwrap_err().to_string().contains("backdoor"));
        let more = text.replacen("\"pccs\":null", "\"pccs\":null,\"mirror\":{}", 1);
        assert!(View::of(&more).unwrap_err().to_string().contains("mirror"));
        let less = text.replacen("\"attestation\":{\"pccs\":null},", "", 1);
        assert!(View::of(&less).unwrap_err().to_string().contains("attestation"));
    }
}

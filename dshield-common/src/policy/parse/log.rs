//! `[log]`: the log's name, its key, and its witnesses.
use std::ops::Range;

use super::own::{Place, Proof};
use super::read::{Fields, Spanned};
use super::{ReadCa, function};
use crate::policy::diagnostic::Findings;
use crate::policy::inject::SecretNameError;
use crate::policy::witness::{LogPolicy, Witness};
use crate::tlog::VerifierKey;
use crate::tlog::key::SignatureType;

const FIELDS: &[&str] = &["origin", "seed_secret", "interval", "witness"];
const WITNESS_FIELDS: &[&str] = &["url", "key", "resolve", "ca", "pin_spki"];
const EXAMPLE: &str = "\"https://witness.example.com/\"";
/// C2SP tlog-witness.
const ADD_CHECKPOINT: &str = "/add-checkpoint";

/// The table, or its defaults. Whatever is wrong is reported.
pub(super) fn log(top: &Fields<'_>, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> LogPolicy {
    let Some(table) = top.table("log", "[log]", FIELDS, findings) else { return LogPolicy::default() };
    let origin = table.string("origin", "\"log.example.com/prod\"", findings);
    let origin = origin.and_then(|Spanned { value, at }| match value.parse() {
        Ok(origin) => Some(origin),
        Err(error) => {
            findings.add_with_hint(
                &at,
                format!("{value:?} cannot name a log: {error}"),
                "write it like a URL without its scheme: \"log.example.com/prod\"",
            );
            None
        }
    });
    let seed = table.string("seed_secret", "\"LOG_SEED\"", findings);
    let seed = seed.and_then(|Spanned { value, at }| {
        let parsed = value.parse();
        parsed
            .map_err(|error: SecretNameError| {
                findings.add_with_hint(&at, format!("`seed_secret` cannot be {value:?}"), error.to_string());
            })
            .ok()
    });
    let witnesses =
        table.tables("witness", "[[log.witness]]", "a witness", WITNESS_FIELDS, findings).unwrap_or_default();
    let witnesses: Vec<_> = witnesses
        .iter()
        .enumerate()
        .filter_map(|(index, fields)| witness(fields, format!("log.witness[{index}]"), read_ca, findings))
        .collect();
    if seed.is_none() && !witnesses.is_empty() && !table.has("seed_secret") {
        findings.add_with_hint(
            &table.at(),
            "[log] has witnesses and no `seed_secret`: each boot would have another key, which they do not know",
            "add seed_secret = \"LOG_SEED\", and set that variable of the agent to 32 random bytes in base64",
        );
    }
    let interval = function::duration(&table, "interval", "1s", findings).unwrap_or(LogPolicy::default().interval);
    LogPolicy { origin, seed, interval, witnesses }
}

fn witness(fields: &Fields<'_>, id: String, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> Option<Witness> {
    let url = fields.required_string("url", EXAMPLE, findings);
    let place = url.as_ref().and_then(|url| Place::parse(url.value));
    let key = fields
        .required_string("key", "\"witness.example.com+1a2b3c4d+BA…\"", findings)
        .and_then(|Spanned { value, at }| key(value, &at, findings));
    let proof = Proof::read(fields, place.as_ref(), read_ca, findings);
    let Spanned { value, at } = url?;
    let Some((place, rule)) = place.and_then(|place| {
        let rule = place.rule(id, "POST", &[ADD_CHECKPOINT], proof)?;
        Some((place, rule))
    }) else {
        let message = format!("{value:?} is not a witness's address");
        findings.add_with_hint(&at, message, format!("write it like {EXAMPLE}"));
        return None;
    };
    let Place { to, port, prefix, .. } = place;
    Some(Witness { key: key?, to, port, path: prefix + ADD_CHECKPOINT, rule })
}

fn key(text: &str, at: &Range<usize>, findings: &mut Findings<'_>) -> Option<VerifierKey> {
    match text.parse::<VerifierKey>() {
        Ok(key) if key.signature_type() == SignatureType::CosignatureV1 => return Some(key),
        Ok(_) => findings.add_with_hint(
            at,
            "this is the key of a log, not of a witness",
            "ask the witness for its vkey; behind the second `+` it begins with \"BA\"",
        ),
        Err(error) => findings.add_with_hint(
            at,
            format!("{text:?} is not a witness's key: {error}"),
            "ask the witness for its vkey: NAME+ID+KEY",
        ),
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::destination::Destination;
    use crate::policy::parse::tests::{parse, problems, with};

    /// An Ed25519 point under a name of our own.
    const KEY: &str = "w.example+7f1682b3+BIzjkG7sT6JSOSIlqbnLlFGHWLMBs0Dq0AF5iqB1hyTy";

    fn text(log: &str) -> String {
        format!("[log]\n{log}\n{}", with(""))
    }

    #[test]
    fn a_witness_is_reached_by_a_rule_for_its_one_path() {
        let lines = format!(
            "origin = \"log.example.com/prod\"\nseed_secret = \"LOG_SEED\"\n\
             [[log.witness]]\nurl = \"https://W.example.com/a/\"\nkey = \"{KEY}\"\nresolve = [\"10.0.0.1\"]\n\
             [[log.witness]]\nurl = \"http://127.0.0.1:8080\"\nkey = \"{KEY}\"\n"
        );
        let policy = parse(&text(&lines)).unwrap().policy;
        assert_eq!(policy.log.origin.as_ref().unwrap().as_str(), "log.example.com/prod");
        assert_eq!(policy.log.seed.as_ref().unwrap().as_str(), "LOG_SEED");
        let [first, second] = &policy.log.witnesses[..] else { panic!("two") };
        assert_eq!(
            (first.to.to_string().as_str(), first.port, first.path.as_str()),
            ("w.example.com", 443, "/a/add-checkpoint")
        );
        assert_eq!((second.port, second.path.as_str()), (8080, "/add-checkpoint"));
        let egress = policy.log.egress();
        let route = egress.route(&first.to, 443).unwrap();
        assert!(route.request("POST", "/a/add-checkpoint").is_ok());
        assert!(route.request("GET", "/a/add-checkpoint").is_err() && route.request("POST", "/a/x").is_err());
        assert!(egress.route(&second.to, 8080).is_ok());
        assert!(egress.route(&Destination::Address([127, 0, 0, 2].into()), 8080).is_err());
    }

    #[test]
    fn whom_the_log_is_shown_to_is_part_of_the_policy() {
        let with =
            |key: &str| format!("seed_secret = \"S\"\n[[log.witness]]\nurl = \"https://w.example\"\nkey = \"{key}\"");
        let hash = |lines: &str| parse(&text(lines)).unwrap().policy.hash().to_string();
        let all = [hash(""), hash("origin = \"a\""), hash("seed_secret = \"S\""), hash(&with(KEY))];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        let log_key = KEY.replace("7f1682b3+BI", "00000000+AI");
        let lines = format!(
            "origin = \"a b\"\nseed_secret = \"seed\"\ninterval = \"1h\"\nwitnesses = []\n\
             [[log.witness]]\nurl = \"w.example.com\"\nkey = \"x\"\n\
             [[log.witness]]\nurl = \"https://w.example.com/../a\"\nkey = \"{log_key}\"\n[[log.witness]]\n\
             [[log.witness]]\nurl = \"http://192.0.2.7\"\nca = \"ca.pem\"\nresolve = [\"192.0.2.8\"]\n"
        );
        let said = problems(&text(&lines)).join("\n");
        for part in [
            "\"a b\" cannot name a log",
            "`seed_secret` cannot be \"seed\"",
            "`interval` is not a duration: \"1h\"",
            "[log] has no field \"witnesses\"; did you mean `witness`?",
            "\"w.example.com\" is not a witness's address; write it like \"https://witness.example.com/\"",
            "\"x\" is not a witness's key",
            "\"https://w.example.com/../a\" is not",
            "a witness needs `url`",
            "a witness needs `key`",
            "`ca` has no effect with http://: there is no certificate; write https://, or leave `ca` out",
            "`resolve` has no effect with an address: it is connected to as it is; write a name into the URL",
        ] {
            assert!(said.contains(part), "{part:?} is missing in\n{said}");
        }
        let alone = format!("[[log.witness]]\nurl = \"https://w.example\"\nkey = \"{KEY}\"");
        assert!(problems(&text(&alone))[0].contains("add seed_secret"), "{:?}", problems(&text(&alone)));
    }
}

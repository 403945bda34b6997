//! `dshield.toml` to types.
//!
//! The text flows in, with a way to read the certificate files it names. Every problem is collected, so that one look
//! at the output is enough to mend the file; no value leaves unless there was none.
mod attestation;
mod enforceable;
mod function;
mod host;
mod log;
mod own;
mod pem;
mod read;
mod rule;
mod units;
mod upstream;

use std::collections::HashMap;
use std::sync::Arc;

use toml_edit::{Document, Item};

use self::read::{Fields, Spanned};
pub(super) use self::rule::is_method;
use super::attestation::AttestationPolicy;
use super::diagnostic::{Diagnostic, Findings, Position};
use super::resolver::{UpstreamResolver, UpstreamResolverError};
use super::types::{Deployment, Function, FunctionPolicy, LogLevel, Mode, Policy};
use super::witness::LogPolicy;
use crate::name::FunctionName;

/// The tables of the file.
const FIELDS: &[&str] = &["policy", "log", "attestation", "function"];

/// Reads a certificate file that the policy names, or says in words why it cannot.
pub type ReadCa<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// Where a function's fields stand, for problems that only show when its code is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The value of `code`.
    pub code: Position,
    /// The value of `handler`; where it is left out, that of `code`.
    pub handler: Position,
}

impl Deployment {
    /// Reads the text of a `dshield.toml`; `read_ca` reads the files that `ca` fields name.
    ///
    /// # Errors
    /// Every problem found, in the order of the text; never an empty list.
    pub fn parse(text: &str, read_ca: &mut ReadCa<'_>) -> Result<Self, Vec<Diagnostic>> {
        Self::parse_with_positions(text, read_ca).map(|(deployment, _)| deployment)
    }

    /// [`Deployment::parse`], with the positions of each of [`Deployment::functions`].
    ///
    /// # Errors
    /// As [`Deployment::parse`].
    pub fn parse_with_positions(
        text: &str,
        read_ca: &mut ReadCa<'_>,
    ) -> Result<(Self, Vec<Positions>), Vec<Diagnostic>> {
        let mut findings = Findings::new(text);
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                findings.add(&error.span().unwrap_or(0..0), format!("this is not TOML: {message}"));
                return Err(findings.into_sorted());
            }
        };
        let top = Fields::new(document.as_table(), 0..0, "dshield.toml", FIELDS, &mut findings);
        let mut policy = policy(&top, &mut findings);
        policy.log = log::log(&top, read_ca, &mut findings);
        policy.attestation = attestation::attestation(&top, read_ca, &mut findings);
        let read = functions(&top, policy.mode, read_ca, &mut findings);
        if !findings.is_empty() {
            return Err(findings.into_sorted());
        }
        let mut functions = Vec::with_capacity(read.len());
        let mut policies = Vec::with_capacity(read.len());
        let mut positions = Vec::with_capacity(read.len());
        for (function, policy, position) in read {
            functions.push(function);
            policies.push(Arc::new(policy));
            positions.push(position);
        }
        let policy = Arc::new(Policy { functions: policies, ..policy });
        Ok((Self { policy, functions }, positions))
    }
}

/// All of the policy but its functions.
fn policy(top: &Fields<'_>, findings: &mut Findings<'_>) -> Policy {
    let known = ["log_level", "memory_only", "resolver", "mode"];
    let table = top.table("policy", "[policy]", &known, findings);
    let table = table.as_ref();
    Policy {
        log_level: table.and_then(|t| t.word("log_level", findings)).map_or(LogLevel::Request, |word| word.value),
        memory_only: table.and_then(|table| table.boolean("memory_only", findings)).unwrap_or(false),
        resolver: table.and_then(|table| resolver(table, findings)).unwrap_or_default(),
        mode: table.and_then(|table| table.word("mode", findings)).map_or(Mode::Enforce, |word| word.value),
        log: LogPolicy::default(),
        attestation: AttestationPolicy::default(),
        functions: Vec::new(),
    }
}

fn resolver(table: &Fields<'_>, findings: &mut Findings<'_>) -> Option<UpstreamResolver> {
    let Spanned { value, at } = table.string("resolver", "\"system\"", findings)?;
    match value.parse() {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            let message = format!("`resolver` cannot be {value:?}");
            findings.add_with_hint(&at, message, UpstreamResolverError::to_string(&error));
            None
        }
    }
}

type Read = (Function, FunctionPolicy, Positions);

fn functions(top: &Fields<'_>, mode: Mode, read_ca: &mut ReadCa<'_>, findings: &mut Findings<'_>) -> Vec<Read> {
    let Some(tables) = top.tables("function", "[[function]]", "a function", function::FIELDS, findings) else {
        if !top.has("function") {
            findings.add_with_hint(
                &(0..0),
                "no function is defined",
                "add a [[function]] table with `name`, `runtime` and `code`, or start with `dshield init`",
            );
        }
        return Vec::new();
    };
    let mut first_seen: HashMap<FunctionName, Position> = HashMap::new();
    let mut functions = Vec::new();
    for (index, fields) in tables.iter().enumerate() {
        let name = function::name(fields, findings);
        if let Some(name) = &name {
            let here = findings.position(name.at.start);
            if let Some(first) = first_seen.get(&name.value) {
                let message = format!("there is already a function `{}` at line {}", name.value, first.line);
                findings.add_with_hint(&name.at, message, "give each function its own name");
            } else {
                first_seen.insert(name.value.clone(), here);
            }
        }
        let label = name.as_ref().map_or_else(|| format!("function[{index}]"), |name| name.value.to_string());
        let egress = rule::egress(fields, &label, read_ca, findings);
        if let Some((function, positions)) = function::function(fields, name.map(|name| name.value), findings) {
            let policy = FunctionPolicy { name: function.name.clone(), mode, egress };
            functions.push((function, policy, positions));
        }
    }
    functions
}

/// The name of an item's kind, with its article.
fn kind(item: &Item) -> String {
    let name = item.type_name();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::types::Protocol;

    /// Parses, with one certificate file named `ca.pem`.
    pub(in crate::policy) fn parse(text: &str) -> Result<Deployment, Vec<Diagnostic>> {
        Deployment::parse(text, &mut |file| match file {
            "ca.pem" => Ok(b"-----BEGIN CERTIFICATE-----\nMAMBAgM=\n-----END CERTIFICATE-----\n".to_vec()),
            "empty.pem" => Ok(Vec::new()),
            _ => Err("no such file".to_owned()),
        })
    }

    /// Everything wrong with `text`, as a reader sees it.
    pub(in crate::policy) fn problems(text: &str) -> Vec<String> {
        parse(text).expect_err("should be refused").iter().map(ToString::to_string).collect()
    }

    /// A function `f` with these lines after its required fields.
    pub(in crate::policy) fn with(lines: &str) -> String {
        format!("[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n{lines}\n")
    }

    /// A function `f` with one rule of these lines.
    pub(in crate::policy) fn with_rule(lines: &str) -> String {
        with(&format!("[[function.egress]]\n{lines}"))
    }

    const FULL: &str = r#"
        [policy]
        log_level = "connection"
        memory_only = true
        resolver = "tls://1.1.1.1#cloudflare-dns.com"
        mode = "observe"
        [[function]]
        name = "summarize"
        runtime = "python3"
        code = "functions/summarize"
        handler = "api/app.main"
        timeout = "2m"
        memory = "64MiB"
        concurrency = 9
        env = { MODEL = "claude-sonnet-4" }
        [[function.egress]]
        host = "API.anthropic.com."
        ports = [8443, 443, 443]
        tls = "inspect"
        methods = ["POST", "GET"]
        paths = ["/v1/messages", "/v1/files/*"]
        max_request_bytes = "1MiB"
        resolve = ["127.0.0.1:8443", "10.0.0.1", "[::1]:9", "[::2]"]
        ca = "ca.pem"
        upgrade = true
        rate = "10/s"
        max_concurrent = 7
        pin_spki = ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
        inject_header = { x-api-key = { secret = "ANTHROPIC_API_KEY" } }
        [[function.egress]]
        host = "*.example.com"
        tls = "passthrough"
        [[function.egress]]
        host = "192.0.2.0/24"
        tls = "none"
        protocol = "tcp"
        [[function]]
        name = "native"
        runtime = "native"
        code = "n"
    "#;

    #[test]
    fn every_field_is_read() {
        let deployment = parse(FULL).unwrap();
        assert_eq!(deployment.policy.log_level, LogLevel::Connection);
        assert!(deployment.policy.memory_only);
        assert_eq!(deployment.policy.resolver.to_string(), "tls://1.1.1.1:853#cloudflare-dns.com");
        assert_eq!(deployment.policy.mode, Mode::Observe);
        let function = &deployment.functions[0];
        assert_eq!(function.handler_parts(), Some(("api/app", "main")));
        assert_eq!(function.timeout.as_secs(), 120);
        assert_eq!(function.memory, 64 << 20);
        assert_eq!(function.concurrency, 9);
        assert_eq!(function.env["MODEL"], "claude-sonnet-4");
        assert_eq!(deployment.functions[1].handler, None);
        let rules = &deployment.policy.functions[0].egress;
        assert_eq!(rules[0].id, "summarize.egress[0]");
        assert_eq!(rules[0].host.to_string(), "api.anthropic.com");
        assert_eq!(rules[0].ports, [443, 8443]);
        assert_eq!(rules[0].methods.as_deref(), Some(&["GET".to_owned(), "POST".to_owned()][..]));
        assert_eq!(rules[0].max_request_bytes, Some(1 << 20));
        let pins: Vec<String> = rules[0].resolve.iter().map(ToString::to_string).collect();
        assert_eq!(pins, ["127.0.0.1:8443", "10.0.0.1", "[::1]:9", "::2"]);
        assert_eq!(rules[0].ca, [[0x30, 3, 1, 2, 3]]);
        assert!(rules[0].upgrade);
        assert_eq!((rules[0].rate.unwrap().count(), rules[0].max_concurrent), (10, Some(7)));
        assert_eq!(rules[0].pin_spki, [[0; 32].into()]);
        assert_eq!(rules[0].inject_header["x-api-key"].secret.as_str(), "ANTHROPIC_API_KEY");
        assert_eq!(rules[1].host.to_string(), "*.example.com");
        assert_eq!((rules[2].host.to_string().as_str(), rules[2].protocol), ("192.0.2.0/24", Protocol::Tcp));
        assert!(deployment.policy.functions[1].egress.is_empty());
    }

    #[test]
    fn everything_with_a_default_may_be_left_out() {
        let deployment = parse(&with_rule("host = \"a.com\"")).unwrap();
        assert_eq!(deployment.policy.log_level, LogLevel::Request);
        assert!(!deployment.policy.memory_only);
        assert_eq!((&deployment.policy.resolver, deployment.policy.mode), (&UpstreamResolver::System, Mode::Enforce));
        let function = &deployment.functions[0];
        assert_eq!(function.handler.as_deref(), Some("app.handler"));
        assert_eq!((function.timeout.as_secs(), function.memory, function.concurrency), (30, 256 << 20, 4));
        let rule = &deployment.policy.functions[0].egress[0];
        assert_eq!((&rule.ports[..], rule.tls.as_str()), (&[443][..], "inspect"));
        assert_eq!((&rule.methods, &rule.paths, rule.max_request_bytes), (&None, &None, None));
        assert!(rule.resolve.is_empty() && rule.ca.is_empty());
        assert_eq!((rule.protocol, rule.upgrade, rule.rate, rule.max_concurrent), (Protocol::Http, false, None, None));
        assert!(rule.pin_spki.is_empty() && rule.inject_header.is_empty());
    }

    #[test]
    fn tables_may_be_written_inline() {
        let text = r#"function = [{ name = "f", runtime = "node", code = "f", egress = [{ host = "a.com" }] }]"#;
        assert_eq!(parse(text).unwrap().policy.functions[0].egress.len(), 1);
        assert_eq!(problems("function = [1]"), ["1:13: a function is a table; write it below [[function]]"]);
    }

    #[test]
    fn an_empty_file_asks_for_a_function() {
        for text in ["", "# nothing\n", "[policy]\n"] {
            assert_eq!(
                problems(text),
                [
                    "1:1: no function is defined; add a [[function]] table with `name`, `runtime` and `code`, or start with `dshield init`"
                ]
            );
        }
    }

    #[test]
    fn every_problem_is_reported_in_the_order_of_the_text() {
        let text = "[policy]\nlog_levle = \"request\"\nmemory_only = \"yes\"\n[[function]]\nname = \"a b\"\nruntime = \"pyhton3\"\n\
            [[function.egress]]\nhots = \"a.com\"\nports = [0]\n";
        assert_eq!(
            problems(text),
            [
                "2:1: [policy] has no field \"log_levle\"; did you mean `log_level`?",
                "3:15: `memory_only` must be true or false, not a string; write it without quotation marks",
                "4:1: a function needs `code`; add code = \"functions/hello\"",
                "5:8: \"a b\" cannot be a name: a function's name is 1 to 64 ASCII letters, digits, `-` and `_`",
                "6:11: `runtime` cannot be \"pyhton3\"; did you mean `python3`?",
                "7:1: an egress rule needs `host`; add host = \"api.example.com\"",
                "8:1: an egress rule has no field \"hots\"; did you mean `host`?",
                "9:10: 0 is not a port; a port is a number from 1 to 65535, without quotation marks",
            ]
        );
    }

    #[test]
    fn text_that_is_not_toml_has_its_position() {
        let problems = problems("[[function]]\nname = \n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("2:8: this is not TOML: "), "{}", problems[0]);
    }

    #[test]
    fn a_single_bracket_is_explained() {
        assert_eq!(
            problems("[function]\nname = \"f\"\n"),
            [
                "1:1: `function` must be a list of tables, not a table; write [[function]], with two brackets, above its fields"
            ]
        );
        assert!(problems("[[function.egress]]\nhost = \"a.com\"\n")[0].contains("write [[function]]"));
        assert!(problems(&with("[function.egress]\nhost = \"a.com\""))[0].contains("write [[function.egress]]"));
    }

    #[test]
    fn unknown_words_get_the_nearest_or_all_valid_ones() {
        assert_eq!(
            problems(&format!("[policy]\nlog_level = \"all\"\n{}", with(""))),
            ["2:13: `log_level` cannot be \"all\"; it can be: connection, request"]
        );
        assert_eq!(
            problems(&format!("[policy]\nmode = \"observ\"\nresolver = \"tls://1.1.1.1\"\n{}", with(""))),
            [
                "2:8: `mode` cannot be \"observ\"; did you mean `observe`?",
                "3:12: `resolver` cannot be \"tls://1.1.1.1\"; write the name that the server's certificate must prove behind it, such as \"tls://1.1.1.1#cloudflare-dns.com\""
            ]
        );
        assert_eq!(
            problems(&format!("colour = 1\n{}", with(""))),
            ["1:1: dshield.toml has no field \"colour\"; it can have: policy, log, attestation, function"]
        );
    }

    #[test]
    fn two_functions_cannot_have_one_name() {
        let text = format!("{}{}", with(""), with(""));
        assert_eq!(
            problems(&text),
            ["7:8: there is already a function `f` at line 2; give each function its own name"]
        );
    }

    #[test]
    fn positions_point_at_the_values() {
        let text = with("handler = \"a.b\"");
        let (_, positions) = Deployment::parse_with_positions(&text, &mut |_| Err(String::new())).unwrap();
        assert_eq!(positions[0].code, Position { line: 4, column: 8 });
        assert_eq!(positions[0].handler, Position { line: 5, column: 11 });
        let (_, positions) = Deployment::parse_with_positions(&with(""), &mut |_| Err(String::new())).unwrap();
        assert_eq!(positions[0].handler, positions[0].code);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_on_arbitrary_text(text in any::<String>()) {
            if let Err(problems) = parse(&text) {
                prop_assert!(!problems.is_empty());
            }
        }

        #[test]
        fn parsing_never_panics_on_damaged_policies(cut in 0..FULL.len(), insert in "[\\[\\]{}=\"',.#a0\\n -]{0,6}", skip in 0usize..20) {
            let after = FULL.len().min(cut + skip);
            let _ = parse(&format!("{}{insert}{}", &FULL[..cut], &FULL[after..]));
        }

        #[test]
        fn parsing_never_panics_on_fields_of_the_wrong_kind(field in "name|runtime|code|handler|timeout|memory|concurrency|env|egress",
                value in "1|-1|1\\.5|true|\"\"|\"\u{0}\"|\\[\\]|\\[1\\]|\\[\\{\\}\\]|\\{\\}|\\{a=1\\}|1979-05-27|9223372036854775807|nan") {
            let _ = parse(&format!("[[function]]\n{field} = {value}\n"));
        }
    }
}

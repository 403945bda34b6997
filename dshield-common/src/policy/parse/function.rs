//! One `[[function]]`: everything but its egress rules.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml_edit::Item;

use super::read::{Fields, Spanned, wrong_kind};
use super::{Positions, units};
use crate::name::FunctionName;
use crate::policy::diagnostic::Findings;
use crate::policy::types::{Function, Runtime};

pub(super) const FIELDS: &[&str] =
    &["name", "runtime", "code", "handler", "timeout", "memory", "concurrency", "env", "egress"];

const DEFAULT_HANDLER: &str = "app.handler";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const DEFAULT_MEMORY: u64 = 256 << 20;
const LEAST_MEMORY: u64 = 16 << 20;
const DEFAULT_CONCURRENCY: u32 = 4;
const MOST_CONCURRENCY: u32 = 1000;

/// Set by the runtime or the sandbox: letting a function's author set them would break it, or its trust in the proxy.
const RESERVED: [&str; 7] = [
    "_HANDLER",
    "LAMBDA_TASK_ROOT",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
];
const RESERVED_PREFIXES: [&str; 2] = ["AWS_LAMBDA_", "LD_"];

pub(super) fn name(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Spanned<FunctionName>> {
    let Spanned { value, at } = fields.required_string("name", "\"hello\"", findings)?;
    match FunctionName::parse(value) {
        Ok(value) => Some(Spanned { value, at }),
        Err(error) => {
            findings.add(&at, format!("{value:?} cannot be a name: {error}"));
            None
        }
    }
}

/// `None` only when something was reported.
pub(super) fn function(
    fields: &Fields<'_>,
    name: Option<FunctionName>,
    findings: &mut Findings<'_>,
) -> Option<(Function, Positions)> {
    let runtime = runtime(fields, findings);
    let code = code(fields, findings);
    let handler = handler(fields, runtime, findings);
    let timeout = timeout(fields, findings);
    let memory = size(fields, "memory", findings);
    if memory.as_ref().is_some_and(|memory| memory.value < LEAST_MEMORY) {
        findings.add_with_hint(&fields.at_value("memory"), "`memory` is too small", "write at least \"16MiB\"");
    }
    let concurrency = concurrency(fields, findings);
    let env = env(fields, findings);
    let handler_field = if fields.has("handler") { "handler" } else { "code" };
    let positions = Positions {
        code: findings.position(fields.at_value("code").start),
        handler: findings.position(fields.at_value(handler_field).start),
    };
    let function = Function {
        name: name?,
        runtime: runtime?,
        code: code?,
        handler,
        timeout,
        memory: memory.map_or(DEFAULT_MEMORY, |memory| memory.value),
        concurrency,
        env,
    };
    Some((function, positions))
}

/// A size in bytes: a string with a unit, or an integer.
pub(super) fn size(fields: &Fields<'_>, name: &str, findings: &mut Findings<'_>) -> Option<Spanned<u64>> {
    let Spanned { value: item, at } = fields.value(name)?;
    let size = match (item.as_str(), item.as_integer()) {
        (Some(text), _) => units::size(text),
        (None, Some(bytes)) => u64::try_from(bytes).ok(),
        (None, None) => {
            wrong_kind(name, "a size", item, &at, &format!("write it like {name} = \"256MiB\""), findings);
            return None;
        }
    };
    match size.filter(|size| *size <= crate::canonical::MAX_SAFE_INTEGER) {
        Some(value) => Some(Spanned { value, at }),
        None => {
            let hint = "write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MiB\"";
            findings.add_with_hint(&at, format!("`{name}` is not a size: {}", written(item)), hint);
            None
        }
    }
}

fn written(item: &Item) -> String {
    item.as_str().map_or_else(|| item.to_string().trim().to_owned(), |text| format!("{text:?}"))
}

fn runtime(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<Runtime> {
    if !fields.has("runtime") {
        fields.missing("runtime", "\"python3\"", findings);
        return None;
    }
    if let Some(Spanned { value, at }) = fields.value("runtime")
        && value.as_str() == Some("http")
    {
        findings.add_with_hint(&at, "`runtime` \"http\" is not supported yet", "it can be: python3, node, native");
        return None;
    }
    fields.word("runtime", findings).map(|word| word.value)
}

fn code(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Option<PathBuf> {
    let Spanned { value, at } = fields.required_string("code", "\"functions/hello\"", findings)?;
    if value.is_empty() || value.contains('\0') {
        findings.add_with_hint(&at, "`code` is not a path", "name the folder with the function's code");
        return None;
    }
    Some(value.into())
}

fn handler(fields: &Fields<'_>, runtime: Option<Runtime>, findings: &mut Findings<'_>) -> Option<String> {
    let example = format!("{DEFAULT_HANDLER:?}");
    let given = fields.string("handler", &example, findings);
    if runtime == Some(Runtime::Native) {
        if fields.has("handler") {
            let hint = "leave it out: a native function is the executable `bootstrap` in its code folder";
            findings.add_with_hint(&fields.at_key("handler"), "a native function has no `handler`", hint);
        }
        return None;
    }
    let Some(Spanned { value, at }) = given else {
        return Some(DEFAULT_HANDLER.to_owned());
    };
    if !is_handler(value) {
        let hint = "write module.function, such as \"app.handler\", with the module's folder in front if it is in one: \"api/app.handler\"";
        findings.add_with_hint(&at, format!("{value:?} is not a handler{}", why_not(value)), hint);
    }
    Some(value.to_owned())
}

/// `folder/…/module.function`: no dot but the one before the function, so no `..` and no hidden file; never absolute.
fn is_handler(text: &str) -> bool {
    let Some((module, function)) = text.split_once('.') else {
        return false;
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let segment =
        |text: &str| !text.is_empty() && !text.starts_with('-') && text.bytes().all(|byte| word(byte) || byte == b'-');
    let starts_with_digit = function.starts_with(|c: char| c.is_ascii_digit());
    text.len() <= 128
        && module.split('/').all(segment)
        && !function.is_empty()
        && !starts_with_digit
        && function.bytes().all(|byte| word(byte) || byte == b'$')
}

/// What to say of a handler that somebody may have meant to lead out of the code folder.
fn why_not(handler: &str) -> &'static str {
    if handler.starts_with('/') {
        ": it is an absolute path, and its module lies in the code folder"
    } else if handler.split('/').any(|segment| segment == "..") {
        ": `..` leads out of the code folder"
    } else if handler.contains('\0') {
        ": it holds a NUL byte"
    } else {
        ""
    }
}

fn timeout(fields: &Fields<'_>, findings: &mut Findings<'_>) -> Duration {
    duration(fields, "timeout", "1ms", findings).unwrap_or(DEFAULT_TIMEOUT)
}

/// How long: from `shortest`, as it is written, to 15 minutes.
pub(super) fn duration(
    fields: &Fields<'_>,
    name: &str,
    shortest: &str,
    findings: &mut Findings<'_>,
) -> Option<Duration> {
    let Spanned { value, at } = fields.string(name, "\"30s\"", findings)?;
    let least = units::duration(shortest).unwrap_or_default();
    match units::duration(value) {
        Some(duration) if duration >= least && duration <= LONGEST_TIMEOUT => return Some(duration),
        Some(_) => {
            let hint = format!("write between {shortest:?} and \"15m\"");
            findings.add_with_hint(&at, format!("`{name}` cannot be {value:?}"), hint);
        }
        None => {
            let hint = "write a whole number with ms, s or m, such as \"30s\"";
            findings.add_with_hint(&at, format!("`{name}` is not a duration: {value:?}"), hint);
        }
    }
    None
}

fn concurrency(fields: &Fields<'_>, findings: &mut Findings<'_>) -> u32 {
    let Some(Spanned { value, at }) = fields.value("concurrency") else {
        return DEFAULT_CONCURRENCY;
    };
    let Some(number) = value.as_integer() else {
        wrong_kind("concurrency", "an integer", value, &at, "write it like concurrency = 4", findings);
        return DEFAULT_CONCURRENCY;
    };
    match u32::try_from(number) {
        Ok(number) if (1..=MOST_CONCURRENCY).contains(&number) => number,
        _ => {
            findings.add_with_hint(&at, format!("`concurrency` cannot be {number}"), "write a number from 1 to 1000");
            DEFAULT_CONCURRENCY
        }
    }
}

fn env(fields: &Fields<'_>, findings: &mut Findings<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (key, value) in fields.map("env", findings) {
        let name = key.value;
        let word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() || !word || name.starts_with(|c: char| c.is_ascii_digit()) {
            let hint = "write letters, digits and `_`, not starting with a digit";
            findings.add_with_hint(&key.at, format!("{name:?} cannot be an environment variable's name"), hint);
        } else if RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            findings.add_with_hint(&key.at, format!("`{name}` is set by D-Shield itself"), "leave it out of `env`");
        } else if value.value.contains('\0') {
            findings.add(&value.at, format!("the value of `{name}` holds a NUL byte, which no environment can"));
        } else {
            env.insert(name.to_owned(), value.value.to_owned());
        }
    }
    env
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::policy::parse::tests::{parse, problems, with};

    #[test]
    fn the_required_fields_are_asked_for() {
        assert_eq!(
            problems("[[function]]\n"),
            [
                "1:1: a function needs `code`; add code = \"functions/hello\"",
                "1:1: a function needs `name`; add name = \"hello\"",
                "1:1: a function needs `runtime`; add runtime = \"python3\"",
            ]
        );
    }

    #[test]
    fn the_http_runtime_is_known_but_not_yet_there() {
        assert_eq!(
            problems("[[function]]\nname = \"f\"\nruntime = \"http\"\ncode = \"f\"\n"),
            ["3:11: `runtime` \"http\" is not supported yet; it can be: python3, node, native"]
        );
    }

    #[test]
    fn sizes_and_durations_out_of_range_are_refused() {
        for (line, problem) in [
            ("timeout = \"0s\"", "5:11: `timeout` cannot be \"0s\"; write between \"1ms\" and \"15m\""),
            ("timeout = \"16m\"", "5:11: `timeout` cannot be \"16m\"; write between \"1ms\" and \"15m\""),
            (
                "timeout = \"30\"",
                "5:11: `timeout` is not a duration: \"30\"; write a whole number with ms, s or m, such as \"30s\"",
            ),
            ("timeout = 30", "5:11: `timeout` must be a string, not an integer; write it like timeout = \"30s\""),
            ("memory = \"15MiB\"", "5:10: `memory` is too small; write at least \"16MiB\""),
            (
                "memory = \"lots\"",
                "5:10: `memory` is not a size: \"lots\"; write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MiB\"",
            ),
            (
                "memory = -1",
                "5:10: `memory` is not a size: -1; write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MiB\"",
            ),
            ("memory = true", "5:10: `memory` must be a size, not a boolean; write it like memory = \"256MiB\""),
            ("concurrency = 0", "5:15: `concurrency` cannot be 0; write a number from 1 to 1000"),
            ("concurrency = 1001", "5:15: `concurrency` cannot be 1001; write a number from 1 to 1000"),
            (
                "concurrency = \"4\"",
                "5:15: `concurrency` must be an integer, not a string; write it like concurrency = 4",
            ),
            ("code = \"\"", "5:1: this is not TOML: duplicate key"),
        ] {
            assert_eq!(problems(&with(line)), [problem]);
        }
        assert!(parse(&with("timeout = \"15m\"\nmemory = 16777216\nconcurrency = 1000")).is_ok());
        assert!(parse(&with("timeout = \"1ms\"")).is_ok());
    }

    #[test]
    fn a_handler_cannot_leave_the_code_folder() {
        for handler in [
            "",
            "app",
            "app.",
            ".handler",
            "../app.handler",
            "/app.handler",
            "a//b.c",
            "a/./b.c",
            "a/../b.c",
            "a.b.c",
            "a/.b",
            "a b.c",
            "a\\\\b.c",
            "a.1",
            "-a.b",
            "ä.b",
            "a.b()",
            "./app.handler",
            "~/a.b",
            "a/b.c/d",
            "a\\u0000.b",
        ] {
            let problems = problems(&with(&format!("handler = \"{handler}\"")));
            assert!(
                problems[0].starts_with("5:11: ")
                    && problems[0].contains("is not a handler")
                    && problems[0].contains("; write module.function"),
                "{problems:?}"
            );
        }
        for (handler, reason) in
            [("../a.b", "`..` leads out"), ("/a.b", "an absolute path"), ("a/../../b.c", "`..`"), ("a.b\\u0000", "NUL")]
        {
            let problems = problems(&with(&format!("handler = \"{handler}\"")));
            assert!(problems[0].contains(reason), "{problems:?}");
        }
        for handler in ["app.handler", "api/v1/app.handler", "my-app.main_2", "index.$fn"] {
            assert_eq!(
                parse(&with(&format!("handler = \"{handler}\""))).unwrap().functions[0].handler.as_deref(),
                Some(handler)
            );
        }
    }

    #[test]
    fn a_native_function_has_no_handler() {
        assert_eq!(
            problems("[[function]]\nname = \"f\"\nruntime = \"native\"\ncode = \"f\"\nhandler = \"app.handler\"\n"),
            [
                "5:1: a native function has no `handler`; leave it out: a native function is the executable `bootstrap` in its code folder"
            ]
        );
    }

    #[test]
    fn what_the_sandbox_sets_cannot_be_set_by_the_policy() {
        for name in [
            "AWS_LAMBDA_RUNTIME_API",
            "_HANDLER",
            "LD_PRELOAD",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
        ] {
            assert_eq!(
                problems(&with(&format!("env = {{ A = \"1\", {name} = \"x\" }}"))),
                [format!("5:18: `{name}` is set by D-Shield itself; leave it out of `env`")]
            );
        }
        assert!(parse(&with("env = { AWS_REGION = \"x\", OLD_X = \"y\" }")).is_ok());
    }

    #[test]
    fn env_names_and_values_must_fit_an_environment() {
        assert_eq!(
            problems(&with("[function.env]\n\"A=B\" = \"x\"\n1A = \"x\"\nN = 5\nZ = \"\\u0000\"")),
            [
                "6:1: \"A=B\" cannot be an environment variable's name; write letters, digits and `_`, not starting with a digit",
                "7:1: \"1A\" cannot be an environment variable's name; write letters, digits and `_`, not starting with a digit",
                "8:5: `N` must be a string, not an integer; write it like N = \"value\"",
                "9:5: the value of `Z` holds a NUL byte, which no environment can",
            ]
        );
    }
}

//! `dshield check FILE`: says in plain words where each function can send data, or quotes what is wrong.
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use dshield_common::policy::{Diagnostic, FunctionPolicy, HostPattern, Protocol, Rule, TlsMode, Warning};
use serde_json::{Value, json};

use crate::config::{self, ConfigError, LoadedConfig};
use crate::secrets;

/// Checks `file` and what it names. Exit code 0 when it could be started, 2 when not.
#[must_use]
pub fn run(file: &Path, json: bool) -> ExitCode {
    let loaded = config::load(file);
    let (stdout, stderr) = match (&loaded, json) {
        (Ok(config), false) => (table(config), warnings(config)),
        (Err(error), false) => (String::new(), explain(error)),
        (Ok(config), true) => (format!("{:#}\n", describe(config)), String::new()),
        (Err(error), true) => (format!("{:#}\n", problems(file, error)), String::new()),
    };
    // A reader that went away (`dshield check … | head -1`) is no reason for another exit code.
    let _ = io::stdout().write_all(stdout.as_bytes());
    let _ = io::stderr().write_all(stderr.as_bytes());
    if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// What a person reads about a policy that is right.
fn table(config: &LoadedConfig) -> String {
    let mut out = String::new();
    for function in &config.functions {
        out.push_str(&format!("{} ({}) ", function.spec.name, function.spec.runtime));
        out.push_str(&destinations(&function.policy));
        out.push('\n');
    }
    let policy = &config.deployment.policy;
    // Checkpoints hold no more than a size and a hash, requests for collateral no more than what hardware this is: still
    // they leave.
    let own =
        [("show how long the log is", policy.log.egress()), ("ask about its hardware", policy.attestation.egress())];
    for (why, own) in own.iter().filter(|(_, own)| !own.egress.is_empty()) {
        out.push_str(&format!("the agent itself, to {why}, {}\n", destinations(own)));
    }
    for (name, rule) in secrets::needed(policy) {
        out.push_str(&format!("needs the environment variable {name} ({rule})\n"));
    }
    out.push_str(&format!("policy sha256 {}\n", policy.hash()));
    out
}

/// What a person should think about before the policy is used.
fn warnings(config: &LoadedConfig) -> String {
    let warnings = config.deployment.policy.warnings();
    warnings.iter().map(|Warning { rule, message }| format!("warning: {rule}: {message}\n")).collect()
}

fn destinations(policy: &FunctionPolicy) -> String {
    if policy.egress.is_empty() {
        return "can send data nowhere.\n".to_owned();
    }
    let mut rows = vec![["HOST", "PORTS", "TLS", "METHODS", "PATHS", "NOTES"].map(str::to_owned)];
    rows.extend(policy.egress.iter().map(|rule| row(rule)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = "can send data to:\n".to_owned();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(&format!("  {}\n", line.trim_end()));
    }
    out
}

fn row(rule: &Rule) -> [String; 6] {
    let any = || match (rule.tls, rule.protocol) {
        (TlsMode::Passthrough, _) => "(hidden)".to_owned(),
        (_, Protocol::Tcp) => "(tcp)".to_owned(),
        _ => "any".to_owned(),
    };
    [
        rule.host.to_string(),
        joined(&rule.ports),
        rule.tls.to_string(),
        rule.methods.as_ref().map_or_else(any, |methods| joined(methods)),
        rule.paths.as_ref().map_or_else(any, |paths| joined(paths)),
        notes(rule),
    ]
}

fn notes(rule: &Rule) -> String {
    let mut notes = Vec::new();
    if let Some(bytes) = rule.max_request_bytes {
        notes.push(format!("at most {bytes} bytes a request"));
    }
    if rule.upgrade {
        notes.push("may switch protocols (WebSocket): what is sent then is not judged".to_owned());
    }
    if let Some(rate) = rule.rate {
        notes.push(format!("at most {rate}"));
    }
    if let Some(most) = rule.max_concurrent {
        notes.push(format!("at most {most} at a time"));
    }
    for (header, injection) in &rule.inject_header {
        notes.push(format!("adds {header} from the secret {}", injection.secret));
    }
    if !rule.pin_spki.is_empty() {
        notes.push("upstream's key pinned".to_owned());
    }
    if !rule.resolve.is_empty() {
        notes.push(format!("pinned to {}", joined(&rule.resolve)));
    }
    if !rule.ca.is_empty() {
        notes.push("own CA".to_owned());
    }
    match rule.host {
        HostPattern::Wildcard(_) => notes.push("any name below: the name itself can carry data".to_owned()),
        HostPattern::Network(network) => match network.special_purpose() {
            Some(why) => notes.push(format!("not on the public internet: {why}")),
            None if network.has_special_purpose() => {
                notes.push("whoever has the address; not the special-purpose ones among them".to_owned());
            }
            None => notes.push("whoever has the address".to_owned()),
        },
        HostPattern::Exact(_) => {}
    }
    match rule.tls {
        TlsMode::Passthrough => notes.push("only the name is known, not what is sent".to_owned()),
        TlsMode::None => notes.push("in the clear: anyone on the way can read and answer".to_owned()),
        TlsMode::Inspect => {}
    }
    notes.join("; ")
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a person reads about a policy that is wrong.
pub(super) fn explain(error: &ConfigError) -> String {
    let ConfigError::Invalid(invalid) = error else {
        return format!("dshield: {error}\n");
    };
    let quoted = |problem| quote(&invalid.path, &invalid.text, problem);
    let quotes: Vec<String> = invalid.problems.iter().map(quoted).collect();
    let count = quotes.len();
    let sum = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    format!("{}\n{sum} in {}\n", quotes.join("\n"), invalid.path.display())
}

/// The problem, the line it is in, and a caret below the place.
fn quote(path: &Path, text: &str, problem: &Diagnostic) -> String {
    let Diagnostic { line: number, column, message, hint } = problem;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    // Tabs stay, so that the caret is below its place however wide they are; nothing else reaches the terminal's ears.
    let shown: String = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let indent: String = line.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let margin = " ".repeat(number.to_string().len());
    let help = hint.as_ref().map_or_else(String::new, |hint| format!("{margin} = help: {hint}\n"));
    format!(
        "error: {message}\n{margin}--> {}:{number}:{column}\n{margin} |\n{number} | {shown}\n{margin} | {indent}^\n{help}",
        path.display()
    )
}

/// What a program reads about a policy that is right.
fn describe(config: &LoadedConfig) -> Value {
    let policy = &config.deployment.policy;
    let canonical: Value = serde_json::from_str(&policy.canonical()).expect("the canonical form is JSON");
    let functions = config.functions.iter().map(|function| {
        json!({ "name": function.spec.name, "runtime": function.spec.runtime, "code": function.code.to_string_lossy() })
    });
    json!({
        "ok": true,
        "file": config.path.to_string_lossy(),
        "policy_sha256": policy.hash(),
        "policy": canonical,
        "warnings": policy.warnings(),
        "secrets": secrets::needed(policy).into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "functions": functions.collect::<Vec<_>>(),
    })
}

/// What a program reads about a policy that is wrong.
fn problems(file: &Path, error: &ConfigError) -> Value {
    let problems = match error {
        ConfigError::Invalid(invalid) => json!(invalid.problems),
        other => json!([{ "message": other.to_string() }]),
    };
    json!({ "ok": false, "file": file.to_string_lossy(), "problems": problems })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn load(policy: &str) -> (TempDir, Result<LoadedConfig, ConfigError>) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("dshield.toml");
        fs::write(&file, policy).unwrap();
        fs::write(dir.path().join("app.py"), "def handler(event, context): pass\n").unwrap();
        let loaded = config::load(&file);
        (dir, loaded)
    }

    #[test]
    fn what_the_agent_itself_sends_is_in_the_table_too() {
        let (_dir, loaded) = load(&format!(
            "{FUNCTION}[log]\nseed_secret = \"LOG_SEED\"\n[[log.witness]]\nurl = \"https://w.example.com/log/\"\n\
             key = \"w.example+7f1682b3+BIzjkG7sT6JSOSIlqbnLlFGHWLMBs0Dq0AF5iqB1hyTy\"\n\
             [attestation]\npccs = \"https://pccs.example.com\"\n"
        ));
        let shown = table(&loaded.unwrap());
        for part in [
            "the agent itself, to show how long the log is, can send data to:\n",
            "  w.example.com  443    inspect  POST     /log/add-checkpoint\n",
            "the agent itself, to ask about its hardware, can send data to:\n",
            "  pccs.example.com  443    inspect  GET      /sgx/certification/v4/pckcrl, /sgx/",
            "needs the environment variable LOG_SEED ([log])\n",
        ] {
            assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
        }
    }

    const FUNCTION: &str = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \".\"\n";

    #[test]
    fn the_table_says_where_data_can_go() {
        let (_dir, loaded) = load(&format!(
            "{FUNCTION}[[function.egress]]\nhost = \"api.a.com\"\nmethods = [\"POST\"]\npaths = [\"/v1/*\"]\nmax_request_bytes = 10\n\
             [[function.egress]]\nhost = \"*.b.com\"\nports = [443, 8443]\ntls = \"passthrough\"\n\
             [[function]]\nname = \"g\"\nruntime = \"python3\"\ncode = \".\"\n"
        ));
        let config = loaded.unwrap();
        let hash = config.deployment.policy.hash();
        assert_eq!(
            table(&config),
            format!(
                "f (python3) can send data to:\n\
                 \x20 HOST       PORTS      TLS          METHODS   PATHS     NOTES\n\
                 \x20 api.a.com  443        inspect      POST      /v1/*     at most 10 bytes a request\n\
                 \x20 *.b.com    443, 8443  passthrough  (hidden)  (hidden)  any name below: the name itself can carry data; only the name is known, not what is sent\n\
                 \n\
                 g (python3) can send data nowhere.\n\
                 \n\
                 policy sha256 {hash}\n"
            )
        );
    }

    #[test]
    fn the_notes_say_what_a_rule_means_for_addresses_limits_and_secrets() {
        let noted = |rule: &str| {
            let (_dir, loaded) = load(&format!("{FUNCTION}[[function.egress]]\n{rule}\n"));
            notes(&loaded.unwrap().functions[0].policy.egress[0])
        };
        assert_eq!(noted("host = \"9.9.9.9\""), "whoever has the address");
        assert_eq!(noted("host = \"8.0.0.0/5\""), "whoever has the address; not the special-purpose ones among them");
        assert_eq!(noted("host = \"10.0.0.0/8\""), "not on the public internet: private");
        assert_eq!(
            noted(
                "host = \"a.com\"\nrate = \"10/min\"\nmax_concurrent = 3\nupgrade = true\n\
                 inject_header = { x-key = { secret = \"KEY\" } }"
            ),
            "may switch protocols (WebSocket): what is sent then is not judged; at most 10/min; at most 3 at a time; \
             adds x-key from the secret KEY"
        );
    }

    #[test]
    fn a_problem_is_quoted_with_a_caret_below_it() {
        let (dir, loaded) = load(&format!("{FUNCTION}\tmemory = \"lots\"\nhandeler = \"a.b\"\n"));
        let text = explain(&loaded.unwrap_err()).replace(dir.path().to_str().unwrap(), "DIR");
        assert_eq!(
            text,
            "error: `memory` is not a size: \"lots\"\n\
             \x20--> DIR/dshield.toml:5:11\n\
             \x20 |\n\
             5 | \tmemory = \"lots\"\n\
             \x20 | \t         ^\n\
             \x20 = help: write a whole number with B, KB, MB, GB, KiB, MiB or GiB, such as \"256MiB\"\n\
             \n\
             error: a function has no field \"handeler\"\n\
             \x20--> DIR/dshield.toml:6:1\n\
             \x20 |\n\
             6 | handeler = \"a.b\"\n\
             \x20 | ^\n\
             \x20 = help: did you mean `handler`?\n\
             \n\
             2 problems in DIR/dshield.toml\n"
        );
    }

    #[test]
    fn an_unreadable_file_is_one_sentence() {
        let error = config::load(Path::new("/nonexistent/dshield.toml")).unwrap_err();
        assert_eq!(explain(&error).lines().count(), 1);
        let value = problems(Path::new("/nonexistent/dshield.toml"), &error);
        assert_eq!(value["ok"], false);
        assert!(value["problems"][0]["message"].as_str().unwrap().starts_with("cannot read the policy"));
    }

    #[test]
    fn programs_get_the_policy_its_hash_and_the_problems_as_json() {
        let (_dir, loaded) = load(&format!("{FUNCTION}[[function.egress]]\nhost = \"a.com\"\n"));
        let value = describe(&loaded.unwrap());
        assert_eq!(value["policy"]["functions"][0]["egress"][0]["host"], "a.com");
        assert_eq!(value["policy_sha256"].as_str().unwrap().len(), 64);
        let (_dir, loaded) = load("colour = 1\n");
        let value = problems(Path::new("dshield.toml"), &loaded.unwrap_err());
        assert_eq!(value["problems"][0]["line"], 1);
    }

    #[test]
    fn control_characters_of_a_policy_do_not_reach_the_terminal() {
        let problem = Diagnostic { line: 1, column: 3, message: "m".to_owned(), hint: None };
        let text = quote(Path::new("p"), "a\u{1b}[2Jb", &problem);
        assert!(!text.contains('\u{1b}'));
    }
}

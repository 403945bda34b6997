#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::destination::Destination;
use crate::log::entry::{Attempt, Connect, Phase, Record, Refused, Request as RequestEntry, Subject};
use crate::policy::parse::tests::{parse, with};
use crate::policy::types::Deployment;

fn entry(function: &str, event: Event) -> Entry {
    let subject = Subject { function: Some(function.to_owned()), ..Subject::default() };
    Entry { seq: 0, time: String::new(), boot_id: String::new(), mode: None, record: Record { subject, event } }
}

fn refused(reason: &str, host: &str, port: Option<u16>, request: Option<(&str, &str)>) -> Refused {
    let (method, path) = request.map(|(method, path)| (method.to_owned(), path.to_owned())).unzip();
    Refused {
        layer: "connect".to_owned(),
        reason: reason.to_owned(),
        detail: String::new(),
        rule: "default".to_owned(),
        let_through: false,
        connection: None,
        attempt: Some(Attempt { host: host.to_owned(), port, method, path }),
        process: None,
        count: None,
    }
}

fn learn(events: impl IntoIterator<Item = Event>) -> Suggestions {
    let mut suggestions = Suggestions::new();
    events.into_iter().for_each(|event| suggestions.take(&entry("f", event)));
    suggestions
}

fn suggest(refusals: impl IntoIterator<Item = Refused>, policy: Option<&Deployment>) -> String {
    learn(refusals.into_iter().map(Event::Refused)).to_toml(policy.map(|deployment| &*deployment.policy))
}

/// The text without comments and blank lines.
fn rules(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

#[test]
fn what_was_seen_decides_what_becomes_of_tls() {
    let text = suggest(
        [
            refused("name_not_allowed", "a.com", Some(443), None),
            refused("name_not_allowed", "a.com", Some(80), None),
            refused("name_not_allowed", "a.com", Some(5432), None),
            refused("name_not_allowed", "b.com", None, None),
            refused("address_not_allowed", "9.9.9.9", Some(22), None),
        ],
        None,
    );
    assert_eq!(
        rules(&text),
        "[[function.egress]]\nhost = \"a.com\"\nports = [443]\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [80]\ntls = \"none\"\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [5432]\ntls = \"none\"\nprotocol = \"tcp\"\n\
         [[function.egress]]\nhost = \"b.com\"\nports = [443]\n\
         [[function.egress]]\nhost = \"9.9.9.9\"\nports = [22]\ntls = \"none\"\nprotocol = \"tcp\"\n"
    );
    assert!(parse(&with(&text)).is_ok());
    assert!(text.contains("Nobody looks inside") && text.contains("443 is a guess"), "{text}");
}

#[test]
fn methods_and_paths_are_the_pairs_that_were_seen() {
    let at = |port, method, path| refused("method_not_allowed", "a.com", Some(port), Some((method, path)));
    let text = suggest(
        [
            at(443, "GET", "/a"),
            at(443, "GET", "/b"),
            at(443, "PUT", "/a"),
            at(443, "PUT", "/b"),
            at(443, "POST", "/b"),
            at(8443, "POST", "/b"),
        ],
        None,
    );
    assert_eq!(
        rules(&text),
        "[[function.egress]]\nhost = \"a.com\"\nports = [443]\nmethods = [\"GET\", \"PUT\"]\npaths = [\"/a\", \"/b\"]\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [443, 8443]\nmethods = [\"POST\"]\npaths = [\"/b\"]\n"
    );
}

#[test]
fn a_connection_in_the_log_tells_what_was_spoken() {
    let connect = Connect {
        connection: 7,
        host: "a.com".into(),
        port: 8080,
        tls: "none".into(),
        rule: "f.egress[0]".into(),
        process: None,
    };
    let on_it = refused("path_not_allowed", "a.com", Some(8080), Some(("GET", "/x")));
    let on_it = Refused { connection: Some(7), ..on_it };
    let text = learn([Event::Connect(connect), Event::Refused(on_it)]).to_toml(None);
    assert!(rules(&text).contains("ports = [8080]\ntls = \"none\"\nmethods"), "{text}");
}

#[test]
fn what_was_observed_is_known_request_by_request() {
    let connect = |connection, port, rule: &str| {
        let (host, tls) = ("a.com".to_owned(), if port == 443 { "inspect" } else { "none" }.to_owned());
        Event::Connect(Connect { connection, host, port, tls, rule: rule.to_owned(), process: None })
    };
    let request = |connection, rule: &str, method: &str, path: &str| {
        let text = |text: &str| Some(text.to_owned());
        let (host, method, path, rule) = (text("a.com"), text(method), text(path), text(rule));
        let begin = RequestEntry { phase: Phase::Begin, connection, begin: None, host, method, path, rule, ..blank() };
        Event::Request(begin)
    };
    let name = Refused { let_through: true, ..refused("name_not_allowed", "a.com", None, None) };
    let upgrade = refused("upgrade_not_allowed", "a.com", Some(443), Some(("GET", "/socket")));
    let text = learn([
        Event::Refused(name),
        connect(1, 443, "observe"),
        request(1, "observe", "GET", "/a"),
        request(1, "observe", "GET", "/socket"),
        Event::Refused(Refused { let_through: true, connection: Some(1), ..upgrade }),
        connect(2, 5432, "observe"),
        connect(3, 8080, "f.egress[0]"),
        request(3, "f.egress[0]", "GET", "/allowed"),
        request(3, "observe", "PUT", "/b"),
    ])
    .to_toml(None);
    assert_eq!(
        rules(&text),
        "[[function.egress]]\nhost = \"a.com\"\nports = [443]\nmethods = [\"GET\"]\npaths = [\"/a\"]\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [443]\nmethods = [\"GET\"]\npaths = [\"/socket\"]\nupgrade = true\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [8080]\ntls = \"none\"\nmethods = [\"PUT\"]\npaths = [\"/b\"]\n\
         [[function.egress]]\nhost = \"a.com\"\nports = [5432]\ntls = \"none\"\nprotocol = \"tcp\"\n"
    );
    assert!(parse(&with(&text)).is_ok());
}

fn blank() -> RequestEntry {
    serde_json::from_str(r#"{"phase":"begin","connection":0}"#).unwrap()
}

#[test]
fn rules_that_are_there_are_not_repeated() {
    let policy = parse(&with(
        "[[function.egress]]\nhost = \"a.com\"\nmethods = [\"GET\"]\npaths = [\"/a\"]\nresolve = [\"10.0.0.1\"]\n\
         [[function.egress]]\nhost = \"*.w.com\"\nmethods = [\"GET\"]\npaths = [\"/a\"]\n\
         [[function.egress]]\nhost = \"c.com\"\nca = \"ca.pem\"\npaths = [\"/a\"]\n",
    ))
    .unwrap();
    let at = |host, method, path| refused("path_not_allowed", host, Some(443), Some((method, path)));
    let text = suggest(
        [
            at("a.com", "GET", "/a"),
            at("a.com", "PUT", "/b"),
            at("x.w.com", "PUT", "/b"),
            at("c.com", "GET", "/b"),
            refused("name_not_allowed", "y.w.com", None, None),
            refused("port_not_allowed", "x.w.com", Some(22), None),
            refused("upgrade_not_allowed", "a.com", Some(443), Some(("GET", "/a"))),
        ],
        Some(&policy),
    );
    assert_eq!(
        rules(&text),
        "[[function.egress]]\nhost = \"a.com\"\nports = [443]\nmethods = [\"PUT\"]\npaths = [\"/b\"]\nresolve = [\"10.0.0.1\"]\n"
    );
    for change in [
        "# * for PUT /b: to allow it, add \"PUT\" to `methods` of f.egress[1], and \"/b\" to its `paths`\n",
        "# * for GET /b: to allow it, add \"/b\" to `paths` of f.egress[2]\n",
        "# * to allow it, add 22 to `ports` of the egress rule for \"*.w.com\"\n",
        "# * to allow it, write upgrade = true in f.egress[0]\n",
    ] {
        assert!(text.contains(change), "{change}{text}");
    }
    let all = format!(
        "{}{text}",
        with(
            "[[function.egress]]\nhost = \"a.com\"\nmethods = [\"GET\"]\npaths = [\"/a\"]\nresolve = [\"10.0.0.1\"]\n"
        )
    );
    assert!(parse(&all).is_ok(), "{all}");
}

#[test]
fn what_no_rule_may_allow_is_a_comment_with_its_count() {
    let kernel = Refused { attempt: None, layer: "kernel".into(), ..refused("udp_port", "", None, None) };
    let text = suggest(
        [
            Refused { count: Some(4), ..kernel.clone() },
            kernel,
            refused("address_not_allowed", "169.254.169.254", Some(80), None),
            refused("address_not_allowed", "198.18.0.77", Some(443), None),
            refused("sni_mismatch", "a.com", Some(443), None),
            refused("ambiguous_path", "a.com", Some(443), Some(("GET", "/a/../b"))),
            refused("method_not_allowed", "a.com", Some(443), Some(("get", "/"))),
            refused("method_not_allowed", "b.com", Some(443), Some(("GET", "/all*"))),
            refused("name_not_allowed", "not a name", None, None),
        ],
        None,
    );
    assert_eq!(rules(&text), "", "{text}");
    for line in [
        "# * 5 times udp_port: use TCP",
        "169.254.169.254: link-local, not on the public internet",
        "# * once sni_mismatch, a.com",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("# * ")).count(), 8, "{text}");
}

#[test]
fn refusals_that_were_folded_are_said_to_be_missing() {
    let folded = Refused { count: Some(10), ..refused("name_not_allowed", "a.com", Some(443), None) };
    let text = suggest([folded], None);
    assert!(text.contains("# 9 more refusals were only counted"), "{text}");
}

const REASONS: [&str; 8] = [
    "name_not_allowed",
    "address_not_allowed",
    "port_not_allowed",
    "method_not_allowed",
    "path_not_allowed",
    "upgrade_not_allowed",
    "special_purpose_address",
    "sni_mismatch",
];

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]\\.(com|w\\.com)", "9\\.9\\.9\\.[1-3]", any::<String>(), "[\"\n#\\\\a.]{1,8}"]
}

fn methods() -> impl Strategy<Value = String> {
    prop_oneof!["GET|PUT|POST", any::<String>(), "[\"'\n\\]A]{1,4}"]
}

fn paths() -> impl Strategy<Value = String> {
    prop_oneof!["/[ab\"'#\\\\*.\n/]{0,4}", "/[a-c]{0,2}", any::<String>()]
}

fn refusals() -> impl Strategy<Value = Refused> {
    let request = proptest::option::of((methods(), paths()));
    let reason = prop_oneof![8 => proptest::sample::select(&REASONS[..]).prop_map(str::to_owned), 1 => any::<String>()];
    (reason, hosts(), proptest::option::of(any::<u16>()), request).prop_map(|(reason, host, port, request)| {
        let request = request.as_ref().map(|(method, path)| (method.as_str(), path.as_str()));
        refused(&reason, &host, port, request)
    })
}

proptest! {
    #[test]
    fn whatever_functions_wrote_the_rules_are_valid_and_allow_nothing_else(
        refusals in proptest::collection::vec(refusals(), 0..12), name in any::<String>(),
    ) {
        let mut suggestions = learn(refusals.iter().cloned().map(Event::Refused));
        suggestions.take(&entry(&name, Event::Refused(refused("sni_mismatch", &name, None, Some((&name, &name))))));
        let text = suggestions.to_toml(None);
        prop_assert!(text.is_ascii());
        let deployment = parse(&with(&text)).map_err(|problems| TestCaseError::fail(format!("{problems:?}\n{text}")))?;
        for rule in &deployment.policy.functions[0].egress {
            let host = rule.host.to_string();
            let here = || refusals.iter().filter_map(|refused| refused.attempt.as_ref()).filter(|attempt| {
                attempt.host == host || crate::name::HostName::parse(&attempt.host).is_ok_and(|name| name.as_str() == host)
            });
            for port in &rule.ports {
                prop_assert!(here().any(|attempt| attempt.port == Some(*port)) || (*port == 443 && rule.methods.is_none()));
                for method in rule.methods.iter().flatten() {
                    for path in rule.paths.as_ref().unwrap() {
                        let seen = here().any(|attempt| attempt.port == Some(*port)
                            && attempt.method.as_ref() == Some(method) && attempt.path.as_ref() == Some(&path.to_string()));
                        prop_assert!(seen, "{method} {path} on {host}:{port} was never tried\n{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_refused_for_want_of_a_rule_is_allowed_by_the_ones_suggested(
        tried in proptest::collection::vec(("[abc]\\.com|9\\.9\\.9\\.[1-3]", 1u16..5, "GET|PUT|POST", "/[a-c]{1,2}"), 1..12),
        existing: bool,
    ) {
        let rule = "[[function.egress]]\nhost = \"a.com\"\nports = [1, 2]\nmethods = [\"GET\"]\npaths = [\"/a\"]\n";
        let own = if existing { rule } else { "" };
        let policy = parse(&with(own)).unwrap();
        let refusals = tried.iter().map(|(host, port, method, path)| {
            refused("path_not_allowed", host, Some(*port), Some((method, path)))
        });
        let text = suggest(refusals, Some(&policy));
        let deployment = parse(&with(&format!("{own}{text}"))).unwrap();
        for (host, port, method, path) in &tried {
            let to = Destination::parse_authority(host.as_bytes()).unwrap().0;
            let route = deployment.policy.functions[0].route(&to, *port);
            prop_assert!(route.is_ok_and(|route| route.request(method, path).is_ok()), "{method} {host}:{port}{path}\n{text}");
        }
        let more = learn(tried.iter().map(|(host, port, method, path)| {
            Event::Refused(refused("path_not_allowed", host, Some(*port), Some((method, path))))
        }));
        prop_assert_eq!(rules(&more.to_toml(Some(&deployment.policy))), "", "with them nothing is missing");
    }
}

//! What the agent asks of an upstream and brings to it: its key, the secrets of a rule, and where it lives.
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Egress, Launch, Log, Project, binary};
use dshield_tests::nameserver::NameServer;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::versions::Versions;
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use serde_json::{Value, json};

const POST: &str = "answer = ask(secure(event['host']), 'POST', '/echo', event['host'], event.get('headers', {}), 'x')";

fn project(rules: &[Egress]) -> Option<Project> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    Some(Project::new().with(&function))
}

/// An agent that has these variables in its environment.
fn launch(variables: &[(&str, &str)]) -> Launch {
    let set = variables.iter().map(|(name, value)| format!("{name}={value}"));
    Launch { wrapper: ["env".to_owned()].into_iter().chain(set).collect(), ..Launch::default() }
}

fn start(project: &Project, launch: Launch) -> Agent {
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_pinned_key_is_asked_for_beside_a_good_certificate() {
    let (standin, other) = (Standin::start(), Standin::start());
    let pins = |pins: &[&str]| Egress::to_standin(&standin).set("pin_spki", &json!(pins).to_string());
    let Some(good) = project(&[pins(&[other.spki_pin(), standin.spki_pin()])]) else { return };
    let agent = start(&good, Launch::default());
    let answer = run_with(&agent, "f", POST, json!({"host": NAME}));
    assert_eq!(answer["status"], 200, "{answer}");
    drop(agent);

    let Some(bad) = project(&[pins(&[other.spki_pin()])]) else { return };
    let agent = start(&bad, Launch::default());
    let answer = run_with(&agent, "f", POST, json!({"host": NAME}));
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!("upstream_key")), "{answer}");
    let body = answer["body"].as_str().unwrap_or_default();
    assert!(body.contains(standin.spki_pin()), "it says which key it met: {body}");
    let has = |log: &Log| log.refused("f").iter().any(|r| (&*r.layer, &*r.reason) == ("upstream", "upstream_key"));
    assert_eq!(agent.log_with("the refusal", has).verify(), Ok(()));
    assert_eq!(standin.seen().len(), 1, "the second request did not arrive");
}

#[test]
fn a_pinned_key_does_not_make_up_for_a_bad_certificate() {
    let standin = Standin::start_as(&["other.example"]);
    let rule = Egress::to_standin(&standin).set("pin_spki", &json!([standin.spki_pin()]).to_string());
    let Some(project) = project(&[rule]) else { return };
    let agent = start(&project, Launch::default());
    let answer = run_with(&agent, "f", POST, json!({"host": NAME}));
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!("upstream_certificate")), "{answer}");
    assert!(standin.seen().is_empty());
}

/// The function got `seq: null` and "look at the upstream" while the log had an entry with advice.
#[test]
fn what_an_upstream_is_refused_for_is_told_with_its_entry_and_in_the_words_of_the_log() {
    if !requires("unshare") {
        return;
    }
    let (standin, other) = (Standin::start(), Standin::start_as(&["other.example"]));
    let names = NameServer::start(Ipv4Addr::LOCALHOST);
    let rules = [
        Egress::to_standin(&standin).set("pin_spki", &json!([other.spki_pin()]).to_string()),
        Egress::to("wrong.example").pinned(&other),
        Egress::to("inside.example"),
    ];
    let Some(project) = project(&rules) else { return };
    let agent = start(&project, Launch { wrapper: names.wrapper(project.folder()), ..Launch::default() });
    for (host, reason) in [
        (NAME, "upstream_key"),
        ("wrong.example", "upstream_certificate"),
        ("inside.example", "special_purpose_address"),
    ] {
        let answer = run_with(&agent, "f", POST, json!({"host": host}));
        assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!(reason)), "{answer}");
        let body: Value = serde_json::from_str(answer["body"].as_str().expect("a text")).expect("JSON");
        let log = agent.log();
        let seq = usize::try_from(body["seq"].as_u64().expect("a number")).expect("small");
        let Event::Refused(refused) = &log.lines[seq].entry.record.event else { panic!("{reason}: {body}\n{log}") };
        let attempted = refused.attempt.as_ref().map(|attempt| attempt.host.as_str());
        assert_eq!((refused.reason.as_str(), attempted), (reason, Some(host)), "{body}");
        assert_eq!(body["hint"].as_str(), refused.hint("f").as_deref(), "{body}");
        let from = seq.to_string();
        let url = format!("http://{}", agent.address());
        let logs = Command::new(binary()).args(["logs", "--url", &url, "--from", &from]).output().expect("it runs");
        let text = String::from_utf8(logs.stdout).expect("text");
        assert!(text.contains(body["hint"].as_str().expect("advice")), "{reason}: {body}\n{text}");
    }
}

/// What shows whose connection is used is how many arrive: one that is kept is used again.
#[test]
fn no_rule_and_no_function_uses_anothers_connection_upstream() {
    // HTTP/2, where a connection can be used again as soon as it is there.
    let (upstream, other) = (Versions::start(NAME, &["h2"]), Standin::start());
    if !require_root() || !requires("python3") {
        return;
    }
    let ca = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(ca.path(), upstream.ca_pem()).expect("the file is ours");
    let resolved = Egress::to(NAME).set("resolve", &json!([upstream.addr().to_string()]).to_string());
    let to = |path: &str| resolved.clone().set("ca", &json!(ca.path()).to_string()).paths(&[path]);
    let two_rules = script::function("f").egress(&to("/echo/a")).egress(&to("/echo/b"));
    let pin = json!([other.spki_pin()]).to_string();
    let pinned = script::function("pinned").egress(&to("/echo/a").set("pin_spki", &pin));
    let stranger = resolved.clone().set("ca", &json!(other.ca_file()).to_string());
    let distrusting = script::function("distrusting").egress(&stranger);
    let project = Project::new().with(&two_rules).with(&pinned).with(&distrusting);
    let agent = start(&project, Launch::default());
    let post = |function: &str, path: &str| {
        let code = POST.replace("/echo", path);
        let answer = run_with(&agent, function, &code, json!({"host": NAME}));
        (answer["status"].as_u64(), answer["refused"].as_str().map(str::to_owned), upstream.connections())
    };
    for (path, connections) in [("/echo/a", 1), ("/echo/b", 2), ("/echo/a", 2), ("/echo/b", 2)] {
        assert_eq!(post("f", path), (Some(200), None, connections), "{path}");
    }
    // Two connections wait there, proven to others: each of these makes its own, and its own checks.
    for (function, refused, connections) in
        [("pinned", "upstream_key", 3), ("distrusting", "upstream_certificate", 4), ("pinned", "upstream_key", 5)]
    {
        assert_eq!(post(function, "/echo/a"), (Some(502), Some(refused.to_owned()), connections));
    }
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn a_secret_is_injected_that_neither_function_nor_log_ever_sees() {
    const SECRET: &str = "sk-not-for-anyone";
    let standin = Standin::start();
    let inject = r#"{ "x-marker" = { secret = "API_KEY", prefix = "Bearer " } }"#;
    let rules = [
        Egress::to_standin(&standin).paths(&["/echo"]).set("inject_header", inject),
        Egress::to_standin(&standin).paths(&["/echo/plain"]),
    ];
    let Some(project) = project(&rules) else { return };
    let mut agent = start(&project, launch(&[("API_KEY", SECRET)]));
    for headers in [json!({}), json!({"X-Marker": "the function's own"})] {
        let answer = run_with(&agent, "f", POST, json!({"host": NAME, "headers": headers}));
        assert_eq!(answer["status"], 200, "{answer}");
        assert!(!answer.to_string().contains(SECRET), "{answer}");
    }
    let plain = POST.replace("/echo", "/echo/plain");
    assert_eq!(run_with(&agent, "f", &plain, json!({"host": NAME}))["status"], 200);
    let markers: Vec<Option<String>> = standin.seen().into_iter().map(|seen| seen.marker).collect();
    let injected = Some(format!("Bearer {SECRET}"));
    assert_eq!(markers, [injected.clone(), injected, None], "one field, and only where the rule says so");

    let environment = run(&agent, "f", "answer = dict(os.environ)");
    assert!(!environment.to_string().contains(SECRET), "{environment}");
    let log = agent.log_with("the requests", |log| log.requests("f").len() >= 3);
    assert!(!log.to_string().contains(SECRET), "{log}");
    assert_eq!(agent.stop(), Some(0));
    assert!(!agent.stderr().contains(SECRET), "{}", agent.stderr());
}

#[test]
fn without_its_secret_an_agent_does_not_start() {
    let inject = r#"{ "x-marker" = { secret = "DSHIELD_TEST_ABSENT" } }"#;
    let Some(project) = project(&[Egress::to(NAME).set("inject_header", inject)]) else { return };
    for variables in [&[][..], &[("DSHIELD_TEST_ABSENT", "")], &[("DSHIELD_TEST_ABSENT", "two\nlines")]] {
        let error = Agent::launch(&project, launch(variables)).expect_err("it must not start");
        assert_eq!(error.code, Some(2), "{error}");
        assert!(error.stderr.contains("DSHIELD_TEST_ABSENT") && error.stderr.contains("f.egress[0]"), "{error}");
        assert!(!error.stderr.contains("lines\n"), "{error}");
        assert_eq!(error.left, Vec::<String>::new(), "{error}");
    }
}

#[test]
fn check_lists_the_variables_that_a_policy_needs() {
    let inject = r#"{ "x-marker" = { secret = "DSHIELD_TEST_ABSENT" } }"#;
    let Some(project) = project(&[Egress::to(NAME).set("inject_header", inject)]) else { return };
    let file = project.write();
    let check = |json: bool| {
        let mut command = Command::new(binary());
        command.arg("check").args(json.then_some("--json")).arg(&file);
        let output = command.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = check(false);
    assert!(text.contains("needs the environment variable DSHIELD_TEST_ABSENT (f.egress[0])"), "{text}");
    let value: Value = serde_json::from_str(&check(true)).expect("JSON");
    assert_eq!(value["secrets"], json!(["DSHIELD_TEST_ABSENT"]));
}

#[test]
fn an_answer_is_kept_as_long_as_it_says_and_no_longer() {
    // More than the few seconds that every answer is kept.
    const TTL: u8 = 7;
    if !requires("unshare") {
        return;
    }
    let names = NameServer::start_with_ttl(Ipv4Addr::LOCALHOST, TTL);
    let Some(project) = project(&[Egress::to("*.kept.example")]) else { return };
    let launch = Launch { wrapper: names.wrapper(project.folder()), ..Launch::default() };
    let agent = start(&project, launch);
    // Loopback is refused, after the name was looked up.
    let ask = |host: &str| {
        let answer = run_with(&agent, "f", POST, json!({"host": host}));
        assert_eq!(answer["refused"], "special_purpose_address", "{answer}");
    };
    let since = Instant::now();
    ask("a.kept.example");
    assert_eq!(names.addresses_asked(), 1);
    ask("a.kept.example");
    if since.elapsed() < Duration::from_secs(TTL.into()) {
        assert_eq!(names.addresses_asked(), 1, "within its lifetime");
    }
    // One more where the second question came too late for the first answer.
    let before = names.addresses_asked();
    ask("b.kept.example");
    assert_eq!(names.addresses_asked(), before + 1, "another name");
    wait::until("a new question", || {
        ask("a.kept.example");
        (names.addresses_asked() == before + 2).then_some(())
    });
    assert!(since.elapsed() >= Duration::from_secs(TTL.into()), "it was asked again before its time");
}

//! What the agent asks of an upstream and brings to it: its key, the secrets of a rule, and where it lives.
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dshield_tests::agent::{Agent, Egress, Launch, Log, Project, binary};
use dshield_tests::nameserver::NameServer;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
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
        let mut command = std::process::Command::new(binary());
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
    const TTL: u8 = 3;
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

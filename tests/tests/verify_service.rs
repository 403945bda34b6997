//! `dshield-verify serve` against real agents: it says what the command says, to whoever asks, and does nothing else for them.
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::relay::Relay;
use dshield_tests::requires::require_root;
use dshield_tests::service::Service;
use dshield_tests::verifier::Verifier;
use dshield_tests::wait;
use serde_json::{Value, json};

/// The badge's colour for what is verified.
const GREEN: &str = "#1a7f37";

/// An agent with quotes for development, and an operator who knows what to expect of it.
fn scene() -> Option<(Project, Agent, Verifier)> {
    if !require_root() {
        return None;
    }
    let rule = Egress::to("api.example.com").methods(&["POST"]);
    let project = Project::new().with(&Function::probe("native").egress(&rule));
    let launch = Launch { tls: Some(true), attestation: Some("development"), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    // The last entry of a start: from now on nothing is written by itself.
    agent.log_with("the evidence of this boot", |log| log.to_string().contains("\"kind\":\"attestation\""));
    let operator = Verifier::new();
    let _ = operator.keep(&agent.url());
    Some((project, agent, operator))
}

/// A `deployments.toml` about one deployment.
fn about(name: &str, url: &str, settings: &str) -> String {
    format!("[[deployment]]\nname = \"{name}\"\nurl = \"{url}\"\nexpect = \"expect.toml\"\n{settings}\n")
}

fn judged(verdict: &Value) -> bool {
    verdict["verdict"].is_object()
}

/// What each step came to, but for what every look sees anew.
fn steps(verdict: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = verdict["steps"].as_array().unwrap_or_else(|| panic!("no steps: {verdict}"));
    steps.iter().map(|step| (text(&step["step"]), text(&step["result"]), text(&step["says"]))).collect()
}

#[test]
fn the_service_says_what_the_command_says_and_gives_all_that_it_judged() {
    let Some((_project, agent, operator)) = scene() else { return };
    let service = Service::start(&operator, &about("demo", &agent.url(), ""));
    let said = service.verdict_with("demo", "a verdict", judged);
    let stranger = Verifier::new();

    // The command of the page, with the expectations of the page.
    let expect = service.get("/v1/deployments/demo/expect");
    assert_eq!(expect.header("content-disposition"), Some("attachment; filename=\"expect.toml\""));
    assert_eq!(expect.text(), operator.read("expect.toml"));
    let expect = stranger.write("expect.toml", &expect.text());
    let (code, verdict) = stranger.json([&agent.url(), "--offline", "--expect", &expect]);
    assert_eq!(code, Some(10));
    assert_eq!(steps(&said["verdict"]), steps(&verdict));
    assert_eq!(said["verdict"]["destinations"], verdict["destinations"]);
    let told = json!([said["standing"], said["stale"], said["url"], said["failure"], said["verdict"]["outcome"]]);
    assert_eq!(told, json!(["development", false, agent.url(), null, "attestation"]));

    // The other command of the page: the same evidence, as it was then.
    let evidence = service.get("/v1/deployments/demo/evidence").text();
    let file = stranger.write("evidence-demo.json", &evidence);
    let page = service.get("/deployments/demo").text();
    let (at, nonce) = (said["judged_at"].as_str().expect("a text"), said["nonce"].as_str().expect("a text"));
    let command = format!("dshield-verify evidence-demo.json --offline --at {at} --nonce {nonce} --expect expect.toml");
    assert!(page.contains(&command), "{command} is not in {page}");
    let again = ["--offline", "--at", at, "--nonce", nonce, "--expect", &expect, "--insecure-development"];
    stranger.run([&[file.as_str()], again.as_slice()].concat()).ended(0, &["DEVELOPMENT, proves nothing: VERIFIED"]);

    let checkpoint = service.get("/v1/deployments/demo/checkpoint").text();
    assert_eq!(checkpoint, agent.get("/v1/log/checkpoint").text());

    // Whoever brings evidence gets the same, of what can be said without the deployment.
    let expectations = operator.read("expect.toml");
    let evidence: Value = serde_json::from_str(&evidence).expect("it is JSON");
    let posted = json!({ "evidence": evidence, "expect": expectations, "nonce": nonce, "at": at });
    let both = service.post("/v1/verify", posted.to_string()).json();
    let (_, file) = stranger.json([&[file.as_str()], &again[..7]].concat());
    for moment in ["now", "at"] {
        assert_eq!(steps(&both[moment]), steps(&file[moment]));
        assert_eq!(both[moment]["outcome"], "attestation");
    }
}

#[test]
fn development_is_never_green_and_what_an_agent_said_gets_old_when_it_is_gone() {
    let Some((_project, mut agent, operator)) = scene() else { return };
    let mut service = Service::start(&operator, &about("demo", &agent.url(), "max_age = \"3s\"\nevery = \"1s\""));
    let never_green = || {
        let badge = service.get("/v1/deployments/demo/badge.svg");
        assert_eq!(badge.header("content-type"), Some("image/svg+xml"));
        assert!(!badge.text().contains(GREEN) && badge.text().contains("DEVELOPMENT"), "{}", badge.text());
        let page = service.get("/deployments/demo").text();
        assert!(
            page.contains("<body class=\"development\"") && page.contains("<strong>DEVELOPMENT</strong>"),
            "{page}"
        );
        page
    };
    let first = service.verdict_with("demo", "a verdict", judged);
    let _ = never_green();
    let young = |verdict: &Value| verdict["judged_at"] != first["judged_at"] && verdict["stale"] == false;
    service.verdict_with("demo", "a new verdict by itself", young);
    let page = never_green();
    assert!(page.contains("native</td><td>api.example.com:443</td>"), "{page}");

    agent.kill9();
    let old = service.verdict_with("demo", "the verdict to get old", |verdict| verdict["stale"] == true);
    assert!(old["failure"]["message"].as_str().is_some_and(|says| says.contains("no agent answers")), "{old}");
    let page = never_green();
    assert!(page.contains("came to no verdict: no agent answers at"), "{page}");
    assert!(service.stderr().contains("demo: no verdict: no agent answers"), "{}", service.stderr());
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn what_a_hostile_deployment_answers_is_shown_as_text() {
    let Some((_project, agent, operator)) = scene() else { return };
    let evil = "</p><script>document.title = 'taken'</script><img src=x onerror=alert(1)>";
    let relay = Relay::before(&agent, false);
    relay.give_evidence(&json!({ "format": "dshield.evidence/v1", (evil): 1 }).to_string());
    let refuses = Relay::before(&agent, false);
    let refusal = json!({ "error": { "message": evil } }).to_string();
    refuses.answer_by(move |_, _, _| (500, refusal.clone()));
    let both = about("evil", &relay.url(), "") + &about("refuses", &refuses.url(), "");
    let service = Service::start(&operator, &both);
    let verdict = service.verdict_with("evil", "a verdict", judged);
    assert_eq!(verdict["standing"], "not-checked");
    assert!(verdict["verdict"]["steps"][0]["says"].as_str().is_some_and(|says| says.contains(evil)), "{verdict}");
    let refused = || Some(service.get("/deployments/refuses").text()).filter(|page| page.contains("500"));
    let pages = [service.get("/deployments/evil").text(), wait::until("the refusal", refused)];
    for page in pages {
        assert!(page.contains("&lt;script&gt;document.title = &#39;taken&#39;&lt;/script&gt;"), "{page}");
        assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{page}");
    }
}

#[test]
fn nobody_can_have_the_service_connect_to_anything_else() {
    let operator = Verifier::new();
    operator.write("expect.toml", "");
    let tripwire = TcpListener::bind("127.0.0.1:0").expect("a free port");
    tripwire.set_nonblocking(true).expect("a socket can be made non-blocking");
    let victim = tripwire.local_addr().expect("it is bound");
    let service = Service::start(&operator, "");
    for path in [
        format!("/v1/deployments/http:%2F%2F{victim}/verdict"),
        format!("/v1/deployments/http://{victim}/verdict"),
        format!("/v1/deployments/{victim}/evidence"),
        format!("/deployments/http:%2F%2F{victim}"),
        format!("/v1/verify?url=http://{victim}"),
    ] {
        assert!([404, 405].contains(&service.get(&path).status), "{path}");
    }
    let look = format!("/v1/deployments/http:%2F%2F{victim}/look");
    assert_eq!(service.post(&look, "").status, 404);
    // Evidence without collateral is judged without, where the command would fetch it.
    let evidence =
        json!({ "format": "dshield.evidence/v1", "provider": "dstack", "statement": "", "policy": "", "quote": "00" });
    for (body, status) in [
        (json!({ "evidence": evidence }), 200),
        (json!({ "evidence": format!("http://{victim}") }), 200),
        (json!({ "url": format!("http://{victim}") }), 400),
        (json!({ "evidence": evidence, "pccs": format!("http://{victim}") }), 400),
        (json!({ "evidence": evidence, "expect": "[policy]\nfile = \"/etc/hostname\"" }), 400),
    ] {
        assert_eq!(service.post("/v1/verify", body.to_string()).status, status, "{body}");
    }
    assert!(matches!(tripwire.accept(), Err(error) if error.kind() == ErrorKind::WouldBlock), "somebody connected");
}

#[test]
fn what_is_posted_is_bounded_and_no_form_of_another_site_can_post_it() {
    let operator = Verifier::new();
    let service = Service::start(&operator, "");
    let large = format!("{{\"evidence\": \"{}\"}}", "a".repeat(1 << 20));
    let answer = service.post("/v1/verify", large);
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (413, Some("too_large")));
    let mut stream = TcpStream::connect(service.address()).expect("it listens");
    let request = "POST /v1/verify HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 15\r\n\r\n{\"evidence\":{}}";
    stream.write_all(request.as_bytes()).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

#[test]
fn the_service_stops_at_once_whatever_its_clients_and_deployments_are_doing() {
    let operator = Verifier::new();
    operator.write("expect.toml", "");
    // Takes a question, and never answers it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("it is bound"));
    let mut service = Service::start(&operator, &about("silent", &url, ""));
    let (_asked, _) = silent.accept().expect("it is asked");
    assert_eq!(service.get("/healthz").text(), "ok\n");
    assert_eq!(service.get("/v1/deployments/silent/verdict").status, 503);
    let _idle = TcpStream::connect(service.address()).expect("it listens");
    let mut begun = TcpStream::connect(service.address()).expect("it listens");
    begun.write_all(b"GET / HT").expect("it is open");
    let before = Instant::now();
    assert_eq!(service.stop(), Some(0));
    assert!(before.elapsed() < wait::scaled(wait::PATIENCE) / 2, "{:?}", before.elapsed());
}

#[test]
fn a_mistake_in_the_configuration_is_said_before_anything_is_served() {
    let operator = Verifier::new();
    operator.write("expect.toml", "");
    let file = operator.write("deployments.toml", &about("Demo", "https://a.example", ""));
    for (arguments, why) in [
        (vec!["serve", "--deployments", &file], "\"Demo\" is no name"),
        (vec!["serve", "--deployment", "a=https://a.example"], "each deployment needs one"),
        (vec!["serve", "--deployment", "a=b", "--expect", "expect.toml"], "no URL of the form"),
    ] {
        let left = operator.run(&arguments);
        assert_eq!((left.code, left.stdout.as_str()), (Some(2), ""), "{left:?}");
        assert!(left.stderr.contains(why), "{left:?}");
    }
}

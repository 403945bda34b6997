//! The page of `dshield-verify serve` in a browser: what people see of a verdict, once the page's script has run.
use dshield_tests::agent::{Agent, Function, Launch, Project};
use dshield_tests::browser::Browser;
use dshield_tests::relay::Relay;
use dshield_tests::requires::require_root;
use dshield_tests::service::Service;
use dshield_tests::verifier::Verifier;
use serde_json::json;

/// A browser, an agent with quotes for development, and an operator who knows what to expect of it.
fn scene() -> Option<(Browser, Project, Agent, Verifier)> {
    if !require_root() {
        return None;
    }
    let browser = Browser::new()?;
    let project = Project::new().with(&Function::probe("native"));
    let launch = Launch { tls: Some(true), attestation: Some("development"), ..Launch::default() };
    let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{error}"));
    let operator = Verifier::new();
    let _ = operator.keep(&agent.url());
    Some((browser, project, agent, operator))
}

fn about(url: &str) -> String {
    format!("[[deployment]]\nname = \"demo\"\nurl = \"{url}\"\nexpect = \"expect.toml\"\n")
}

fn service(operator: &Verifier, url: &str) -> Service {
    let service = Service::start(operator, &about(url));
    service.verdict_with("demo", "a verdict", |verdict| verdict["verdict"].is_object());
    service
}

/// A picture's width and height, from its header (PNG, section 11.2.2).
fn size(png: &[u8]) -> (u32, u32) {
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "no picture: {png:?}");
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

#[test]
fn the_page_answers_three_questions_and_says_how_to_ask_them_oneself() {
    let Some((browser, _project, agent, operator)) = scene() else { return };
    let service = service(&operator, &agent.url());
    let page = browser.open(&service.url("/deployments/demo"));
    assert_eq!(page.console, [] as [&str; 0]);
    let command = format!("<code>dshield-verify {} --expect expect.toml</code>", agent.url());
    for part in [
        // Unmistakable, and nothing is green.
        "<body class=\"development\"",
        "<strong>DEVELOPMENT</strong>",
        "Machine <span class=\"mark fail\">fails</span>",
        "Policy <span class=\"mark skipped\">unproven</span>",
        "Log <span class=\"mark skipped\">unproven</span>",
        "Is it a genuine machine that runs D-Shield, and nothing that could go around it?",
        "Where can data go?",
        "Is the record of where it went whole?",
        "<td>native</td><td>nowhere</td>",
        "<span class=\"mark fail\">fail</span><div><h3>quote</h3>",
        "<span class=\"mark pass\">pass</span><div><h3>measurements</h3>",
        "<span class=\"mark pass\">pass</span><div><h3>policy</h3>",
        "<span class=\"mark pass\">pass</span><div><h3>entries</h3>",
        "<span class=\"mark skipped\">skipped</span><div><h3>witnesses</h3>",
        "This page is as trustworthy as the server that serves it.",
        &command,
        "href=\"../v1/deployments/demo/evidence\"",
        "href=\"../v1/deployments/demo/expect/0\"",
        // The script's part.
        "<span id=\"age\">, ",
        "<button type=\"button\" class=\"copy\">Copy</button>",
    ] {
        assert!(page.dom.contains(part), "{part} is not in {}", page.dom);
    }
    let index = browser.open(&service.url("/"));
    assert_eq!(index.console, [] as [&str; 0]);
    assert!(index.dom.contains("<li class=\"development\"><a href=\"deployments/demo\">demo</a>"), "{}", index.dom);
    for (width, height) in [(1100, 1400), (500, 1400)] {
        let picture = browser.picture(&service.url("/deployments/demo"), width, height);
        assert_eq!(size(&picture), (width, height));
        // A white one has a hundredth of that.
        assert!(picture.len() > 50_000, "{}", picture.len());
    }
}

#[test]
fn no_script_of_a_deployment_runs_in_the_page() {
    let Some((browser, _project, agent, operator)) = scene() else { return };
    let evil = "<script>console.log('taken')</script><img src=x onerror=\"console.log('taken')\">";
    let relay = Relay::before(&agent, false);
    relay.give_evidence(&json!({ "format": "dshield.evidence/v1", (evil): 1 }).to_string());
    let service = service(&operator, &relay.url());
    let page = browser.open(&service.url("/deployments/demo"));
    assert_eq!(page.console, [] as [&str; 0]);
    assert!(page.dom.contains("&lt;img src=x onerror="), "{}", page.dom);
    // It would be heard.
    let heard = browser.open(&format!("data:text/html,{}", evil.replace('#', "")));
    assert!(heard.console.iter().any(|line| line.contains("taken")), "{heard:?}");
}

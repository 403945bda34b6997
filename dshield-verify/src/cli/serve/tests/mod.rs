//! The service in this process: with verdicts that no laptop can come by, those on genuine machines, and with deployments
//! that count who asks them.
mod browser;
mod looks;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::oneshot;

use super::standing::Moment;
use super::watch::{Finding, SPACING};
use super::*;
use crate::client::Client;
use crate::destinations::Destination;
use crate::verdict::{Step, StepId, Verdict};

const GREEN: &str = "#1a7f37";

/// A service, listening until it is dropped.
struct Served {
    address: SocketAddr,
    service: Arc<Service>,
    how: How,
    folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

/// What came back.
struct Got {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Served {
    /// About deployments with these names and URLs, and this configuration for each; nobody looks at them.
    async fn with(deployments: &[(&str, &str)], settings: &str, spacing: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("expect.toml"), "").unwrap();
        let entries = deployments.iter().map(|(name, url)| {
            format!("[[deployment]]\nname = \"{name}\"\nurl = \"{url}\"\nexpect = \"expect.toml\"\n{settings}\n")
        });
        let file = folder.path().join("deployments.toml");
        std::fs::write(&file, entries.collect::<String>()).unwrap();
        let memory = Memory::new(Some(folder.path().join("state"))).unwrap();
        let how = How { memory, pccs: None, spacing };
        let service = Arc::new(Service::new(config::from_file(&file).unwrap(), &how));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = service.clone();
        tokio::spawn(async move {
            server::serve(listener, serving, async {
                let _ = stopped.await;
            })
            .await;
        });
        Self { address, service, how, folder, _stop: stop }
    }

    /// About one deployment, `a`, for which this was found so many seconds ago.
    async fn pretending(verdict: Verdict, age: u64) -> Self {
        let served = Self::with(&[("a", "https://a.example")], "", SPACING).await;
        let mut began = Moment::now();
        began.wall -= age;
        let evidence = Bytes::from_static(b"{}");
        let finding = Finding { verdict, evidence, nonce: None, checkpoint: None, began };
        served.service.watch("a").unwrap().pretend(finding);
        served
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Got {
        let client = Client::unjudged(&format!("http://{}", self.address)).unwrap();
        let response = client.send(method, path, body.into()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = client.body(response).await.unwrap();
        Got { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str) -> Got {
        self.ask(Method::GET, path, "").await
    }

    async fn standing(&self) -> String {
        let verdict: Value = serde_json::from_str(&self.get("/v1/deployments/a/verdict").await.text).unwrap();
        verdict["standing"].as_str().unwrap().to_owned()
    }

    async fn badge(&self) -> Got {
        self.get("/v1/deployments/a/badge.svg").await
    }

    async fn page(&self) -> String {
        self.get("/deployments/a").await.text
    }
}

fn verdict(development: bool, last: Step) -> Verdict {
    let steps = vec![
        Step::pass(StepId::Quote, "the quote is signed by a genuine platform").saw("fmspc", "00"),
        Step::skipped(StepId::Channel, "there was no connection"),
        Step::pass(StepId::Policy, "the policy is the expected one"),
        last,
    ];
    let mut verdict = Verdict::new(0, development, steps);
    let text = |text: &str| text.to_owned();
    verdict.destinations =
        vec![Destination { who: text("f"), to: text("b.example:443"), how: text("certificate"), limits: text("GET") }];
    verdict
}

fn good() -> Verdict {
    verdict(false, Step::pass(StepId::Checkpoint, "the head is signed"))
}

#[tokio::test]
async fn a_young_verdict_is_green_and_says_until_when() {
    let served = Served::pretending(good(), 60).await;
    assert_eq!(served.standing().await, "verified");
    let badge = served.badge().await;
    assert_eq!(badge.headers["content-type"], "image/svg+xml");
    assert_eq!(badge.headers["cache-control"], "no-cache, must-revalidate, max-age=60");
    assert!(badge.text.contains(GREEN) && badge.text.contains("valid 10 min"), "{}", badge.text);
    let page = served.page().await;
    assert!(page.contains("<body class=\"verified fresh\""), "{page}");
    for part in ["Everything that was to be checked holds", "<td>b.example:443</td>", "without asking", "#channel"] {
        // The evidence has no nonce, so there is no command to judge it again.
        assert_eq!(page.contains(part), part != "without asking", "{part}: {page}");
    }
    assert!(served.get("/").await.text.contains("<li class=\"verified\">"));
}

#[tokio::test]
async fn an_old_verdict_is_green_nowhere() {
    for age in [600, 601, 100_000] {
        let served = Served::pretending(good(), age).await;
        assert_eq!(served.standing().await, "outdated");
        let badge = served.badge().await;
        assert!(!badge.text.contains(GREEN) && badge.text.contains("outdated: last verified"), "{}", badge.text);
        assert_eq!(badge.headers["cache-control"], "no-cache, must-revalidate, max-age=0");
        let page = served.page().await;
        assert!(page.contains("<body class=\"outdated\"") && page.contains("says nothing about now"), "{page}");
        assert!(served.get("/").await.text.contains("<li class=\"outdated\">"));
    }
}

#[tokio::test]
async fn development_is_green_nowhere_and_cannot_be_overlooked() {
    // As if the command's --insecure-development were here, which it is not.
    let served = Served::pretending(verdict(true, Step::pass(StepId::Checkpoint, "")), 0).await;
    assert_eq!(served.standing().await, "development");
    let badge = served.badge().await.text;
    assert!(!badge.contains(GREEN) && badge.contains(">DEVELOPMENT, proves nothing<"), "{badge}");
    let page = served.page().await;
    assert!(page.contains("<body class=\"development\"") && page.contains("<strong>DEVELOPMENT</strong>"), "{page}");
    assert!(served.get("/").await.text.contains("DEVELOPMENT, proves nothing"));
}

#[tokio::test]
async fn what_fails_is_red_and_named() {
    let served = Served::pretending(verdict(false, Step::fail(StepId::History, "the log was cut off")), 0).await;
    assert_eq!(served.standing().await, "not-verified");
    let badge = served.badge().await.text;
    assert!(!badge.contains(GREEN) && badge.contains("NOT verified"), "{badge}");
    let page = served.page().await;
    assert!(page.contains("replayed, or rolled back") && page.contains("Failed: <a href=\"#history\">"), "{page}");
    assert!(page.contains("the log was cut off"), "{page}");
}

#[tokio::test]
async fn nothing_that_a_deployment_says_is_markup() {
    let evil = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\" onload=\"alert(1)\u{202e}";
    let step = Step::fail(StepId::Checkpoint, format!("{evil}\n+ {evil}")).saw(evil, evil).note(evil);
    let mut verdict = verdict(false, step);
    let text = || evil.to_owned();
    verdict.destinations = vec![Destination { who: text(), to: text(), how: text(), limits: text() }];
    let served = Served::pretending(verdict, 0).await;
    let page = served.page().await;
    assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count(), 9, "{page}");
    for part in ["<script>", "<img src=x", "onerror=alert(1)>", "\" onload", "</style>", "\u{202e}"] {
        assert!(!page.contains(part), "{part}: {page}");
    }
}

#[tokio::test]
async fn every_answer_tells_the_browser_what_it_may_do_with_it() {
    let served = Served::pretending(good(), 0).await;
    let paths = ["/", "/deployments/a", "/assets/page.js", "/assets/style.css", "/healthz", "/v1/deployments"];
    let more = ["verdict", "badge.svg", "evidence", "checkpoint", "expect", "expect/0", "nonsense"];
    let more = more.map(|path| format!("/v1/deployments/a/{path}"));
    for path in paths.into_iter().chain(more.iter().map(String::as_str)) {
        let got = served.get(path).await;
        assert_eq!(got.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(got.headers.get("set-cookie").is_none(), "{path}");
        let policy = got.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        let page = matches!(path, "/" | "/deployments/a");
        assert_eq!(policy.contains("script-src 'self'"), page, "{path}: {policy}");
        let (kept, file) = (got.headers.get("content-disposition"), ["evidence", "expect", "expect/0"]);
        assert_eq!(kept.is_some(), file.iter().any(|file| path.ends_with(&format!("a/{file}"))), "{path}");
    }
}

#[tokio::test]
async fn only_configured_names_are_found_whatever_else_a_path_says() {
    let served = Served::pretending(good(), 0).await;
    for path in [
        "/v1/deployments/b/verdict",
        "/v1/deployments/A/verdict",
        "/v1/deployments/%61/verdict",
        "/v1/deployments/http:%2F%2F127.0.0.1/verdict",
        "/v1/deployments/http://127.0.0.1/verdict",
        "/v1/deployments/a/../a/verdict",
        "/v1/deployments//verdict",
        "/v1/deployments/a/expect/1",
        "/v1/deployments/a/expect/..%2Fexpect.toml",
        "/deployments/https:%2F%2Fa.example",
        "/assets/../config.rs",
        "//a",
    ] {
        assert_eq!(served.get(path).await.status, 404, "{path}");
    }
    assert_eq!(served.ask(Method::POST, "/v1/deployments/b/look", "").await.status, 404);
    for (method, path, allowed) in [
        (Method::POST, "/v1/deployments/a/verdict", "GET, HEAD"),
        (Method::DELETE, "/", "GET, HEAD"),
        (Method::GET, "/v1/verify", "POST"),
        (Method::GET, "/v1/deployments/a/look", "POST"),
    ] {
        let got = served.ask(method, path, "").await;
        assert_eq!((got.status, got.headers["allow"].to_str().unwrap()), (405, allowed), "{path}");
    }
}

#[tokio::test]
async fn posted_evidence_is_judged_with_posted_expectations_that_name_no_files() {
    let served = Served::with(&[], "", SPACING).await;
    let post = |body: &str| served.ask(Method::POST, "/v1/verify", body.to_owned());
    let got = post(r#"{"evidence": {"format": "dshield.evidence/v0"}}"#).await;
    let judged: Verdict = serde_json::from_str(&got.text).unwrap();
    assert_eq!((got.status, judged.outcome), (200, crate::Outcome::NotChecked), "{}", got.text);
    assert!(judged.steps[0].says.contains("dshield.evidence/v0"), "{}", got.text);
    let got = post(r#"{"evidence": {}, "at": "2026-11-28T06:40:00Z"}"#).await;
    let both: Value = serde_json::from_str(&got.text).unwrap();
    assert_eq!(both["at"]["at"], 1_795_848_000, "{both}");
    for (body, code) in [
        ("{}", "malformed"),
        ("[", "malformed"),
        (r#"{"evidence": {}, "url": "http://127.0.0.1"}"#, "malformed"),
        (r#"{"evidence": {}, "nonce": "zz"}"#, "malformed"),
        (r#"{"evidence": {}, "expect": "[policy]\nfile = \"/etc/passwd\""}"#, "malformed_expect"),
        (r#"{"evidence": {}, "at": "yesterday"}"#, "malformed_at"),
    ] {
        let got = post(body).await;
        let error: Value = serde_json::from_str(&got.text).unwrap();
        assert_eq!((got.status, &error["error"]["code"]), (400, &Value::from(code)), "{body}: {}", got.text);
        assert!(!got.text.contains("root:"), "{}", got.text);
    }
}

//! The API inside TLS: with the clients that people have, and with `dshield` itself.
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dshield_tests::agent::{Agent, Function, Launch, Project, binary};
use dshield_tests::client;
use dshield_tests::command::{Left, dshield};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::wait;
use dshield_verify::ratls::spki_sha256;
use serde_json::json;

fn launch(project: &Project, command: &'static str, tls: Option<bool>) -> Agent {
    let launch = Launch { command, tls, ..Launch::default() };
    Agent::launch(project, launch).unwrap_or_else(|error| panic!("{error}"))
}

fn secure() -> Option<(Project, Agent)> {
    if !require_root() {
        return None;
    }
    let project = Project::new().with(&Function::probe("native"));
    let agent = launch(&project, "run", Some(true));
    Some((project, agent))
}

/// The SHA-256 of the key that a handshake with the agent proves.
fn key(agent: &Agent) -> [u8; 32] {
    let answer = client::request_tls(agent.address(), "GET", "/healthz", "", wait::scaled(wait::PATIENCE));
    let (answer, leaf) = answer.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    spki_sha256(&leaf).expect("a certificate")
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Standard output, and the exit code.
fn run(program: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it is there");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

#[test]
fn run_speaks_tls_and_dev_plain_http_unless_told_otherwise() {
    if !require_root() {
        return;
    }
    let project = Project::new().with(&Function::probe("native"));
    for (command, tls, scheme) in [
        ("run", None, "https://"),
        ("dev", None, "http://"),
        ("run", Some(false), "http://"),
        ("dev", Some(true), "https://"),
    ] {
        let mut agent = launch(&project, command, tls);
        assert!(agent.url().starts_with(scheme), "{command} {tls:?}: {}", agent.url());
        assert_eq!(agent.call("native", &json!({"do": "echo"})), json!({"do": "echo"}));
        assert_eq!(agent.log().verify(), Ok(()));
        assert_eq!(agent.stop(), Some(0));
    }
}

#[test]
fn curl_takes_the_key_that_the_agent_names_and_no_other_and_no_stranger() {
    if !requires("curl") {
        return;
    }
    let Some((_project, agent)) = secure() else { return };
    let key = key(&agent);
    assert!(agent.stderr().contains(&format!("the API speaks TLS with the key {}", hex(key))), "{}", agent.stderr());
    let url = format!("{}/healthz", agent.url());
    for version in [["--tlsv1.2", "--tls-max", "1.2"].as_slice(), &["--tlsv1.3"]] {
        let pinned = |key: [u8; 32]| {
            let pin = format!("sha256//{}", STANDARD.encode(key));
            run("curl", &[&["-s", "--insecure", "--pinnedpubkey", &pin, &url], version].concat())
        };
        assert_eq!(pinned(key), ("ok\n".to_owned(), Some(0)), "{version:?}");
        // CURLE_SSL_PINNEDPUBKEYNOTMATCH, CURLE_PEER_FAILED_VERIFICATION
        assert_eq!(pinned([7; 32]), (String::new(), Some(90)), "{version:?}");
        assert_eq!(run("curl", &[&["-s", &url], version].concat()), (String::new(), Some(60)), "{version:?}");
    }
    let told = run("curl", &["-s", "-w", "%{http_code}", &url.replace("https", "http")]);
    assert_eq!(told, ("this is the TLS port of D-Shield: use https://\n400".to_owned(), Some(0)));
}

#[test]
fn openssl_agrees_on_http_1_1_and_resumes_nothing() {
    if !requires("openssl") {
        return;
    }
    let Some((_project, agent)) = secure() else { return };
    let address = agent.address().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let (text, code) = run("openssl", &["s_client", "-connect", &address, version, "-alpn", "h2,http/1.1"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("subject=CN = D-Shield"), "{text}");
        assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        assert!(!text.contains("Session-ID: ") || text.contains("Session-ID: \n"), "a session to resume: {text}");
        assert!(!text.contains("TLS session ticket:"), "a session to resume: {text}");
    }
    let (_, old) = run("openssl", &["s_client", "-connect", &address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert_ne!(old, Some(0), "TLS 1.1 is spoken");
}

#[test]
fn on_this_machine_the_command_line_needs_neither_scheme_nor_key() {
    let Some((project, agent)) = secure() else { return };
    let (url, bare) = (agent.url(), agent.address().to_string());
    let localhost = format!("https://localhost:{}", agent.address().port());
    for url in [&url, &bare, &localhost] {
        let invoked = dshield(["invoke", "native", "--data", r#"{"do": "echo"}"#, "--url", url]).printed();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&invoked).ok(), Some(json!({"do": "echo"})), "{url}");
        let logs = dshield(["logs", "--json", "--url", url]).printed();
        assert_eq!(logs, agent.log().lines.iter().map(|line| format!("{}\n", line.text)).collect::<String>(), "{url}");
    }
    let verified = dshield(["log", "verify", &url]).printed();
    assert!(verified.contains("the agent's checkpoint holds"), "{verified}");
    let suggested = dshield(["policy", "suggest", "--from-log", &url]);
    assert_eq!(suggested.code, Some(0), "{suggested:?}");
    let plain = dshield(["invoke", "native", "--url", &format!("http://{bare}")]);
    plain.failed_saying(&["speaks TLS", "use https://"]);
    drop((agent, project));
}

fn with_environment(arguments: &[&str], name: &str, value: &str) -> Left {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("DSHIELD_URL").env(name, value).stdin(Stdio::null());
    let output = command.output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Left { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Each command that talks to an agent, and the one after a restart is another.
#[test]
fn with_a_key_every_command_talks_to_its_owner_alone() {
    let Some((project, mut agent)) = secure() else { return };
    let (url, good, other) = (agent.url(), hex(key(&agent)), "07".repeat(32));
    let commands = |url: &str| {
        [
            vec!["invoke", "native", "--data", r#"{"do": "echo"}"#, "--url", url],
            vec!["logs", "--url", url],
            vec!["log", "verify", url],
            vec!["policy", "suggest", "--from-log", url],
        ]
        .map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    for command in commands(&url) {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let pinned = |key: &str| dshield([command.as_slice(), &["--tls-spki", key]].concat());
        assert_eq!(pinned(&good).code, Some(0), "{command:?}");
        let refused = pinned(&other);
        refused.failed_saying(&[&good, "--tls-spki", "dshield-verify"]);
        assert_eq!(with_environment(&command, "DSHIELD_TLS_SPKI", &good).code, Some(0), "{command:?}");
        assert_eq!(with_environment(&command, "DSHIELD_TLS_SPKI", &other), refused, "{command:?}");
        let nonsense = pinned("00");
        assert_eq!(nonsense.code, Some(2), "{command:?}");
        assert!(nonsense.stderr.contains("64 hexadecimal digits"), "{}", nonsense.stderr);
    }
    let without = dshield(["logs", "--url", &url.replace("https", "http"), "--tls-spki", &good]);
    assert_eq!(without.code, Some(2), "{without:?}");
    assert!(without.stderr.contains("is without TLS"), "{}", without.stderr);
    assert_eq!(agent.stop(), Some(0));

    let again = launch(&project, "run", Some(true));
    assert_ne!(hex(key(&again)), good);
    dshield(["logs", "--url", &again.url(), "--tls-spki", &good]).failed_saying(&["at each start"]);
}

#[test]
fn an_agent_stops_at_once_whatever_its_tls_clients_are_doing() {
    let Some((_project, mut agent)) = secure() else { return };
    let mut begun = TcpStream::connect(agent.address()).expect("it listens");
    begun.write_all(b"\x16\x03\x01\x02\x00").expect("it is open");
    let silent = TcpStream::connect(agent.address()).expect("it listens");
    let held = agent.invoke_aside("native", &json!({"do": "sleep", "ms": 60_000}));
    agent.log_with("the invocation", |log| log.to_string().contains("invoke"));
    let before = std::time::Instant::now();
    assert_eq!(agent.stop(), Some(0));
    assert!(before.elapsed() < wait::scaled(wait::PATIENCE), "{:?}", before.elapsed());
    held.join().expect("it ends with its agent");
    drop((begun, silent));
}

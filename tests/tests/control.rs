//! The control experiment: outside D-Shield the same functions reach everything that they are refused inside.
//! Without it, a broken function would pass for a refused one.
use std::path::PathBuf;
use std::process::{Command, Stdio};

use dshield_tests::requires::requires;
use dshield_tests::scene::{SECRET, allowed_but};
use dshield_tests::standin::{PAUSE, Standin};
use dshield_tests::tripwire::Tripwire;
use dshield_tests::{wait, workspace};
use serde_json::{Value, json};

const PYTHON: &str = "import json, sys
sys.path.insert(0, sys.argv[1])
import app
print(json.dumps(app.handler(json.loads(sys.argv[2]), None)))";

const NODE: &str = "require(process.argv[1] + '/index.js').handler(JSON.parse(process.argv[2]))
  .then((answer) => console.log(JSON.stringify(answer)))";

/// The same function in each language that this machine has, as a command without its event.
fn functions(standin: &Standin) -> Vec<Command> {
    let code = |language: &str| workspace().join("tests/functions").join(language);
    let mut all = vec![Command::new(env!("CARGO_BIN_EXE_probe"))];
    if requires("python3") {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").args(["-c", PYTHON]).arg(code("python"));
        all.push(command);
    }
    if requires("node") {
        let mut command = Command::new("node");
        command.args(["-e", NODE]).arg(code("node"));
        all.push(command);
    }
    for command in &mut all {
        command.env("SSL_CERT_FILE", standin.ca_file()).env("NODE_EXTRA_CA_CERTS", standin.ca_file());
    }
    all
}

#[track_caller]
fn run(mut command: Command, event: &Value) -> Value {
    let output = command.arg(event.to_string()).stdin(Stdio::null()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{command:?}: {error}: {said}{complaint}"))
}

#[test]
fn the_request_arrives_whatever_its_names_method_and_path() {
    let standin = Standin::start_as(&["api.anthropic.com", "attacker.example"]);
    let address = standin.addr().to_string();
    let variants = [
        (json!({"address": address}), 200),
        (json!({"address": address, "host_header": "attacker.example"}), 200),
        (json!({"address": address, "sni": "attacker.example"}), 200),
        (json!({"address": address, "method": "PUT"}), 404),
        (json!({"address": address, "path": "/v1/files"}), 404),
    ];
    for (changes, status) in variants {
        for command in functions(&standin) {
            let before = standin.seen().len();
            let answer = run(command, &allowed_but(changes.clone()));
            assert_eq!(answer["status"], status, "{changes}: {answer}");
            assert_eq!(standin.seen().len(), before + 1, "{changes}");
        }
    }
}

#[test]
fn bytes_and_datagrams_arrive_at_the_tripwire() {
    let (standin, tripwire) = (Standin::start(), Tripwire::start());
    let (tcp, udp) = (tripwire.tcp().to_string(), tripwire.udp().to_string());
    let mut expected = 0;
    for command in functions(&standin) {
        // The tripwire never answers, so this one ends with `failed` also where it arrives.
        let _ = run(command, &json!({"do": "tcp", "address": tcp, "send": SECRET}));
        expected += 1;
    }
    for command in functions(&standin) {
        let answer = run(command, &json!({"do": "udp", "address": udp, "send": SECRET}));
        assert_eq!(answer["sent"], SECRET.len());
        expected += 1;
    }
    let told = || tripwire.arrivals().iter().filter(|arrival| !arrival.bytes.is_empty()).count();
    wait::until("all of it", || (told() == expected).then_some(()));
    assert_eq!(tripwire.arrivals().len(), expected);
    assert!(tripwire.arrivals().iter().all(|arrival| arrival.bytes == SECRET.as_bytes()), "{:?}", tripwire.arrivals());
}

#[test]
fn names_are_resolved() {
    let standin = Standin::start();
    for command in functions(&standin) {
        let answer = run(command, &json!({"do": "resolve", "name": "localhost"}));
        let addresses = answer["addresses"].to_string();
        assert!(addresses.contains("127.0.0.1") || addresses.contains("::1"), "{answer}");
    }
}

#[test]
fn the_example_summarizes_plain_and_streaming() {
    if !requires("python3") {
        return;
    }
    let standin = Standin::start();
    // Stands for the DNS and port that D-Shield gives to an instance.
    let redirect = format!(
        "import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *rest, **more: real('127.0.0.1', {}, *rest, **more)
{PYTHON}",
        standin.addr().port()
    );
    let code: PathBuf = workspace().join("examples/summarize/functions/summarize");
    let summarize = |event: &Value| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-B").args(["-c", &redirect]).arg(&code);
        command.env("SSL_CERT_FILE", standin.ca_file()).env("ANTHROPIC_API_KEY", "k");
        run(command, event)
    };
    let expected = "A text of 7 words that begins with: Summarize in one sentence: one two";
    assert_eq!(summarize(&json!({"text": "one two three"}))["summary"], expected);
    let streamed = summarize(&json!({"text": "one two three", "stream": true}));
    assert_eq!(streamed["summary"], expected);
    let arrived: Vec<u64> = streamed["arrived_ms"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let spread = arrived.last().copied().unwrap_or(0) - arrived.first().copied().unwrap_or(0);
    // The first may be read late.
    assert!(
        arrived.len() > 10 && u128::from(spread) >= PAUSE.as_millis() * (arrived.len() / 2 - 1) as u128,
        "{arrived:?}"
    );
    assert_eq!(standin.seen().len(), 2);
}

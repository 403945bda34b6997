//! Clients from PyPI and npm, and Go's own, unmodified, through `tls = "inspect"`: plain and streaming.
//!
//! `tests/clients/` has what they do; `cargo xtask setup` installs them.
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dshield_tests::agent::{Agent, Code, Egress, Function, Project};
use dshield_tests::requires::{require_root, requires, requires_clients};
use dshield_tests::standin::tls::Issued;
use dshield_tests::standin::{NAME, PAUSE, Standin};
use dshield_tests::workspace;
use serde_json::{Value, json};

/// A function with these clients and what uses them.
fn function(language: &str, handler: &str, program: &str, project: &Project) -> Option<Function> {
    let clients = requires_clients(language)?;
    let code = project.folder().join(language);
    // A code folder may not hold links to elsewhere.
    let copied = Command::new("cp").arg("-r").arg(&clients).arg(&code).status().expect("cp is everywhere");
    assert!(copied.success());
    let from: PathBuf = workspace().join("tests/clients").join(program);
    std::fs::copy(&from, code.join(Path::new(program))).expect("it is there");
    let runtime = if language == "python" { "python3" } else { language };
    Some(Function::new(language, runtime, Code::Folder(code)).handler(handler).timeout("60s"))
}

#[test]
fn python_clients_work_unmodified() {
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new();
    let Some(function) = function("python", "app.handler", "app.py", &project) else { return };
    let clients = ["httpx", "httpx over HTTP/2", "aiohttp", "urllib3", "anthropic", "openai"];
    check(project, &function, &clients);
}

#[test]
fn node_clients_work_unmodified() {
    if !require_root() || !requires("node") {
        return;
    }
    let project = Project::new();
    let Some(function) = function("node", "index.handler", "index.js", &project) else { return };
    check(project, &function, &["undici", "undici over HTTP/2"]);
}

#[test]
fn go_works_unmodified_and_over_http2() {
    if !require_root() || !requires("go") {
        return;
    }
    let project = Project::new();
    let bootstrap = project.folder().join("bootstrap");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&bootstrap)
        .arg(workspace().join("tests/clients/go/main.go"))
        .envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-buildvcs=false"), ("GO111MODULE", "off")])
        .env("GOCACHE", project.folder().join("cache"))
        .output()
        .expect("go is there");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let function = Function::new("go", "native", Code::Executable(bootstrap)).timeout("60s");
    check(project, &function, &["net/http over HTTP/2"]);
}

/// With each client the plain answer is right, and a stream arrives piece by piece.
fn check(project: Project, function: &Function, clients: &[&str]) {
    const OPENAI: &str = "api.openai.com";
    let standin = Standin::start_as(&[NAME, OPENAI]);
    let rule = |host: &str, path: &str| Egress::to(host).pinned(&standin).methods(&["POST"]).paths(&[path]);
    let name = function.name();
    let function = function.clone().egress(&rule(NAME, "/v1/messages")).egress(&rule(OPENAI, "/v1/chat/completions"));
    let project = project.with(&function);
    let agent = Agent::start(&project);
    let mut wrong = Vec::new();
    for client in clients {
        for stream in [false, true] {
            let message = json!({"role": "user", "content": "one two three"});
            let prompt = json!({"model": "claude", "max_tokens": 64, "messages": [message], "stream": stream});
            let answer = agent.invoke(name, &json!({"client": client, "prompt": prompt}));
            if let Some(problem) = problem(client, stream, &answer.json()) {
                wrong.push(format!("{client}, stream {stream}: {problem}: {}", answer.text()));
            }
        }
    }
    let log = agent.log();
    assert!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused(name).is_empty(), "{log}");
    assert_eq!(standin.seen().len(), 2 * clients.len());
}

fn problem(client: &str, stream: bool, answer: &Value) -> Option<String> {
    if answer["text"] != "A text of 3 words that begins with: one two three" {
        return Some("not the text".into());
    }
    if answer["version"].is_string() && (answer["version"] == "HTTP/2") != client.ends_with("HTTP/2") {
        return Some("not the version of HTTP".into());
    }
    if !stream {
        return None;
    }
    let arrived: Vec<f64> = answer["arrived"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let (Some(first), Some(last)) = (arrived.first(), arrived.last()) else { return Some("nothing arrived".into()) };
    // Had they been kept back, they would have come at once. Some clients show fewer events than there are, and make their
    // models while the first of them wait.
    let least = PAUSE.as_millis() as f64 * (arrived.len() / 2 - 1) as f64;
    (arrived.len() < 8 || last - first < least).then(|| "the stream was buffered".into())
}

/// gRPC's own server in Python; it ends with its standard input.
struct RpcServer {
    process: std::process::Child,
    port: u16,
}

impl RpcServer {
    fn start(clients: &Path, folder: &Path, leaf: &Issued) -> Self {
        let [key, certificate] =
            [("key.pem", leaf.key.serialize_pem()), ("leaf.pem", leaf.certificate.pem())].map(|(name, pem)| {
                let path = folder.join(name);
                std::fs::write(&path, pem).expect("the folder is ours");
                path
            });
        let mut process = Command::new("/usr/bin/python3")
            .arg(workspace().join("tests/clients/rpc.py"))
            .args([key, certificate])
            .env("PYTHONPATH", clients)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("it has one");
        BufReader::new(output).read_line(&mut line).expect("it says its port");
        Self { process, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn grpc_works_unmodified_in_all_four_kinds_of_call() {
    const HOST: &str = "rpc.example";
    if !require_root() || !requires("python3") {
        return;
    }
    let project = Project::new();
    let Some(clients) = requires_clients("python") else { return };
    let Some(function) = function("python", "rpc.handler", "rpc.py", &project) else { return };
    let authority = Issued::authority(|_| ());
    let server = RpcServer::start(&clients, project.folder(), &authority.leaf(&[HOST], |_| ()));
    let ca = project.folder().join("ca.pem");
    std::fs::write(&ca, authority.certificate.pem()).expect("the folder is ours");
    let rule = Egress::to(HOST)
        .methods(&["POST"])
        .paths(&["/test.Echo/*"])
        .set("resolve", &format!("[\"127.0.0.1:{}\"]", server.port))
        .set("ca", &format!("{ca:?}"));
    let project = project.with(&function.egress(&rule));
    let agent = Agent::start(&project);
    let answer = agent.call("python", &json!({"host": HOST}));
    assert_eq!(answer["unary"], "HELLO", "{answer}");
    assert_eq!(answer["download"], json!(["a", "b", "c"]));
    assert_eq!((&answer["upload"], &answer["chat"]), (&json!("abc"), &json!(["X", "Y"])));
    assert_eq!(answer["status"], json!(["FAILED_PRECONDITION", "said the server"]), "it stands in a trailer");
    // gRPC's word for HTTP's 403.
    assert_eq!(answer["refused"][0], "PERMISSION_DENIED", "{answer}");
    let log = agent.log_with("five calls", |log| log.requests("python").len() == 5);
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused("python").iter().any(|refused| refused.reason == "path_not_allowed"), "{log}");
}

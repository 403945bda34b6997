//! Real servers outside, and their own clients inside: git over HTTPS, WebSocket, PostgreSQL and Redis over raw TCP.
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Code, Egress, Function, Log, Project};
use dshield_tests::port;
use dshield_tests::requires::{require_root, requires, requires_clients};
use dshield_tests::standin::tls::Issued;
use dshield_tests::wait;
use dshield_tests::workspace;
use serde_json::json;
use tempfile::TempDir;

/// A program that listens, in a folder that only it and we use; it ends when dropped.
struct Server {
    process: Child,
    at: SocketAddr,
    folder: TempDir,
}

/// Debian has this account for those who own nothing.
const NOBODY: &str = "65534";

impl Server {
    /// Starts what `command` makes of the folder and the port.
    fn start(command: impl FnOnce(&Path, u16) -> Command) -> Self {
        let folder = tempfile::Builder::new().prefix("server-").tempdir().expect("a temporary folder");
        let at = port::free();
        let mut command = command(folder.path(), at.port());
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut server = Self { process: process.expect("it can be started"), at, folder };
        wait::until("the server to listen", || {
            assert!(matches!(server.process.try_wait(), Ok(None)), "it ended: {command:?}");
            TcpStream::connect(at).ok()
        });
        server
    }

    /// A rule for `name` that leads here.
    fn rule(&self, name: &str) -> Egress {
        Egress::to(name).set("resolve", &json!([self.at.to_string()]).to_string())
    }

    /// As [`Self::rule`], for anything over TCP.
    fn raw(&self, name: &str, port: u16) -> Egress {
        let rule = self.rule(name).tls("none").set("protocol", "\"tcp\"");
        rule.set("ports", &format!("[{port}]"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its children along.
        let id = nix::unistd::Pid::from_raw(self.process.id() as i32);
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        if wait::within(wait::PATIENCE / 6, || self.process.try_wait().ok().flatten()).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// `program` as somebody who owns nothing, in `folder`, which becomes theirs.
fn unprivileged(folder: &Path, program: &Path) -> Command {
    let owner = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(folder).status();
    assert!(owner.is_ok_and(|status| status.success()));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(program).current_dir(folder);
    command
}

/// A certificate for `name` in `folder`: `cert.pem`, `key.pem`; the authority's is `ca.pem`.
fn certificate(folder: &Path, name: &str) -> PathBuf {
    let authority = Issued::authority(|_| ());
    let leaf = authority.leaf(&[name], |_| ());
    let write = |file: &str, text: String| std::fs::write(folder.join(file), text).expect("the folder is ours");
    write("cert.pem", leaf.certificate.pem());
    write("key.pem", leaf.key.serialize_pem());
    write("ca.pem", authority.certificate.pem());
    folder.join("ca.pem")
}

fn trusting(rule: Egress, ca: &Path) -> Egress {
    rule.set("ca", &json!(ca).to_string())
}

fn agent(rules: &[Egress]) -> (Project, Agent) {
    let function = rules.iter().fold(Function::probe("native").timeout("60s"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    (project, agent)
}

/// Runs `line` in the function: its output, when it ends well.
#[track_caller]
fn shell(agent: &Agent, line: &str) -> String {
    let line = format!("export HOME=/tmp; {{ {line}\n}} 2>&1");
    let ran = agent.call("native", &json!({"do": "run", "argv": ["/bin/bash", "-o", "pipefail", "-e", "-c", line]}));
    assert_eq!(ran["code"], 0, "{ran}\n{}", agent.log());
    ran["stdout"].as_str().unwrap_or_default().trim().to_owned()
}

/// The bytes of the first connection that has ended: from the function, to it.
fn bytes(log: &Log) -> Option<(u64, u64)> {
    log.events().find_map(|(_, event)| match event {
        Event::Close(close) => Some((close.bytes_from_function, close.bytes_to_function)),
        _ => None,
    })
}

#[test]
fn redis_works_over_raw_tcp() {
    if !require_root() || !requires("redis-server") || !requires("redis-cli") || !requires("setpriv") {
        return;
    }
    let server = Server::start(|folder, port| {
        let mut command = unprivileged(folder, Path::new("/usr/bin/redis-server"));
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
        command
    });
    let (_project, agent) = agent(&[server.raw("cache.example", 6379)]);
    let ask = |line: &str| shell(&agent, &format!("redis-cli -h cache.example {line}"));
    assert_eq!(ask("set greeting 'hello there'"), "OK");
    assert_eq!(ask("get greeting"), "hello there");
    assert_eq!(
        ask("--pipe < <(for i in $(seq 5000); do echo \"set k$i $i\"; done) | tail -1"),
        "errors: 0, replies: 5000"
    );
    assert_eq!(ask("dbsize"), "5001");
    // Another port of the same name is another destination.
    let other = shell(&agent, "redis-cli -h cache.example -p 6380 ping || true");
    assert!(other.contains("Connection reset by peer"), "{other}");
    let log = agent.log_with("the ends", |log| bytes(log).is_some());
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused("native").iter().all(|refused| refused.detail.contains("6380")), "{log}");
}

/// The newest PostgreSQL that Debian has installed here.
fn postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders.filter(|folder| folder.join("initdb").exists() && folder.join("psql").exists()).max()
}

#[test]
fn postgresql_works_over_raw_tcp() {
    let Some(programs) = postgres() else {
        let _ = requires("postgres");
        return;
    };
    if !require_root() || !requires("setpriv") {
        return;
    }
    let server = Server::start(|folder, port| {
        let init = unprivileged(folder, &programs.join("initdb"))
            .args(["--pgdata=data", "--username=app", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"])
            .output()
            .expect("it can be started");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let mut command = unprivileged(folder, &programs.join("postgres"));
        let settings =
            format!("-D data -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off");
        command.args(settings.split(' ')).stderr(Stdio::null());
        command
    });
    let (_project, agent) = agent(&[server.raw("db.example", 5432)]);
    let psql = programs.join("psql").display().to_string();
    let ask = |sql: &str| {
        let line = format!("{psql} 'host=db.example user=app dbname=postgres' -v ON_ERROR_STOP=1 -qAtc \"{sql}\"");
        shell(&agent, &line)
    };
    wait::until("the database to be ready", || {
        let line = format!("{psql} 'host=db.example user=app dbname=postgres' -qAtc 'select 1' || true");
        (shell(&agent, &line) == "1").then_some(())
    });
    ask("create table t as select n, repeat('x', 100) as text from generate_series(1, 20000) n");
    assert_eq!(ask("select count(*), sum(length(text)) from t"), "20000|2000000");
    assert_eq!(ask("select text from t").len(), 20000 * 101 - 1);
    let log = agent.log_with("the ends", |log| bytes(log).is_some());
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused("native").is_empty(), "{log}");
    let large = |event: &Event| matches!(event, Event::Close(close) if close.bytes_to_function > 2_000_000);
    let _ = agent.log_with("the bytes of the large answer", |log| log.events().any(|(_, event)| large(event)));
}

/// Serves git's smart HTTP from the folder `repositories`, over TLS.
const GIT: &str = r#"
import http.server, os, ssl, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
    def serve(self):
        path, _, query = self.path.partition("?")
        if self.headers.get("transfer-encoding"):
            body = b"".join(self.chunks())
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        variables = {
            "GIT_PROJECT_ROOT": os.path.abspath("repositories"), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("content-type", ""), "REMOTE_USER": "app", "REMOTE_ADDR": "127.0.0.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""), "PATH": os.environ["PATH"],
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""), "HOME": os.getcwd(),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=variables, stdout=subprocess.PIPE)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = serve
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

#[test]
fn git_clones_and_pushes_over_https() {
    if !require_root() || !requires("git") || !requires("python3") {
        return;
    }
    let server = Server::start(|folder, port| {
        certificate(folder, "git.example");
        let made = Command::new("sh")
            .args([
                "-ec",
                "git init -q --bare repositories/r.git; git -C repositories/r.git config http.receivepack true",
            ])
            .current_dir(folder)
            .status();
        assert!(made.is_ok_and(|status| status.success()));
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", GIT, &port.to_string()]).current_dir(folder);
        command
    });
    let ca = server.folder.path().join("ca.pem");
    let rule = trusting(server.rule("git.example"), &ca).paths(&["/r.git/*"]);
    let (_project, agent) = agent(&[rule]);
    let identity = "-c user.name=f -c user.email=f@f.example -c protocol.version=2";
    let line = format!(
        "cd /tmp; git clone -q https://git.example/r.git one; cd one
        head -c 3000000 /dev/urandom > data; git add data; git {identity} commit -qm first
        git -c http.postBuffer=65536 push -q origin HEAD:main
        cd ..; git clone -q -b main https://git.example/r.git two; cmp one/data two/data && echo same"
    );
    assert!(shell(&agent, &line).ends_with("same"));
    let other = shell(&agent, "git ls-remote https://git.example/other.git || true");
    assert!(other.contains("403"), "{other}");
    let log = agent.log_with("the requests", |log| log.requests("native").len() > 5);
    assert_eq!(log.verify(), Ok(()));
    // It also asks for the address of the machine that it runs on, to make up a mail address.
    let mut of_requests = log.refused("native").into_iter().filter(|refused| refused.layer != "dns");
    assert!(of_requests.all(|refused| refused.reason == "path_not_allowed"), "{log}");
}

/// Sends back whatever comes over a WebSocket.
const ECHO: &str = "
const { readFileSync } = require('fs')
const { WebSocketServer } = require('ws')
const options = { cert: readFileSync('cert.pem'), key: readFileSync('key.pem') }
const server = require('https').createServer(options).listen(Number(process.argv[1]), '127.0.0.1')
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.on('message', (data, binary) => socket.send(data, { binary }))
})";

#[test]
fn a_websocket_works_where_a_rule_allows_upgrades_and_nowhere_else() {
    if !require_root() || !requires("node") {
        return;
    }
    let Some(clients) = requires_clients("node") else { return };
    let server = Server::start(|folder, port| {
        certificate(folder, "ws.example");
        let mut command = Command::new("/usr/bin/node");
        command.args(["-e", ECHO, &port.to_string()]).current_dir(folder);
        command.env("NODE_PATH", clients.join("node_modules"));
        command
    });
    let ca = server.folder.path().join("ca.pem");
    let rule = |upgrade: &str| trusting(server.rule("ws.example"), &ca).set("upgrade", upgrade);
    let project = Project::new();
    let code = project.folder().join("ws");
    let copied = Command::new("cp").arg("-r").arg(&clients).arg(&code).status();
    assert!(copied.is_ok_and(|status| status.success()));
    std::fs::copy(workspace().join("tests/clients/index.js"), code.join("index.js")).expect("it is there");
    let function = |name: &str, upgrade: &str| {
        let function = Function::new(name, "node", Code::Folder(code.clone())).handler("index.handler");
        function.timeout("60s").egress(&rule(upgrade))
    };
    let project = project.with(&function("allowed", "true")).with(&function("refused", "false"));
    let agent = Agent::start(&project);
    let event = json!({"client": "ws", "url": "wss://ws.example/chat", "texts": ["one", "two"], "bytes": 300_000});
    let answer = agent.call("allowed", &event);
    assert_eq!(
        answer,
        json!({"texts": ["one", "two"], "bytes": 300_000, "pong": true, "code": 1000}),
        "{}",
        agent.log()
    );
    let large = |log: &Log| bytes(log).is_some_and(|(from, to)| from > 300_000 && to > 300_000);
    let log = agent.log_with("the bytes of the WebSocket", large);
    assert_eq!(log.verify(), Ok(()));
    assert!(log.refused("allowed").is_empty(), "{log}");

    let answer = agent.call("refused", &event);
    assert_eq!((&answer["bytes"], &answer["pong"]), (&json!(0), &json!(false)), "{answer}");
    assert_eq!(answer["status"], 403, "{answer}");
    let refused = |log: &Log| log.refused("refused").iter().any(|refused| refused.reason == "upgrade_not_allowed");
    let _ = agent.log_with("the refusal", refused);
}

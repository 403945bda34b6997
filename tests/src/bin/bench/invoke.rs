//! What an invocation costs: warm against the same handler behind plain HTTP, cold against starting the program.
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dshield_tests::agent::{Agent, Code, Function, Launch, Project};
use dshield_tests::client::{self, Error};
use dshield_tests::load::percentile;
use dshield_tests::{built, requires, workspace};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::Effort;
use crate::table::Row;

/// A way to run the test function.
#[derive(Clone, Copy, Debug)]
enum Language {
    Native,
    Python,
    Node,
}

impl Language {
    /// Those that this machine has.
    fn all() -> Vec<Self> {
        let installed = |language: &Self| match language {
            Self::Native => true,
            Self::Python => requires::requires("python3"),
            Self::Node => requires::requires("node"),
        };
        [Self::Native, Self::Python, Self::Node].into_iter().filter(installed).collect()
    }

    fn function(self, name: &str) -> Function {
        match self {
            Self::Native => Function::probe(name),
            Self::Python => Function::new(name, "python3", Code::Folder(self.code())).handler("app.handler"),
            Self::Node => Function::new(name, "node", Code::Folder(self.code())).handler("index.handler"),
        }
    }

    fn code(self) -> PathBuf {
        workspace().join("tests/functions").join(if matches!(self, Self::Node) { "node" } else { "python" })
    }

    /// The same handler behind plain HTTP.
    fn serve(self) -> Result<Command, Error> {
        let script = |interpreter: &str, file: &str| {
            let mut command = Command::new(interpreter);
            // The sources stay as they are: no __pycache__.
            command.env("PYTHONDONTWRITEBYTECODE", "1").arg(self.code().join(file));
            command
        };
        Ok(match self {
            Self::Native => {
                let mut command = Command::new(built("probe").ok_or("the probe is not built")?);
                command.arg("serve");
                command
            }
            Self::Python => script("/usr/bin/python3", "serve.py"),
            Self::Node => script("node", "serve.js"),
        })
    }

    /// The same handler, once, as a program.
    fn once(self, event: &Value) -> Result<Command, Error> {
        let mut command = match self {
            Self::Native => Command::new(built("probe").ok_or("the probe is not built")?),
            Self::Python => {
                let mut command = Command::new("/usr/bin/python3");
                let run = "import sys, json; sys.path.insert(0, sys.argv[1]); import app; \
                    print(json.dumps(app.handler(json.loads(sys.argv[2]), None)))";
                command.arg("-B").args(["-c", run]).arg(self.code());
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                let run = "require(process.argv[1] + '/index.js').handler(JSON.parse(process.argv[2]))\
                    .then((answer) => console.log(JSON.stringify(answer)))";
                command.args(["-e", run]).arg(self.code());
                command
            }
        };
        command.arg(event.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

/// p50 and p99 of invoking a warm function over one connection.
pub fn warm(effort: Effort) -> Result<Vec<Row>, Error> {
    let languages = Language::all();
    let name = |language: &Language| format!("{language:?}").to_lowercase();
    let project =
        languages.iter().fold(Project::new(), |project, language| project.with(&language.function(&name(language))));
    let agent = Agent::launch(&project, Launch::default())?;
    let mut rows = Vec::new();
    for language in languages {
        let path = format!("/2015-03-31/functions/{}/invocations", name(&language));
        let mut with = latencies(agent.address(), &path, effort.warm)?;
        let server = Server::start(language.serve()?)?;
        let mut without = latencies(server.address, "/", effort.warm)?;
        for percent in [50, 99] {
            rows.push(Row {
                what: format!("warm invoke, {}, p{percent}", name(&language)),
                with: milliseconds(percentile(&mut with, percent)),
                without: milliseconds(percentile(&mut without, percent)),
                unit: "ms",
                peer: "plain HTTP to the same handler",
            });
        }
    }
    Ok(rows)
}

/// p50 of the first invocation of a function: each of many functions is started once.
pub fn cold(effort: Effort) -> Result<Vec<Row>, Error> {
    let event = json!({"do": "echo"});
    let mut rows = Vec::new();
    for language in Language::all() {
        let names: Vec<_> = (0..effort.cold).map(|number| format!("f{number}")).collect();
        let project = names.iter().fold(Project::new(), |project, name| project.with(&language.function(name)));
        let agent = Agent::launch(&project, Launch::default())?;
        let mut with = Vec::new();
        for name in &names {
            let started = Instant::now();
            let answer = agent.invoke(name, &event);
            with.push(micros(started.elapsed()));
            if answer.status != 200 || answer.header("x-amz-function-error").is_some() {
                return Err(format!("status {}: {}", answer.status, answer.text()).into());
            }
        }
        let mut without = Vec::new();
        for _ in 0..effort.cold {
            let mut command = language.once(&event)?;
            let started = Instant::now();
            if !command.status()?.success() {
                return Err(format!("{command:?} failed").into());
            }
            without.push(micros(started.elapsed()));
        }
        rows.push(Row {
            what: format!("cold start, {}, p50", format!("{language:?}").to_lowercase()),
            with: milliseconds(percentile(&mut with, 50)),
            without: milliseconds(percentile(&mut without, 50)),
            unit: "ms",
            peer: "the same program started plainly",
        });
    }
    Ok(rows)
}

/// A comparison server; killed when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it and reads its port from the first line of its output.
    fn start(mut command: Command) -> Result<Self, Error> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("stdout was asked for")?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        BufReader::new(stdout).read_line(&mut line)?;
        server.address.set_port(line.trim().parse()?);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Microseconds of each of `count` invocations, after a few that warm it up.
fn latencies(address: SocketAddr, path: &str, count: usize) -> Result<Vec<u64>, Error> {
    const WARM_UP: usize = 20;
    let event = json!({"do": "echo", "text": "x".repeat(100)}).to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut latencies = Vec::with_capacity(count);
        for number in 0..count + WARM_UP {
            let request = Request::post(path).header("host", "bench").body(Full::from(event.clone()))?;
            let started = Instant::now();
            let answer = client::send(&mut sender, request).await?;
            if answer.status != 200 || answer.body != event.as_bytes() && answer.json() != event_value(&event)? {
                return Err(format!("status {}: {}", answer.status, answer.text()).into());
            }
            if number >= WARM_UP {
                latencies.push(micros(started.elapsed()));
            }
        }
        Ok(latencies)
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), work).await? })
}

fn event_value(event: &str) -> Result<Value, Error> {
    Ok(serde_json::from_str(event)?)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

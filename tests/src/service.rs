//! `dshield-verify serve`, run as an operator does.
use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::Value;

use crate::agent::{Process, binary};
use crate::client::{self, Answer};
use crate::verifier::Verifier;
use crate::wait;

/// A running verification service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    process: Process,
    address: SocketAddr,
}

impl Service {
    /// Starts it on a free port of 127.0.0.1, in the folder of `operator`, with this `deployments.toml`. Panics with its
    /// output when it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(operator: &Verifier, deployments: &str) -> Self {
        let file = operator.write("deployments.toml", deployments);
        let (program, state) = (binary().with_file_name("dshield-verify"), operator.file("memory"));
        let program = program.to_string_lossy().into_owned();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--deployments", &file, "--state", &state, "--offline"];
        let line: Vec<String> = [program.as_str()].iter().chain(&arguments).map(|&word| word.to_owned()).collect();
        let (process, ready) = Process::start(&line, &[], operator.folder()).unwrap_or_else(|error| panic!("{error}"));
        let address = ready.strip_prefix("dshield-verify serving http://").and_then(|at| at.trim().parse().ok());
        let address = address.unwrap_or_else(|| panic!("{}", process.unexpected(&ready)));
        Self { process, address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of this path of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What a GET answers. Panics when there is no answer.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// What a POST of JSON answers. Panics when there is no answer.
    #[must_use]
    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.ask("POST", path, body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let answer = client::request(self.address, method, path, body, wait::scaled(wait::PATIENCE));
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// What is said about a deployment, once `wanted` is content with it. Panics when it never is.
    #[track_caller]
    pub fn verdict_with(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/deployments/{name}/verdict");
        wait::until(what, || {
            let answer = self.get(&path);
            (answer.status == 200).then(|| answer.json()).filter(&wanted)
        })
    }

    /// What it has said to its operator.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Stops it with SIGTERM, waits, and returns its exit code; `None` when a signal ended it.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.terminate()
    }
}

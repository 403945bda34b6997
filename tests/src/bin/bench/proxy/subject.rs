//! What is measured: a peer, or the agent with one of its functions as the client.
use std::fs;
use std::path::Path;
use std::time::Duration;

use dshield_tests::agent::{Agent, Code, Egress, Function, Launch, Project};
use dshield_tests::built;
use dshield_tests::client::{self, Error};
use serde_json::{Value, json};

use super::peers::Peer;
use super::pki::Pki;
use super::upstream::Upstream;
use super::usage::Usage;

/// The name whose connections are inspected.
pub const INSPECTED: &str = "inspected.bench.example";
/// The name whose connections are passed through.
pub const PASSED: &str = "passed.bench.example";

const FUNCTION: &str = "client";
/// In the function's code folder.
const CA: &str = "upstream-ca.pem";

/// How the proxy treats TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It chooses by the ClientHello and passes bytes on.
    Passthrough,
    /// It ends TLS on both sides.
    Inspect,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Passthrough, Self::Inspect];

    /// The name that the client asks for.
    pub fn host(self) -> &'static str {
        match self {
            Self::Passthrough => PASSED,
            Self::Inspect => INSPECTED,
        }
    }

    /// As in a policy.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Inspect => "inspect",
        }
    }
}

/// One column of a table.
#[derive(Debug)]
pub struct Subject {
    /// What the table calls it.
    pub name: &'static str,
    /// Among whom it is compared.
    pub kind: Kind,
    /// What it is.
    pub proxy: Proxy,
}

/// What stands between client and upstream.
#[derive(Debug)]
pub enum Proxy {
    /// D-Shield.
    Agent(Walled),
    /// Another.
    Peer(Peer),
}

impl Subject {
    /// Whether it is D-Shield.
    pub fn is_ours(&self) -> bool {
        matches!(self.proxy, Proxy::Agent(_))
    }

    /// Runs the client with this event, and gives what it measured.
    pub fn load(&self, event: Value) -> Result<Value, Error> {
        let answer = match &self.proxy {
            Proxy::Agent(walled) => walled.load(self.kind, event)?,
            Proxy::Peer(peer) => peer.load(event)?,
        };
        if answer["failed"].is_string() || answer["errorMessage"].is_string() {
            return Err(answer.to_string().into());
        }
        Ok(answer)
    }

    /// What the proxy, without the client, has used up to now.
    pub fn usage(&self) -> Usage {
        match &self.proxy {
            Proxy::Agent(walled) => Usage::of(walled.agent.pid()),
            Proxy::Peer(peer) => peer.usage(),
        }
    }
}

/// An agent with the client as its function.
#[derive(Debug)]
pub struct Walled {
    // Before the project: the agent works in its folder.
    agent: Agent,
    _project: Project,
    _state: tempfile::TempDir,
}

impl Walled {
    /// Starts an agent with these settings of `[policy]`, whose log is on the disk that `beside` is on.
    pub fn start(
        kind: Kind,
        settings: &[(&str, &str)],
        pki: &Pki,
        upstream: &Upstream,
        beside: &Path,
    ) -> Result<Self, Error> {
        let pin = format!("[{}]", json!(upstream.listen(0)?.to_string()));
        let rule = Egress::to(kind.host()).tls(kind.word()).set("resolve", &pin);
        let rule = match kind {
            Kind::Inspect => rule.set("ca", &json!(pki.ca.to_string_lossy()).to_string()),
            Kind::Passthrough => rule,
        };
        let state = tempfile::Builder::new().prefix("bench-log-").tempdir_in(beside)?;
        let code = state.path().join("code");
        fs::create_dir(&code)?;
        fs::copy(built("probe").ok_or("the probe is not built")?, code.join("bootstrap"))?;
        fs::copy(&pki.ca, code.join(CA))?;
        let function = Function::new(FUNCTION, "native", Code::Folder(code))
            .timeout("10m")
            .concurrency(1)
            .set("memory", "\"1GiB\"");
        let function = function.egress(&rule);
        let project = settings.iter().fold(Project::new(), |project, (key, value)| project.set(key, value));
        let project = project.with(&function);
        let launch = Launch { state: Some(state.path().join("state")), ..Launch::default() };
        Ok(Self { agent: Agent::launch(&project, launch)?, _project: project, _state: state })
    }

    fn load(&self, kind: Kind, mut event: Value) -> Result<Value, Error> {
        const PATIENCE: Duration = Duration::from_secs(600);
        event["do"] = json!("load");
        event["host"] = json!(kind.host());
        if kind == Kind::Passthrough {
            // The upstream's own certificate, of which the sandbox's bundle knows nothing.
            event["bundle"] = json!(format!("/var/task/{CA}"));
        }
        let path = format!("/2015-03-31/functions/{FUNCTION}/invocations");
        let answer = client::request(self.agent.address(), "POST", &path, event.to_string(), PATIENCE)?;
        if answer.status != 200 {
            return Err(format!("status {}: {}", answer.status, answer.text()).into());
        }
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

//! A stand-in, a tripwire and an agent that runs the same function in three languages.
//!
//! The function does what its event says (`functions/python/app.py`, `functions/node/index.js`, the `probe`
//! binary) and answers `{"failed": step, "why": text}` when it could not.
use serde_json::{Value, json};

use crate::agent::{Agent, Code, Egress, Function, Log, Project};
use crate::standin::{NAME, Standin};
use crate::tripwire::Tripwire;
use crate::{requires, workspace};

/// The text that tries to leave.
pub const SECRET: &str = "the patient's name is Ada";

/// Everything that a test of allowed and refused traffic needs.
#[derive(Debug)]
pub struct Scene {
    /// Plays api.anthropic.com.
    pub standin: Standin,
    /// Where refused traffic would arrive.
    pub tripwire: Tripwire,
    /// Runs the functions of [`Self::functions`].
    pub agent: Agent,
    functions: Vec<&'static str>,
    _project: Project,
}

impl Scene {
    /// Starts all three; `None`, with the reason printed, where the machine lacks something.
    /// Allowed is `POST api.anthropic.com:443/v1/messages`, nothing else.
    #[must_use]
    pub fn start() -> Option<Self> {
        if !requires::require_root() {
            return None;
        }
        let standin = Standin::start();
        let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/v1/messages"]);
        let code = |language: &str| Code::Folder(workspace().join("tests/functions").join(language));
        let mut functions = vec![Function::probe("native").egress(&rule)];
        let mut names = vec!["native"];
        if requires::requires("python3") {
            functions.push(Function::new("python", "python3", code("python")).handler("app.handler").egress(&rule));
            names.push("python");
        }
        if requires::requires("node") {
            functions.push(Function::new("node", "node", code("node")).handler("index.handler").egress(&rule));
            names.push("node");
        }
        let project = functions.iter().fold(Project::new(), Project::with);
        let agent = Agent::start(&project);
        Some(Self { standin, tripwire: Tripwire::start(), agent, functions: names, _project: project })
    }

    /// The functions that this machine can run.
    #[must_use]
    pub fn functions(&self) -> &[&'static str] {
        &self.functions
    }

    /// In every language: `event` fails inside the function, is refused by `layer` for `reason`, and
    /// nothing of it arrives anywhere.
    #[track_caller]
    pub fn refuses(&self, event: &Value, layer: &str, reason: &str) {
        for function in self.functions() {
            let answer = self.agent.call(function, event);
            assert!(answer["failed"].is_string(), "{function}: {event} was not refused but gave {answer}");
            self.expect_refusal(function, layer, reason);
        }
        self.expect_silence();
    }

    /// In every language: `event` gets `status` from D-Shield itself, and nothing of it arrives anywhere.
    #[track_caller]
    pub fn answers(&self, event: &Value, status: u16, layer: &str, reason: &str) {
        for function in self.functions() {
            let answer = self.agent.call(function, event);
            assert_eq!(answer["status"], status, "{function}: {event} gave {answer}");
            self.expect_refusal(function, layer, reason);
        }
        self.expect_silence();
    }

    /// The log says that `function` was refused by `layer` for `reason`, and it verifies.
    #[track_caller]
    pub fn expect_refusal(&self, function: &str, layer: &str, reason: &str) -> Log {
        let has = |log: &Log| log.refused(function).iter().any(|r| r.layer == layer && r.reason == reason);
        let log = self.agent.log_with(&format!("{function}: refused by {layer} for {reason}"), has);
        assert_eq!(log.verify(), Ok(()));
        log
    }

    /// Nothing at all has arrived.
    #[track_caller]
    pub fn expect_silence(&self) {
        let (seen, arrivals) = (self.standin.seen(), self.tripwire.arrivals());
        assert!(seen.is_empty(), "the stand-in saw {seen:?}");
        assert!(arrivals.is_empty(), "the tripwire saw {arrivals:?}");
    }
}

/// The one allowed request, as an event for the functions.
#[must_use]
pub fn allowed() -> Value {
    let message = json!({"role": "user", "content": SECRET});
    json!({
        "do": "https", "host": NAME, "method": "POST", "path": "/v1/messages",
        "headers": {"x-api-key": "test", "anthropic-version": "2023-06-01", "content-type": "application/json"},
        "body": json!({"model": "claude", "max_tokens": 64, "messages": [message]}).to_string(),
    })
}

/// [`allowed`], but with these fields instead.
#[must_use]
pub fn allowed_but(changes: Value) -> Value {
    let mut event = allowed();
    if let (Some(event), Value::Object(changes)) = (event.as_object_mut(), changes) {
        event.extend(changes);
    }
    event
}

//! A Python function that runs the code in its event: for tests that look at one thing from inside.
//!
//! `functions/script/app.py` has what the code can use.
use serde_json::{Value, json};

use crate::agent::{Agent, Code, Function};
use crate::workspace;

/// The function. Python must be there: see [`crate::requires::requires`].
#[must_use]
pub fn function(name: &str) -> Function {
    Function::new(name, "python3", Code::Folder(workspace().join("tests/functions/script"))).handler("app.handler")
}

/// Runs `code` in the function and returns what it leaves in `answer`. Panics when the code raises.
#[must_use]
#[track_caller]
pub fn run(agent: &Agent, function: &str, code: &str) -> Value {
    run_with(agent, function, code, json!({}))
}

/// [`run`], with more fields for the code to read from `event`.
#[must_use]
#[track_caller]
pub fn run_with(agent: &Agent, function: &str, code: &str, mut event: Value) -> Value {
    event["code"] = json!(code);
    agent.call(function, &event)
}

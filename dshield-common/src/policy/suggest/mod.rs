//! From a log to the rules that it lacks: what a person would add to `dshield.toml` after reading it.
//!
//! Entries flow in one by one, in their order, verified by whoever reads them; TOML flows out, to be read and then pasted
//! below a function. What functions wrote into the entries decides nothing but which rules are proposed, and no byte of
//! it leaves its string or its comment.
//!
//! A proposed rule allows what was seen and nothing else: the exact host, the ports, and of methods and paths only the
//! pairs that occurred. What no rule may allow is listed as comments, with how often it happened.
//!
//! Of a run that was only observed, the connections and requests that went on are known one by one, as those of a run
//! that was refused at its first step are not.
//!
//! * `seen`: entries to what each function tried
//! * `draft`: that, and the rules there are, to the rules that are missing
//! * `write`: those to TOML
mod draft;
mod seen;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, HashMap};

use self::seen::{Connection, Seen};
use super::decide::OBSERVE;
use super::types::{FunctionPolicy, Policy};
use crate::log::entry::{Entry, Event};

/// Collects what a log's entries tell of rules that are missing.
#[derive(Debug, Default)]
pub struct Suggestions {
    /// By function. The name is whatever the log says.
    functions: BTreeMap<String, Seen>,
    /// Of the boot that is being read: numbers of connections are unique in it.
    connections: HashMap<u64, Connection>,
}

impl Suggestions {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next entry.
    pub fn take(&mut self, entry: &Entry) {
        let event = &entry.record.event;
        match event {
            Event::Boot(_) => self.connections.clear(),
            Event::Connect(connect) => {
                self.connections.insert(connect.connection, Connection::of(connect));
            }
            _ => {}
        }
        let Some(function) = &entry.record.subject.function else { return };
        let seen = self.functions.entry(function.clone()).or_default();
        match event {
            Event::Refused(refused) => {
                let connection = refused.connection.and_then(|number| self.connections.get(&number));
                seen.refused(function, refused, connection);
            }
            Event::Connect(connect) if connect.rule == OBSERVE => seen.observed_connection(connect),
            Event::Request(request) if request.rule.as_deref() == Some(OBSERVE) => {
                if let Some(connection) = self.connections.get(&request.connection) {
                    seen.observed_request(request, connection);
                }
            }
            _ => {}
        }
    }

    /// The rules that are missing, as TOML: the same text for the same entries and policy. With `policy` a rule is not
    /// proposed where one is there that has only to be changed; how is a comment then.
    #[must_use]
    pub fn to_toml(&self, policy: Option<&Policy>) -> String {
        let mut out = write::Text::default();
        out.comment("Read each rule before you keep it: a log tells what a function tried, not whether it should.");
        for (name, seen) in &self.functions {
            let rules = policy.and_then(|policy| rules_of(policy, name));
            if policy.is_some() && rules.is_none() {
                out.gap();
                out.comment(&format!("The policy has no function `{name}`."));
            }
            let drafted = draft::draft(seen, rules);
            out.gap();
            if drafted.rules.is_empty() && drafted.changes.is_empty() {
                out.comment(&format!("For the function `{name}` no rule is missing."));
            } else {
                out.comment(&format!("Below the function `{name}`:"));
            }
            out.function(&drafted, seen);
        }
        if self.functions.is_empty() {
            out.comment("No function ran.");
        }
        out.into_string()
    }
}

fn rules_of<'p>(policy: &'p Policy, name: &str) -> Option<&'p FunctionPolicy> {
    policy.functions.iter().find(|function| function.name.as_str() == name).map(AsRef::as_ref)
}

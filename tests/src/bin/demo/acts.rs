//! The acts: what is allowed, what is refused, what the log says, and whether it is true.
use dshield_common::log::entry::{Event, Refused};
use dshield_tests::agent::{Agent, Code, Egress, Function, Launch, Log, Project, StartError, in_words};
use dshield_tests::standin::{NAME, PAUSE, Standin};
use dshield_tests::tripwire::Tripwire;
use dshield_tests::verifier::Verifier;
use dshield_tests::{wait, workspace};
use serde_json::{Value, json};
use std::time::Duration;

use crate::story::Story;

const FUNCTION: &str = "summarize";
const TEXT: &str = "Patient Ada, born 1815, was seen on Tuesday; the results are to go to nobody but the doctor.";

/// A way to carry the text off.
struct Leak {
    name: &'static str,
    what: &'static str,
    layer: &'static str,
    reason: &'static str,
}

const LEAKS: [Leak; 5] = [
    Leak { name: "host", what: "to a host on no list", layer: "dns", reason: "name_not_allowed" },
    Leak { name: "ip", what: "to a bare IP address", layer: "connect", reason: "address_not_allowed" },
    Leak { name: "port", what: "to another port of the allowed host", layer: "connect", reason: "port_not_allowed" },
    Leak { name: "dns", what: "inside a DNS name", layer: "dns", reason: "name_not_allowed" },
    Leak { name: "udp", what: "in a UDP datagram", layer: "kernel", reason: "udp_port" },
];

/// Everything that runs while the story is told.
pub struct Stage {
    agent: Agent,
    standin: Option<Standin>,
    tripwire: Tripwire,
    _project: Project,
}

impl Stage {
    /// Starts stand-in (unless `live_key` is given), tripwires and agent.
    pub fn set(story: &mut Story, live_key: Option<&str>) -> Result<Self, StartError> {
        story.chapter("The scene");
        let (tripwire, rule) = (Tripwire::start(), Egress::to(NAME).methods(&["POST"]).paths(&["/v1/messages"]));
        let standin = live_key.is_none().then(Standin::start);
        let rule = standin.as_ref().map_or(rule.clone(), |standin| rule.pinned(standin));
        match &standin {
            Some(standin) => {
                story.say(&format!("A stand-in plays {NAME} at {} (TLS, its own test CA).", standin.addr()))
            }
            None => story.say(&format!("The upstream is the real {NAME}.")),
        }
        story.say(&format!(
            "A tripwire listens at {} (TCP) and {} (UDP): nothing may reach it.",
            tripwire.tcp(),
            tripwire.udp()
        ));
        let code = Code::Folder(workspace().join("examples/summarize/functions/summarize"));
        let function = Function::new(FUNCTION, "python3", code)
            .handler("app.handler")
            .timeout("90s")
            .env(&[("ANTHROPIC_API_KEY", live_key.unwrap_or("stand-in-key"))])
            .egress(&rule);
        let project = Project::new().with(&function);
        let name = format!("demo-{}", std::process::id());
        let launch = Launch { name, tls: Some(true), attestation: Some("development"), ..Launch::default() };
        let agent = Agent::launch(&project, launch)?;
        story.say(&format!("The agent is ready at {}.", agent.url()));
        story.say(&format!("The policy: {FUNCTION} (Python) may POST https://{NAME}/v1/messages. Nothing else."));
        Ok(Self { agent, standin, tripwire, _project: project })
    }

    /// Plays all acts.
    pub fn play(self, story: &mut Story) {
        self.allowed(story);
        self.refused(story);
        // The last refusals and the ends of connections reach the log a moment after the function's answer.
        wait::within(Duration::from_secs(5), || self.agent.log().refused(FUNCTION).get(LEAKS.len() - 1).map(|_| ()));
        let log = self.agent.log();
        told(story, &log);
        self.checked(story, &log);
        self.verified(story);
    }

    fn allowed(&self, story: &mut Story) {
        story.chapter("What the function may do");
        let plain = self.invoke(&json!({ "text": TEXT }));
        story.expect("It posts the text and gets a summary.", text(&plain, "summary").is_some(), &plain.to_string());
        story.aside(text(&plain, "summary").unwrap_or(""));
        let streamed = self.invoke(&json!({"text": TEXT, "stream": true}));
        let arrived: Vec<u64> =
            streamed["arrived_ms"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let (first, last) = (arrived.first().copied().unwrap_or(0), arrived.last().copied().unwrap_or(0));
        let least = if self.standin.is_some() { PAUSE.as_millis() as u64 * 5 } else { 1 };
        let came = arrived.len() > 1 && last >= first + least;
        story.expect("Streamed, the words come one after the other.", came, &streamed.to_string());
        story.aside(&format!("{} pieces, the first after {first} ms, the last after {last} ms", arrived.len()));
    }

    fn refused(&self, story: &mut Story) {
        story.chapter("What happens when the same function leaks");
        for leak in &LEAKS {
            let from = self.agent.log().lines.len();
            let to = if leak.name == "udp" { self.tripwire.udp() } else { self.tripwire.tcp() };
            let told = self.invoke(&json!({"text": TEXT, "leak": leak.name, "to": to.to_string()}));
            let found = wait::within(Duration::from_secs(5), || refusal(&self.agent.log(), from, leak));
            let held = told["sent"] == false && found.is_some();
            let sentence = format!("It tries to send the text {}: refused.", leak.what);
            let why = if found.is_some() {
                told.to_string()
            } else {
                format!("no refusal in the log; the function says {told}")
            };
            story.expect(&sentence, held, &why);
            let said = |field| text(&told, field).unwrap_or("?");
            story.aside(&format!("{}: {}", said("tried"), said("happened")));
            if let Some((seq, refused)) = found {
                let Refused { layer, reason, rule, detail, .. } = refused;
                story.aside(&format!("entry #{seq}: {layer} {reason}, by {}: {detail}", rule_in_words(&rule)));
            }
        }
    }

    fn checked(&self, story: &mut Story, log: &Log) {
        story.chapter("Is it true?");
        let verdict = log.verify();
        let last = log.lines.len().saturating_sub(1);
        let sentence = format!("The log is numbered from 0 to {last} without a gap, and every signature is right.");
        story.expect(&sentence, verdict.is_ok(), &verdict.err().unwrap_or_default());
        let begun = log.requests(FUNCTION);
        let paths: Vec<_> = begun.iter().map(|request| (request.method.as_deref(), request.path.as_deref())).collect();
        let post = (Some("POST"), Some("/v1/messages"));
        story.expect("It holds exactly the two allowed requests.", paths == [post, post], &format!("{paths:?}"));
        if let Some(standin) = &self.standin {
            let seen = standin.seen();
            let allowed = seen.iter().all(|seen| seen.method == "POST" && seen.path == "/v1/messages");
            story.expect(
                "The stand-in saw these two requests and no other.",
                seen.len() == 2 && allowed,
                &format!("{seen:?}"),
            );
        }
        let arrivals = self.tripwire.arrivals();
        story.expect("Nothing reached the tripwire.", arrivals.is_empty(), &format!("{arrivals:?}"));
    }

    /// The last word is a stranger's, who has nothing but the URL.
    fn verified(&self, story: &mut Story) {
        story.chapter("What a stranger can check");
        let (stranger, url) = (Verifier::new(), self.agent.url());
        story.say(&format!("$ dshield-verify {url}"));
        let left = stranger.run([url.as_str(), "--offline"]);
        let sentence =
            "This is no TDX machine, its quotes are made for development, and the verifier says so (exit code 10).";
        story.expect(sentence, left.code == Some(10) && left.stdout.contains("DEVELOPMENT"), &left.stdout);
        let expect = stranger.keep(&url);
        story.say("$ dshield-verify … --insecure-development --expect expect.toml");
        let (code, verdict) = stranger.json([&url, "--offline", "--insecure-development", "--expect", &expect]);
        let list = |name: &str| verdict[name].as_array().cloned().unwrap_or_default();
        for step in list("steps") {
            let said = |field| text(&step, field).unwrap_or("?").to_owned();
            story.aside(&format!("{}  {}: {}", said("result"), said("step"), said("says")));
        }
        for row in list("destinations") {
            let said = |field| text(&row, field).unwrap_or("nothing more").to_owned();
            story.say(&format!("{} can send data to {}: {}.", said("who"), said("to"), said("limits")));
        }
        let sentence =
            "Told to go on all the same, and what to expect, it verifies machine, policy and log (exit code 0).";
        story.expect(sentence, code == Some(0), &verdict.to_string());
    }

    fn invoke(&self, event: &Value) -> Value {
        let answer = self.agent.invoke(FUNCTION, event);
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()))
    }
}

fn told(story: &mut Story, log: &Log) {
    story.chapter("The signed log");
    for line in &log.lines {
        story.entry(&in_words(&line.entry), matches!(line.entry.record.event, Event::Refused(_)));
    }
}

/// The first refusal of this kind at or after entry `from`.
fn refusal(log: &Log, from: usize, leak: &Leak) -> Option<(u64, Refused)> {
    log.lines.iter().skip(from).find_map(|line| match &line.entry.record.event {
        Event::Refused(refused) if refused.layer == leak.layer && refused.reason == leak.reason => {
            Some((line.entry.seq, refused.clone()))
        }
        _ => None,
    })
}

fn rule_in_words(rule: &str) -> String {
    if rule == "default" { "the default: no rule allows it".into() } else { format!("rule {rule}") }
}

fn text<'a>(answer: &'a Value, field: &str) -> Option<&'a str> {
    answer[field].as_str().filter(|text| !text.is_empty())
}

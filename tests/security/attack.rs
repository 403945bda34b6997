//! One attack: an agent with some walls, a victim, the attacker, and what it got.
use std::collections::BTreeMap;
use std::time::Duration;

use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Code, Function, Launch, Log, Project};
use dshield_tests::catalogue::{TECHNIQUES, Technique, Witness, number};
use dshield_tests::world::World;
use dshield_tests::{built, wait};
use serde_json::json;

/// How long the attacker may take for everything, on a slow machine.
const ATTACK: Duration = Duration::from_secs(300);

/// What to attack.
#[derive(Clone, Debug)]
pub enum Program {
    /// `dshield`.
    Real,
    /// `dshield-unwalled` without these walls.
    Without(Vec<&'static str>),
}

/// What a technique got.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it got out.
    pub escaped: bool,
    /// What the attacker says about it.
    pub said: String,
}

/// A finished attack; agent and world still run.
pub struct Attack {
    pub agent: Agent,
    pub outcomes: BTreeMap<&'static str, Outcome>,
    // Behind the agent, which runs in it.
    pub world: World,
    _project: Project,
}

impl Attack {
    /// Starts everything, lets the attacker do its worst, and looks at what got out.
    pub fn run(program: &Program) -> Self {
        let world = World::make();
        let environment = world.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let attacker = |name: &str| {
            let code = Code::Executable(built("attacker").expect("cargo builds this crate's `attacker`"));
            Function::new(name, "native", code).set("memory", "\"128MiB\"").timeout("300s")
        };
        let victim = attacker("victim").env(&[("ATTACK_ROLE", "victim")]);
        let functions = [victim, attacker("attacker").env(&environment), Function::probe("bystander")];
        let project = functions.iter().fold(Project::new(), Project::with);
        let mut wrapper = world.wrapper();
        let binary = match program {
            Program::Real => None,
            Program::Without(walls) => {
                wrapper.extend(["env".to_owned(), format!("DSHIELD_WALLS_OFF={}", walls.join(","))]);
                Some(built("dshield-unwalled").expect("the test asked for it"))
            }
        };
        let launch = Launch { wrapper, binary, ..Launch::default() };
        let agent = Agent::launch(&project, launch).unwrap_or_else(|error| panic!("{program:?}: {error}"));

        // It never answers; its invocation ends with the agent.
        let _victim = world.on(|| agent.invoke_aside("victim", &json!({})));
        wait::until("the victim", || agent.stderr().contains("victim ready").then_some(()));
        // The attacker ends by itself, or the kernel ends it; the invocation fails then.
        let attack = world.on(|| agent.invoke_aside("attacker", &json!({})));
        let ended = wait::within(ATTACK, || attack.is_finished().then_some(()));
        assert!(ended.is_some(), "{program:?}: the attacker did not end:\n{}", agent.stderr());
        // Where memory is bounded, one of these may end the instance before it can say anything.
        let bounded = |technique: &&Technique| ["tmp_full", "many_tasks", "memory_bomb"].contains(&technique.name);
        let log = world.on(|| agent.log_with("the attacker's end", |log| end(log).is_some()));
        let killed = end(&log).is_some_and(|reason| reason.starts_with("signal"));
        let said = wait::until("everything that the attacker says", || {
            let said = report(&agent.stderr());
            let mut sure = TECHNIQUES.iter().filter(|technique| !(killed && bounded(technique)));
            sure.all(|technique| said.contains_key(technique.name)).then_some(said)
        });
        let arrived = world.arrived();
        let outcome = |technique: &Technique| {
            let (did, said) = said.get(technique.name).cloned().unwrap_or((false, "the instance was ended".to_owned()));
            let arrived = number(technique.name).is_some_and(|number| arrived.contains(&number));
            let escaped = arrived || (technique.witness == Witness::Attacker && did);
            Outcome { escaped, said }
        };
        let outcomes = TECHNIQUES.iter().map(|technique| (technique.name, outcome(technique))).collect();
        Self { agent, outcomes, world, _project: project }
    }

    /// What got out, with what the attacker says.
    pub fn escaped(&self) -> Vec<(&'static str, &str)> {
        let escaped = self.outcomes.iter().filter(|(_, outcome)| outcome.escaped);
        escaped.map(|(name, outcome)| (*name, outcome.said.as_str())).collect()
    }
}

/// How the attacker's instance has ended.
fn end(log: &Log) -> Option<String> {
    log.events().find_map(|(function, event)| match event {
        Event::Function(life) if function == Some("attacker") && life.phase == Phase::End => life.reason.clone(),
        _ => None,
    })
}

/// `… function: attack NAME did|not DETAIL function="attacker" …` by name.
fn report(stderr: &str) -> BTreeMap<String, (bool, String)> {
    let lines = stderr.lines().filter_map(|line| {
        let said = line.split_once("attack ")?.1.split(" function=\"").next()?;
        let (name, said) = said.split_once(' ')?;
        let (verdict, detail) = said.split_once(' ').unwrap_or((said, ""));
        matches!(verdict, "did" | "not").then(|| (name.to_owned(), (verdict == "did", detail.to_owned())))
    });
    lines.collect()
}

//! The agent is killed again and again under traffic, and what the upstream wrote down is compared with the log each time:
//! nothing arrived that the log lacks.
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use dshield_common::log::entry::{Event, Phase};
use dshield_tests::agent::{Agent, Egress, Function, Launch, Line, Project};
use dshield_tests::command::dshield;
use dshield_tests::requires::require_root;
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::wait;
use dshield_verify::log::{Expectations, LogVerifier};
use serde_json::json;
use tempfile::TempDir;

/// Kills in all; another number is asked for with the variable.
const ROUNDS: u32 = 100;
const ROUNDS_VARIABLE: &str = "DSHIELD_KILLS";
/// Logs that are killed side by side.
const LANES: u32 = 2;
/// Kills before the upstream begins a new list.
const LIST: u32 = 10;

/// One log, whose agents are killed one after the other.
struct Lane {
    number: u32,
    state: TempDir,
    verifier: LogVerifier,
    next: u64,
    boots: u64,
    /// Paths of the requests that the log has.
    logged: HashSet<String>,
    random: u64,
}

impl Lane {
    fn new(number: u32) -> Self {
        let state = tempfile::Builder::new().prefix("dshield-test-").tempdir().expect("a temporary folder");
        let verifier = LogVerifier::new(Expectations::default());
        let random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { number, state, verifier, next: 0, boots: 0, logged: HashSet::new(), random }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn launch(&self) -> Launch {
        Launch { state: Some(self.state.path().to_owned()), ..Launch::default() }
    }

    /// Reads what the log has got since the last time.
    fn read(&mut self, agent: &Agent) {
        loop {
            let page = agent.get(&format!("/v1/log/entries?from={}&limit=1000", self.next));
            assert_eq!(page.status, 200, "{}", page.text());
            let before = self.next;
            for text in page.text().lines() {
                self.verifier.push(text).unwrap_or_else(|fault| panic!("lane {}: {fault}", self.number));
                self.next += 1;
                match Line::parse(text).expect("a line").entry.record.event {
                    Event::Boot(boot) => {
                        self.boots += 1;
                        let closed = boot.previous.and_then(|previous| previous.closed);
                        assert_ne!(closed, Some(true), "boot {} was not closed by anybody", self.boots);
                    }
                    Event::Request(request) if request.phase == Phase::Begin => self.logged.extend(request.path),
                    _ => {}
                }
            }
            if self.next == before {
                return;
            }
        }
    }

    /// Whatever the upstream has seen is in the log.
    fn compare(&self, standin: &Standin) -> usize {
        let seen = standin.seen();
        let unlogged: Vec<_> = seen.iter().filter(|seen| !self.logged.contains(&seen.path)).collect();
        assert!(
            unlogged.is_empty(),
            "lane {}: {} requests are not in the log: {unlogged:?}",
            self.number,
            unlogged.len()
        );
        seen.len()
    }

    /// Kills so many agents: how many requests got out of them.
    fn run(&mut self, rounds: u32) -> usize {
        let mut requests = 0;
        let mut left: VecDeque<u32> = (0..rounds).collect();
        while !left.is_empty() {
            let standin = Standin::start();
            let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/echo/*"]);
            let project = Project::new().with(&Function::probe("native").timeout("120s").egress(&rule));
            for round in left.drain(..left.len().min(LIST as usize)) {
                if round % 10 == 9 {
                    self.kill_at_the_start(&project);
                    continue;
                }
                let mut agent = Agent::launch(&project, self.launch()).unwrap_or_else(|error| panic!("{error}"));
                self.read(&agent);
                self.compare(&standin);
                let before = standin.seen().len();
                let path = format!("/echo/{}-{round}-", self.number);
                let load = json!({"do": "load", "host": NAME, "path": path, "connections": 8, "ms": 60_000, "body_bytes": 100});
                let pending = agent.invoke_aside("native", &load);
                let enough = usize::try_from(self.random(120)).expect("small");
                wait::until("load", || (standin.seen().len() >= before + enough).then_some(()));
                agent.kill9();
                let _ = pending.join();
            }
            settle(&standin);
            let mut agent = Agent::launch(&project, self.launch()).unwrap_or_else(|error| panic!("{error}"));
            self.read(&agent);
            requests += self.compare(&standin);
            agent.kill9();
        }
        requests
    }

    /// Kills one that is not ready yet, or just so.
    fn kill_at_the_start(&mut self, project: &Project) {
        // The agent takes the shell's place, and so its process id.
        let script = format!("(sleep 0.{:03}; kill -9 $$) & exec \"$@\"", 20 + self.random(250));
        let wrapper = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        match Agent::launch(project, Launch { wrapper, ..self.launch() }) {
            Ok(mut agent) => agent.kill9(),
            Err(error) => assert_eq!(error.stdout, "", "it was ready and said something else: {error}"),
        }
    }
}

/// Waits until what is still on its way has arrived.
fn settle(standin: &Standin) {
    let mut last = (0, std::time::Instant::now());
    wait::until("the last requests", || {
        let count = standin.seen().len();
        if count != last.0 {
            last = (count, std::time::Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(200)).then_some(())
    });
}

#[test]
fn a_hundred_agents_killed_under_traffic_leave_a_log_that_lacks_nothing_of_what_arrived() {
    if !require_root() {
        return;
    }
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let lanes: Vec<_> = (1..=LANES)
        .map(|number| {
            std::thread::spawn(move || {
                let mut lane = Lane::new(number);
                let requests = lane.run(rounds / LANES);
                let state = lane.state.path().to_string_lossy().into_owned();
                let told = dshield(["log", "fsck", "--hashes-only", "--state", &state]).printed();
                (requests, lane.boots, told)
            })
        })
        .collect();
    for lane in lanes {
        let (requests, boots, told) = lane.join().expect("the lane has told why");
        assert!(requests > 100 && boots > 10, "only {requests} requests of {boots} boots");
        assert!(told.contains("not closed in order"), "{told}");
        println!("{requests} requests of {boots} boots");
    }
}

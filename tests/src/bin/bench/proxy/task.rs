//! What is asked of each proxy, and the figures that come of it.
use std::time::{Duration, Instant};

use dshield_tests::client::Error;
use serde_json::{Value, json};

use super::subject::Subject;
use super::upstream::Upstream;

/// How much of each.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each subject does each task.
    pub rounds: usize,
    /// How long load that is counted by the second runs.
    pub load: Duration,
    /// The size of a large body.
    pub bytes: u64,
    /// How many connections are idle.
    pub idle: usize,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Many connections that were used once.
    Idle,
    /// A connection for each request, so many at a time.
    Connections(usize),
    /// Requests over so many connections that stay open.
    Requests(usize),
    /// A large body to the client.
    Down,
    /// A large body from the client.
    Up,
}

/// One number that a task yields.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name, to be put behind the task's.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whether more is better.
    pub more: bool,
}

const CPU: &str = "processor time of the proxy";

impl Task {
    /// All, in the order in which they are done: memory first, before anything has grown.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Connections(1),
        Self::Connections(16),
        Self::Requests(1),
        Self::Requests(16),
        Self::Requests(256),
        Self::Down,
        Self::Up,
    ];

    /// What the table calls it.
    pub fn title(self) -> String {
        match self {
            Self::Idle => "idle connection".into(),
            Self::Connections(1) => "new connections, 1 client".into(),
            Self::Connections(clients) => format!("new connections, {clients} clients"),
            Self::Requests(1) => "keep-alive requests, 1 connection".into(),
            Self::Requests(connections) => format!("keep-alive requests, {connections} connections"),
            Self::Down => "download".into(),
            Self::Up => "upload".into(),
        }
    }

    /// What it yields, in the order of [`Task::run`]'s numbers.
    pub fn figures(self) -> &'static [Figure] {
        const fn figure(name: &'static str, unit: &'static str, more: bool) -> Figure {
            Figure { name, unit, more }
        }
        const COUNTED: [Figure; 4] = [
            figure("rate", "1/s", true),
            figure("p50", "ms", false),
            figure("p99", "ms", false),
            figure(CPU, "µs each", false),
        ];
        const MOVED: [Figure; 2] = [figure("throughput", "MiB/s", true), figure(CPU, "s/GiB", false)];
        const HELD: [Figure; 2] = [figure("RSS", "KiB each", false), figure("PSS", "KiB each", false)];
        match self {
            Self::Idle => &HELD,
            Self::Connections(_) | Self::Requests(_) => &COUNTED,
            Self::Down | Self::Up => &MOVED,
        }
    }

    /// How often each subject does it. Memory grows only once.
    pub fn rounds(self, effort: Effort) -> usize {
        if self == Self::Idle { 1 } else { effort.rounds }
    }

    /// Does it once.
    pub fn run(self, effort: Effort, subject: &Subject, upstream: &Upstream) -> Result<Vec<f64>, Error> {
        let before = subject.usage();
        if self == Self::Idle {
            let during = idle(effort, subject, upstream)?;
            let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / effort.idle as f64;
            return Ok(vec![each(during.rss_kib, before.rss_kib), each(during.pss_kib, before.pss_kib)]);
        }
        let answer = subject.load(self.event(effort))?;
        let cpu = (subject.usage().cpu - before.cpu).as_secs_f64();
        let number = |field: &str| answer[field].as_f64().ok_or_else(|| format!("no {field:?} in {answer}"));
        if matches!(self, Self::Down | Self::Up) {
            let mebibytes = number("bytes")? / f64::from(1 << 20);
            return Ok(vec![mebibytes / number("seconds")?, cpu * 1024.0 / mebibytes]);
        }
        // A figure counts only when no request failed.
        if answer["errors"].as_array().is_none_or(|errors| !errors.is_empty()) {
            return Err(answer.to_string().into());
        }
        let each = cpu * 1e6 / number("requests")?;
        Ok(vec![number("per_second")?, number("p50_us")? / 1e3, number("p99_us")? / 1e3, each])
    }

    fn event(self, effort: Effort) -> Value {
        let ms = effort.load.as_millis() as u64;
        match self {
            Self::Idle => json!({"kind": "idle", "path": "/small/", "hold": "/hold", "connections": effort.idle}),
            Self::Connections(clients) => {
                json!({"kind": "connections", "path": "/small/", "connections": clients, "ms": ms})
            }
            Self::Requests(connections) => {
                json!({"kind": "requests", "path": "/small/", "body_bytes": 256, "connections": connections, "ms": ms})
            }
            Self::Down => json!({"kind": "down", "path": format!("/bytes/{}", effort.bytes), "bytes": effort.bytes}),
            Self::Up => json!({"kind": "up", "path": "/sink", "bytes": effort.bytes}),
        }
    }
}

/// What the subject uses while all connections are open.
fn idle(effort: Effort, subject: &Subject, upstream: &Upstream) -> Result<super::usage::Usage, Error> {
    const PATIENCE: Duration = Duration::from_secs(60);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| subject.load(Task::Idle.event(effort)));
        let started = Instant::now();
        let mut held = Err("the client ended too early".into());
        while held.is_err() && !load.is_finished() && started.elapsed() < PATIENCE {
            held = upstream.held(Duration::from_millis(100));
        }
        let during = subject.usage();
        if held.is_ok() {
            upstream.release();
        }
        let answer = load.join().map_err(|_| "the client panicked")??;
        held?;
        if answer["connections"] == effort.idle { Ok(during) } else { Err(answer.to_string().into()) }
    })
}

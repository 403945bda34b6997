//! What the proxy has to reach (the design's budgets), each beside a named peer.
use super::lineup::{HAPROXY, MITMPROXY, NGINX, SQUID};
use super::subject::Kind;
use super::task::Task;

/// At least `factor` times as good as the peer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of which mode.
    pub kind: Kind,
    /// In which task.
    pub task: Task,
    /// Which of its figures.
    pub figure: usize,
    /// Than whom.
    pub peer: &'static str,
    /// How many times as good; 1: no worse.
    pub factor: f64,
}

const RATE: usize = 0;
const P50: usize = 1;

const fn target(kind: Kind, task: Task, figure: usize, peer: &'static str, factor: f64) -> Target {
    Target { kind, task, figure, peer, factor }
}

/// All.
pub const TARGETS: [Target; 9] = [
    target(Kind::Passthrough, Task::Connections(1), P50, HAPROXY, 1.0),
    target(Kind::Passthrough, Task::Down, RATE, HAPROXY, 1.0),
    target(Kind::Passthrough, Task::Up, RATE, HAPROXY, 1.0),
    target(Kind::Inspect, Task::Requests(1), RATE, NGINX, 0.8),
    target(Kind::Inspect, Task::Requests(16), RATE, NGINX, 0.8),
    target(Kind::Inspect, Task::Requests(256), RATE, NGINX, 0.8),
    target(Kind::Inspect, Task::Down, RATE, NGINX, 0.8),
    target(Kind::Inspect, Task::Down, RATE, MITMPROXY, 10.0),
    target(Kind::Inspect, Task::Down, RATE, SQUID, 1.0),
];

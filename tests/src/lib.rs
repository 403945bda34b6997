//! Harness for the black-box tests, the demo and the benchmarks.
//!
//! * [`standin`]: a local upstream that speaks the Messages API and remembers what reached it.
//! * [`tripwire`]: listeners that nothing may ever reach.
//! * [`nameserver`]: a name server that gives every name one address.
//! * [`agent`]: starts the real `dshield` binary with a policy, invokes functions, reads the log.
//! * [`scene`]: the three together, as most tests need them.
//! * [`namespace`]: network namespaces to put them in.
//! * [`world`], [`catalogue`]: a machine with a world outside, and what an attacker tries to get there.
//! * [`tsm`], [`guest_agent`]: a kernel that makes TDX quotes, played by a file system, and dstack's guest agent.
//! * [`tdx`]: what makes their quotes hold, under a root of its own.
//! * [`verifier`]: somebody with `dshield-verify`; [`relay`]: somebody between them and the agent.
//! * [`service`], [`browser`]: `dshield-verify serve`, and Chromium to read its pages with.
//! * [`script`]: a function that runs the Python code in its event.
//! * [`command`], [`shelf`]: one run of the command, and the stored log that it looks at.
//! * [`client`], [`load`], [`port`], [`wait`], [`requires`]: HTTP, keep-alive load, ports, deadlines, skipping.
//!
//! A test describes a [`agent::Project`]; what comes out are answers, log entries and what arrived outside.
#![forbid(unsafe_code)]

pub mod agent;
mod background;
pub mod browser;
pub mod catalogue;
pub mod client;
pub mod command;
pub mod guest_agent;
pub mod load;
pub mod nameserver;
pub mod namespace;
pub mod port;
pub mod relay;
pub mod requires;
pub mod scene;
pub mod script;
pub mod service;
pub mod shelf;
pub mod standin;
pub mod tdx;
pub mod tripwire;
pub mod tsm;
pub mod verifier;
pub mod wait;
pub mod world;

use std::path::PathBuf;

/// The workspace's folder, for examples and function code.
#[must_use]
pub fn workspace() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.clone(), PathBuf::from)
}

/// A binary of this workspace, beside or above the running one in `target/<profile>`.
#[must_use]
pub fn built(name: &str) -> Option<PathBuf> {
    let running = std::env::current_exe().ok()?;
    running.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file())
}

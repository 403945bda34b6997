//! Runs functions: pools of instances that speak the Lambda Runtime API.
//!
//! In: loaded functions, a [`Launcher`] that starts sandboxed instances, and events from `api`.
//! Out: [`Outcome`]s, and `invoke` entries in the log, each `begin` before anything that the invocation sends out.
//!
//! An instance is a process and a listener. [`Pool`] decides which instance gets an event; one `mailbox`
//! per instance carries the event to its `server` (the HTTP side of the Runtime API) and the answer back;
//! a `worker` owns the instance and stops it as soon as nobody wants it or its process has ended.
mod body;
mod bootstrap;
mod handshake;
mod invocation;
mod launch;
mod mailbox;
mod pool;
mod serve;
mod server;
mod worker;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use bootstrap::{Command, arn, command, environment};
pub use invocation::{Ending, InvokeError, Outcome, request_id};
pub use launch::{LaunchError, Launcher};
pub use pool::{Invocation, Pool};

pub(crate) use body::{BodyError, read_body};
pub(crate) use serve::{Limits, Peer, serve};

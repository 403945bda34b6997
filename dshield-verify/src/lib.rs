//! The judge: public data in, a verdict out. No sockets, no files, no clock, but for the command (`cli`, `client`), which is
//! left out without the feature `cli`.
//!
//! * [`judge`]: evidence to a verdict on machine and policy; [`record`]: the log's part of it
//! * [`expect`]: what is expected; [`verdict`]: what came out
//! * [`collateral`]: what to ask a PCCS, and what it answered
//! * [`quote`], [`event_log`], [`compose`]: TDX quotes, what extended their registers, what dstack was given to start
//! * [`log`], [`destinations`]: signed logs, policies as people read them
#![forbid(unsafe_code)]
mod boot;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod client;
pub mod collateral;
pub mod compose;
mod deployment;
pub mod destinations;
pub mod event_log;
pub mod expect;
pub mod judge;
pub mod log;
mod machine;
pub mod quote;
pub mod ratls;
pub mod record;
mod suggestion;
#[cfg(test)]
mod test_vectors;
pub mod time;
pub mod tpm;
pub mod verdict;

pub use self::judge::{Channel, Judged, Options, Presented, judge};
pub use self::verdict::{Outcome, Verdict};

//! The agent and the `dshield` command. `agent` puts the parts together; each part's own page says what
//! flows in and what flows out.
#![deny(unsafe_code)]

pub mod agent;
pub mod api;
pub mod attest;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod harden;
pub mod inspect;
pub mod instance;
#[allow(unsafe_code, reason = "makes system calls that no crate wraps")]
pub mod kernel;
pub mod log;
pub mod proxy;
pub mod refusals;
pub mod runtime;
#[allow(unsafe_code, reason = "makes system calls that no crate wraps")]
pub mod sandbox;
#[allow(unsafe_code, reason = "overwrites what ring gives no other way to")]
pub mod secret;
pub mod secrets;
pub mod snapshot;
pub mod walls;

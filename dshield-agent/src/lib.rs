//! The agent and the `dshield` command. `agent` puts the parts together; each part's own page says what
//! flows in and what flows out.
pub mod agent;
pub mod api;
pub mod attest;
pub mod cli;
pub mod config;
pub mod instance;
pub mod kernel;
pub mod log;
pub mod proxy;
pub mod refusals;
pub mod runtime;
pub mod sandbox;

//! The agent.
pub mod log;

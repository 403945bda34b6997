//! The agent.
pub mod instance;
pub mod kernel;
pub mod log;
pub mod sandbox;

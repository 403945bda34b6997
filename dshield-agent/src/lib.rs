//! The agent.
pub mod instance;
pub mod kernel;
pub mod sandbox;

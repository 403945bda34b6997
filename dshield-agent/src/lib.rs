//! The agent.
pub mod cli;
pub mod config;

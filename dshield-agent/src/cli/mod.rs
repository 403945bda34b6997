//! What the terminal sees; nothing else in the agent knows about it.
//!
//! Results go to stdout, talk to stderr. Exit codes: 0 it worked, 1 it failed, 2 the input was wrong.
pub mod check;
pub mod init;

//! The judge: public data in, a verdict out. No sockets, no files, no clock.
#![forbid(unsafe_code)]
pub mod compose;
pub mod event_log;
pub mod log;
#[cfg(test)]
mod test_vectors;

//! The judge: public data in, a verdict out. No sockets, no files, no clock.
#![forbid(unsafe_code)]
pub mod log;
pub mod tpm;

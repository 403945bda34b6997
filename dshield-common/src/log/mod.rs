//! The log's formats: what an entry is and which bytes are signed.
pub mod entry;

//! The log's formats: what an entry is, which bytes are signed, and how both travel.
//!
//! * [`entry`]: an event, its number and date flow in; the canonical bytes flow out.
//! * [`line`]: those bytes and their signature, as one line of NDJSON and back.
//!
//! How entries are hashed, and proved to be in the log, is in [`crate::tlog`].
pub mod entry;
pub mod line;

use crate::tlog;

/// The longest entry, in bytes: what the 16-bit length of a tlog-tiles entry bundle can hold.
pub const MAX_ENTRY: usize = tlog::bundle::MAX_ENTRY;

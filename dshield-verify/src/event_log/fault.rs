//! What can be wrong with an event log.
use dshield_common::hex;

use super::{MAX_EVENTS, MAX_TEXT};

/// What is wrong with an event log. `index` counts its events from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogFault {
    /// It is larger than any real one.
    #[error("the event log is {0} bytes long, and more than {MAX_TEXT} are not read: it is not one of dstack's")]
    TooLong(usize),
    /// It has more events than any real one.
    #[error("the event log has {0} events, and more than {MAX_EVENTS} are not read: it is not one of dstack's")]
    TooMany(usize),
    /// It is no JSON array of events.
    #[error("the event log is not understood: {0}; it should be the event_log of a GetQuote answer")]
    Malformed(#[source] serde_json::Error),
    /// There are four registers.
    #[error("event {index} is of RTMR{imr}; a TDX machine has RTMR0 to RTMR3")]
    NoSuchRegister {
        /// Which event.
        index: usize,
        /// The register it names.
        imr: u8,
    },
    /// A digest is no SHA-384.
    #[error("event {index} (RTMR{imr}) has the digest {digest:?}, which is not a SHA-384 in lower-case hexadecimal")]
    Digest {
        /// Which event.
        index: usize,
        /// Its register.
        imr: u8,
        /// What it has, shortened.
        digest: String,
    },
    /// A payload is not hexadecimal.
    #[error("event {index} ({name}) has a payload that is not lower-case hexadecimal")]
    Payload {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A run-time event is of a version that has no known digest.
    #[error("event {index} ({name}) is of version {version}; this dshield-verify knows 1 and 2: use a newer one")]
    Version {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
        /// What it has.
        version: u32,
    },
    /// The digest does not follow from name and payload: one of them was changed.
    #[error(
        "event {index} ({name}) lists the digest {listed}, its name and payload give {}: one of them was changed", hex::encode(.computed.as_slice())
    )]
    OtherDigest {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
        /// What it lists.
        listed: String,
        /// What follows from it.
        computed: Box<[u8; 48]>,
    },
    /// The preimage is not what the digest is the hash of.
    #[error("event {index} ({name}) has a preimage that its digest is not the SHA-384 of: one of them was changed")]
    Preimage {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A register of the quote has another value.
    #[error(
        "RTMR{imr} replays to {}, the quote has {}: the event log is not this machine's, or was changed", hex::encode(.replayed.as_slice()), hex::encode(.quoted.as_slice())
    )]
    Register {
        /// Which register.
        imr: usize,
        /// What the log gives.
        replayed: Box<[u8; 48]>,
        /// What the quote has.
        quoted: Box<[u8; 48]>,
    },
    /// The events that dstack's boot writes do not end.
    #[error(
        "the event log has no boot-mr-done event in RTMR3, so nothing tells dstack's own events from an application's; the machine is not one of dstack's or had not booted"
    )]
    NoMark,
    /// An event that tells who runs is missing.
    #[error("the event log has no {0} event before boot-mr-done: it does not say who runs on the machine")]
    Missing(&'static str),
    /// An event that tells who runs is there twice, so which one holds is anybody's guess.
    #[error("the event log has a second {name} event, at {index}, before {before}: a machine of dstack writes one")]
    Twice {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
        /// The mark that it should be alone before.
        before: &'static str,
    },
    /// The payload of an event that tells who runs has another form.
    #[error("event {index} ({name}) has the payload {payload:?}, which should be {should}")]
    Shape {
        /// Which event.
        index: usize,
        /// Its name.
        name: &'static str,
        /// What it has, in hexadecimal, shortened.
        payload: String,
        /// What would be right.
        should: &'static str,
    },
    /// An event of RTMR3 is a bare digest, or its name may be part of its payload: it may be any event, such as the real
    /// `boot-mr-done`.
    #[error(
        "event {index} of RTMR3 ({name:?}, type {event_type:#010x}) hides what it is: before system-ready only dstack's own events, by name, are accepted"
    )]
    Hidden {
        /// Which event.
        index: usize,
        /// Its name.
        name: String,
        /// Its type.
        event_type: u32,
    },
    /// An agent's own log has events that it cannot have written.
    #[error(
        "event {index} is of RTMR{imr} and type {event_type:#010x}; without dstack only an agent's run-time events in RTMR3 are accepted"
    )]
    NotRuntime {
        /// Which event.
        index: usize,
        /// Its register.
        imr: u8,
        /// Its type.
        event_type: u32,
    },
}

/// The beginning of a text that may be long and hostile.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 100;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

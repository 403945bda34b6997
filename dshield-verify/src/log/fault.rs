//! What can be wrong with a log.
use dshield_common::log::MAX_ENTRY;
use dshield_common::log::line::LineError;

use super::KeyError;

/// What is wrong with a log. Only whoever holds or serves the log can have caused it; `seq` is the number at
/// which it shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault {
    /// A signature does not verify: the entry was changed, or another key signed it.
    #[error(
        "entry {seq}: the signature does not verify with the key of its boot; the entry was changed or another key signed it"
    )]
    BadSignature {
        /// Where.
        seq: u64,
    },
    /// A boot entry lists something that is not a key.
    #[error("boot entry {seq} lists no usable key: {why}")]
    BootKey {
        /// Where.
        seq: u64,
        /// What is wrong with it.
        why: KeyError,
    },
    /// A boot entry lists something that verifies no checkpoints.
    #[error("boot entry {seq} lists a key for checkpoints that is none: {why}")]
    CheckpointKey {
        /// Where.
        seq: u64,
        /// What is wrong with it.
        why: dshield_common::tlog::key::KeyError,
    },
    /// There was nothing to check.
    #[error("there are no entries to check")]
    Empty,
    /// The line is not a signed entry.
    #[error("line for entry {seq}: {why}")]
    Line {
        /// The number that was expected.
        seq: u64,
        /// What is wrong with the line.
        why: LineError,
    },
    /// The log does not begin with a boot entry, so no key is known.
    #[error("entry {seq} should be the boot entry that lists the signing key, and is not")]
    NoBoot {
        /// Where.
        seq: u64,
    },
    /// The entry is not a JSON object with the members that every entry has.
    #[error("entry {seq} is not a log entry")]
    NotAnEntry {
        /// Where.
        seq: u64,
    },
    /// The entry's bytes are not the canonical form (RFC 8785) of what they say.
    #[error("entry {seq} is not in canonical form, so its bytes are not the ones an agent signs")]
    NotCanonical {
        /// Where.
        seq: u64,
    },
    /// A boot entry lists two keys where there is one.
    #[error("boot entry {seq} lists another P-256 key for checkpoints than the one that signs entries")]
    OtherKey {
        /// Where.
        seq: u64,
    },
    /// The line says another number than the entry it carries.
    #[error("the line says it is entry {seq}, the signed entry says {signed}: it was renumbered")]
    Renumbered {
        /// What the line says.
        seq: u64,
        /// What was signed.
        signed: u64,
    },
    /// The entry is longer than an agent writes.
    #[error("entry {seq} has {size} bytes, more than the {MAX_ENTRY} an entry may have")]
    TooLarge {
        /// Where.
        seq: u64,
        /// Its length in bytes.
        size: usize,
    },
    /// An entry that is not a boot entry names a boot other than the current one.
    #[error("entry {seq} claims boot {found}, but boot {expected} was writing")]
    WrongBoot {
        /// Where.
        seq: u64,
        /// The boot id of the governing boot entry.
        expected: String,
        /// The boot id in the entry.
        found: String,
    },
    /// A boot entry, or the last line, lists another key than the one expected.
    #[error("entry {seq} is signed by another key than the expected one")]
    WrongKey {
        /// Where.
        seq: u64,
    },
    /// The entries are not numbered one after the other.
    #[error("entry {expected} should come next, but this is entry {found}: entries were removed, repeated or swapped")]
    WrongNumber {
        /// The number that had to come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A boot entry does not name the entry before it.
    #[error(
        "boot entry {seq} does not name the number and hash of the entry before it: the log was cut or changed before this boot"
    )]
    WrongPrevious {
        /// Where.
        seq: u64,
    },
}

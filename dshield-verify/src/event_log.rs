//! Replays an event log: its text and the RTMRs of a verified quote flow in; what the events say about the machine flows
//! out, or why the log is not that machine's.
//!
//! A log is not signed. It is believed because folding its digests gives the registers that the quote signs, and only so
//! far: an event's name and payload count where its digest is computed from them.
//!
//! * [`replay`]: dstack's log. Who runs is read from the events before `boot-mr-done` (and the rest before
//!   `system-ready`): later ones an application may have emitted.
//! * [`replay_runtime_only`]: the log that an agent keeps of its own extensions of RTMR3, where there is no dstack.
//! * [`fault`]: what can be wrong.
//!
//! What a replay does not say: that RTMR0 to 2 and MRTD are those of an image to trust. Whoever chose the image chose what
//! is written into RTMR3; compare those registers with expected values first.
pub mod fault;
mod identity;
mod read;
#[cfg(test)]
mod tests;

use dshield_common::attestation::event::{RUNTIME_RTMR, extend};

pub use self::fault::EventLogFault;
pub use self::identity::{Identity, KeyProvider};
use self::read::{Read, Runtime, read};

/// The longest log that is read, in bytes: a real one has some kilobytes.
pub const MAX_TEXT: usize = 1 << 20;
/// The most events that are read.
pub const MAX_EVENTS: usize = 4096;

/// RTMR0 to RTMR3, as a quote holds them.
pub type Rtmrs = [[u8; 48]; 4];

/// What dstack's log says, all of it bound to the quote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Who runs on the machine.
    pub identity: Identity,
    /// How many events the log has.
    pub events: usize,
    /// For each register, whether the log has events of it. RTMR3 is always covered; another one that is not says
    /// nothing about the log, and must be compared with an expected value like any other.
    pub covered: [bool; 4],
    /// What a person should know and that is no fault, as sentences.
    pub notes: Vec<String>,
}

/// What an agent's own log says, all of it bound to the quote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeReplayed {
    /// What extended RTMR3, in order. An agent that was started again has extended it again.
    pub measured: Vec<Measured>,
    /// How many events the log has.
    pub events: usize,
    /// For each register, whether the log covers it: RTMR3 only.
    pub covered: [bool; 4],
}

/// One extension of RTMR3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The event's name, such as `dshield-agent`.
    pub name: String,
    /// What was measured, such as a SHA-256.
    pub payload: Vec<u8>,
}

impl RuntimeReplayed {
    /// The payloads of all events of this name, in order: every one of them ran on this machine since it booted.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.measured.iter().filter(move |one| one.name == name).map(|one| one.payload.as_slice())
    }
}

/// Replays dstack's log.
///
/// # Errors
/// The first fault found. It is that of whoever served the log, or of the machine where it ran.
pub fn replay(text: &str, rtmrs: &Rtmrs) -> Result<Replayed, EventLogFault> {
    let log = read(text)?;
    let covered = fold(&log, rtmrs)?;
    let mut notes = Vec::new();
    let identity = Identity::of(&log, &mut notes)?;
    Ok(Replayed { identity, events: log.len(), covered, notes })
}

/// Replays a log of run-time events only, as an agent without dstack publishes it.
///
/// # Errors
/// As [`replay`]; also when it has an event of another register or another type.
pub fn replay_runtime_only(text: &str, rtmrs: &Rtmrs) -> Result<RuntimeReplayed, EventLogFault> {
    let log = read(text)?;
    if let Some(one) = log.iter().find(|one| one.imr != RUNTIME_RTMR || one.runtime.is_none()) {
        return Err(EventLogFault::NotRuntime { index: one.index, imr: one.imr, event_type: one.event_type });
    }
    fold(&log, rtmrs)?;
    let events = log.len();
    let measured = log.into_iter().filter_map(|one| one.runtime);
    let measured = measured.map(|Runtime { name, payload }| Measured { name, payload }).collect();
    Ok(RuntimeReplayed { measured, events, covered: [false, false, false, true] })
}

/// Compares the registers that the log has events of, and RTMR3, with the quote's: which those are.
fn fold(log: &[Read], rtmrs: &Rtmrs) -> Result<[bool; 4], EventLogFault> {
    let mut registers = [[0; 48]; 4];
    let mut covered = [false, false, false, true];
    for one in log {
        let at = usize::from(one.imr);
        registers[at] = extend(&registers[at], &one.digest);
        covered[at] = true;
    }
    for (imr, (replayed, quoted)) in registers.iter().zip(rtmrs).enumerate() {
        if covered[imr] && replayed != quoted {
            return Err(EventLogFault::Register { imr, replayed: Box::new(*replayed), quoted: Box::new(*quoted) });
        }
    }
    Ok(covered)
}

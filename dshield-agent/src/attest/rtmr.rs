//! RTMR3 of a TDX machine without dstack, which the agent may extend by itself (Linux from 6.16;
//! Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest): a second binding beside the report data, and one that
//! a later agent cannot take back.
//!
//! Events flow in; the register is extended and the event log that explains it flows out. The kernel keeps no such log, and
//! the register outlives the agent, so the agent keeps its own in a file that ends with the machine's boot (below `/run`):
//! before each extension a line that says what is coming, after it one that says it is done,
//!
//! ```text
//! {"pending":{"imr":3,"event_type":134217729,"digest":"…","event":"dshield-agent","event_payload":"…"}}
//! "done"
//! ```
//!
//! An agent that was killed in between leaves a log that the register decides: it shows whether the last event was done.
//! All agents of a machine keep one log, since they share the register, and lock it while they extend.
//!
//! * The register is zero: nothing extended it since the machine booted. What the log says is of an earlier boot.
//! * It is what the log leads to: ours.
//! * Else somebody else extends it, with a log that is not ours. Then it is left alone ([`RtmrError::Foreign`]), for two
//!   logs would both be wrong; quotes are bound by their report data all the same. So it is on dstack, whose own events
//!   are in RTMR3 before any agent starts.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dshield_common::attestation::event::{self, Event};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::measure::Measurements;
use dshield_common::hex;

/// Where Linux has the registers.
pub const MEASUREMENTS: &str = "/sys/devices/virtual/misc/tdx_guest/measurements";

/// Where the log is: not in the folder of one agent, since all agents of a machine share its register and the register
/// outlives them, but in one that is empty after a boot.
pub const LOG: &str = "/run/dshield/rtmr3.log";

const RTMR3: &str = "rtmr3:sha384";
/// A boot has some events, each of some hundred bytes.
const LONGEST_LOG: u64 = 1 << 20;
/// For another agent's extension, which takes as long as two writes; and between two looks whether it is done.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

type Register = [u8; 48];

/// RTMR3, while it is this agent's to extend.
#[derive(Debug)]
pub struct Rtmr3 {
    register: PathBuf,
    path: PathBuf,
    log: File,
    patience: Duration,
    /// What the log said when it was last read, and the value of the register then.
    events: Vec<Event>,
    value: Register,
    /// That the register left the log was said already.
    said: bool,
}

/// Why RTMR3 is not extended. Quotes can be had all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RtmrError {
    /// The machine's: the register or the log cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Its value is not what the log leads to.
    #[error(
        "{} was extended by somebody else: it is not what {} leads to. It is left alone; quotes are bound by their report data",
        register.display(), log.display()
    )]
    Foreign {
        /// The register.
        register: PathBuf,
        /// This agent's log.
        log: PathBuf,
    },
    /// The kernel took the extension, and the register is as before.
    #[error("{} stays as it was; the kernel took the extension and did nothing", register.display())]
    Unchanged {
        /// The register.
        register: PathBuf,
    },
    /// Another agent began to extend it and does not end.
    #[error("another process holds {} and does not let go of it", log.display())]
    InUse {
        /// The log.
        log: PathBuf,
    },
    /// Somebody else wrote into the log.
    #[error("line {line} of {} is not this agent's; RTMR3 is not extended until the machine boots again", log.display())]
    Log {
        /// The log.
        log: PathBuf,
        /// Which line.
        line: usize,
    },
    /// The agent's: only run-time events with their own digest are extended.
    #[error("{0:?} is no run-time event for RTMR3")]
    NotRuntime(String),
    /// The agent's: a measurement is none.
    #[error("{0} is no SHA-256")]
    NotAHash(&'static str),
}

/// A line of the log.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Pending(Event),
    Done,
}

/// What the log says.
#[derive(Default)]
struct Told {
    /// Those that are done.
    events: Vec<Event>,
    /// Where their lines end.
    done: u64,
    /// The one that was begun, and where its line ends.
    pending: Option<(Event, u64)>,
}

impl Rtmr3 {
    /// The register below `measurements` ([`MEASUREMENTS`], unless a test has another), explained by the log in the file
    /// `log`, which is made where there is none; `None` where this kernel lets no guest extend it.
    ///
    /// # Errors
    /// It is somebody else's, or one of the files cannot be used.
    pub fn open(measurements: &Path, log: &Path) -> Result<Option<Self>, RtmrError> {
        let register = measurements.join(RTMR3);
        if !register.exists() {
            return Ok(None);
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(log).map_err(failed(log))?;
        let (path, patience, events, value) = (log.to_owned(), PATIENCE, Vec::new(), [0; 48]);
        let mut rtmr3 = Self { register, path, log: file, patience, events, value, said: false };
        rtmr3.locked(Self::settle)?;
        Ok(Some(rtmr3))
    }

    /// The events that made the register what it is, the first of this boot of the machine first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Extends the register, and keeps the event.
    ///
    /// # Errors
    /// It could not be extended; it is as before, unless the error is [`RtmrError::Foreign`].
    pub fn extend(&mut self, event: &Event) -> Result<(), RtmrError> {
        let digest = digest_of(event)?;
        self.locked(|this| {
            this.settle()?;
            this.extend_settled(event, &digest)
        })
    }

    fn extend_settled(&mut self, event: &Event, digest: &Register) -> Result<(), RtmrError> {
        let before = self.events.len();
        self.append(&Line::Pending(event.clone()))?;
        let written = self.write(digest);
        // What the register shows counts, whatever the kernel said of the write.
        self.settle()?;
        match written {
            _ if self.events.len() > before => Ok(()),
            Err(error) => Err(failed(&self.register)(error)),
            Ok(()) => Err(RtmrError::Unchanged { register: self.register.clone() }),
        }
    }

    /// [`Self::extend`], unless the last event of that name is this one already: an agent that starts again as what it was
    /// has nothing new to say. Whether it extended.
    ///
    /// # Errors
    /// As there.
    pub fn extend_if_new(&mut self, event: &Event) -> Result<bool, RtmrError> {
        let digest = digest_of(event)?;
        self.locked(|this| {
            this.settle()?;
            let last = this.events.iter().rfind(|known| known.event == event.event);
            if last == Some(event) {
                return Ok(false);
            }
            this.extend_settled(event, &digest).map(|()| true)
        })
    }

    /// The events as evidence has them, for a quote in which the register has this value; `None` where they do not lead to
    /// it, because who extended it keeps no log here.
    pub(super) fn event_log_of(&mut self, quoted: &[u8]) -> Option<String> {
        let read = match self.events_of(quoted) {
            Some(events) => return serde_json::to_string(events).ok(),
            // Another agent may have extended it since.
            None => self.locked(Self::settle),
        };
        if let Some(events) = self.events_of(quoted) {
            return serde_json::to_string(events).ok();
        }
        if !self.said {
            let why = read.err().unwrap_or_else(|| self.foreign());
            tracing::warn!("{why}; quotes come without an event log");
            self.said = true;
        }
        None
    }

    /// Those of the events that lead to this value: all, or fewer where there came more after the quote.
    fn events_of(&self, value: &[u8]) -> Option<&[Event]> {
        if value == self.value {
            return Some(&self.events);
        }
        let mut led = [0; 48];
        let at = self.events.iter().position(|event| {
            led = replayed(led, event);
            value == led
        })?;
        Some(&self.events[..=at])
    }

    /// Does `work` while no other agent reads or writes the log.
    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, RtmrError>) -> Result<T, RtmrError> {
        let end = Instant::now() + self.patience;
        loop {
            match self.log.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(PAUSE),
                Err(fs::TryLockError::WouldBlock) => return Err(RtmrError::InUse { log: self.path.clone() }),
                Err(fs::TryLockError::Error(error)) => return Err(failed(&self.path)(error)),
            }
        }
        let done = work(self);
        let unlocked = self.log.unlock().map_err(failed(&self.path));
        done.and_then(|done| unlocked.map(|()| done))
    }

    /// Reads register and log, and makes the log say what the register shows.
    fn settle(&mut self) -> Result<(), RtmrError> {
        let value = self.value_now().map_err(failed(&self.register))?;
        let Told { mut events, done, pending } = self.read()?;
        let led = replay(&events);
        match pending {
            _ if value == [0; 48] => {
                events.clear();
                self.cut(0)?;
            }
            _ if value == led => self.cut(done)?,
            Some((event, end)) if value == replayed(led, &event) => {
                // A half-written "done" may follow.
                self.cut(end)?;
                self.append(&Line::Done)?;
                events.push(event);
            }
            _ => return Err(self.foreign()),
        }
        (self.events, self.value) = (events, value);
        Ok(())
    }

    fn read(&self) -> Result<Told, RtmrError> {
        let length = self.log.metadata().map_err(failed(&self.path))?.len();
        let mut text = vec![0; usize::try_from(length.min(LONGEST_LOG)).unwrap_or(0)];
        self.log.read_exact_at(&mut text, 0).map_err(failed(&self.path))?;
        let mut told = Told::default();
        let mut end = 0;
        for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // The agent was killed while it wrote this one, and did nothing after.
            let Some(whole) = line.strip_suffix(b"\n") else { break };
            end += line.len() as u64;
            match (serde_json::from_slice(whole), told.pending.take()) {
                (Ok(Line::Pending(event)), None) => told.pending = Some((event, end)),
                (Ok(Line::Done), Some((event, _))) => {
                    told.events.push(event);
                    told.done = end;
                }
                _ => return Err(RtmrError::Log { log: self.path.clone(), line: index + 1 }),
            }
        }
        Ok(told)
    }

    /// No `fsync`: a crash of the machine, which alone could lose it, also sets the register to zero.
    fn append(&mut self, what: &Line) -> Result<(), RtmrError> {
        self.log.write_all(&line(what)?).map_err(failed(&self.path))
    }

    fn cut(&self, length: u64) -> Result<(), RtmrError> {
        self.log.set_len(length).map_err(failed(&self.path))
    }

    /// In one piece, so that no extension comes between.
    fn value_now(&self) -> io::Result<Register> {
        let mut bytes = [0; 64];
        let count = File::open(&self.register)?.read_at(&mut bytes, 0)?;
        bytes[..count].try_into().map_err(|_| io::Error::other(format!("it has {count} bytes, not 48")))
    }

    /// All 48 bytes at once, at the start: the kernel takes nothing else.
    fn write(&self, digest: &Register) -> io::Result<()> {
        let register = OpenOptions::new().write(true).open(&self.register)?;
        match register.write_at(digest, 0)? {
            48 => Ok(()),
            count => Err(io::Error::other(format!("it took {count} bytes of 48"))),
        }
    }

    fn foreign(&self) -> RtmrError {
        RtmrError::Foreign { register: self.register.clone(), log: self.path.clone() }
    }
}

/// What an agent says at its start, in this order. The payloads have 32 bytes each:
///
/// * `dshield-agent`: the SHA-256 of the running executable, as in the statement
/// * `dshield-ebpf`: the SHA-256 over the SHA-256s (32 bytes each) of the objects given to the kernel, in the order of their
///   names, as in the statement: cgroup, lsm, netns
/// * `dshield-policy`: the SHA-256 of the canonical policy in force (`policy_sha256`, in hexadecimal)
///
/// # Errors
/// One of them is no SHA-256.
pub fn start_events(measurements: &Measurements, policy_sha256: &str) -> Result<[Event; 3], RtmrError> {
    let hash = |text: Option<&str>, what| {
        text.and_then(hex::decode).filter(|bytes| bytes.len() == 32).ok_or(RtmrError::NotAHash(what))
    };
    let mut objects = Sha256::new();
    for (name, sha256) in &measurements.sha256 {
        if name.starts_with("ebpf_") {
            objects.update(hash(Some(sha256), "the measurement of an eBPF object")?);
        }
    }
    let agent = measurements.sha256.get("agent").map(String::as_str);
    Ok([
        Event::runtime("dshield-agent", &hash(agent, "the measurement of the agent")?),
        Event::runtime("dshield-ebpf", &objects.finalize()),
        Event::runtime("dshield-policy", &hash(Some(policy_sha256), "the policy's hash")?),
    ])
}

/// What extends the register, if that is what the event says.
fn digest_of(event: &Event) -> Result<Register, RtmrError> {
    let none = || RtmrError::NotRuntime(event.event.clone());
    let payload = hex::decode(&event.event_payload).ok_or_else(none)?;
    if *event != Event::runtime(&event.event, &payload) {
        return Err(none());
    }
    Ok(event::runtime_digest(&event.event, &payload))
}

fn replay(events: &[Event]) -> Register {
    events.iter().fold([0; 48], replayed)
}

/// From name and payload, as an auditor does.
fn replayed(value: Register, event: &Event) -> Register {
    let payload = hex::decode(&event.event_payload).unwrap_or_default();
    event::extend(&value, &event::runtime_digest(&event.event, &payload))
}

fn line(what: &Line) -> Result<Vec<u8>, RtmrError> {
    let text = serde_json::to_string(what);
    let text = text.map_err(|error| RtmrError::NotRuntime(error.to_string()))?;
    Ok(format!("{text}\n").into_bytes())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RtmrError + use<> {
    let path = path.to_owned();
    move |source| RtmrError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests;

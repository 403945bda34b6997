//! Who runs, from the events that dstack itself writes while it boots.
use dshield_common::canonical::Sha256Digest;
use dshield_common::hex;
use serde::Deserialize;

use super::EventLogFault;
use super::fault::shortened;
use super::read::{Read, Runtime};

/// The event after which an application may have emitted any other, as far as who runs is concerned.
const BOOT_MARK: &str = "boot-mr-done";
/// The event after which an application may have emitted any other.
const READY_MARK: &str = "system-ready";
/// The most scripts that dstack takes.
const MAX_INIT_SCRIPTS: usize = 5;

/// Who runs on a machine of dstack, as its own boot measured it into RTMR3.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// `app-id`. Where it was chosen at deployment it is no evidence of the code: `compose_hash` is.
    pub app_id: [u8; 20],
    /// `compose-hash`: the SHA-256 of the bytes of `app-compose.json`.
    pub compose_hash: Sha256Digest,
    /// `instance-id`; none where the application asks for none.
    pub instance_id: Option<[u8; 20]>,
    /// `init-script-hash`, in order; their scripts are part of `app-compose.json` too. Older images do not measure them
    /// apart.
    pub init_script_hashes: Vec<Sha256Digest>,
    /// `gpu-policy-hash`, where the image has such a policy.
    pub gpu_policy_hash: Option<Sha256Digest>,
    /// `os-image-hash`: asserted by the key service, not measured by hardware. MRTD and RTMR0 to 2 tell the image.
    pub os_image_hash: Option<Sha256Digest>,
    /// `key-provider`: who gave the machine its keys.
    pub key_provider: Option<KeyProvider>,
    /// `storage-fs`: the file system of the machine's disk.
    pub storage_fs: Option<String>,
}

/// Who gave a machine its keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyProvider {
    /// `kms`, `local-sgx`, `tpm` or `none`.
    pub name: String,
    /// Which one of that kind, such as a key service's public key, in hexadecimal.
    pub id: String,
}

/// Names that must be alone before [`BOOT_MARK`].
const BEFORE_BOOT: &[&str] = &["app-id", "compose-hash", "instance-id", "gpu-policy-hash"];
/// Names that must be alone before [`READY_MARK`].
const BEFORE_READY: &[&str] = &["os-image-hash", "key-provider", "storage-fs"];
/// Other names that dstack writes before [`READY_MARK`], and that nothing is read from.
const OTHERS: &[&str] = &["system-preparing", "init-script-hash", "gpu-attestation"];

impl Identity {
    /// Reads the events, whose registers were compared with the quote's.
    pub(super) fn of(log: &[Read], notes: &mut Vec<String>) -> Result<Self, EventLogFault> {
        let of_rtmr3: Vec<&Read> = log.iter().filter(|one| one.imr == 3).collect();
        let mark = |name| of_rtmr3.iter().position(|one| one.named(name));
        let boot = mark(BOOT_MARK).ok_or(EventLogFault::NoMark)?;
        let ready = mark(READY_MARK).filter(|ready| *ready > boot);
        // Without the second mark, what follows the first may be an application's.
        let (booting, rest) = of_rtmr3.split_at(boot);
        let (starting, later) = rest.split_at(ready.map_or(1, |ready| ready - boot));

        let opaque = booting.iter().chain(starting).find(|one| one.hides());
        // A real mark that is shown as a bare digest would make a later, false one the first.
        if let Some(one) = opaque {
            let (index, event_type) = (one.index, one.event_type);
            return Err(EventLogFault::Hidden { index, name: shortened(&one.listed_name), event_type });
        }
        let booting: Vec<Named<'_>> = booting.iter().filter_map(|one| one.as_named()).collect();
        let mut before_ready = booting.clone();
        before_ready.extend(starting.iter().filter_map(|one| one.as_named()));
        alone(&booting, BEFORE_BOOT, BOOT_MARK)?;
        alone(&before_ready, BEFORE_READY, READY_MARK)?;
        note_strangers(&before_ready, notes);
        note_later(&starting[1..], BEFORE_BOOT, BOOT_MARK, notes);
        note_later(later, &[BEFORE_BOOT, BEFORE_READY, &[BOOT_MARK]].concat(), READY_MARK, notes);
        if ready.is_none() {
            notes.push(format!(
                "the event log has no {READY_MARK} event: who gave the keys, and which image the key service names, is not read"
            ));
        }
        let app_id = one(&booting, "app-id", "20 bytes", |payload| payload.try_into().ok())?;
        let compose_hash = one(&booting, "compose-hash", "a SHA-256 of 32 bytes", sha256)?;
        let instance_id = one(&booting, "instance-id", "20 bytes or none", |payload| match payload {
            [] => Some(None),
            payload => payload.try_into().ok().map(Some),
        })?;
        let provider = "JSON with the texts \"name\" and \"id\"";
        Ok(Self {
            app_id: app_id.ok_or(EventLogFault::Missing("app-id"))?,
            compose_hash: compose_hash.ok_or(EventLogFault::Missing("compose-hash"))?,
            instance_id: instance_id.flatten(),
            init_script_hashes: init_scripts(&booting)?,
            gpu_policy_hash: one(&booting, "gpu-policy-hash", "a SHA-256 of 32 bytes", sha256)?,
            os_image_hash: one(&before_ready, "os-image-hash", "a SHA-256 of 32 bytes", sha256)?,
            key_provider: one(&before_ready, "key-provider", provider, |payload| serde_json::from_slice(payload).ok())?,
            storage_fs: one(&before_ready, "storage-fs", "a text", |payload| String::from_utf8(payload.to_vec()).ok())?,
        })
    }
}

/// An event whose digest vouches for its name and payload.
#[derive(Clone, Copy)]
struct Named<'a> {
    index: usize,
    name: &'a str,
    payload: &'a [u8],
}

impl Read {
    fn as_named(&self) -> Option<Named<'_>> {
        let Runtime { name, payload } = self.runtime.as_ref()?;
        Some(Named { index: self.index, name, payload })
    }

    fn named(&self, name: &str) -> bool {
        self.runtime.as_ref().is_some_and(|runtime| runtime.name == name)
    }

    /// Whether it may really be another event. A digest of version 1 has a colon between name and payload, so that a name
    /// with one may have been made of another event's payload.
    fn hides(&self) -> bool {
        self.runtime.as_ref().is_none_or(|runtime| runtime.name.contains(':'))
    }
}

/// The payload of the event with this name, read; none where there is no such event.
fn one<T>(
    events: &[Named<'_>],
    name: &'static str,
    should: &'static str,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, EventLogFault> {
    let Some(event) = events.iter().find(|event| event.name == name) else { return Ok(None) };
    read(event.payload).map(Some).ok_or_else(|| shape(event, name, should))
}

fn shape(event: &Named<'_>, name: &'static str, should: &'static str) -> EventLogFault {
    let payload = shortened(&hex::encode(event.payload));
    EventLogFault::Shape { index: event.index, name, payload, should }
}

fn sha256(payload: &[u8]) -> Option<Sha256Digest> {
    <[u8; 32]>::try_from(payload).ok().map(Sha256Digest::from)
}

fn init_scripts(events: &[Named<'_>]) -> Result<Vec<Sha256Digest>, EventLogFault> {
    let should = "a SHA-256 of 32 bytes, of at most five scripts";
    let events = events.iter().filter(|event| event.name == "init-script-hash").enumerate();
    let read = |(at, event): (usize, &Named<'_>)| {
        let hash = sha256(event.payload).filter(|_| at < MAX_INIT_SCRIPTS);
        hash.ok_or_else(|| shape(event, "init-script-hash", should))
    };
    events.map(read).collect()
}

fn alone(events: &[Named<'_>], names: &[&str], before: &'static str) -> Result<(), EventLogFault> {
    for name in names {
        if let Some(second) = events.iter().filter(|event| event.name == *name).nth(1) {
            return Err(EventLogFault::Twice { index: second.index, name: (*name).to_owned(), before });
        }
    }
    Ok(())
}

fn note_strangers(events: &[Named<'_>], notes: &mut Vec<String>) {
    for Named { index, name, .. } in events {
        let known = [BEFORE_BOOT, BEFORE_READY, OTHERS].concat().contains(name) || *name == BOOT_MARK;
        if !known {
            let name = shortened(name);
            notes.push(format!("event {index} ({name:?}) is none that this dshield-verify knows dstack to write"));
        }
    }
}

fn note_later(events: &[&Read], names: &[&str], mark: &str, notes: &mut Vec<String>) {
    for Named { index, name, .. } in events.iter().filter_map(|one| one.as_named()) {
        if names.contains(&name) {
            notes.push(format!(
                "event {index} ({name}) comes after {mark} and is ignored: an application may have emitted it"
            ));
        }
    }
}

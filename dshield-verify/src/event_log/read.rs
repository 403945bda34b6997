//! Text to events whose digests are known: a listed digest is believed only where nothing else tells it.
use dshield_common::attestation::event::{Event, RUNTIME_EVENT, RUNTIME_RTMR, runtime_digest, runtime_digest_v2};
use dshield_common::hex;
use sha2::{Digest as _, Sha384};

use super::fault::shortened;
use super::{EventLogFault, MAX_EVENTS, MAX_TEXT};

/// An event with the digest that extended its register.
pub(super) struct Read {
    pub index: usize,
    pub imr: u8,
    pub event_type: u32,
    pub digest: [u8; 48],
    /// As listed; nothing vouches for it unless `runtime` is there.
    pub listed_name: String,
    /// For a run-time event of RTMR3: what its digest is computed from.
    pub runtime: Option<Runtime>,
}

/// The name and payload that a digest vouches for.
pub(super) struct Runtime {
    pub name: String,
    pub payload: Vec<u8>,
}

/// Reads a log.
pub(super) fn read(text: &str) -> Result<Vec<Read>, EventLogFault> {
    if text.len() > MAX_TEXT {
        return Err(EventLogFault::TooLong(text.len()));
    }
    let events: Vec<Event> = serde_json::from_str(text).map_err(EventLogFault::Malformed)?;
    if events.len() > MAX_EVENTS {
        return Err(EventLogFault::TooMany(events.len()));
    }
    events.into_iter().enumerate().map(|(index, event)| read_one(index, event)).collect()
}

fn read_one(index: usize, event: Event) -> Result<Read, EventLogFault> {
    let Event { imr, event_type, .. } = event;
    if imr > RUNTIME_RTMR {
        return Err(EventLogFault::NoSuchRegister { index, imr });
    }
    let runtime = imr == RUNTIME_RTMR && event_type == RUNTIME_EVENT;
    let listed = match event.digest.as_str() {
        "" if runtime => None,
        digest => Some(hex::decode_array::<48>(digest).ok_or_else(|| EventLogFault::Digest {
            index,
            imr,
            digest: shortened(digest),
        })?),
    };
    let read = |digest, listed_name, runtime| Read { index, imr, event_type, digest, listed_name, runtime };
    match listed {
        Some(digest) if !runtime => Ok(read(digest, event.event, None)),
        listed => {
            let (digest, runtime) = computed(index, &event, listed)?;
            Ok(read(digest, event.event, Some(runtime)))
        }
    }
}

/// The digest of a run-time event, from its name and payload.
fn computed(index: usize, event: &Event, listed: Option<[u8; 48]>) -> Result<([u8; 48], Runtime), EventLogFault> {
    let name = || shortened(&event.event);
    let payload = hex::decode(&event.event_payload).ok_or_else(|| EventLogFault::Payload { index, name: name() })?;
    let digest = match event.version {
        None | Some(1) => runtime_digest(&event.event, &payload),
        Some(2) => runtime_digest_v2(&event.event, &event.event_payload),
        Some(version) => return Err(EventLogFault::Version { index, name: name(), version }),
    };
    if listed.is_some_and(|listed| listed != digest) {
        let (listed, computed) = (shortened(&event.digest), Box::new(digest));
        return Err(EventLogFault::OtherDigest { index, name: name(), listed, computed });
    }
    if let Some(preimage) = &event.preimage {
        let hash = hex::decode(preimage).map(|bytes| <[u8; 48]>::from(Sha384::digest(bytes)));
        if hash != Some(digest) {
            return Err(EventLogFault::Preimage { index, name: name() });
        }
    }
    Ok((digest, Runtime { name: event.event.clone(), payload }))
}

//! Events that extend a TDX run-time measurement register, as dstack writes them: an auditor replays them and compares.
//!
//! `RTMR = SHA-384(RTMR ‖ digest)` for each event, from 48 zero bytes. Of the events of firmware and kernel (RTMR0 to 2)
//! only the digest means anything here; that of a run-time event (RTMR3) follows from its name and payload, so those are
//! never believed without it.
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use crate::canonical::to_canonical_json;
use crate::hex;

/// `event_type` of run-time events.
pub const RUNTIME_EVENT: u32 = 0x0800_0001;
/// The register that run-time events extend.
pub const RUNTIME_RTMR: u8 = 3;

/// One event, as in dstack's `event_log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Which RTMR it extends: 0 to 3.
    pub imr: u8,
    /// What kind of event it is.
    pub event_type: u32,
    /// SHA-384 in hexadecimal; may be empty for run-time events, whose digest is computed.
    #[serde(default)]
    pub digest: String,
    /// Its name.
    #[serde(default)]
    pub event: String,
    /// In hexadecimal; may be left out for RTMR0 to 2.
    #[serde(default)]
    pub event_payload: String,
    /// 2 where the digest is that of the canonical JSON, else 1 or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Of version 2: what the digest is the hash of, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preimage: Option<String>,
}

impl Event {
    /// A run-time event, version 1, with its digest.
    #[must_use]
    pub fn runtime(name: &str, payload: &[u8]) -> Self {
        Self {
            imr: RUNTIME_RTMR,
            event_type: RUNTIME_EVENT,
            digest: hex::encode(&runtime_digest(name, payload)),
            event: name.to_owned(),
            event_payload: hex::encode(payload),
            version: None,
            preimage: None,
        }
    }
}

/// `SHA-384(LE32(event_type) ‖ ":" ‖ name ‖ ":" ‖ payload)`.
#[must_use]
pub fn runtime_digest(name: &str, payload: &[u8]) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(RUNTIME_EVENT.to_le_bytes());
    hash.update(b":");
    hash.update(name.as_bytes());
    hash.update(b":");
    hash.update(payload);
    hash.finalize().into()
}

/// Version 2: `SHA-384(JCS {"name", "payload" (hex), "type"})`.
#[must_use]
pub fn runtime_digest_v2(name: &str, payload_hex: &str) -> [u8; 48] {
    let value = serde_json::json!({ "name": name, "payload": payload_hex, "type": RUNTIME_EVENT });
    let text = to_canonical_json(&value).expect("its only number is a 32-bit one");
    Sha384::digest(text).into()
}

/// The register after one more event.
#[must_use]
pub fn extend(register: &[u8; 48], digest: &[u8; 48]) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(register);
    hash.update(digest);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a real dstack machine.
    #[test]
    fn the_digest_of_a_real_compose_hash_event_is_known() {
        let payload = "3763bc34552cf3a27ff71ad5f7a90471562a1a2df552dfc1998cba2d60da27e7";
        let event = Event::runtime("compose-hash", &hex::decode(payload).unwrap_or_default());
        assert!(event.digest.starts_with("b883bee0"), "{}", event.digest);
        assert!(event.digest.ends_with("72f"), "{}", event.digest);
        assert_eq!(event.event_payload, payload);
    }
}

//! What a start leaves behind in the registers: an event log like that of dstack.
//!
//! `app-compose.json` flows in, byte for byte; out flow events, and the registers that they lead to. Tests change the
//! events, and have a machine with the registers that follow from those.
use dshield_common::attestation::event::{
    Event, RUNTIME_EVENT, RUNTIME_RTMR, extend, runtime_digest, runtime_digest_v2,
};
use dshield_common::canonical::Sha256Digest;
use dshield_common::hex;
use sha2::{Digest, Sha384};

/// Events of firmware and kernel, whose digest is the SHA-384 of their text: register, type (TCG PC Client Platform
/// Firmware Profile, section 10.4.1), text.
const BOOT: [(u8, u32, &str); 7] = [
    (0, 0x8000_000a, "D-Shield development firmware"),
    (0, 0x8000_0001, "D-Shield development SecureBoot variable"),
    (0, 0x0000_0004, "D-Shield development separator"),
    (1, 0x8000_0003, "D-Shield development kernel"),
    (1, 0x8000_0007, "D-Shield development end of boot services"),
    (2, 0x0000_0006, "D-Shield development kernel command line"),
    (2, 0x0000_0006, "D-Shield development initrd"),
];

/// Four registers, which began as zeros.
pub type Registers = [[u8; 48]; 4];

/// Why registers do not follow from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// There is no such register.
    #[error("event {at}: there are registers 0 to 3 only; change its \"imr\"")]
    Register {
        /// The event's place in the list.
        at: usize,
    },
    /// Its digest cannot be read.
    #[error("event {at}: a digest is 96 hexadecimal digits in lower case; change its \"digest\"")]
    Digest {
        /// The event's place in the list.
        at: usize,
    },
    /// Its payload cannot be read.
    #[error("event {at}: a payload is of hexadecimal digits in lower case; change its \"event_payload\"")]
    Payload {
        /// The event's place in the list.
        at: usize,
    },
}

/// The events of a start with this `app-compose.json`, in dstack's order and with its names, and the registers that they
/// lead to. Nothing vouches for a key: the key provider is `none`.
#[must_use]
pub fn boot_log(app_compose: &str) -> (Vec<Event>, Registers) {
    let compose_hash = Sha256Digest::of(app_compose.as_bytes());
    let app_id = &compose_hash.as_bytes()[..20];
    let instance = Sha256Digest::of(&[b"D-Shield development instance", app_id].concat());
    let boot = BOOT.iter().map(|&(imr, event_type, text)| Event {
        imr,
        event_type,
        digest: hex::encode(&Sha384::digest(text)),
        event: String::new(),
        event_payload: hex::encode(text.as_bytes()),
        version: None,
        preimage: None,
    });
    let runtime = [
        ("system-preparing", &b""[..]),
        ("app-id", app_id),
        ("compose-hash", compose_hash.as_bytes()),
        ("instance-id", &instance.as_bytes()[..20]),
        ("boot-mr-done", b""),
        ("key-provider", br#"{"name":"none","id":""}"#),
        ("storage-fs", b"ext4"),
        ("system-ready", b""),
    ];
    let events: Vec<Event> = boot.chain(runtime.map(|(name, payload)| Event::runtime(name, payload))).collect();
    let registers = registers(&events).expect("the events are whole");
    (events, registers)
}

/// The registers after `events`. The digest of a run-time event follows from its name and payload, whatever it says; that
/// of others is taken as it is.
///
/// # Errors
/// When an event is not in a form that leads to registers.
pub fn registers(events: &[Event]) -> Result<Registers, EventError> {
    let mut registers = [[0; 48]; 4];
    for (at, event) in events.iter().enumerate() {
        let register = registers.get_mut(usize::from(event.imr)).ok_or(EventError::Register { at })?;
        let digest = match (event.imr, event.event_type, event.version) {
            (RUNTIME_RTMR, RUNTIME_EVENT, Some(2)) => runtime_digest_v2(&event.event, &event.event_payload),
            (RUNTIME_RTMR, RUNTIME_EVENT, _) => {
                let payload = hex::decode(&event.event_payload).ok_or(EventError::Payload { at })?;
                runtime_digest(&event.event, &payload)
            }
            _ => hex::decode_array(&event.digest).ok_or(EventError::Digest { at })?,
        };
        *register = extend(register, &digest);
    }
    Ok(registers)
}

/// What dstack's host sets `MRCONFIGID` to (version 1): `01 ‖ SHA-256(app-compose.json)`, then zeros.
#[must_use]
pub fn mr_config_id(app_compose: &str) -> [u8; 48] {
    let mut id = [0; 48];
    id[0] = 1;
    id[1..33].copy_from_slice(Sha256Digest::of(app_compose.as_bytes()).as_bytes());
    id
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_start_has_the_run_time_events_of_dstack_in_its_order() {
        let (events, registers) = boot_log("{}");
        let runtime: Vec<(&str, &str)> = events
            .iter()
            .filter(|event| event.imr == 3)
            .map(|event| (event.event.as_str(), event.event_payload.as_str()))
            .collect();
        // printf '{}' | sha256sum
        let compose_hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(runtime[1], ("app-id", &compose_hash[..40]));
        assert_eq!(runtime[2], ("compose-hash", compose_hash));
        let names: Vec<&str> = runtime.iter().map(|(name, _)| *name).collect();
        let order =
            "system-preparing app-id compose-hash instance-id boot-mr-done key-provider storage-fs system-ready";
        assert_eq!(names.join(" "), order);
        assert!(registers.iter().all(|register| register != &[0; 48]), "{registers:?}");
        assert_eq!(hex::encode(&mr_config_id("{}")), format!("01{compose_hash}{}", "00".repeat(15)));
    }

    #[test]
    fn a_change_to_one_event_changes_its_register_only() {
        let (events, before) = boot_log("{}");
        for (at, event) in events.iter().enumerate() {
            let mut changed = events.clone();
            match event.imr {
                3 => changed[at].event_payload.push_str("00"),
                _ => changed[at].digest = "00".repeat(48),
            }
            let after = registers(&changed).unwrap();
            for register in 0..4 {
                assert_eq!(before[register] != after[register], usize::from(event.imr) == register, "{at} {register}");
            }
        }
    }

    #[test]
    fn the_stated_digest_of_a_run_time_event_is_not_believed() {
        let (mut events, before) = boot_log("{}");
        events.last_mut().unwrap().digest = "00".repeat(48);
        assert_eq!(registers(&events), Ok(before));
        events.last_mut().unwrap().digest.clear();
        assert_eq!(registers(&events), Ok(before));
        events.last_mut().unwrap().version = Some(2);
        assert_ne!(registers(&events), Ok(before));
    }

    #[test]
    fn an_event_that_leads_to_no_register_is_named() {
        let (events, _) = boot_log("{}");
        let with = |at: usize, change: fn(&mut Event)| {
            let mut events = events.clone();
            change(&mut events[at]);
            registers(&events)
        };
        assert_eq!(with(2, |event| event.imr = 4), Err(EventError::Register { at: 2 }));
        assert_eq!(with(3, |event| event.digest.clear()), Err(EventError::Digest { at: 3 }));
        assert_eq!(with(9, |event| event.event_payload.push('g')), Err(EventError::Payload { at: 9 }));
    }
}

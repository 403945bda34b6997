//! Event logs that anybody may have written, replayed against the registers of a machine where they were measured as they
//! stand.
use dshield_common::attestation::event::{
    Event, RUNTIME_EVENT, RUNTIME_RTMR, extend, runtime_digest, runtime_digest_v2,
};
use dshield_common::hex;
use dshield_verify::event_log::{Replayed, Rtmrs, replay, replay_runtime_only};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "{\"imr\":3,\"event_type\":134217729,\"event\":\"compose-hash\",\"event_payload\":\"00\"},",
    "{\"imr\":3,\"event_type\":134217729,\"event\":\"boot-mr-done\"},",
    "\"imr\":0",
    "\"imr\":3",
    "\"imr\":4",
    "134217729",
    "\"digest\":\"\"",
    "\"event\":\"compose-hash\"",
    "\"event\":\"boot-mr-done\"",
    "\"event\":\"system-ready\"",
    "\"event\":\"key-provider\"",
    "\"event\":\"app-id:",
    "\"event_payload\":\"\"",
    ",\"version\":2",
    ",\"preimage\":\"00\"",
    "00000000",
    "\\u003a",
    "},{",
];

/// A log that replays has the compose hash of the first such event that it shows, and no other register passes for its own.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // A log of events has at least one in the register that every such machine extends.
    assert!(replay(text, &[[0; 48]; 4]).is_err(), "a log without extensions tells who runs");
    let Ok(events) = serde_json::from_str::<Vec<Event>>(text) else { return };
    let Some(rtmrs) = measured(&events) else { return };
    let _ = replay_runtime_only(text, &rtmrs);
    let Ok(replayed) = replay(text, &rtmrs) else { return };
    assert_eq!(replayed.events, events.len());
    let first = events.iter().find(|event| is_runtime(event) && event.event == "compose-hash");
    let first = first.map(|event| event.event_payload.clone());
    assert_eq!(first, Some(replayed.identity.compose_hash.to_string()), "another compose hash than the first");
    for imr in (0..4).filter(|imr| replayed.covered[*imr]) {
        let mut others = rtmrs;
        others[imr][0] ^= 1;
        assert!(replay(text, &others).is_err(), "another machine's RTMR{imr} passes");
    }
}

/// What a log says of a machine where its events were measured as they stand.
#[must_use]
pub fn replayed_where_measured(text: &str) -> Option<Replayed> {
    replay(text, &measured(&serde_json::from_str::<Vec<Event>>(text).ok()?)?).ok()
}

fn is_runtime(event: &Event) -> bool {
    event.imr == RUNTIME_RTMR && event.event_type == RUNTIME_EVENT
}

/// The registers of a machine where these events were measured; none where one of them has no digest.
fn measured(events: &[Event]) -> Option<Rtmrs> {
    let mut registers = [[0; 48]; 4];
    for event in events {
        let digest = match event.version {
            _ if !is_runtime(event) => hex::decode_array(&event.digest)?,
            Some(2) => runtime_digest_v2(&event.event, &event.event_payload),
            _ => runtime_digest(&event.event, &hex::decode(&event.event_payload)?),
        };
        let register = registers.get_mut(usize::from(event.imr))?;
        *register = extend(register, &digest);
    }
    Some(registers)
}

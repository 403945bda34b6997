#![allow(clippy::unwrap_used)]
use dshield_common::attestation::event::{Event, RUNTIME_EVENT, extend, runtime_digest_v2};
use dshield_common::hex;
use proptest::prelude::*;

use super::{EventLogFault, MAX_EVENTS, MAX_TEXT, Rtmrs, replay, replay_runtime_only};
use crate::test_vectors;

const COMPOSE: [u8; 32] = [0xc0; 32];
const PROVIDER: &[u8] = br#"{"name":"kms","id":"30"}"#;

/// What dstack writes into RTMR3 while it boots.
fn booted() -> Vec<Event> {
    let events: [(&str, &[u8]); 9] = [
        ("system-preparing", b""),
        ("app-id", &[0xa0; 20]),
        ("compose-hash", &COMPOSE),
        ("instance-id", &[0x10; 20]),
        ("boot-mr-done", b""),
        ("os-image-hash", &[0x05; 32]),
        ("key-provider", PROVIDER),
        ("storage-fs", b"ext4"),
        ("system-ready", b""),
    ];
    events.into_iter().map(|(name, payload)| Event::runtime(name, payload)).collect()
}

/// An event of firmware or kernel, or of anybody who extends a register with a bare digest.
fn opaque(imr: u8, digest: [u8; 48]) -> Event {
    let digest = hex::encode(&digest);
    Event {
        imr,
        event_type: 4,
        digest,
        version: None,
        preimage: None,
        event: String::new(),
        event_payload: String::new(),
    }
}

fn version_2(name: &str, payload: &[u8]) -> Event {
    let payload = hex::encode(payload);
    let preimage = format!(r#"{{"name":"{name}","payload":"{payload}","type":134217729}}"#);
    Event {
        digest: hex::encode(&runtime_digest_v2(name, &payload)),
        event_payload: payload,
        version: Some(2),
        preimage: Some(hex::encode(preimage.as_bytes())),
        ..Event::runtime(name, b"")
    }
}

/// The registers of a machine where just these events were measured.
fn rtmrs(events: &[Event]) -> Rtmrs {
    let mut registers = [[0; 48]; 4];
    for event in events {
        let register = &mut registers[usize::from(event.imr)];
        *register = extend(register, &hex::decode_array(&event.digest).unwrap());
    }
    registers
}

fn text(events: &[Event]) -> String {
    serde_json::to_string(events).unwrap()
}

/// What is wrong with a log whose events were measured as they stand.
fn fault(events: &[Event]) -> EventLogFault {
    replay(&text(events), &rtmrs(events)).unwrap_err()
}

#[test]
fn all_four_registers_of_a_real_machine_replay_and_its_identity_comes_out() {
    let Some(report) = test_vectors::read("quote-report.json") else { return };
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let quote = hex::decode(report["quote"].as_str().unwrap()).unwrap();
    let mut rtmrs: Rtmrs = std::array::from_fn(|at| quote[376 + 48 * at..424 + 48 * at].try_into().unwrap());
    let log = report["event_log"].as_str().unwrap();
    let replayed = replay(log, &rtmrs).unwrap();
    assert_eq!((replayed.events, replayed.covered), (28, [true; 4]));
    let who = replayed.identity;
    let compose = "3763bc34552cf3a27ff71ad5f7a90471562a1a2df552dfc1998cba2d60da27e7";
    assert_eq!(who.compose_hash.to_string(), compose);
    // This machine's app id was not chosen: it is the beginning of the compose hash.
    assert_eq!(hex::encode(&who.app_id), compose[..40]);
    assert_eq!(who.instance_id.map(|id| hex::encode(&id)).unwrap(), "c3714eb66990eace777b4e664c16e09375dec4c9");
    let provider = who.key_provider.unwrap();
    assert_eq!(provider.name, "local-sgx");
    assert!(provider.id.starts_with("1b7a49378403249b"), "{}", provider.id);
    assert_eq!((who.os_image_hash, who.storage_fs), (None, None));
    // An application's own event, after the marks.
    assert_eq!(replayed.notes, Vec::<String>::new());
    for at in 0..4 {
        rtmrs[at][7] ^= 1;
        let said = replay(log, &rtmrs).unwrap_err().to_string();
        assert!(said.starts_with(&format!("RTMR{at} replays to ")), "{said}");
        rtmrs[at][7] ^= 1;
    }
}

#[test]
fn who_runs_is_read_from_what_dstack_wrote_while_it_booted() {
    let events = booted();
    let replayed = replay(&text(&events), &rtmrs(&events)).unwrap();
    assert_eq!((replayed.events, replayed.covered), (9, [false, false, false, true]));
    assert_eq!(replayed.notes, Vec::<String>::new());
    let who = replayed.identity;
    assert_eq!((who.app_id, who.compose_hash), ([0xa0; 20], COMPOSE.into()));
    assert_eq!((who.instance_id, who.os_image_hash), (Some([0x10; 20]), Some([5; 32].into())));
    assert_eq!((who.key_provider.unwrap().id, who.storage_fs.unwrap()), ("30".to_owned(), "ext4".to_owned()));
}

#[test]
fn an_application_that_wants_no_instance_id_has_none() {
    let mut events = booted();
    events[3] = Event::runtime("instance-id", b"");
    assert_eq!(replay(&text(&events), &rtmrs(&events)).unwrap().identity.instance_id, None);
}

#[test]
fn digests_may_be_left_out_where_names_and_payloads_give_them() {
    let mut events = booted();
    let registers = rtmrs(&events);
    let whole = replay(&text(&events), &registers).unwrap();
    events.iter_mut().for_each(|event| event.digest.clear());
    assert_eq!(replay(&text(&events), &registers).unwrap(), whole);
    // Without a digest, too, a changed payload shows.
    events[2].event_payload = hex::encode(&[0xbb; 32]);
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("RTMR3 replays to ") && said.contains("is not this machine's"), "{said}");
    assert!(said.contains(&hex::encode(&registers[3])), "{said}");
}

#[test]
fn a_changed_payload_beside_its_old_digest_is_a_fault() {
    let mut events = booted();
    let registers = rtmrs(&events);
    events[2].event_payload = hex::encode(&[0xbb; 32]);
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("event 2 (compose-hash) lists the digest "), "{said}");
    assert!(said.ends_with("one of them was changed"), "{said}");
}

#[test]
fn events_of_version_2_replay_and_their_preimages_are_checked() {
    let of_version_1 = booted();
    let mut events: Vec<Event> =
        of_version_1.iter().map(|event| version_2(&event.event, &hex::decode(&event.event_payload).unwrap())).collect();
    let registers = rtmrs(&events);
    assert_ne!(registers, rtmrs(&of_version_1));
    assert_eq!(replay(&text(&events), &registers).unwrap().identity.compose_hash, COMPOSE.into());
    let good = events[2].preimage.clone();
    events[2].preimage = Some(hex::encode(b"{}"));
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("event 2 (compose-hash) has a preimage"), "{said}");
    events[2].preimage = good;
    events[2].version = Some(1);
    assert!(matches!(replay(&text(&events), &registers), Err(EventLogFault::OtherDigest { index: 2, .. })));
    events[2].version = Some(3);
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.contains("is of version 3"), "{said}");
}

#[test]
fn a_second_identity_event_before_the_mark_is_a_fault() {
    for (at, name, before) in [
        (1, "app-id", "boot-mr-done"),
        (2, "compose-hash", "boot-mr-done"),
        (3, "instance-id", "boot-mr-done"),
        (6, "key-provider", "system-ready"),
        (5, "os-image-hash", "system-ready"),
    ] {
        let mut events = booted();
        events.insert(at, events[at].clone());
        let said = fault(&events).to_string();
        let should = format!("the event log has a second {name} event, at {}, before {before}", at + 1);
        assert!(said.starts_with(&should), "{said}");
    }
}

#[test]
fn what_an_application_emits_later_is_ignored_and_noted() {
    let mut events = booted();
    events.insert(6, Event::runtime("compose-hash", &[0xee; 32]));
    events.push(Event::runtime("compose-hash", &[0xee; 32]));
    events.push(Event::runtime("boot-mr-done", b""));
    events.push(Event::runtime("key-provider", b"nonsense"));
    events.push(Event::runtime("my-own", b"x"));
    events.push(opaque(3, [7; 48]));
    let replayed = replay(&text(&events), &rtmrs(&events)).unwrap();
    assert_eq!(replayed.identity.compose_hash, COMPOSE.into());
    assert_eq!(replayed.identity.key_provider.unwrap().name, "kms");
    let said = replayed.notes;
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.iter().any(|note| note.starts_with("event 6 (compose-hash) comes after boot-mr-done and is ignored")));
    assert!(
        said.iter().any(|note| note.starts_with("event 10 (compose-hash) comes after system-ready and is ignored"))
    );
    assert!(said.iter().any(|note| note.starts_with("event 11 (boot-mr-done)")));
    assert!(said.iter().any(|note| note.starts_with("event 12 (key-provider)")));
}

/// An application of an older dstack can emit a whole second boot. Were the real one shown as bare digests, the second
/// would be the first.
#[test]
fn the_real_boot_cannot_hide_behind_bare_digests() {
    let mut events = booted();
    let mut second = booted();
    second[2] = Event::runtime("compose-hash", &[0xee; 32]);
    for event in &mut events {
        *event = opaque(3, hex::decode_array(&event.digest).unwrap());
    }
    events.extend(second);
    let said = fault(&events).to_string();
    assert!(said.starts_with("event 0 of RTMR3") && said.contains("hides what it is"), "{said}");
}

/// `compose-hash` ‖ `:` ‖ payload has the same digest as the name `compose-hash:…` where the payload has a colon.
#[test]
fn an_event_cannot_hide_under_a_name_that_is_partly_payload() {
    let mut events = booted();
    events[2] = Event::runtime("compose-hash", b":0123456789012345678901234567890");
    let registers = rtmrs(&events);
    assert!(replay(&text(&events), &registers).is_ok());
    events[2].event = "compose-hash:".to_owned();
    events[2].event_payload = hex::encode(b"0123456789012345678901234567890");
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("event 2 of RTMR3 (\"compose-hash:\""), "{said}");
}

#[test]
fn a_log_without_the_mark_tells_nobody_who_runs() {
    let mut events = booted();
    events.remove(4);
    assert!(fault(&events).to_string().starts_with("the event log has no boot-mr-done event"));
    let nothing = replay("[]", &[[0; 48]; 4]).unwrap_err();
    assert!(matches!(nothing, EventLogFault::NoMark));
}

#[test]
fn a_mark_of_another_register_or_type_is_no_mark() {
    let mut events = booted();
    events[4].imr = 2;
    assert!(matches!(fault(&events), EventLogFault::NoMark));
    events[4] = Event { event_type: RUNTIME_EVENT + 1, ..Event::runtime("boot-mr-done", b"") };
    assert!(matches!(fault(&events), EventLogFault::NoMark));
}

#[test]
fn without_the_second_mark_the_key_provider_is_not_believed() {
    let mut events = booted();
    events.pop();
    let replayed = replay(&text(&events), &rtmrs(&events)).unwrap();
    assert_eq!((replayed.identity.key_provider, replayed.identity.os_image_hash), (None, None));
    let no_mark = |note: &String| note.starts_with("the event log has no system-ready event");
    assert!(replayed.notes.iter().any(no_mark), "{:?}", replayed.notes);
}

#[test]
fn a_log_that_does_not_say_who_runs_is_a_fault() {
    for (at, name) in [(1, "app-id"), (2, "compose-hash")] {
        let mut events = booted();
        events.remove(at);
        let said = fault(&events).to_string();
        assert!(said.starts_with(&format!("the event log has no {name} event before boot-mr-done")), "{said}");
    }
}

#[test]
fn identity_events_of_another_shape_are_faults() {
    let bad: [(usize, &str, &[u8], &str); 5] = [
        (1, "app-id", &[0; 19], "should be 20 bytes"),
        (2, "compose-hash", &[0; 31], "should be a SHA-256 of 32 bytes"),
        (3, "instance-id", &[0; 21], "should be 20 bytes or none"),
        (6, "key-provider", b"kms", "should be JSON with the texts"),
        (6, "key-provider", br#"{"name":"kms","id":1}"#, "should be JSON with the texts"),
    ];
    for (at, name, payload, should) in bad {
        let mut events = booted();
        events[at] = Event::runtime(name, payload);
        let said = fault(&events).to_string();
        assert!(said.starts_with(&format!("event {at} ({name}) has the payload")) && said.contains(should), "{said}");
    }
}

#[test]
fn scripts_that_are_measured_apart_are_listed() {
    let mut events = booted();
    for at in 0..5 {
        events.insert(3, Event::runtime("init-script-hash", &[at; 32]));
    }
    let replayed = replay(&text(&events), &rtmrs(&events)).unwrap();
    let expected: Vec<_> = (0..5).rev().map(|at| [at; 32].into()).collect();
    assert_eq!(replayed.identity.init_script_hashes, expected);
    assert_eq!(replayed.notes, Vec::<String>::new());
    events.insert(3, Event::runtime("init-script-hash", &[9; 32]));
    assert!(matches!(fault(&events), EventLogFault::Shape { name: "init-script-hash", .. }));
}

#[test]
fn registers_of_firmware_and_kernel_are_compared_where_the_log_has_them() {
    let mut events = booted();
    events.insert(0, opaque(0, [1; 48]));
    events.insert(3, opaque(0, [2; 48]));
    events.push(opaque(2, [3; 48]));
    let registers = rtmrs(&events);
    assert_eq!(replay(&text(&events), &registers).unwrap().covered, [true, false, true, true]);
    events.swap(0, 3);
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("RTMR0 replays to "), "{said}");
}

#[test]
fn a_register_that_no_machine_has_is_a_fault() {
    let mut events = booted();
    let registers = rtmrs(&events);
    events.push(opaque(4, [0; 48]));
    let said = replay(&text(&events), &registers).unwrap_err().to_string();
    assert!(said.starts_with("event 9 is of RTMR4"), "{said}");
    let text = text(&events).replace("\"imr\":4", "\"imr\":-1");
    assert!(matches!(replay(&text, &registers), Err(EventLogFault::Malformed(_))));
}

#[test]
fn digests_and_payloads_have_one_spelling() {
    let registers = [[0; 48]; 4];
    for digest in ["", "00", &"AB".repeat(48), &"0".repeat(95), &"z".repeat(4000)] {
        let event = Event { digest: digest.to_owned(), ..opaque(1, [0; 48]) };
        let said = replay(&text(&[event]), &registers).unwrap_err().to_string();
        assert!(said.starts_with("event 0 (RTMR1) has the digest"), "{said}");
        assert!(said.len() < 300, "{said}");
    }
    let event = Event { event_payload: "0".to_owned(), ..Event::runtime("app-id", b"") };
    let said = replay(&text(&[event]), &registers).unwrap_err().to_string();
    assert!(said.starts_with("event 0 (app-id) has a payload"), "{said}");
}

#[test]
fn huge_logs_are_not_read() {
    let registers = [[0; 48]; 4];
    let long = " ".repeat(MAX_TEXT + 1);
    let said = replay(&long, &registers).unwrap_err().to_string();
    assert!(said.starts_with("the event log is 1048577 bytes long"), "{said}");
    let many: Vec<&str> = std::iter::repeat_n(r#"{"imr":3,"event_type":134217729}"#, MAX_EVENTS + 1).collect();
    let said = replay(&format!("[{}]", many.join(",")), &registers).unwrap_err().to_string();
    assert!(said.starts_with("the event log has 4097 events"), "{said}");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(matches!(replay(&deep, &registers), Err(EventLogFault::Malformed(_))));
}

#[test]
fn an_agents_own_log_replays_in_order_with_all_that_ran() {
    let events = [
        Event::runtime("dshield-agent", &[1; 32]),
        Event::runtime("dshield-ebpf", &[2; 32]),
        Event::runtime("dshield-policy", &[3; 32]),
        // The agent was started again, with another policy.
        Event::runtime("dshield-policy", &[4; 32]),
    ];
    let registers = rtmrs(&events);
    let replayed = replay_runtime_only(&text(&events), &registers).unwrap();
    assert_eq!((replayed.events, replayed.covered), (4, [false, false, false, true]));
    assert_eq!(replayed.all("dshield-policy").collect::<Vec<_>>(), [[3; 32], [4; 32]]);
    let said = replay_runtime_only(&text(&events[..3]), &registers).unwrap_err().to_string();
    assert!(said.starts_with("RTMR3 replays to "), "{said}");
}

#[test]
fn an_agents_own_log_has_nothing_but_its_own_kind_of_event() {
    for event in [opaque(3, [1; 48]), opaque(0, [1; 48])] {
        let events = [Event::runtime("dshield-agent", &[1; 32]), event];
        let said = replay_runtime_only(&text(&events), &rtmrs(&events)).unwrap_err().to_string();
        assert!(said.starts_with("event 1 is of RTMR") && said.contains("0x00000004"), "{said}");
    }
    assert!(replay_runtime_only("[]", &[[0; 48]; 4]).is_ok());
    assert!(matches!(replay_runtime_only("[]", &[[1; 48]; 4]), Err(EventLogFault::Register { imr: 3, .. })));
}

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}") {
        prop_assert!(replay(&text, &[[0; 48]; 4]).is_err());
    }

    #[test]
    fn whatever_replays_names_no_other_compose_than_the_first_boot_measured(
        events in prop::collection::vec(any_event(), 0..12)
    ) {
        let registers = rtmrs(&events);
        if let Ok(replayed) = replay(&text(&events), &registers) {
            let named = |event: &&Event| event.imr == 3 && event.event_type == RUNTIME_EVENT;
            let first = events.iter().filter(named).find(|event| event.event == "compose-hash");
            prop_assert_eq!(&first.unwrap().event_payload, &replayed.identity.compose_hash.to_string());
        }
        let _ = replay_runtime_only(&text(&events), &registers);
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let real = (0..booted().len()).prop_map(|at| booted()[at].clone());
    let other = (0u8..4, any::<u8>()).prop_map(|(imr, byte)| opaque(imr, [byte; 48]));
    let again = any::<u8>().prop_map(|byte| Event::runtime("compose-hash", &[byte; 32]));
    prop_oneof![8 => real, 1 => other, 1 => again]
}

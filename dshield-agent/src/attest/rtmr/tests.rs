//! Against a register that follows the kernel's rules (`dshield_tests::tsm`), and logs as agents leave them.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use dshield_common::canonical::sha256_hex;
use dshield_tests::tsm::{Step, Tsm};
use tempfile::TempDir;

use super::*;

/// A machine, and a folder for what ends with its boot.
struct Scene {
    tsm: Tsm,
    run: TempDir,
}

impl Scene {
    fn new() -> Option<Self> {
        Some(Self { tsm: Tsm::mount()?, run: tempfile::tempdir().unwrap() })
    }

    fn log(&self) -> PathBuf {
        self.run.path().join("rtmr3.log")
    }

    fn open(&self) -> Result<Rtmr3, RtmrError> {
        Rtmr3::open(&self.tsm.measurements(), &self.log()).map(|rtmr3| rtmr3.expect("this kernel has it"))
    }

    /// A log whose last event is pending; the register has all before it.
    fn killed_after_pending(&self) -> [Event; 2] {
        let events = [event("first"), event("second")];
        let mut rtmr3 = self.open().unwrap();
        rtmr3.extend(&events[0]).unwrap();
        rtmr3.append(&Line::Pending(events[1].clone())).unwrap();
        events
    }

    fn extend_register(&self, event: &Event) {
        let value = replayed(self.tsm.rtmr3(), event);
        self.tsm.set_rtmr3(value);
    }

    fn text(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }
}

fn event(name: &str) -> Event {
    Event::runtime(name, name.as_bytes())
}

#[test]
fn an_extension_is_in_the_register_and_in_the_log() {
    let Some(scene) = Scene::new() else { return };
    let mut rtmr3 = scene.open().unwrap();
    assert!(rtmr3.events().is_empty());
    let events = [event("first"), event("second")];
    for event in &events {
        rtmr3.extend(event).unwrap();
    }
    // SHA-384(SHA-384(0 ‖ digest) ‖ digest), by the digests in the events rather than by their names.
    let digests = events.each_ref().map(|event| hex::decode(&event.digest).unwrap());
    let led = digests.iter().fold([0; 48], |value, digest| event::extend(&value, digest[..].try_into().unwrap()));
    assert_eq!(scene.tsm.rtmr3(), led);
    assert_eq!(rtmr3.events(), events);
    let text = scene.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("{\"pending\":{\"imr\":3,"), "{text}");
    assert_eq!((lines.len(), lines[1], lines[3]), (4, "\"done\"", "\"done\""), "{text}");
}

#[test]
fn an_agent_that_starts_again_goes_on_where_it_was() {
    let Some(scene) = Scene::new() else { return };
    let mut first = scene.open().unwrap();
    assert!(first.extend_if_new(&event("agent")).unwrap());
    assert!(first.extend_if_new(&event("policy")).unwrap());
    drop(first);
    let before = scene.tsm.rtmr3();
    let mut second = scene.open().unwrap();
    assert_eq!(second.events(), [event("agent"), event("policy")]);
    assert!(!second.extend_if_new(&event("agent")).unwrap(), "it has nothing new to say");
    assert_eq!(scene.tsm.rtmr3(), before);
    let changed = Event::runtime("policy", b"another");
    assert!(second.extend_if_new(&changed).unwrap());
    assert!(second.extend_if_new(&event("policy")).unwrap(), "it is the first one again, but was not in between");
    assert_eq!(second.events(), [event("agent"), event("policy"), changed, event("policy")]);
    assert_eq!(scene.tsm.rtmr3(), replay(second.events()));
}

#[test]
fn an_agent_killed_before_the_register_was_extended_has_not_extended_it() {
    let Some(scene) = Scene::new() else { return };
    let [first, second] = scene.killed_after_pending();
    let mut rtmr3 = scene.open().unwrap();
    assert_eq!(rtmr3.events(), std::slice::from_ref(&first));
    rtmr3.extend(&second).unwrap();
    assert_eq!(scene.tsm.rtmr3(), replay(&[first, second]));
}

#[test]
fn an_agent_killed_after_the_register_was_extended_has_extended_it() {
    let Some(scene) = Scene::new() else { return };
    let events = scene.killed_after_pending();
    scene.extend_register(&events[1]);
    assert_eq!(scene.open().unwrap().events(), events);
    assert!(scene.text().ends_with("\n\"done\"\n"), "{}", scene.text());
    assert_eq!(scene.open().unwrap().events(), events);
}

/// Wherever the agent is killed while it writes its log, the next one knows what the register has.
#[test]
fn a_log_that_ends_anywhere_is_understood() {
    let Some(scene) = Scene::new() else { return };
    let events = scene.killed_after_pending();
    let pending = scene.text();
    let done_first = pending.find("\n\"done\"\n").unwrap() + 8;
    let before = scene.tsm.rtmr3();
    // Killed within the line that says what is coming: nothing was extended.
    for length in done_first..pending.len() {
        fs::write(scene.log(), &pending[..length]).unwrap();
        assert_eq!(scene.open().unwrap().events(), &events[..1], "{length}");
        assert_eq!(scene.text(), pending[..done_first]);
    }
    // Killed within the line that says it was done.
    scene.extend_register(&events[1]);
    let after = scene.tsm.rtmr3();
    let whole = format!("{pending}\"done\"\n");
    for length in pending.len()..=whole.len() {
        fs::write(scene.log(), &whole[..length]).unwrap();
        assert_eq!(scene.open().unwrap().events(), events, "{length}");
        assert_eq!(scene.text(), whole);
    }
    assert_ne!(before, after);
}

#[test]
fn a_register_that_somebody_else_extended_is_left_alone() {
    let Some(scene) = Scene::new() else { return };
    scene.extend_register(&event("compose-hash"));
    let theirs = scene.tsm.rtmr3();
    let error = scene.open().unwrap_err();
    assert!(matches!(error, RtmrError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("was extended by somebody else"), "{error}");
    assert_eq!(scene.tsm.rtmr3(), theirs);

    scene.tsm.set_rtmr3([0; 48]);
    let mut rtmr3 = scene.open().unwrap();
    rtmr3.extend(&event("first")).unwrap();
    scene.extend_register(&event("somebody else's"));
    let theirs = scene.tsm.rtmr3();
    for error in [rtmr3.extend(&event("second")).unwrap_err(), rtmr3.extend_if_new(&event("first")).unwrap_err()] {
        assert!(matches!(error, RtmrError::Foreign { .. }), "{error}");
    }
    assert_eq!(scene.tsm.rtmr3(), theirs);
    drop(rtmr3);
    assert!(matches!(scene.open(), Err(RtmrError::Foreign { .. })));
}

#[test]
fn a_log_of_an_earlier_boot_of_the_machine_is_forgotten() {
    let Some(scene) = Scene::new() else { return };
    scene.killed_after_pending();
    scene.tsm.set_rtmr3([0; 48]);
    let mut rtmr3 = scene.open().unwrap();
    assert!(rtmr3.events().is_empty());
    assert_eq!(scene.text(), "");
    rtmr3.extend(&event("new")).unwrap();
    assert_eq!(scene.tsm.rtmr3(), replay(&[event("new")]));
}

#[test]
fn what_the_register_shows_counts_whatever_the_kernel_said() {
    let Some(scene) = Scene::new() else { return };
    let mut rtmr3 = scene.open().unwrap();
    scene.tsm.fail(Step::Extend, libc::EIO, 1);
    let error = rtmr3.extend(&event("first")).unwrap_err();
    assert!(matches!(error, RtmrError::File { .. }), "{error}");
    assert!(rtmr3.events().is_empty());
    scene.tsm.fail(Step::ExtendAndFail, libc::EINTR, 1);
    rtmr3.extend(&event("first")).unwrap();
    assert_eq!(rtmr3.events(), [event("first")]);
    assert_eq!(scene.tsm.rtmr3(), replay(&[event("first")]));
    scene.tsm.fail(Step::Register, libc::EIO, 1);
    assert!(matches!(rtmr3.extend(&event("second")), Err(RtmrError::File { .. })));
    assert_eq!(scene.tsm.rtmr3(), replay(&[event("first")]), "what cannot be read is not extended");
    rtmr3.extend(&event("second")).unwrap();
    assert_eq!(scene.tsm.rtmr3(), replay(&[event("first"), event("second")]));
}

#[test]
fn an_extension_whose_end_was_not_seen_is_found_by_the_next_one() {
    let Some(scene) = Scene::new() else { return };
    let mut rtmr3 = scene.open().unwrap();
    rtmr3.extend(&event("first")).unwrap();
    rtmr3.append(&Line::Pending(event("second"))).unwrap();
    rtmr3.write(&event::runtime_digest("second", b"second")).unwrap();
    rtmr3.extend(&event("third")).unwrap();
    assert_eq!(rtmr3.events(), [event("first"), event("second"), event("third")]);
    assert_eq!(scene.tsm.rtmr3(), replay(rtmr3.events()));
}

/// Two agents on one machine: the second had no log to show, and whoever checked its quotes refused them.
#[test]
fn the_agents_of_a_machine_share_its_register_and_its_log() {
    let Some(scene) = Scene::new() else { return };
    let (mut first, mut second) = (scene.open().unwrap(), scene.open().unwrap());
    assert!(first.extend_if_new(&event("agent")).unwrap());
    let early = scene.tsm.rtmr3();
    assert!(!second.extend_if_new(&event("agent")).unwrap(), "the other one has said so");
    assert!(second.extend_if_new(&event("policy")).unwrap());
    let late = scene.tsm.rtmr3();
    let (one, both) = (vec![event("agent")], vec![event("agent"), event("policy")]);
    for rtmr3 in [&mut first, &mut second] {
        for (value, events) in [(late, &both), (early, &one), (late, &both)] {
            let log = rtmr3.event_log_of(&value).unwrap();
            assert_eq!(&serde_json::from_str::<Vec<Event>>(&log).unwrap(), events);
        }
        assert_eq!(rtmr3.event_log_of(&[7; 48]), None);
    }
    assert!(first.extend_if_new(&event("more")).unwrap());
    assert_eq!(scene.tsm.rtmr3(), replay(first.events()));
}

#[test]
fn extensions_of_agents_that_start_at_the_same_time_are_all_in_one_log() {
    let Some(scene) = Scene::new() else { return };
    std::thread::scope(|scope| {
        for number in 0..8 {
            let scene = &scene;
            scope.spawn(move || scene.open().unwrap().extend(&event(&format!("agent {number}"))).unwrap());
        }
    });
    let rtmr3 = scene.open().unwrap();
    assert_eq!((rtmr3.events().len(), replay(rtmr3.events())), (8, scene.tsm.rtmr3()));
}

#[test]
fn a_log_that_somebody_holds_is_not_waited_for_without_end() {
    let Some(scene) = Scene::new() else { return };
    let mut rtmr3 = scene.open().unwrap();
    let held = File::open(scene.log()).unwrap();
    held.lock().unwrap();
    rtmr3.patience = Duration::from_millis(50);
    assert!(matches!(rtmr3.extend(&event("first")), Err(RtmrError::InUse { .. })));
    assert_eq!(scene.tsm.rtmr3(), [0; 48]);
    drop(held);
    rtmr3.extend(&event("first")).unwrap();
}

#[test]
fn a_log_that_is_not_an_agents_is_refused_by_its_line() {
    let Some(scene) = Scene::new() else { return };
    scene.killed_after_pending();
    let pending = scene.text();
    for (text, line) in [
        (format!("{pending}{}", pending.lines().last().unwrap()) + "\n", 4),
        ("\"done\"\n".to_owned(), 1),
        (pending.replacen("pending", "planned", 1), 1),
    ] {
        fs::write(scene.log(), &text).unwrap();
        let error = scene.open().unwrap_err();
        assert!(matches!(error, RtmrError::Log { line: at, .. } if at == line), "{error}: {text}");
        assert_eq!(scene.text(), text, "it is kept for whoever looks");
    }
}

#[test]
fn only_run_time_events_are_extended() {
    let Some(scene) = Scene::new() else { return };
    let mut rtmr3 = scene.open().unwrap();
    let good = event("x");
    for bad in [
        Event { imr: 2, ..good.clone() },
        Event { digest: "00".repeat(48), ..good.clone() },
        Event { event_payload: "0".to_owned(), ..good.clone() },
        Event { version: Some(2), ..good },
    ] {
        assert!(matches!(rtmr3.extend(&bad), Err(RtmrError::NotRuntime(_))), "{bad:?}");
    }
    assert_eq!(scene.tsm.rtmr3(), [0; 48]);
}

#[test]
fn a_kernel_without_the_register_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("rtmr3.log");
    assert!(Rtmr3::open(folder.path(), &log).unwrap().is_none());
    assert!(!log.exists());
}

#[test]
fn an_agent_says_at_its_start_what_its_statement_says() {
    let names = ["agent", "ebpf_cgroup", "ebpf_lsm", "ebpf_netns", "seccomp"];
    let sha256: BTreeMap<_, _> = names.map(|name| (name.to_owned(), sha256_hex(name.as_bytes()))).into();
    let mut measurements = Measurements { sha256 };
    let policy = sha256_hex(b"{}");
    let [agent, ebpf, said_policy] = start_events(&measurements, &policy).unwrap();
    assert_eq!((&agent.event[..], &agent.event_payload), ("dshield-agent", &measurements.sha256["agent"]));
    let hashes: Vec<u8> = names[1..4].iter().flat_map(Sha256::digest).collect();
    assert_eq!((&ebpf.event[..], ebpf.event_payload), ("dshield-ebpf", sha256_hex(&hashes)));
    assert_eq!((&said_policy.event[..], &said_policy.event_payload), ("dshield-policy", &policy));
    assert!(matches!(start_events(&measurements, "abc"), Err(RtmrError::NotAHash("the policy's hash"))));
    measurements.sha256.remove("agent");
    assert!(start_events(&measurements, &policy).is_err());
}

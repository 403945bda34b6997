//! Against a stand-in for the guest agent on a real socket (`dshield_tests::guest_agent`).
#![allow(clippy::unwrap_used)]
use std::os::unix::net::UnixListener;

use dshield_common::attestation::event::Event;
use dshield_common::canonical::sha256_hex;
use dshield_tests::guest_agent::{APP_COMPOSE, Answer, GuestAgent};
use dshield_tests::tsm::{QuoteShape, quote};
use serde_json::json;

use super::*;

fn asked() -> ReportData {
    ReportData::of("a statement")
}

/// The error of a question that is answered so.
fn answered(method: &str, answer: Answer) -> QuoteError {
    let agent = GuestAgent::start();
    agent.answer_once(method, answer);
    Dstack::at(agent.endpoint()).quote(&asked()).unwrap_err()
}

#[test]
fn a_quote_comes_with_what_dstack_says_of_its_machine() {
    for agent in [GuestAgent::start(), GuestAgent::start_tcp()] {
        let mut dstack = Dstack::at(agent.endpoint());
        let quoted = dstack.quote(&asked()).unwrap();
        assert_eq!(quoted.quote, Some(quote(QuoteShape::V4, asked().as_bytes(), &agent.rtmr3())));
        assert_eq!(quoted.app_compose.as_deref(), Some(APP_COMPOSE), "byte for byte");
        assert!(quoted.vm_config.unwrap().contains("\"cpu_count\":2"), "that of the quote");
        let events: Vec<Event> = serde_json::from_str(&quoted.event_log.unwrap()).unwrap();
        let compose = events.iter().find(|event| event.event == "compose-hash").unwrap();
        assert_eq!(compose.event_payload, sha256_hex(APP_COMPOSE.as_bytes()));
        assert_eq!((quoted.tpm, quoted.collateral), (None, None));
        assert_eq!(dstack.provider(), Provider::Dstack);
    }
}

#[test]
fn the_guest_agent_is_asked_for_quotes_and_never_to_extend_a_register() {
    let agent = GuestAgent::start();
    let mut dstack = Dstack::at(agent.endpoint());
    dstack.quote(&asked()).unwrap();
    dstack.quote(&ReportData::of("another")).unwrap();
    dstack.key("dshield/log", "signing").unwrap();
    assert_eq!(agent.methods(), ["GetQuote", "Info", "GetQuote", "GetKey"], "what does not change is asked once");
    let digits = asked().to_string();
    assert_eq!(agent.asked()[0].1, json!({ "report_data": digits }));
    assert_eq!(agent.asked()[1].1, json!({}));
}

#[test]
fn the_payloads_of_the_boot_chain_are_left_out_and_nothing_else() {
    let agent = GuestAgent::start();
    let mut dstack = Dstack::at(agent.endpoint());
    let whole = |log: &str| serde_json::from_str::<Vec<Event>>(log).unwrap();
    let slimmed = whole(&dstack.quote(&asked()).unwrap().event_log.unwrap());
    assert!(slimmed.iter().any(|event| event.imr == 0));
    for event in &slimmed {
        assert_eq!(event.digest.len(), 96);
        if event.imr < 3 {
            assert_eq!(event.event_payload, "");
        } else {
            let payload = hex::decode(&event.event_payload).unwrap();
            assert_eq!(*event, Event::runtime(&event.event, &payload));
        }
    }
    agent.leave_out_digests();
    let without = whole(&dstack.quote(&asked()).unwrap().event_log.unwrap());
    assert_eq!(without.len(), slimmed.len());
    assert!(without.iter().filter(|event| event.imr == 3).all(|event| event.digest.is_empty()));
}

#[test]
fn an_event_keeps_its_payload_where_it_has_no_digest_and_what_is_no_log_stays() {
    let log = json!([
        { "imr": 0, "event_type": 1, "digest": "", "event": "a", "event_payload": "01" },
        { "imr": 1, "event_type": 1, "event": "b", "event_payload": "02" },
        { "imr": 2, "event_type": 1, "digest": "ff", "event": "c", "event_payload": "03", "more": [1] },
        { "imr": 3, "event_type": 1, "digest": "ff", "event": "d", "event_payload": "04", "preimage": "05" },
        { "digest": "ff", "event_payload": "06" },
    ]);
    let mut want = log.clone();
    want[2]["event_payload"] = json!("");
    assert_eq!(serde_json::from_str::<Value>(&slim(log.to_string())).unwrap(), want);
    for other in ["", "{}", "[1, \"x\"", "null"] {
        assert_eq!(slim(other.to_owned()), other);
    }
}

#[test]
fn a_refusal_is_shown_as_the_guest_agent_said_it_and_can_do_no_harm() {
    for (method, status) in [("GetQuote", 400), ("GetQuote", 500), ("Info", 500)] {
        let said = json!({ "error": format!("quote \u{1b}[31mfailed\u{202e}\n{}", "x".repeat(1000)) });
        let error = answered(method, Answer::Status(status, said.to_string()));
        assert!(matches!(error, QuoteError::Refused { .. }), "{error}");
        assert!(!error.is_transient());
        let text = error.to_string();
        let start = format!("dstack.sock refused: {method}: quote \\u{{1b}}[31mfailed\\u{{202e}}\\nxxx");
        assert!(text.contains(&start), "{text}");
        assert!(text.contains(&format!("x… (HTTP {status}")), "{text}");
        assert!(text.len() < 600, "{text}");
    }
    let text = answered("GetQuote", Answer::Status(500, String::new())).to_string();
    assert!(text.ends_with("GetQuote: HTTP 500 Internal Server Error"), "{text}");
    let text = answered("GetQuote", Answer::Status(502, "<html>bad gateway".to_owned())).to_string();
    assert!(text.contains("<html>bad gateway (HTTP 502"), "{text}");
}

#[test]
fn answers_that_are_not_dstacks_are_the_services_fault() {
    let answers = [
        ("GetQuote", Answer::Status(200, "<html>".to_owned()), "its answer is not what dstack's is, at line 1"),
        ("GetQuote", Answer::Status(200, "{\"quote\": 7}".to_owned()), "its answer is not what dstack's is"),
        ("Info", Answer::Status(200, "{\"tcb_info\": \"{\"}".to_owned()), "its answer is not what dstack's is"),
        ("GetQuote", Answer::Raw(b"SSH-2.0-x\r\n".to_vec()), "invalid HTTP"),
        ("GetQuote", Answer::Raw(Vec::new()), "connection"),
        ("GetQuote", Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"quote\"".to_vec()), "end of file"),
        ("GetQuote", Answer::Status(200, " ".repeat(5 << 20)), "longer than 4194304 bytes"),
    ];
    for (method, answer, why) in answers {
        let error = answered(method, answer);
        assert!(matches!(error, QuoteError::Unreachable { .. }), "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[test]
fn a_quote_that_is_none_or_over_something_else_is_kept_back() {
    let agent = GuestAgent::start();
    let mut dstack = Dstack::at(agent.endpoint());
    agent.make_with(|_, rtmr3| quote(QuoteShape::V5Td15, &[1; 64], rtmr3));
    assert!(matches!(dstack.quote(&asked()), Err(QuoteError::OtherReportData)));
    agent.make_with(|_, _| vec![0; 100]);
    assert!(matches!(dstack.quote(&asked()), Err(QuoteError::NotAQuote(_))));
    for (answer, why) in [(json!({ "quote": "0g" }), "not hexadecimal"), (json!({ "attestation": "00" }), "than TDX")] {
        agent.answer_once("GetQuote", Answer::Status(200, answer.to_string()));
        let error = dstack.quote(&asked()).unwrap_err();
        assert!(matches!(error, QuoteError::NotAQuote(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(!agent.methods().contains(&"Info".to_owned()), "{:?}", agent.methods());
}

#[test]
fn what_the_guest_agent_leaves_out_is_left_out() {
    let agent = GuestAgent::start();
    agent.set_info("tcb_info", json!(""));
    let bare = quote(QuoteShape::V4, asked().as_bytes(), &[0; 48]);
    agent.answer_once("GetQuote", Answer::Status(200, json!({ "quote": hex::encode(&bare) }).to_string()));
    let quoted = Dstack::at(agent.endpoint()).quote(&asked()).unwrap();
    assert_eq!((quoted.event_log, quoted.app_compose), (None, None));
    assert!(quoted.vm_config.unwrap().contains("\"from\":\"Info\""), "older guest agents have it there only");
}

#[test]
fn a_guest_agent_that_says_nothing_is_not_waited_for_long() {
    let agent = GuestAgent::start();
    agent.answer_once("GetQuote", Answer::Silence);
    let mut dstack = Dstack::at(agent.endpoint());
    dstack.client = Client::new(Endpoint::from(agent.endpoint()), Duration::from_millis(200));
    let error = dstack.quote(&asked()).unwrap_err();
    assert!(matches!(error, QuoteError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("GetQuote was not answered within 200ms"), "{error}");
    assert!(error.is_transient());
}

#[test]
fn a_socket_that_nobody_listens_at_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dstack.sock");
    drop(UnixListener::bind(&path).unwrap());
    for endpoint in [path.to_str().unwrap(), "/nowhere/dstack.sock", "unix:/nowhere/dstack.sock", "http://127.0.0.1:1"]
    {
        let error = Dstack::at(endpoint).quote(&asked()).unwrap_err();
        assert!(matches!(error, QuoteError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(endpoint.trim_start_matches("unix:")), "{error}");
    }
    let error = Dstack::at("https://dstack.example").quote(&asked()).unwrap_err();
    assert!(error.to_string().contains("only paths of sockets and http:// URLs"), "{error}");
}

#[test]
fn the_first_socket_that_is_there_is_taken_unless_the_variable_names_another() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|name| folder.path().join(name));
    let paths = [&first, &second, &third].map(|path| path.to_str().unwrap());
    let found = |variable: Option<&str>| {
        Dstack::find_at(variable.map(str::to_owned), &paths).map(|dstack| dstack.endpoint().to_owned())
    };
    assert_eq!(found(None), None);
    // What Docker makes of a volume that the machine does not have.
    std::fs::create_dir(&first).unwrap();
    assert_eq!(found(None), None);
    let _listeners = [&second, &third].map(|path| UnixListener::bind(path).unwrap());
    assert_eq!(found(None).as_deref(), Some(paths[1]));
    assert_eq!(found(Some("")).as_deref(), Some(paths[1]));
    assert_eq!(found(Some("http://127.0.0.1:8090")).as_deref(), Some("http://127.0.0.1:8090"));
    assert_eq!(found(Some("/nowhere")).as_deref(), Some("/nowhere"));
}

#[test]
fn a_key_is_the_same_each_time_and_another_for_each_path() {
    let agent = GuestAgent::start();
    let dstack = Dstack::at(agent.endpoint());
    let key = dstack.key("dshield/log", "signing").unwrap();
    assert_eq!(hex::encode(&key[..]), sha256_hex(b"dshield/log"));
    assert_eq!(*dstack.key("dshield/log", "signing").unwrap(), *key);
    assert_ne!(*dstack.key("dshield/other", "signing").unwrap(), *key);
    let question = json!({ "path": "dshield/log", "purpose": "signing", "algorithm": "ed25519" });
    assert_eq!(agent.asked()[0], ("GetKey".to_owned(), question));
}

#[test]
fn what_is_no_key_is_not_shown() {
    let agent = GuestAgent::start();
    let dstack = Dstack::at(agent.endpoint());
    for bad in ["5ec4e7".to_owned(), "5ec4e7".repeat(11), "5ec4e7zz".repeat(8), String::new()] {
        for answer in [json!({ "key": bad }), json!({ "key": [bad] })] {
            agent.answer_once("GetKey", Answer::Status(200, answer.to_string()));
            let error = dstack.key("dshield/log", "signing").unwrap_err();
            assert!(matches!(error, QuoteError::Unreachable { .. }), "{error}");
            assert!(!error.to_string().contains("5ec4e7"), "{error}");
        }
    }
}

/// It would be a way to the network around the policy, and into no log.
#[test]
fn a_guest_agent_is_on_this_machine_or_nowhere() {
    for endpoint in
        ["http://192.0.2.1:8090", "http://guest-agent.example:8090", "http://localhost:8090", "http://0.0.0.0:1/x"]
    {
        let started = std::time::Instant::now();
        let error = Dstack::at(endpoint).quote(&ReportData::of("x")).unwrap_err().to_string();
        assert!(error.contains("it is not an address of this machine"), "{endpoint}: {error}");
        // Refused, not tried: nothing answers there, and a connection would wait for it.
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{endpoint}");
    }
}

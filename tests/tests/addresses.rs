//! Rules for addresses and networks: what a function reaches without a name, and what stays closed.
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};

use dshield_common::log::entry::Event;
use dshield_tests::agent::{Agent, Egress, Launch, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::{NAME, Standin};
use dshield_tests::tripwire::{Tripwire, host_address};
use serde_json::json;

/// An agent with one function, `f`, that has these rules; `None` where the machine lacks something.
fn agent(rules: &[Egress]) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    if host_address().is_loopback() {
        println!("skipped: this machine has no address but loopback, which inside an instance is the instance itself");
        return None;
    }
    let function = rules.iter().fold(script::function("f"), |function, rule| function.egress(rule));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    Some((project, agent))
}

/// The log, once `f` was refused by `layer` for `reason`.
#[track_caller]
fn refusal(agent: &Agent, layer: &str, reason: &str) -> Log {
    let has = |log: &Log| log.refused("f").iter().any(|r| r.layer == layer && r.reason == reason);
    let log = agent.log_with(&format!("a refusal by {layer} for {reason}"), has);
    assert_eq!(log.verify(), Ok(()));
    log
}

/// A rule for the address that the stand-in has, and its port.
fn rule(standin: &Standin) -> Egress {
    Egress::to(&standin.addr().ip().to_string()).set("ports", &format!("[{}]", standin.addr().port()))
}

/// A network with `address` in it, of so many bits.
fn network(address: IpAddr, length: u32) -> String {
    let IpAddr::V4(address) = address else { panic!("an IPv4 address") };
    let bits = u32::from(address) & (u32::MAX << (32 - length));
    format!("{}/{length}", std::net::Ipv4Addr::from(bits))
}

const POST: &str = "
host = f\"{event['to']}:{event['port']}\"
answer = ask(secure(event['to'], port=event['port']), 'POST', '/echo', event.get('host', host), body='x' * 1000)";

#[test]
fn an_address_is_reached_by_a_rule_for_it_and_its_certificate_is_checked() {
    let standin = Standin::start_on_host(&[&host_address().to_string()]);
    let ca = json!(standin.ca_file().to_string_lossy()).to_string();
    let Some((_project, agent)) = agent(&[rule(&standin).set("ca", &ca).paths(&["/echo"])]) else { return };
    let event = json!({"to": standin.addr().ip().to_string(), "port": standin.addr().port()});
    let answer = run_with(&agent, "f", POST, event.clone());
    assert_eq!((&answer["status"], answer["body"].as_str().map(str::len)), (&json!(200), Some(1000)), "{answer}");
    let mut other = event.clone();
    other["host"] = json!(NAME);
    let answer = run_with(&agent, "f", POST, other);
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(421), &json!("authority_mismatch")), "{answer}");
    // A name in the ClientHello would be a second one for the flow.
    let code = "answer = failure(secure, event['to'], sni='api.anthropic.com', port=event['port'])";
    assert!(run_with(&agent, "f", code, event).is_string());
    let log = refusal(&agent, "tls", "sni_mismatch");
    let connect = log.connects("f")[0];
    assert_eq!((connect.host.as_str(), connect.tls.as_str()), (&*standin.addr().ip().to_string(), "inspect"), "{log}");
    assert_eq!(standin.seen().len(), 1);
}

#[test]
fn a_certificate_for_a_name_does_not_prove_an_address() {
    let standin = Standin::start_on_host(&[NAME]);
    let ca = json!(standin.ca_file().to_string_lossy()).to_string();
    let Some((_project, agent)) = agent(&[rule(&standin).set("ca", &ca)]) else { return };
    let event = json!({"to": standin.addr().ip().to_string(), "port": standin.addr().port()});
    let answer = run_with(&agent, "f", POST, event);
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(502), &json!("upstream_certificate")), "{answer}");
    assert!(standin.seen().is_empty());
}

#[test]
fn passthrough_to_an_address_takes_no_server_name() {
    let standin = Standin::start_on_host(&[&host_address().to_string()]);
    let Some((_project, agent)) = agent(&[rule(&standin).tls("passthrough")]) else { return };
    let event = json!({"to": standin.addr().ip().to_string(), "port": standin.addr().port(), "ca": standin.ca_pem()});
    let code = POST.replace("port=event['port'])", "port=event['port'], ca=event['ca'])");
    assert_eq!(run_with(&agent, "f", &code, event.clone())["status"], 200);
    let named = "answer = failure(secure, event['to'], sni='a.example', port=event['port'], ca=event['ca'])";
    assert!(run_with(&agent, "f", named, event).is_string());
    let _ = refusal(&agent, "tls", "sni_mismatch");
    assert_eq!(standin.connections(), 1, "the second was not dialled");
}

#[test]
fn a_network_without_tls_has_its_requests_judged() {
    let standin = Standin::start_plain_on_host();
    let to = standin.addr();
    let ports = format!("[{}]", to.port());
    // As narrow as it must be to lie in one special range, should the machine's address be a private one.
    let rule = Egress::to(&network(to.ip(), 30)).set("ports", &ports).tls("none").methods(&["POST"]);
    let Some((_project, agent)) = agent(&[rule]) else { return };
    let ask = |method: &str| {
        let code = format!(
            "answer = ask(socket.create_connection(('{}', {})), '{method}', '/echo', '{to}', body='hello')",
            to.ip(),
            to.port()
        );
        run(&agent, "f", &code)
    };
    let answer = ask("POST");
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")), "{answer}");
    assert_eq!(ask("PUT")["refused"], "method_not_allowed");
    assert_eq!(standin.seen().len(), 1);
}

#[test]
fn raw_tcp_is_passed_on_and_the_server_may_speak_first() {
    let listener = TcpListener::bind((host_address(), 0)).expect("a free port");
    let to = listener.local_addr().expect("a bound socket has an address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"SSH-2.0-hello\r\n").expect("it is read");
        let mut said = [0; 5];
        stream.read_exact(&mut said).expect("it is written");
        said
    });
    let rule = Egress::to(&to.ip().to_string()).set("ports", &format!("[{}]", to.port())).tls("none");
    let Some((_project, agent)) = agent(&[rule.set("protocol", "\"tcp\"")]) else { return };
    let code = format!(
        "
stream = socket.create_connection(('{}', {}), timeout=20)
answer = exactly(stream, 15).decode()
stream.sendall(b'\\x00\\x01bye')
stream.close()",
        to.ip(),
        to.port()
    );
    assert_eq!(run(&agent, "f", &code), "SSH-2.0-hello\r\n");
    assert_eq!(&server.join().expect("the server has ended"), b"\x00\x01bye");
    let ended = |log: &Log| log.events().any(|(_, event)| matches!(event, Event::Close(_)));
    let log = agent.log_with("its end", ended);
    assert_eq!(log.verify(), Ok(()));
    assert!(log.requests("f").is_empty(), "{log}");
}

#[test]
fn an_address_beside_those_of_the_rules_is_refused() {
    let tripwire = Tripwire::start();
    let to = tripwire.tcp();
    // The neighbours, but not the machine itself; and another port of it.
    let IpAddr::V4(own) = to.ip() else { panic!("an IPv4 address") };
    let neighbour = std::net::Ipv4Addr::from(u32::from(own) ^ 1).to_string();
    let ports = format!("[{}]", to.port());
    let Some((_project, agent)) = agent(&[
        Egress::to(&neighbour).set("ports", &ports).tls("none"),
        Egress::to(&format!("*.{NAME}")).set("ports", &ports).tls("none"),
    ]) else {
        return;
    };
    let ask = format!("ask(socket.create_connection(('{}', {})), 'GET', '/', '{to}')", to.ip(), to.port());
    let answer = run(&agent, "f", &format!("answer = again(lambda: {ask})"));
    assert_eq!((&answer["status"], &answer["refused"]), (&json!(403), &json!("address_not_allowed")), "{answer}");
    let log = refusal(&agent, "connect", "address_not_allowed");
    assert!(log.refused("f")[0].detail.contains(&to.to_string()), "{log}");
    assert!(tripwire.arrivals().is_empty());
}

#[test]
fn a_broad_network_does_not_open_a_special_purpose_address() {
    let rules = ["0.0.0.0/1", "128.0.0.0/1", "8000::/1"].map(|host| Egress::to(host).set("ports", "[80]").tls("none"));
    let Some((_project, agent)) = agent(&rules) else { return };
    let closed = ["169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00:ec2::254", "fe80::1"];
    let code = "
answer = {}
for address in event['closed']:
    try:
        answer[address] = again(lambda: ask(socket.create_connection((address, 80), timeout=20), 'GET', '/', 'a'))['refused']
    except OSError as error:
        answer[address] = str(error)
";
    let answers = run_with(&agent, "f", code, json!({"closed": closed}));
    // The kernel itself knows no way to a link-local address without its interface.
    let refused = |address: &&str| answers[address] == "special_purpose_address" || *address == "fe80::1";
    assert!(closed.iter().all(refused), "{answers}");
    let all = |log: &Log| log.refused("f").iter().filter(|r| r.reason == "special_purpose_address").count() >= 5;
    let log = agent.log_with("the refusals", all);
    assert_eq!(log.verify(), Ok(()));
    assert!(log.connects("f").is_empty(), "{log}");
    assert!(log.refused("f").iter().all(|refused| refused.layer == "connect"), "{log}");
}

/// 198.18.0.0/15 is where names live: no rule may be for it, and a broader one does not reach it.
#[test]
fn an_address_that_stands_for_no_name_is_nobodys() {
    let Some((_project, agent)) = agent(&[Egress::to("128.0.0.0/1")]) else { return };
    let code = "answer = failure(lambda: secure('198.18.9.9'))";
    assert!(run(&agent, "f", code).is_string());
    let _ = refusal(&agent, "connect", "address_not_allowed");
}

#[test]
fn a_policy_that_only_observes_is_nothing_to_run() {
    if !require_root() {
        return;
    }
    let project = Project::new().set("mode", "\"observe\"").with(&script::function("f"));
    let error = Agent::launch(&project, Launch::default()).expect_err("it must not start");
    assert_eq!(error.code, Some(2), "{error}");
    assert!(error.stderr.contains("only `dshield dev`"), "{error}");
    assert_eq!(error.left, Vec::<String>::new(), "{error}");
}

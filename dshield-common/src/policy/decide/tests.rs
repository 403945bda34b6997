#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::policy::parse::tests::{parse, with};

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn to(text: &str) -> Destination {
    Destination::parse_authority(text.as_bytes()).unwrap().0
}

/// A function `f` with one rule for each of these bodies.
fn policy(rules: &[&str]) -> FunctionPolicy {
    let rules: String = rules.iter().map(|rule| format!("[[function.egress]]\n{rule}\n")).collect();
    FunctionPolicy::clone(&parse(&with(&rules)).unwrap().policy.functions[0])
}

#[test]
fn without_rules_nothing_is_allowed() {
    let policy = policy(&[]);
    assert!(!policy.allows_name(&name("a.com")));
    let denied = policy.route(&to("a.com"), 443).unwrap_err();
    assert_eq!(denied.reason(), "name_not_allowed");
    assert_eq!(denied.to_string(), "no egress rule of `f` allows a.com");
    assert_eq!(denied.hint(), "to allow it, add below the function `f`: [[function.egress]] host = \"a.com\"");
}

#[test]
fn a_wildcard_never_matches_its_apex_nor_a_name_that_only_ends_alike() {
    let policy = policy(&["host = \"*.example.com\""]);
    for good in ["a.example.com", "b.a.example.com", "A.EXAMPLE.com.", "example.com.example.com"] {
        assert!(policy.allows_name(&name(good)) && policy.route(&to(good), 443).is_ok(), "{good}");
    }
    for bad in [
        "example.com",
        "evilexample.com",
        "example.com.evil.net",
        "a.example.com.evil.net",
        "com",
        "a.example.co",
        "xexample.com",
    ] {
        assert!(!policy.allows_name(&name(bad)) && policy.route(&to(bad), 443).is_err(), "{bad}");
    }
}

#[test]
fn a_port_off_the_list_is_denied_with_the_ports_that_would_do() {
    let policy =
        policy(&["host = \"a.com\"\nports = [8443]", "host = \"a.com\"\nports = [443]\ntls = \"passthrough\""]);
    assert_eq!(policy.route(&to("a.com"), 443).unwrap().tls(), TlsMode::Passthrough);
    assert_eq!(policy.route(&to("a.com"), 8443).unwrap().tls(), TlsMode::Inspect);
    assert!(policy.allows_name(&name("a.com")));
    let denied = policy.route(&to("a.com"), 22).unwrap_err();
    assert_eq!(denied.reason(), "port_not_allowed");
    assert!(matches!(&denied, Denied::Port { allowed, .. } if *allowed == [443, 8443]));
    assert_eq!(denied.to_string(), "the policy allows a.com only on port 443, 8443, not 22");
    assert_eq!(denied.hint(), "to allow it, add 22 to `ports` of the egress rule for \"a.com\"");
}

#[test]
fn the_most_specific_host_speaks_alone() {
    let policy = policy(&[
        "host = \"*.com\"\nports = [443, 22]",
        "host = \"*.example.com\"\nmethods = [\"GET\", \"POST\"]",
        "host = \"api.example.com\"\nmethods = [\"GET\"]",
    ]);
    let rule_id = |host: &str| policy.route(&to(host), 443).unwrap().rule_id().to_owned();
    assert_eq!(rule_id("api.example.com"), "f.egress[2]");
    assert_eq!(rule_id("x.example.com"), "f.egress[1]");
    assert_eq!(rule_id("x.api.example.com"), "f.egress[1]");
    assert_eq!(rule_id("example.com"), "f.egress[0]");
    assert_eq!(policy.route(&to("api.example.com"), 22).unwrap_err().reason(), "port_not_allowed");
    let route = policy.route(&to("api.example.com"), 443).unwrap();
    assert_eq!(route.request("POST", "/").unwrap_err().reason(), "method_not_allowed");
}

#[test]
fn the_first_rule_that_allows_a_request_is_the_one_that_counts() {
    let policy = policy(&[
        "host = \"a.com\"\nmethods = [\"POST\"]\npaths = [\"/v1/messages\"]\nmax_request_bytes = 10",
        "host = \"a.com\"\nmethods = [\"GET\", \"POST\"]\npaths = [\"/v1/*\"]",
    ]);
    let route = policy.route(&to("a.com"), 443).unwrap();
    assert_eq!((route.to.to_string().as_str(), route.port), ("a.com", 443));
    assert_eq!(route.request("POST", "/v1/messages").unwrap().rule.id, "f.egress[0]");
    assert_eq!(route.request("GET", "/v1/messages").unwrap().rule.id, "f.egress[1]");
    assert_eq!(route.request("POST", "/v1/files").unwrap().rule.id, "f.egress[1]");
}

#[test]
fn a_request_that_no_rule_allows_says_why_and_what_to_add() {
    let policy = policy(&["host = \"a.com\"\nmethods = [\"POST\"]\npaths = [\"/v1/messages\"]"]);
    let route = policy.route(&to("a.com"), 443).unwrap();
    let denied = route.request("GET", "/v1/messages").unwrap_err();
    assert_eq!(denied.reason(), "method_not_allowed");
    assert_eq!(denied.to_string(), "the policy allows only POST to a.com, not GET");
    assert_eq!(denied.hint(), "to allow it, add \"GET\" to `methods` of f.egress[0]");
    let denied = route.request("POST", "/v2").unwrap_err();
    assert_eq!(denied.reason(), "path_not_allowed");
    assert_eq!(denied.to_string(), "the policy does not allow POST /v2 on a.com");
    assert_eq!(denied.hint(), "to allow it, add \"/v2\" to `paths` of f.egress[0]");
    assert_eq!(route.request("post", "/v1/messages").unwrap_err().reason(), "method_not_allowed");
    for path in ["", "*", "v1/messages", "http://a.com/v1/messages"] {
        assert!(route.request("POST", path).is_err(), "{path}");
    }
}

#[test]
fn an_ambiguous_path_is_refused_only_where_paths_are_judged() {
    let judged = policy(&["host = \"a.com\"\npaths = [\"/v1/*\"]"]);
    let judged = judged.route(&to("a.com"), 443).unwrap();
    for path in
        ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1//x", "/v1/\\..\\admin", "/v1/%00", "/v1/..;/admin"]
    {
        assert_eq!(judged.request("GET", path).unwrap_err().reason(), "ambiguous_path", "{path}");
    }
    let any = policy(&["host = \"a.com\""]);
    let any = any.route(&to("a.com"), 443).unwrap();
    assert!(any.request("GET", "/v1//x/../%2f").is_ok());
}

#[test]
fn what_the_function_sent_is_shown_safely_and_briefly() {
    let policy = policy(&["host = \"a.com\"\nmethods = [\"GET\"]"]);
    let route = policy.route(&to("a.com"), 443).unwrap();
    let sentence = route.request(&format!("X\n\u{1b}[2J{}", "y".repeat(9999)), "/").unwrap_err().to_string();
    assert!(!sentence.contains(['\n', '\u{1b}']) && sentence.len() < 400, "{sentence}");
}

#[test]
fn the_narrowest_network_speaks_alone_and_never_for_a_name() {
    let policy = policy(&[
        "host = \"9.0.0.0/8\"\nports = [443, 22]",
        "host = \"9.1.0.0/16\"\nmethods = [\"GET\"]",
        "host = \"9.1.2.3\"\ntls = \"none\"\nprotocol = \"tcp\"",
        "host = \"a.com\"",
    ]);
    let rule = |text: &str| policy.route(&to(text), 443).map(|route| route.rule_id().to_owned());
    for (address, id) in [("9.9.9.9", 0), ("9.1.9.9", 1), ("9.1.2.3", 2), ("[::ffff:9.1.2.3]", 2), ("a.com", 3)] {
        assert_eq!(rule(address), Ok(format!("f.egress[{id}]")), "{address}");
    }
    assert_eq!(policy.route(&to("9.1.2.3"), 443).unwrap().protocol(), Protocol::Tcp);
    assert_eq!(policy.route(&to("9.1.2.3"), 22).unwrap_err().reason(), "port_not_allowed");
    assert!(!policy.allows_name(&name("b.com")));
    let denied = policy.route(&to("[2606::1]"), 443).unwrap_err();
    assert_eq!((denied.reason(), denied.rule()), ("address_not_allowed", None));
    assert_eq!(denied.to_string(), "no egress rule of `f` allows the address 2606::1");
    assert_eq!(
        denied.hint(),
        "connect by name, so that the rule can say whose the address is; to allow the address itself, add below \
         the function `f`: [[function.egress]] host = \"2606::1\""
    );
}

#[test]
fn a_broad_network_opens_no_special_purpose_address() {
    let policy = policy(&[
        "host = \"0.0.0.0/1\"",
        "host = \"128.0.0.0/1\"",
        "host = \"8000::/1\"",
        "host = \"192.168.7.0/24\"",
        "host = \"198.0.0.0/8\"",
    ]);
    for open in ["9.9.9.9", "192.168.7.9", "223.1.1.1"] {
        assert!(policy.route(&to(open), 443).is_ok(), "{open}");
    }
    for closed in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.8.9", "[fd00::1]", "[fe80::1]", "240.0.0.1"] {
        assert_eq!(policy.route(&to(closed), 443).unwrap_err().reason(), "special_purpose_address", "{closed}");
    }
    // These stand for names, and this one was not given to the function.
    let denied = policy.route(&to("198.18.0.77"), 443).unwrap_err();
    assert_eq!(denied.reason(), "address_not_allowed");
    assert_eq!(denied.hint(), "look the name up again: 198.18.0.77 stands for none that this instance has asked for");
    let denied = policy.route(&to("169.254.169.254"), 80).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "169.254.169.254 (link-local) is not on the public internet, and the rule for 128.0.0.0/1 means more than such addresses"
    );
    assert_eq!(denied.hint(), "to allow it, add a rule of its own: [[function.egress]] host = \"169.254.169.254\"");
}

fn labels() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]{1,2}|example|com|evilexample", 1..5).prop_map(|labels| labels.join("."))
}

proptest! {
    #[test]
    fn no_name_outside_the_rules_is_ever_allowed(hosts in proptest::collection::vec((any::<bool>(), labels()), 0..5), asked in labels()) {
        let written: Vec<String> = hosts.iter().map(|(wild, host)| format!("{}{host}", if *wild { "*." } else { "" })).collect();
        let rules: Vec<String> = written.iter().map(|host| format!("host = \"{host}\"")).collect();
        let policy = policy(&rules.iter().map(String::as_str).collect::<Vec<_>>());
        // The meaning, said once more in another way: compare label by label from the end.
        let asked_labels: Vec<&str> = asked.rsplit('.').collect();
        let meant = hosts.iter().any(|(wild, host)| {
            let labels: Vec<&str> = host.rsplit('.').collect();
            if *wild { asked_labels.len() > labels.len() && asked_labels[..labels.len()] == labels[..] } else { asked_labels == labels }
        });
        prop_assert_eq!(policy.allows_name(&name(&asked)), meant);
        match policy.route(&to(&asked), 443) {
            Ok(route) => {
                prop_assert!(meant);
                prop_assert!(route.rules.iter().all(|rule| rule.host.matches(&to(&asked))));
                prop_assert!(route.rules.iter().all(|rule| rule.host == route.rules[0].host));
            }
            Err(denied) => {
                prop_assert!(!meant);
                prop_assert_eq!(denied.reason(), "name_not_allowed");
            }
        }
    }

    #[test]
    fn no_address_outside_the_rules_is_ever_allowed(networks in proptest::collection::vec((any::<u32>(), 1u8..=32), 1..5), asked: u32) {
        let kept = |address: u32, length: u8| u64::from(address) >> (32 - length);
        let written = networks.iter().map(|(address, length)| (kept(*address, *length) << (32 - length), length));
        let written: Vec<String> =
            written.map(|(address, length)| format!("{}/{length}", std::net::Ipv4Addr::from(address as u32))).collect();
        let usable = written.iter().filter(|text| !text.parse::<crate::address::Network>().unwrap().is_synthetic());
        let rules: Vec<String> = usable.map(|text| format!("host = \"{text}\"")).collect();
        let policy = policy(&rules.iter().map(String::as_str).collect::<Vec<_>>());
        let asked_of = |address: u32| policy.route(&std::net::IpAddr::from(std::net::Ipv4Addr::from(address)).into(), 443);
        let meant = networks.iter().any(|(address, length)| kept(*address, *length) == kept(asked, *length));
        prop_assert!(meant || asked_of(asked).is_err());
        let own = networks[0].0;
        if special_purpose(std::net::Ipv4Addr::from(own).into()).is_none() {
            prop_assert!(asked_of(own).is_ok());
        }
    }

    #[test]
    fn deciding_never_panics_on_hostile_requests(method in any::<String>(), path in any::<String>()) {
        let policy = policy(&["host = \"a.com\"\nmethods = [\"GET\"]\npaths = [\"/a\"]", "host = \"a.com\"\npaths = [\"/b/*\"]"]);
        let route = policy.route(&to("a.com"), 443).unwrap();
        if let Err(denied) = route.request(&method, &path) {
            let _ = (denied.to_string(), denied.hint());
        } else {
            prop_assert!(path == "/a" || path.starts_with("/b/"));
        }
    }
}

/// The same policy, observing.
fn observing(rules: &[&str]) -> FunctionPolicy {
    FunctionPolicy { mode: Mode::Observe, ..policy(rules) }
}

#[test]
fn a_policy_that_observes_lets_through_what_lacks_a_rule_and_says_what_it_would_have_been() {
    let own = ["host = \"a.com\"\nmethods = [\"GET\"]\npaths = [\"/a\"]\ninject_header = { x = { secret = \"KEY\" } }"];
    let (enforced, observed) = (policy(&own), observing(&own));
    assert_eq!(observed.look_up(&name("a.com")), Ok(None));
    assert_eq!(observed.look_up(&name("b.com")).unwrap(), enforced.look_up(&name("b.com")).err());
    for (host, port, tls, protocol) in [
        ("b.com", 443, TlsMode::Inspect, Protocol::Http),
        ("b.com", 80, TlsMode::None, Protocol::Http),
        ("b.com", 5432, TlsMode::None, Protocol::Tcp),
        ("a.com", 22, TlsMode::None, Protocol::Tcp),
        ("9.9.9.9", 443, TlsMode::Inspect, Protocol::Http),
    ] {
        let route = observed.route(&to(host), port).unwrap();
        assert_eq!((route.rule_id(), route.tls(), route.protocol()), (OBSERVE, tls, protocol), "{host}:{port}");
        assert_eq!(route.would_be(), enforced.route(&to(host), port).err().as_ref());
        assert!(route.request("PUT", "/any").unwrap().observed.is_none(), "its connection was the refusal");
    }
    let (route, strict) = (observed.route(&to("a.com"), 443).unwrap(), enforced.route(&to("a.com"), 443).unwrap());
    assert!(route.would_be().is_none());
    assert_eq!(route.request("GET", "/a").unwrap().rule.id, "f.egress[0]");
    for (method, path) in [("PUT", "/a"), ("GET", "/b")] {
        let Permit { rule, observed } = route.request(method, path).unwrap();
        assert_eq!(observed, strict.request(method, path).err());
        assert_eq!(
            (rule.id.as_str(), rule.inject_header.len()),
            (OBSERVE, 0),
            "a secret is for the rule's own requests"
        );
    }
    assert_eq!(route.upgrade(route.rule()).unwrap(), strict.upgrade(strict.rule()).err());
}

#[test]
fn what_no_rule_can_allow_stays_denied_in_a_policy_that_observes() {
    let rules = ["host = \"128.0.0.0/1\"", "host = \"10.0.0.0/8\"", "host = \"a.com\"\npaths = [\"/a\"]"];
    let policy = observing(&rules);
    for (host, port) in
        [("169.254.169.254", 80), ("198.18.0.77", 443), ("127.0.0.1", 443), ("10.0.0.1", 22), ("[fd00::1]", 443)]
    {
        assert!(policy.route(&to(host), port).is_err(), "{host}:{port}");
    }
    let route = policy.route(&to("a.com"), 443).unwrap();
    assert_eq!(route.request("GET", "/a/../b").unwrap_err().reason(), "ambiguous_path");
}

//! `dshield.toml`: a text, then after a NUL the bytes of every certificate file that it names.
use dshield_common::destination::Destination;
use dshield_common::policy::{Deployment, HostPattern};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "[policy]\n",
    "[[function]]\n",
    "[[function.egress]]\n",
    "log_level = ",
    "memory_only = true\n",
    "name = ",
    "runtime = ",
    "\"python3\"",
    "\"native\"",
    "\"connection\"",
    "code = ",
    "handler = ",
    "timeout = ",
    "memory = ",
    "concurrency = ",
    "env = ",
    "host = ",
    "ports = ",
    "tls = ",
    "\"inspect\"",
    "\"passthrough\"",
    "\"none\"",
    "methods = ",
    "paths = ",
    "max_request_bytes = ",
    "resolve = ",
    "ca = ",
    "protocol = \"tcp\"\n",
    "upgrade = true\n",
    "pin_spki = ",
    "inject_header = ",
    "mode = \"observe\"\n",
    "\"10.0.0.0/8\"",
    "\"*.example.com\"",
    "\"127.0.0.1:443\"",
    "\"[::1]\"",
    "\"1MiB\"",
    "\"30s\"",
    "[443]",
    "{ A = \"b\" }",
    "99999999999999999999",
    "-----BEGIN CERTIFICATE-----\n",
    "\n-----END CERTIFICATE-----\n",
    "\0",
    "\u{feff}",
    "\"\"\"",
];

/// What is accepted is judged the same way each time and can be written down; what is refused is refused for a reason
/// that points into the text.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let (text, file) = match input.iter().position(|byte| *byte == 0) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let parse = || Deployment::parse(text, &mut |_| Ok(file.to_vec()));
    let deployment = match parse() {
        Ok(deployment) => deployment,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for problem in problems {
                assert!((1..=lines).contains(&problem.line) && problem.column >= 1, "nowhere in the text: {problem}");
            }
            return;
        }
    };
    let canonical = deployment.policy.canonical();
    let _: serde_json::Value = serde_json::from_str(&canonical).expect("the canonical form is JSON");
    let again = parse().expect("it was accepted before");
    assert_eq!((canonical, deployment.policy.hash()), (again.policy.canonical(), again.policy.hash()));
    assert_eq!(deployment.functions.len(), deployment.policy.functions.len());
    for function in &deployment.policy.functions {
        for rule in &function.egress {
            let HostPattern::Exact(host) = &rule.host else { continue };
            assert!(function.allows_name(host), "{}: its own name is refused", rule.id);
            for port in &rule.ports {
                assert!(
                    function.route(&Destination::Name(host.clone()), *port).is_ok(),
                    "{}: its own port {port} is refused",
                    rule.id
                );
            }
        }
    }
}

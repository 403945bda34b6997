//! Request paths under a rule that has paths.
use std::sync::LazyLock;

use dshield_common::destination::Destination;
use dshield_common::policy::{Deployment, Route};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "/v1/", "/exact", "/", "//", ".", "..", "/../", "/./", "%2e", "%2E%2e", "%2f", "%5c", "%25", "%252e", "\\", ";",
    ";x/", "?", "#", "%", "%0a", "%00", "%c0%af", "\u{ff0e}", "\u{2215}", "*",
];

/// `/v1/*` and `/exact` on one host.
static ROUTE: LazyLock<Route> = LazyLock::new(|| {
    let text = "[[function]]\nname = \"f\"\nruntime = \"native\"\ncode = \"f\"\n\
                [[function.egress]]\nhost = \"h.example\"\npaths = [\"/v1/*\", \"/exact\"]\n";
    let deployment = Deployment::parse(text, &mut |_| Err("there is none".into())).expect("it is a policy");
    let (name, _) = Destination::parse_authority(b"h.example").expect("it is a name");
    deployment.policy.functions[0].route(&name, 443).expect("the rule names it")
});

/// However often a server decodes and tidies a path that is allowed, it stays below what the rule says.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(path) = std::str::from_utf8(input) else { return };
    if ROUTE.request("GET", path).is_err() {
        return;
    }
    let mut seen = input.to_vec();
    for _ in 0..5 {
        for reading in [tidy(&seen, false), tidy(&seen, true)] {
            let inside = reading == b"/exact" || reading.starts_with(b"/v1/") || reading == b"/v1";
            assert!(inside, "{path:?} may be read as {}", reading.escape_ascii());
        }
        seen = decode(&seen);
    }
}

/// What a lenient server makes of a path: backslashes are slashes, empty and dot segments go, and so, for Java's
/// servers, does what follows a semicolon.
fn tidy(path: &[u8], parameters: bool) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let end = if parameters { segment.iter().position(|byte| *byte == b';') } else { None };
        match &segment[..end.unwrap_or(segment.len())] {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    segments.iter().flat_map(|segment| [b"/", *segment].concat()).collect()
}

/// Every whole escape replaced, once.
fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let escape = match (*first, tail) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                decoded.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            None => decoded.push(*first),
        }
    }
    decoded
}

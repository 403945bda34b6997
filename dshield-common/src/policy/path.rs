//! Which request paths a rule means.
//!
//! A path is compared byte for byte and forwarded byte for byte. That is safe only while nobody behind us reads
//! another path out of the same bytes, so where a rule has paths, whatever upstreams are known to rewrite is refused.
use std::fmt;

/// A path in a rule: `/v1/messages` is that path, `/v1/*` every path that starts with `/v1/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// These bytes and no others.
    Exact(String),
    /// Every path that starts with these bytes (written with a trailing `*`).
    Prefix(String),
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When no path could ever match it, or it has a query; the text says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (path, prefix) = match text.strip_suffix('*') {
            Some(path) => (path, true),
            None => (text, false),
        };
        if !path.starts_with('/') {
            return Err("must start with `/`");
        }
        if path.contains(['?', '#']) {
            return Err("is without query and fragment (`?`, `#`), which are not judged");
        }
        if path.contains('*') {
            return Err("may have a `*` only at its end");
        }
        // The last segment of a prefix goes on, so `/.*` is not yet a dot segment; a letter completes it harmlessly.
        let complete = if prefix { format!("{path}x") } else { path.to_owned() };
        if is_ambiguous(&complete) {
            return Err(
                "has something that upstreams rewrite before they read it (`//`, `/./`, `/../`, `\\`, a space, an encoded slash, or the like)",
            );
        }
        Ok(if prefix { Self::Prefix(path.to_owned()) } else { Self::Exact(path.to_owned()) })
    }

    /// True when a pattern with the text `path` means that path and no other.
    #[must_use]
    pub(super) fn names_exactly(path: &str) -> bool {
        matches!(Self::parse(path), Ok(Self::Exact(_)))
    }

    /// True when `path`, without its query, is one of those meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Prefix(start) => path.starts_with(start.as_str()),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(start) => write!(f, "{start}*"),
        }
    }
}

/// How often a path is decoded to look for what hides in it; nothing known decodes more than twice.
const MAX_DECODINGS: usize = 3;

/// True when some server could read another path out of `path` than its bytes say: dot segments (also as Java servers
/// see them, `..;x`), doubled slashes, backslashes, control characters and slashes, plain or encoded once or repeatedly,
/// broken escapes, a query, and whatever does not belong into a path.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'?' | b'#');
    if !path.bytes().all(belongs) || has_dot_or_empty_segment(path.as_bytes()) {
        return true;
    }
    let Some(mut current) = decode(path.as_bytes(), Broken::Refused) else {
        return true;
    };
    for _ in 0..MAX_DECODINGS {
        if std::str::from_utf8(&current).is_err() || has_dot_or_empty_segment(&current) {
            return true;
        }
        match decode(&current, Broken::Kept) {
            None => return true,
            Some(same) if same == current => return false,
            Some(decoded) => current = decoded,
        }
    }
    true
}

fn has_dot_or_empty_segment(path: &[u8]) -> bool {
    let segments = path.split(|byte| *byte == b'/').count();
    path.split(|byte| *byte == b'/').enumerate().any(|(index, segment)| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        // The first is what stands before the leading slash; an empty last one is a trailing slash.
        let inner = index > 0 && index + 1 < segments;
        name == b"." || name == b".." || (inner && segment.is_empty())
    })
}

/// What becomes of a `%` without two hexadecimal digits after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Refused,
    Kept,
}

/// `path` with every escape replaced; `None` when one stands for a byte that no path may hide, or is broken and refused.
fn decode(path: &[u8], broken: Broken) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        match escaped(tail) {
            Some(value) if value.is_ascii_control() || matches!(value, b'/' | b'\\') => {
                return None;
            }
            Some(value) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            None if broken == Broken::Refused => return None,
            None => decoded.push(b'%'),
        }
    }
    Some(decoded)
}

/// The byte that two hexadecimal digits at the start of `digits` stand for.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |index: usize| char::from(*digits.get(index)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_upstreams_rewrite_is_ambiguous() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/.",
            "/a/..",
            "//",
            "/a//b",
            "//a",
            "/a\\b",
            "/%2e%2e/b",
            "/%2E/b",
            "/.%2e/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a%0d%0ab",
            "/a%7f",
            "/a\0b",
            "/a b",
            "/a\tb",
            "/ä",
            "/a?b",
            "/a#b",
            "/%",
            "/%2",
            "/%zz",
            "/%u002e",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/%c0%af",
            "/%ff",
            "/%252e/b",
            "/%252e%252e/b",
            "/%252fb",
            "/%25252f",
            "/a%2500",
            "/%2525252525",
        ] {
            assert!(is_ambiguous(path), "{path:?}");
        }
    }

    #[test]
    fn ordinary_paths_are_plain() {
        for path in [
            "/",
            "/v1/messages",
            "/v1/messages/",
            "/.well-known/x",
            "/a..b/...",
            "/a%20b",
            "/caf%C3%A9",
            "/a;v=1/b",
            "/a:b@c!$&'()*+,=~_-",
        ] {
            assert!(!is_ambiguous(path), "{path:?}");
        }
    }

    #[test]
    fn a_percent_sign_is_plain_unless_it_makes_a_new_escape_that_hides_something() {
        for path in ["/100%25", "/100%25/x", "/a%2520b"] {
            assert!(!is_ambiguous(path), "{path}");
        }
        assert!(is_ambiguous("/a/%252e%252e/b"));
    }

    #[test]
    fn a_pattern_is_exact_unless_it_ends_with_a_star() {
        let exact = PathPattern::parse("/v1/messages").unwrap();
        assert!(exact.matches("/v1/messages"));
        for path in ["/v1/messages/", "/v1/messagesx", "/V1/messages", "/v1", "v1/messages", "/v1/%6dessages"] {
            assert!(!exact.matches(path), "{path}");
        }
        let prefix = PathPattern::parse("/v1/*").unwrap();
        assert!(prefix.matches("/v1/"));
        assert!(prefix.matches("/v1/a/b"));
        assert!(!prefix.matches("/v1"));
        assert!(!prefix.matches("/v10/"));
        assert_eq!(prefix.to_string(), "/v1/*");
        assert!(PathPattern::parse("/*").unwrap().matches("/anything"));
    }

    #[test]
    fn patterns_that_can_never_match_are_refused() {
        for text in [
            "", "*", "v1", "/a?b", "/a#b", "/a*b", "/**", "/a/../b", "/a//b", "/a//*", "/a b", "/ä", "/a%2fb", "/a%2*",
            "/a/./*",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text:?}");
        }
        assert!(PathPattern::parse("/.*").is_ok());
        assert!(PathPattern::parse("/.well-known/*").is_ok());
    }

    proptest! {
        #[test]
        fn judging_never_panics(path in any::<String>()) {
            let _ = is_ambiguous(&path);
        }

        #[test]
        fn whatever_passes_has_no_dot_segment_however_often_it_is_decoded(path in "/(%25|%2[eEfF5]|%5c|[./;a\\\\]|%00){0,12}") {
            if !is_ambiguous(&path) {
                let mut bytes = path.into_bytes();
                for _ in 0..8 {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    prop_assert!(!text.split('/').any(|segment| segment == ".." || segment == "."), "{}", text);
                    prop_assert!(!text.contains('\\') && !text.contains("//"), "{}", text);
                    bytes = decode(&bytes, Broken::Kept).unwrap();
                }
            }
        }
    }
}

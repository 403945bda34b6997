//! Names: of a host on the network, and of a function.
//!
//! Text from a policy, a DNS question, a ClientHello or a `Host` header flows in; one canonical value flows
//! out. Matcher, resolver, dialler and log all get that value, so no two of them can read a name differently.
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
const MAX_FUNCTION_NAME: usize = 64;

/// A DNS host name in canonical form: ASCII lower case, no trailing dot, labels of letters, digits, `-` and `_`
/// (RFC 1123 plus the underscore that service names use), at most 253 bytes. Never an IP address in any spelling.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Reads a name, ignoring case and one trailing dot.
    ///
    /// # Errors
    /// When `text` is anything but a plain host name; see [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return Err(NameError::Address);
        }
        if let Some(character) = text.chars().find(|c| !is_name_character(*c)) {
            return Err(if character.is_ascii() { NameError::Character(character) } else { NameError::NonAscii });
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            if label.len() > MAX_LABEL {
                return Err(NameError::LabelTooLong);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(NameError::Hyphen);
            }
        }
        let name = text.to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            return Err(NameError::Address);
        }
        Ok(Self(name.into()))
    }

    /// [`HostName::parse`] for bytes off the wire.
    ///
    /// # Errors
    /// As [`HostName::parse`]; bytes outside ASCII are [`NameError::NonAscii`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        let text = std::str::from_utf8(bytes).map_err(|_| NameError::NonAscii)?;
        Self::parse(text)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True when this name has one or more labels in front of `apex`; a name is not below itself.
    #[must_use]
    pub fn is_below(&self, apex: &Self) -> bool {
        self.0.strip_suffix(apex.as_str()).is_some_and(|front| front.ends_with('.'))
    }
}

/// Why a text is not a [`HostName`]. The fault is the writer's: of the policy, or of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there, or a lone dot.
    #[error("a host name cannot be empty")]
    Empty,
    /// More than 253 bytes.
    #[error("a host name has at most 253 characters")]
    TooLong,
    /// Two dots in a row, or one at the front.
    #[error("a host name has no empty label (two dots in a row, or one at the front)")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label of a host name has at most 63 characters")]
    LabelTooLong,
    /// `-` at the start or end of a label.
    #[error("a label of a host name neither begins nor ends with `-`")]
    Hyphen,
    /// A character that no host name has: NUL, white space, `:`, `@`, `%`, `/`, `*` and so on.
    #[error("{0:?} cannot stand in a host name")]
    Character(char),
    /// Not ASCII. Which A-label a Unicode name means depends on the reader, so we do not guess.
    #[error("a host name is ASCII; write an international name in its xn-- form")]
    NonAscii,
    /// An address, in any spelling that some resolver accepts (`1.2.3.4`, `[::1]`, `2130706433`, `0x7f.1`).
    #[error("an IP address is not a host name")]
    Address,
}

/// The name of a function: 1 to 64 ASCII letters, digits, `-` and `_`, case kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName(Arc<str>);

impl FunctionName {
    /// Reads a function's name.
    ///
    /// # Errors
    /// When it is empty, too long, or has another character.
    pub fn parse(text: &str) -> Result<Self, FunctionNameError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > MAX_FUNCTION_NAME || !text.bytes().all(good) {
            return Err(FunctionNameError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is not a [`FunctionName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a function's name is 1 to 64 ASCII letters, digits, `-` and `_`")]
pub struct FunctionNameError;

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// What URL parsers and `inet_aton` take for (the last part of) an IPv4 address: WHATWG URL, "ends in a number".
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x");
    label.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

macro_rules! text_like {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

text_like!(HostName);
text_like!(FunctionName);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> NameError {
        HostName::parse(text).expect_err(text)
    }

    #[test]
    fn case_and_one_trailing_dot_do_not_matter() {
        for text in ["API.Example.com", "api.example.com.", "api.example.com"] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), "api.example.com");
        }
        assert_eq!(error("api.example.com.."), NameError::EmptyLabel);
    }

    #[test]
    fn underscores_digits_and_a_labels_are_names() {
        for text in ["_dmarc.example.com", "localhost", "3com.com", "xn--bcher-kva.example", "a.1.b2", "r3---sn.a"] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn no_spelling_of_an_address_is_a_name() {
        for text in [
            "127.0.0.1",
            "127.0.0.1.",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "127.1",
            "0177.0.0.01",
            "example.com.1",
            "example.0x",
            "::1",
            "[::1]",
            "[[host]]",
            "::ffff:1.2.3.4",
        ] {
            assert_eq!(error(text), NameError::Address, "{text}");
        }
    }

    #[test]
    fn bytes_that_another_parser_would_read_differently_are_refused() {
        for (text, character) in [
            ("attacker\0.google.com", '\0'),
            ("a b.com", ' '),
            ("a.com\r\nHost: b", '\r'),
            ("user@a.com", '@'),
            ("a.com:443", ':'),
            ("a%2ecom", '%'),
            ("fe80::1%eth0", ':'),
            ("a.com/", '/'),
            ("*.a.com", '*'),
            ("a\tb", '\t'),
            ("a]", ']'),
        ] {
            assert_eq!(error(text), NameError::Character(character), "{text:?}");
        }
    }

    #[test]
    fn a_name_outside_ascii_asks_for_its_a_label() {
        for text in ["bücher.example", "example。com", "ｅxample.com", "exam\u{ad}ple.com"] {
            assert_eq!(error(text), NameError::NonAscii);
            assert!(error(text).to_string().contains("xn--"));
        }
        assert_eq!(HostName::from_bytes(b"a\xff.com"), Err(NameError::NonAscii));
    }

    #[test]
    fn lengths_are_those_of_dns() {
        let label = "a".repeat(63);
        assert!(HostName::parse(&label).is_ok());
        assert_eq!(error(&"a".repeat(64)), NameError::LabelTooLong);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(HostName::parse(&longest).is_ok());
        assert!(HostName::parse(&format!("{longest}.")).is_ok());
        assert_eq!(error(&format!("{longest}a")), NameError::TooLong);
    }

    #[test]
    fn empty_names_labels_and_outer_hyphens_are_refused() {
        for (text, want) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("..", NameError::EmptyLabel),
            (".a.com", NameError::EmptyLabel),
            ("a..com", NameError::EmptyLabel),
            ("-a.com", NameError::Hyphen),
            ("a-.com", NameError::Hyphen),
            ("xn--", NameError::Hyphen),
        ] {
            assert_eq!(error(text), want, "{text:?}");
        }
    }

    #[test]
    fn below_means_at_least_one_label_more() {
        let name = |text| HostName::parse(text).unwrap();
        let apex = name("example.com");
        assert!(name("a.example.com").is_below(&apex));
        assert!(name("b.a.example.com").is_below(&apex));
        assert!(!name("example.com").is_below(&apex));
        assert!(!name("evilexample.com").is_below(&apex));
        assert!(!name("example.com.evil.net").is_below(&apex));
    }

    #[test]
    fn function_names_are_safe_in_paths_and_urls() {
        assert_eq!(FunctionName::parse("Hello_world-2").unwrap().as_str(), "Hello_world-2");
        assert!(FunctionName::parse(&"f".repeat(64)).is_ok());
        for text in ["", "a b", "a/b", "..", "a.b", "ä", "a\0", &"f".repeat(65)] {
            assert_eq!(FunctionName::parse(text), Err(FunctionNameError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(name) = HostName::from_bytes(&bytes) {
                prop_assert_eq!(HostName::parse(name.as_str()), Ok(name.clone()));
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b)));
            }
        }

        #[test]
        fn a_canonical_name_has_one_spelling(text in "[a-zA-Z0-9_.-]{1,40}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(HostName::parse(&text.to_ascii_uppercase()), Ok(name.clone()));
                prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            }
        }
    }
}

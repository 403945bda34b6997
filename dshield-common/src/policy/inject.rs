//! Header fields that a request gets on its way: what a function must not know, such as an API key.
//!
//! A policy says which secret goes into which field, by name; values are no part of a policy or of its hash.
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

const LONGEST_NAME: usize = 64;
const LONGEST_PREFIX: usize = 64;

/// Fields that belong to one connection, say how long a message is, or say whom it is for: those are made anew for each
/// request upstream, and what a rule put there would contradict what was judged.
const NEVER: [&str; 17] = [
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// What a field is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Injection {
    /// Whose value.
    pub secret: SecretName,
    /// What stands before it: at most 64 visible ASCII characters and spaces.
    pub prefix: String,
}

/// The name of a secret, and of the agent's environment variable that holds it: an upper-case letter, then upper-case
/// letters, digits and `_`, at most 64 in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

impl SecretName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, SecretNameError> {
        let inner = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let good = text.starts_with(|c: char| c.is_ascii_uppercase()) && text.bytes().all(inner);
        if good && text.len() <= LONGEST_NAME { Ok(Self(text.to_owned())) } else { Err(SecretNameError) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A text is not a [`SecretName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is named like an environment variable: upper-case letters, digits and `_`, a letter first, at most 64"
)]
pub struct SecretNameError;

/// True for lower-case field names (RFC 9110, section 5.1) that a rule may set.
pub(super) fn may_be_injected(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let plain = !name.is_empty() && name.len() <= 64 && name.bytes().all(token);
    plain && !NEVER.contains(&name) && !name.starts_with("x-forwarded-")
}

/// True for what may stand before a secret.
pub(super) fn is_prefix(text: &str) -> bool {
    text.len() <= LONGEST_PREFIX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

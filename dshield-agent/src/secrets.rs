//! What a policy injects into requests: read from the agent's own environment, handed to nobody but the proxy.
//!
//! Names flow in, with the rules that say them; out flow header values that requests share and nothing prints. The
//! memory of each is overwritten when the last request that has it ends.
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dshield_common::policy::{Injection, Policy, Rule, SecretName};
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::secret::Ed25519Key;

/// The values of a policy's injected headers.
#[derive(Default)]
pub struct Secrets(HashMap<Injection, HeaderValue>);

/// A secret cannot be used. The operator's; it never holds the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// No such variable, or an empty one.
    #[error("{rule} uses the secret {name}: set the agent's environment variable {name}")]
    Missing {
        /// The secret, and the variable.
        name: SecretName,
        /// The first rule that asks for it.
        rule: String,
    },
    /// It is no seed of a key.
    #[error(
        "[log] takes its key from the secret {name}: the environment variable {name} must hold 32 bytes in base64, such as \
         `openssl rand -base64 32` prints"
    )]
    NotASeed {
        /// The secret, and the variable.
        name: SecretName,
    },
    /// A header field cannot have it: a line break, a control character, or not ASCII.
    #[error(
        "{rule} injects the secret {name}: the environment variable {name} holds what no header field can; \
         write visible ASCII characters, without a line break at the end"
    )]
    NotAHeader {
        /// The secret, and the variable.
        name: SecretName,
        /// The first rule that asks for it.
        rule: String,
    },
}

impl Secrets {
    /// Reads every secret that `policy` names from the environment of this process.
    ///
    /// # Errors
    /// The first that is missing or unusable.
    pub fn from_environment(policy: &Policy) -> Result<Arc<Self>, SecretError> {
        Self::read(policy, |name| {
            let value = std::env::var_os(name.as_str())?;
            Some(Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value)))
        })
    }

    fn read(
        policy: &Policy,
        variable: impl Fn(&SecretName) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Arc<Self>, SecretError> {
        let mut values = HashMap::new();
        for (injection, rule) in injections(policy) {
            if values.contains_key(injection) {
                continue;
            }
            let (name, rule) = (injection.secret.clone(), rule.to_owned());
            let Some(secret) = variable(&name).filter(|secret| !secret.is_empty()) else {
                return Err(SecretError::Missing { name, rule });
            };
            let value = header_value(&injection.prefix, &secret).ok_or(SecretError::NotAHeader { name, rule })?;
            values.insert(injection.clone(), value);
        }
        Ok(Arc::new(Self(values)))
    }

    /// Puts what `rule` injects into a request's headers, in place of what the function sent under those names.
    pub fn inject(&self, rule: &Rule, headers: &mut HeaderMap) {
        for (name, injection) in &rule.inject_header {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            headers.remove(&name);
            if let Some(value) = self.0.get(injection) {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// The key that signs checkpoints for witnesses, from the seed that the policy names.
///
/// # Errors
/// The variable is missing, or does not hold 32 bytes in base64.
pub fn log_key(policy: &Policy) -> Result<Option<Ed25519Key>, SecretError> {
    let Some(name) = policy.log.seed.clone() else { return Ok(None) };
    let text = std::env::var_os(name.as_str())
        .map(|value| Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value)))
        .filter(|value| !value.is_empty());
    let Some(text) = text else {
        return Err(SecretError::Missing { name, rule: "[log]".to_owned() });
    };
    let seed = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new);
    let key = seed.ok().filter(|seed| seed.len() == 32).and_then(|seed| Ed25519Key::from_seed(&seed).ok());
    key.map(Some).ok_or(SecretError::NotASeed { name })
}

/// Says how many there are, and nothing of them.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("values", &self.0.len()).finish_non_exhaustive()
    }
}

/// The secrets that `policy` names, each once, with the first rule that names it, or `[log]`.
#[must_use]
pub fn needed(policy: &Policy) -> Vec<(&SecretName, &str)> {
    let mut needed: Vec<(&SecretName, &str)> = policy.log.seed.iter().map(|seed| (seed, "[log]")).collect();
    for (injection, rule) in injections(policy) {
        if !needed.iter().any(|(name, _)| *name == &injection.secret) {
            needed.push((&injection.secret, rule));
        }
    }
    needed
}

fn injections(policy: &Policy) -> impl Iterator<Item = (&Injection, &str)> {
    let rules = policy.functions.iter().flat_map(|function| &function.egress);
    rules.flat_map(|rule| rule.inject_header.values().map(|injection| (injection, rule.id.as_str())))
}

/// Overwritten when it is dropped.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn header_value(prefix: &str, secret: &[u8]) -> Option<HeaderValue> {
    // HTTP takes more bytes than these; what comes out of an environment by mistake is not sent on.
    if !secret.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') || secret.ends_with(b" ") {
        return None;
    }
    // At its full length from the start: growing would leave a copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(secret);
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(text))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use dshield_common::policy::Deployment;

    use super::*;

    const TEXT: &str = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
        [[function.egress]]\nhost = \"a.com\"\n\
        inject_header = { authorization = { secret = \"TOKEN\", prefix = \"Bearer \" }, x-key = { secret = \"KEY\" } }\n\
        [[function.egress]]\nhost = \"b.com\"\ninject_header = { x-key = { secret = \"KEY\" } }\n";

    fn policy() -> Arc<Policy> {
        Deployment::parse(TEXT, &mut |_| unreachable!()).unwrap().policy
    }

    fn read(token: Option<&[u8]>) -> Result<Arc<Secrets>, SecretError> {
        Secrets::read(&policy(), |name| match name.as_str() {
            "TOKEN" => token.map(|token| Zeroizing::new(token.to_vec())),
            _ => Some(Zeroizing::new(b"k-1".to_vec())),
        })
    }

    #[test]
    fn each_injection_has_its_value_with_its_prefix_and_nothing_prints_it() {
        let (policy, secrets) = (policy(), read(Some(b"s3cret")).unwrap());
        let injected = |rule: usize, name: &str| {
            let mut headers = HeaderMap::new();
            headers
                .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("the function's"));
            secrets.inject(&policy.functions[0].egress[rule], &mut headers);
            assert_eq!(headers.get_all(name).iter().count(), 1);
            headers[name].clone()
        };
        assert_eq!(injected(0, "authorization").as_bytes(), b"Bearer s3cret");
        assert_eq!((injected(0, "x-key"), injected(1, "x-key")), ("k-1".parse().unwrap(), "k-1".parse().unwrap()));
        assert!(injected(0, "authorization").is_sensitive());
        let shown = format!("{secrets:?} {:?}", injected(0, "authorization"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_missing_or_unusable_secret_is_told_by_name_and_rule_and_never_by_value() {
        for token in [None, Some(&b""[..])] {
            let error = read(token).unwrap_err();
            assert_eq!(
                error.to_string(),
                "f.egress[0] uses the secret TOKEN: set the agent's environment variable TOKEN"
            );
        }
        for token in ["s3cret\n", "s3\r\nHost: b", "s3cret ", "s3\0cret", "s3cré", "s3\tcret"] {
            let error = read(Some(token.as_bytes())).unwrap_err();
            assert!(matches!(error, SecretError::NotAHeader { .. }), "{token:?}");
            assert!(!error.to_string().contains("s3"), "{error}");
        }
    }

    #[test]
    fn what_is_needed_is_listed_once_with_its_first_rule() {
        let policy = policy();
        let needed: Vec<_> = needed(&policy).into_iter().map(|(name, rule)| (name.as_str(), rule)).collect();
        assert_eq!(needed, [("TOKEN", "f.egress[0]"), ("KEY", "f.egress[0]")]);
    }
}

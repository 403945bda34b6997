//! What an agent says about itself: one canonical text, and the report data that binds it to a quote.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha512};

use crate::canonical::to_canonical_json;
use crate::hex;

/// The value of a statement's `type`.
pub const TYPE: &str = "dshield.statement/v1";

/// What is hashed before the statement, so that its report data means nothing else to anybody: dstack's own are
/// `SHA-512(tag ‖ ":" ‖ content)` with other tags.
const REPORT_DATA_PREFIX: &[u8] = b"dshield-report-data-v1:";

/// What runs, under which policy, with which keys. Its canonical text (RFC 8785) is what [`ReportData`] stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What the verifier chose; `null` where nobody asked for one, which proves no freshness.
    pub nonce: Option<Nonce>,
    /// The agent's boot, as in the log: 32 hexadecimal digits.
    pub boot_id: String,
    /// The agent.
    pub agent: Agent,
    /// The kernel programs.
    pub ebpf: Ebpf,
    /// SHA-256 (hex) of the canonical policy in force.
    pub policy_sha256: String,
    /// The functions that are deployed, by name.
    pub functions: Vec<Function>,
    /// What surrounds each instance.
    pub isolation: Isolation,
    /// The log and its keys.
    pub log: Log,
    /// SHA-256 (hex) of the DER `SubjectPublicKeyInfo` of the API's TLS key; `null` where the agent speaks no TLS itself.
    pub tls_spki_sha256: Option<String>,
}

/// The agent's executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// D-Shield's version.
    pub version: String,
    /// SHA-256 (hex) of the running executable.
    pub sha256: String,
}

/// What was given to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ebpf {
    /// The objects, by name.
    pub objects: Vec<EbpfObject>,
    /// The programs that are attached, by name.
    pub programs: Vec<String>,
}

/// One ELF object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EbpfObject {
    /// `cgroup`, `netns` or `lsm`.
    pub name: String,
    /// SHA-256 (hex) of its bytes, as given to the loader.
    pub sha256: String,
}

/// A function that is deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its code folder's hash ([`super::code`]), in hex.
    pub code_sha256: String,
}

/// The walls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// `sealed`: each instance is in a network namespace of its own, with nothing but `lo`.
    pub netns: String,
    /// SHA-256 (hex) of the instructions of the seccomp filters that instances get.
    pub seccomp_sha256: String,
    /// The version of Landlock in use: 0 for none.
    pub landlock_abi: u32,
    /// Whether programs at the kernel's security hooks are attached.
    pub lsm_bpf: bool,
    /// Of the cgroup controllers `memory` and `pids`, those that bound instances.
    pub cgroup_controllers: Vec<String>,
}

/// The log at the moment of the statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// What its checkpoints name it by (C2SP tlog-checkpoint).
    pub origin: String,
    /// The P-256 key of this boot, which signs entries and checkpoints, as a vkey (C2SP signed-note).
    pub ecdsa_p256: String,
    /// The Ed25519 key that signs checkpoints, as a vkey.
    pub ed25519: String,
    /// How many entries are durable.
    pub size: u64,
    /// The root of the Merkle tree (RFC 6962) over them, in hex.
    pub root: String,
}

/// Why a text is no statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// It is no JSON of that form.
    #[error("the statement is not understood: {0}")]
    Malformed(#[source] serde_json::Error),
    /// It is of another version.
    #[error("the statement is of type {0:?}, not \"{TYPE}\"; use the dshield-verify of its version")]
    Type(String),
    /// It says two things about one name, so readers might believe one or the other.
    #[error("the statement names {0:?} twice")]
    Twice(String),
    /// It is not in canonical form, so readers might disagree on what it says.
    #[error("the statement is not canonical JSON (RFC 8785)")]
    NotCanonical,
}

impl Statement {
    /// Its one text.
    #[must_use]
    pub fn canonical(&self) -> String {
        to_canonical_json(self).expect("its only numbers are a count of entries, below 2^53, and a version")
    }

    /// Reads a statement, which must be in canonical form.
    ///
    /// # Errors
    /// When it is not a statement of this version in its canonical text.
    pub fn parse(text: &str) -> Result<Self, StatementError> {
        #[derive(Deserialize)]
        struct Type {
            #[serde(rename = "type")]
            kind: Option<String>,
        }
        let Type { kind } = serde_json::from_str(text).map_err(StatementError::Malformed)?;
        match kind {
            Some(kind) if kind == TYPE => {}
            kind => return Err(StatementError::Type(kind.unwrap_or_default())),
        }
        let statement: Self = serde_json::from_str(text).map_err(StatementError::Malformed)?;
        match to_canonical_json(&statement) {
            Ok(canonical) if canonical == text => {}
            _ => return Err(StatementError::NotCanonical),
        }
        let objects = statement.ebpf.objects.iter().map(|object| &object.name);
        let functions = statement.functions.iter().map(|function| &function.name);
        for names in [objects.collect::<Vec<_>>(), functions.collect()] {
            if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
                return Err(StatementError::Twice((*twice.1).clone()));
            }
        }
        Ok(statement)
    }

    /// The SHA-256 (hex) of the eBPF object `name`.
    #[must_use]
    pub fn ebpf_object(&self, name: &str) -> Option<&str> {
        self.ebpf.objects.iter().find(|object| object.name == name).map(|object| object.sha256.as_str())
    }
}

/// The 64 bytes of a quote that its maker chooses: `SHA-512("dshield-report-data-v1:" ‖ statement)`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData([u8; 64]);

impl ReportData {
    /// Those that stand for a statement's canonical text.
    #[must_use]
    pub fn of(statement: &str) -> Self {
        let mut hash = Sha512::new();
        hash.update(REPORT_DATA_PREFIX);
        hash.update(statement.as_bytes());
        Self(hash.finalize().into())
    }

    /// The 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Display for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for ReportData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 32 bytes that a verifier chose, so that an old answer is no answer: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 32]);

/// A text is no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a nonce is 64 hexadecimal digits in lower case, that is 32 random bytes")]
pub struct NonceError;

impl Nonce {
    /// The nonce of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = NonceError;

    fn from_str(text: &str) -> Result<Self, NonceError> {
        hex::decode_array(text).map(Self).ok_or(NonceError)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn statement() -> Statement {
        let hash = |digit: char| digit.to_string().repeat(64);
        Statement {
            kind: TYPE.to_owned(),
            nonce: Some(Nonce::new([7; 32])),
            boot_id: "00112233445566778899aabbccddeeff".to_owned(),
            agent: Agent { version: "0.1.0".to_owned(), sha256: hash('a') },
            ebpf: Ebpf {
                objects: vec![EbpfObject { name: "cgroup".to_owned(), sha256: hash('b') }],
                programs: vec!["ds_connect4".to_owned()],
            },
            policy_sha256: hash('c'),
            functions: vec![Function { name: "summarize".to_owned(), code_sha256: hash('d') }],
            isolation: Isolation {
                netns: "sealed".to_owned(),
                seccomp_sha256: hash('e'),
                landlock_abi: 6,
                lsm_bpf: false,
                cgroup_controllers: vec!["memory".to_owned()],
            },
            log: Log {
                origin: "dshield/x".to_owned(),
                ecdsa_p256: "vkey1".to_owned(),
                ed25519: "vkey2".to_owned(),
                size: 3,
                root: hash('f'),
            },
            tls_spki_sha256: None,
        }
    }

    #[test]
    fn a_statement_has_one_text_and_known_report_data() {
        let text = statement().canonical();
        assert_eq!(Statement::parse(&text).unwrap(), statement());
        assert!(text.starts_with(r#"{"agent":{"sha256":"aaaa"#), "{text}");
        assert!(text.ends_with(r#""tls_spki_sha256":null,"type":"dshield.statement/v1"}"#), "{text}");
        // printf 'dshield-report-data-v1:x' | sha512sum
        assert_eq!(
            ReportData::of("x").to_string(),
            "bc3a8ec83fe04adb6f14686b8028cb70ab91232b2c87ff0939107d4a1e02d881e7f63311dd1f957747b73960c9ffd9be3b994ec0927e690bda106ecbe19677e4"
        );
    }

    #[test]
    fn another_spelling_of_a_statement_is_none() {
        let text = statement().canonical();
        for (other, why) in [
            (text.replacen('{', "{ ", 1), "not canonical"),
            (text.replace("\"boot_id\":", "\"boot_id\":\"1\",\"boot_id\":"), "duplicate"),
            (text.replace("statement/v1", "statement/v2"), "dshield-verify of its version"),
            (text.replace("\"nonce\":", "\"more\":1,\"nonce\":"), "unknown field"),
            (text.replace("\"nonce\":\"07", "\"nonce\":\"0g"), "64 hexadecimal digits"),
            ("[]".to_owned(), "not understood"),
        ] {
            let error = Statement::parse(&other).unwrap_err().to_string();
            let source = std::error::Error::source(&Statement::parse(&other).unwrap_err()).map(ToString::to_string);
            assert!(error.contains(why) || source.is_some_and(|source| source.contains(why)), "{error}: {why}");
        }
    }

    #[test]
    fn a_name_that_is_said_twice_is_believed_neither_way() {
        let mut twice = statement();
        twice.functions.push(Function { name: "summarize".to_owned(), code_sha256: "0".repeat(64) });
        let error = Statement::parse(&twice.canonical()).unwrap_err().to_string();
        assert_eq!(error, "the statement names \"summarize\" twice");
        let mut twice = statement();
        twice.ebpf.objects.push(EbpfObject { name: "cgroup".to_owned(), sha256: "0".repeat(64) });
        assert!(matches!(Statement::parse(&twice.canonical()), Err(StatementError::Twice(name)) if name == "cgroup"));
    }

    #[test]
    fn a_nonce_is_lower_case_hexadecimal_of_its_length() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.parse::<Nonce>().unwrap().to_string(), text);
        for bad in ["", "00", &text.to_uppercase(), &format!("{text}00"), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Nonce>(), Err(NonceError), "{bad}");
        }
    }
}

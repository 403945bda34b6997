//! Who is told of the log's head, so that nobody can put back an older log unnoticed (`[log]`).
use std::sync::Arc;
use std::time::Duration;

use super::inject::SecretName;
use super::types::{FunctionPolicy, Mode, Rule};
use crate::destination::Destination;
use crate::name::FunctionName;
use crate::tlog::{KeyName, VerifierKey};

/// How the log is named and who witnesses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// What checkpoints call the log; where there is none, `dshield/` and the log's id.
    pub origin: Option<KeyName>,
    /// The environment variable of the agent with the seed of the Ed25519 key that signs checkpoints: 32 bytes in
    /// base64. Where there is none each boot makes a key, which no witness can know beforehand.
    pub seed: Option<SecretName>,
    /// How often witnesses are asked, when something was written: 1 second to 15 minutes.
    pub interval: Duration,
    /// In the order of the file.
    pub witnesses: Vec<Witness>,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self { origin: None, seed: None, interval: DEFAULT_INTERVAL, witnesses: Vec::new() }
    }
}

/// A minute of entries is what a host could make unseen.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// A witness (C2SP tlog-witness), and the rule by which the agent may reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The key of its cosignatures.
    pub key: VerifierKey,
    /// Where it is.
    pub to: Destination,
    /// The port.
    pub port: u16,
    /// The path of `add-checkpoint`.
    pub path: String,
    /// That, and nothing else.
    pub rule: Arc<Rule>,
}

impl LogPolicy {
    /// Where the agent itself may send data: to its witnesses.
    ///
    /// # Panics
    /// Never: the name is a constant that is one.
    #[must_use]
    pub fn egress(&self) -> FunctionPolicy {
        let egress = self.witnesses.iter().map(|witness| witness.rule.clone()).collect();
        let name = FunctionName::parse("log").expect("three letters are a name");
        FunctionPolicy { name, mode: Mode::Enforce, egress }
    }
}

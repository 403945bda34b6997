//! Why something may not leave, for the log, for programs and for people.
use std::net::IpAddr;

use super::types::Rule;

/// Why something may not leave. The function did what its policy does not allow; [`Denied::hint`] says what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// No rule is for the name.
    #[error("no egress rule of `{function}` allows {host}")]
    #[non_exhaustive]
    Name {
        /// The function.
        function: String,
        /// The name it asked for.
        host: String,
    },
    /// No rule is for the address.
    #[error("no egress rule of `{function}` allows the address {address}")]
    #[non_exhaustive]
    Address {
        /// The function.
        function: String,
        /// The address it connected to, without a name.
        address: IpAddr,
    },
    /// A rule is for a network with the address in it, but not for such addresses.
    #[error("{address} ({why}) is not on the public internet, and the rule for {host} means more than such addresses")]
    #[non_exhaustive]
    SpecialPurpose {
        /// The address it connected to, without a name.
        address: IpAddr,
        /// What is special about it.
        why: &'static str,
        /// The network that has it.
        host: String,
    },
    /// Rules are for the destination, but not for the port.
    #[error("the policy allows {host} only on port {}, not {port}", list(allowed))]
    #[non_exhaustive]
    Port {
        /// The host pattern that speaks for the name.
        host: String,
        /// The port it asked for.
        port: u16,
        /// The ports that would do, sorted.
        allowed: Vec<u16>,
    },
    /// Rules are for the destination, but not for the method.
    #[error("the policy allows only {} to {host}, not {method}", list(allowed))]
    #[non_exhaustive]
    Method {
        /// The host pattern.
        host: String,
        /// The method it asked for.
        method: String,
        /// The methods that would do, sorted.
        allowed: Vec<String>,
        /// The first rule for the destination.
        rule: String,
    },
    /// Rules are for the destination and the method, but not for the path.
    #[error("the policy does not allow {method} {path} on {host}")]
    #[non_exhaustive]
    Path {
        /// The host pattern.
        host: String,
        /// The method.
        method: String,
        /// The path it asked for.
        path: String,
        /// The first rule for the destination.
        rule: String,
    },
    /// A rule has paths, and the upstream could read this one differently from us.
    #[error("the path {path} can be read in two ways, so no rule with paths allows it on {host}")]
    #[non_exhaustive]
    AmbiguousPath {
        /// The host pattern.
        host: String,
        /// The path it asked for.
        path: String,
        /// The first rule for the destination.
        rule: String,
    },
    /// The request asks for another protocol on its connection, and its rule does not.
    #[error("the rule for {host} allows no upgrade to another protocol")]
    #[non_exhaustive]
    Upgrade {
        /// The host pattern.
        host: String,
        /// The rule.
        rule: String,
    },
    /// The rule's rate is used up.
    #[error("the rule for {host} allows {rate}, and they are used up")]
    #[non_exhaustive]
    Rate {
        /// The host pattern.
        host: String,
        /// How many in which period.
        rate: String,
        /// The rule.
        rule: String,
    },
    /// As many as the rule allows at a time are under way.
    #[error("the rule for {host} allows {most} at a time, and they are under way")]
    #[non_exhaustive]
    Concurrency {
        /// The host pattern.
        host: String,
        /// How many.
        most: u32,
        /// The rule.
        rule: String,
    },
}

/// Refusals that the traffic decides, not the policy alone.
impl Rule {
    /// Refuses an upgrade to another protocol; `None` when the rule allows it.
    #[must_use]
    pub fn denies_upgrade(&self) -> Option<Denied> {
        (!self.upgrade).then(|| Denied::Upgrade { host: self.host.to_string(), rule: self.id.clone() })
    }

    /// Refuses what is beyond `rate`; `None` when the rule has none.
    #[must_use]
    pub fn denies_rate(&self) -> Option<Denied> {
        let rate = self.rate?.to_string();
        Some(Denied::Rate { host: self.host.to_string(), rate, rule: self.id.clone() })
    }

    /// Refuses what is beyond `max_concurrent`; `None` when the rule has none.
    #[must_use]
    pub fn denies_concurrency(&self) -> Option<Denied> {
        let most = self.max_concurrent?;
        Some(Denied::Concurrency { host: self.host.to_string(), most, rule: self.id.clone() })
    }
}

impl Denied {
    /// The rule that speaks for the destination and does not allow this; `None` when none speaks for it.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Method { rule, .. }
            | Self::Path { rule, .. }
            | Self::AmbiguousPath { rule, .. }
            | Self::Upgrade { rule, .. }
            | Self::Rate { rule, .. }
            | Self::Concurrency { rule, .. } => Some(rule),
            Self::Name { .. } | Self::Address { .. } | Self::SpecialPurpose { .. } | Self::Port { .. } => None,
        }
    }

    /// A word for the reason that never changes, for the log and for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name_not_allowed",
            Self::Address { .. } => "address_not_allowed",
            Self::SpecialPurpose { .. } => "special_purpose_address",
            Self::Port { .. } => "port_not_allowed",
            Self::Method { .. } => "method_not_allowed",
            Self::Path { .. } => "path_not_allowed",
            Self::AmbiguousPath { .. } => "ambiguous_path",
            Self::Upgrade { .. } => "upgrade_not_allowed",
            Self::Rate { .. } => "rate_exceeded",
            Self::Concurrency { .. } => "too_many_at_once",
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What the function sent, made safe and short for a sentence.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

//! Why something may not leave, for the log, for programs and for people.

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
    /// Rules are for the name, but not for the port.
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
}

impl Denied {
    /// The rule that speaks for the destination and does not allow this; `None` when none speaks for it.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Method { rule, .. } | Self::Path { rule, .. } | Self::AmbiguousPath { rule, .. } => Some(rule),
            Self::Name { .. } | Self::Port { .. } => None,
        }
    }

    /// A word for the reason that never changes, for the log and for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name_not_allowed",
            Self::Port { .. } => "port_not_allowed",
            Self::Method { .. } => "method_not_allowed",
            Self::Path { .. } => "path_not_allowed",
            Self::AmbiguousPath { .. } => "ambiguous_path",
        }
    }

    /// What to write into `dshield.toml`, or to change in the function, if this was meant to be allowed.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Name { function, host } => {
                format!("to allow it, add below the function `{function}`: [[function.egress]] host = \"{host}\"")
            }
            Self::Port { host, port, allowed } => {
                let ports: Vec<String> = allowed.iter().chain([port]).map(ToString::to_string).collect();
                format!("to allow it, write ports = [{}] in the egress rule for \"{host}\"", ports.join(", "))
            }
            Self::Method { method, rule, .. } => format!("to allow it, add \"{method}\" to `methods` of {rule}"),
            Self::Path { path, rule, .. } => format!("to allow it, add \"{path}\" to `paths` of {rule}"),
            Self::AmbiguousPath { .. } => {
                "send the path in its plain form: no `//`, `.`, `..`, `\\` or control characters, neither plain nor encoded".to_owned()
            }
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

//! What a policy says. Made by [`Deployment::parse`] only, which checks what the types alone cannot.
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::attestation::AttestationPolicy;
use super::diagnostic::did_you_mean;
use super::inject::Injection;
use super::path::PathPattern;
use super::rate::Rate;
use super::resolver::UpstreamResolver;
use super::spki::SpkiPin;
use super::witness::LogPolicy;
use crate::address::Network;
use crate::destination::Destination;
use crate::name::{FunctionName, HostName};

/// The whole of `dshield.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// What is attested.
    pub policy: Arc<Policy>,
    /// What runs, in the order of the file; names are unique.
    pub functions: Vec<Function>,
}

/// What the agent enforces and the hardware attests: every whitelist, and how it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How much of allowed traffic is logged.
    pub log_level: LogLevel,
    /// True when the log never touches a disk.
    pub memory_only: bool,
    /// Who says which addresses a name has.
    pub resolver: UpstreamResolver,
    /// Whether what the rules do not allow is refused.
    pub mode: Mode,
    /// How the log is named, and who witnesses it.
    pub log: LogPolicy,
    /// Where collateral comes from.
    pub attestation: AttestationPolicy,
    /// One for each function, in the order of the file.
    pub functions: Vec<Arc<FunctionPolicy>>,
}

/// Where one function's data may go. No rule means nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionPolicy {
    /// The function's name.
    pub name: FunctionName,
    /// Whether what its rules do not allow is refused; the same for all functions of a policy.
    pub mode: Mode,
    /// Its rules, in the order of the file: of several that allow a request, the first is the one that counts.
    pub egress: Vec<Arc<Rule>>,
}

/// One permission. Rules of a function with the same host and a common port agree in `tls`, `protocol`, `resolve`, `ca`
/// and `pin_spki`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands, such as `summarize.egress[0]`; what the log calls it.
    pub id: String,
    /// Which names or addresses.
    pub host: HostPattern,
    /// Which TCP ports: at least one, sorted, each once, never 0.
    pub ports: Vec<u16>,
    /// What becomes of TLS.
    pub tls: TlsMode,
    /// What is spoken; not HTTP only where `tls` is none.
    pub protocol: Protocol,
    /// Which methods: at least one token, upper case, sorted, each once. `None` is any.
    pub methods: Option<Vec<String>>,
    /// Which paths: at least one, sorted as they are written, each once. `None` is any.
    pub paths: Option<Vec<PathPattern>>,
    /// The largest request body, in bytes, below 2⁵³. `None` is any.
    pub max_request_bytes: Option<u64>,
    /// True when a request may turn its connection into another protocol (101 Switching Protocols).
    pub upgrade: bool,
    /// How many requests (connections, where requests are not seen) of all instances together. `None` is any.
    pub rate: Option<Rate>,
    /// How many of them at a time, 1 to 100,000. `None` is any.
    pub max_concurrent: Option<u32>,
    /// Connect to these addresses, in this order, instead of asking DNS. Empty: ask DNS.
    pub resolve: Vec<Pin>,
    /// Certificates (DER) that may anchor the upstream's chain, besides the usual ones.
    pub ca: Vec<Vec<u8>>,
    /// The keys that the upstream's certificate may have: sorted, each once. Empty: any that the chain proves.
    pub pin_spki: Vec<SpkiPin>,
    /// Header fields that requests get on their way, by lower-case name.
    pub inject_header: BTreeMap<String, Injection>,
}

impl Rule {
    /// A rule for one port that says nothing but how to connect.
    pub(super) fn any(id: String, host: HostPattern, port: u16, tls: TlsMode, protocol: Protocol) -> Self {
        Self {
            id,
            host,
            ports: vec![port],
            tls,
            protocol,
            methods: None,
            paths: None,
            max_request_bytes: None,
            upgrade: false,
            rate: None,
            max_concurrent: None,
            resolve: Vec::new(),
            ca: Vec::new(),
            pin_spki: Vec::new(),
            inject_header: BTreeMap::new(),
        }
    }
}

/// Which names or addresses a rule is for. A name never matches a network, whatever it resolves to, and an address
/// never a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name and no other.
    Exact(HostName),
    /// `*.name`: every name with one or more labels in front of `name`, never `name` itself.
    Wildcard(HostName),
    /// Connections to these addresses, made without a name.
    Network(Network),
}

impl HostPattern {
    /// True when `to` is one of those meant.
    #[must_use]
    pub fn matches(&self, to: &Destination) -> bool {
        match (self, to) {
            (Self::Exact(own), Destination::Name(name)) => own == name,
            (Self::Wildcard(apex), Destination::Name(name)) => name.is_below(apex),
            (Self::Network(network), Destination::Address(address)) => network.contains(*address),
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.pad(name.as_str()),
            Self::Wildcard(apex) => f.pad(&format!("*.{apex}")),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// An address to connect to instead of what DNS says; the only way to reach special-purpose addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    /// The address.
    pub ip: IpAddr,
    /// The port, never 0; `None` is the port that the function asked for.
    pub port: Option<u16>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// A function as it is to be run. Its whitelist is the [`FunctionPolicy`] of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// What runs it.
    pub runtime: Runtime,
    /// The folder with its code, as written: relative to the file it was written in.
    pub code: PathBuf,
    /// `module.function`, perhaps in a folder (`api/app.handler`). Always there for Python and Node, never for native.
    pub handler: Option<String>,
    /// How long one invocation may take: 1 ms to 15 minutes.
    pub timeout: Duration,
    /// How much memory one instance may use, in bytes: at least 16 MiB.
    pub memory: u64,
    /// How many instances at most: 1 to 1000.
    pub concurrency: u32,
    /// Its environment, beside what the runtime sets.
    pub env: BTreeMap<String, String>,
}

impl Function {
    /// The handler's module (`api/app`) and function (`handler`); `None` for native.
    #[must_use]
    pub fn handler_parts(&self) -> Option<(&str, &str)> {
        self.handler.as_deref()?.rsplit_once('.')
    }
}

/// An enumeration whose values are words in the file.
pub(super) trait Word: FromStr<Err = UnknownWord> + Copy + 'static {
    /// Every word, in the order in which they are explained.
    const ALL: &'static [(&'static str, Self)];
}

/// A word that an enumeration does not have. Shown as what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(String);

fn find_word<T: Word>(text: &str) -> Result<T, UnknownWord> {
    if let Some((_, value)) = T::ALL.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = || T::ALL.iter().map(|(word, _)| *word);
    let nearest = did_you_mean(text, words());
    Err(UnknownWord(nearest.unwrap_or_else(|| format!("it can be: {}", words().collect::<Vec<_>>().join(", ")))))
}

macro_rules! words {
    ($(#[$meta:meta])* $type:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $type {
            /// The word for it in the file, in the canonical form and in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Word for $type {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                find_word(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// How much of allowed traffic is logged. Refusals always are.
    LogLevel {
        /// One entry when a connection opens and one when it ends.
        Connection = "connection",
        /// Also each request inside a connection.
        Request = "request",
    }
}

words! {
    /// Whether what the rules do not allow is refused.
    Mode {
        /// It is.
        Enforce = "enforce",
        /// It is written down and let through: for finding out, while developing, which rules a function needs.
        Observe = "observe",
    }
}

words! {
    /// What a function speaks on a connection.
    Protocol {
        /// HTTP: each request is judged.
        Http = "http",
        /// Anything: only where it goes is judged.
        Tcp = "tcp",
    }
}

words! {
    /// What becomes of a connection's TLS.
    TlsMode {
        /// Ended and made anew, so that requests can be judged and the upstream's certificate is checked.
        Inspect = "inspect",
        /// Passed through after the ClientHello: only the name it gives is known.
        Passthrough = "passthrough",
        /// There is none: the function speaks in the clear.
        None = "none",
    }
}

words! {
    /// What runs a function.
    Runtime {
        /// The system's Python 3.
        Python3 = "python3",
        /// The system's Node.js.
        Node = "node",
        /// The executable `bootstrap` in the code folder.
        Native = "native",
    }
}

//! The whitelist and what surrounds it: `dshield.toml` as typed values.
//!
//! The file's text flows in once, through [`Deployment::parse`]; either every problem in it comes back with its
//! line and column, or values that need no further check. Of a destination, a port, a method and a path, [`FunctionPolicy`]
//! then says which rule allows them, or why none does. [`Policy::hash`] is what the hardware attests.
//!
//! * `types`: what a policy says; `path`: which paths a pattern means; `inject`, `rate`, `resolver`, `spki`: what some of
//!   its fields say
//! * `witness`: who is told of the log's head; `attestation`: who is asked about the platform
//! * `parse`: TOML to types, collecting every [`Diagnostic`]
//! * `decide`: from a request to a [`Route`] and a [`Rule`], or to a [`Denied`] (`denied`)
//! * `lint`: what is allowed and rarely meant
//! * [`remedy`]: from a refusal to what to change
//! * `suggest`: from a log's refusals to the rules that are missing
//! * `canonical`: from types to the text that is hashed
mod attestation;
mod canonical;
mod decide;
mod denied;
mod diagnostic;
mod inject;
mod lint;
mod parse;
mod path;
mod rate;
pub mod remedy;
mod resolver;
mod spki;
mod suggest;
mod types;
mod witness;

pub use attestation::{AttestationPolicy, Pccs};
pub use canonical::PolicyHash;
pub use decide::{OBSERVE, Permit, Route};
pub use denied::Denied;
pub use diagnostic::{Diagnostic, Position};
pub use inject::{Injection, SecretName, SecretNameError};
pub use lint::Warning;
pub use parse::{Positions, ReadCa};
pub use path::PathPattern;
pub use rate::{Rate, RateError};
pub use resolver::{NamedServer, UpstreamResolver, UpstreamResolverError};
pub use spki::{SpkiPin, SpkiPinError};
pub use suggest::Suggestions;
pub use types::{
    Deployment, Function, FunctionPolicy, HostPattern, LogLevel, Mode, Pin, Policy, Protocol, Rule, Runtime, TlsMode,
    UnknownWord,
};

pub use witness::{LogPolicy, Witness};

pub use crate::name::FunctionName;

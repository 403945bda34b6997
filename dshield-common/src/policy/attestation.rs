//! Where what the chip's maker says about this platform is fetched from (`[attestation]`).
use std::sync::Arc;

use super::types::{FunctionPolicy, Mode, Rule};
use crate::destination::Destination;
use crate::name::FunctionName;

/// Where collateral comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestationPolicy {
    /// Who is asked; where there is none, the agent fetches nothing.
    pub pccs: Option<Pccs>,
}

/// A provisioning certificate caching service (Intel's PCCS, API version 4), and the rule by which the agent may reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pccs {
    /// Where it is.
    pub to: Destination,
    /// The port.
    pub port: u16,
    /// What stands before [`Pccs::PATHS`]: empty, or a path without a slash at its end.
    pub prefix: String,
    /// `GET` of those paths, and nothing else.
    pub rule: Arc<Rule>,
}

impl Pccs {
    /// What is asked for, below the prefix: the CRL for PCK certificates, that of the root, the platform's TCB levels, the
    /// quoting enclave's identity. Which platform is in the query, which no rule judges.
    pub const PATHS: [&str; 4] = [
        "/sgx/certification/v4/pckcrl",
        "/sgx/certification/v4/rootcacrl",
        "/tdx/certification/v4/qe/identity",
        "/tdx/certification/v4/tcb",
    ];
}

impl AttestationPolicy {
    /// Where the agent itself may send requests for collateral.
    ///
    /// # Panics
    /// Never: the name is a constant that is one.
    #[must_use]
    pub fn egress(&self) -> FunctionPolicy {
        let egress = self.pccs.iter().map(|pccs| pccs.rule.clone()).collect();
        let name = FunctionName::parse("attestation").expect("eleven letters are a name");
        FunctionPolicy { name, mode: Mode::Enforce, egress }
    }
}

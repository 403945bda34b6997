//! The one place that forms a statement: what is known since the start, and what is in force at the moment.
use dshield_common::attestation::statement::{self, Agent, Ebpf, EbpfObject, Function, TYPE};
use dshield_common::attestation::{Nonce, Statement};
use dshield_common::log::entry::Isolation;

use super::Measurements;
use crate::log::Log;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Hashes of what runs.
    pub measurements: Measurements,
    /// The kernel programs that are attached.
    pub programs: Vec<String>,
    /// The walls that depend on the machine.
    pub isolation: Isolation,
    /// SHA-256 (hex) of the API's TLS key, where it speaks TLS.
    pub tls_spki_sha256: Option<String>,
}

/// What is deployed at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The canonical policy.
    pub policy: String,
    /// SHA-256 (hex) of it.
    pub policy_sha256: String,
    /// The functions, by name.
    pub functions: Vec<Function>,
}

impl Facts {
    /// The statement about this moment.
    pub(super) fn statement(&self, nonce: Option<Nonce>, in_force: &InForce, log: &Log) -> Statement {
        let hash = |name: &str| self.measurements.sha256.get(name).cloned().unwrap_or_default();
        let object = |name: &str| EbpfObject { name: name.to_owned(), sha256: hash(&format!("ebpf_{name}")) };
        let Isolation { landlock_abi, controllers, bpf_lsm } = &self.isolation;
        let (size, root) = log.tree_head();
        let [ecdsa_p256, ed25519] = log.checkpoint_keys();
        Statement {
            kind: TYPE.to_owned(),
            nonce,
            boot_id: log.boot_id().to_owned(),
            agent: Agent { version: env!("CARGO_PKG_VERSION").to_owned(), sha256: hash("agent") },
            ebpf: Ebpf { objects: ["cgroup", "lsm", "netns"].map(object).into(), programs: self.programs.clone() },
            policy_sha256: in_force.policy_sha256.clone(),
            functions: in_force.functions.clone(),
            isolation: statement::Isolation {
                netns: "sealed".to_owned(),
                seccomp_sha256: hash("seccomp"),
                landlock_abi: *landlock_abi,
                lsm_bpf: *bpf_lsm,
                cgroup_controllers: controllers.clone(),
            },
            log: statement::Log {
                origin: ecdsa_p256.name().to_string(),
                ecdsa_p256: ecdsa_p256.to_string(),
                ed25519: ed25519.to_string(),
                size,
                root: root.to_hex(),
            },
            tls_spki_sha256: self.tls_spki_sha256.clone(),
        }
    }
}

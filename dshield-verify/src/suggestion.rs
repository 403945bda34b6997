//! What was seen, as an `expect.toml` that would accept it: for somebody to read, compare with what they know, and keep.
use std::collections::BTreeMap;

use dshield_common::attestation::{Provider, Statement};
use toml::{Table, Value};

use crate::deployment;
use crate::expect::Machine;

/// What a verdict saw that could be expected.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) provider: Option<Provider>,
    pub(crate) tcb: Option<String>,
    pub(crate) machine: Option<Machine>,
    pub(crate) compose_sha256: Option<String>,
    pub(crate) image_digest: Option<String>,
    pub(crate) tpm_key: Option<String>,
    pub(crate) tpm_pcrs: BTreeMap<u8, String>,
    pub(crate) statement: Option<Statement>,
}

impl Facts {
    /// The text; none where no statement is attested.
    pub(crate) fn written(&self) -> Option<String> {
        let statement = self.statement.as_ref()?;
        let mut text = "# What dshield-verify saw. It is worth what you compare it with: the release's hashes, the policy that you\n\
                        # wrote, the measurements of the image that you chose. Then keep it as expect.toml.\n"
            .to_owned();
        let mut section = |head: &str, table: Table| {
            if !table.is_empty() {
                text.push_str(&format!("\n{head}\n{table}"));
            }
        };
        let string = |value: &str| Value::String(value.to_owned());
        let strings = |value: &str| Value::Array(vec![Value::String(value.to_owned())]);
        let table = |members: Vec<(&str, Value)>| -> Table {
            members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        if let Some(Machine { mrtd, rtmr0, rtmr1, rtmr2, .. }) = &self.machine {
            section(
                "[[machine]]",
                table(vec![
                    ("mrtd", string(mrtd)),
                    ("rtmr0", string(rtmr0)),
                    ("rtmr1", string(rtmr1)),
                    ("rtmr2", string(rtmr2)),
                ]),
            );
        }
        if let Some(status) = &self.tcb {
            section("[tcb]", table(vec![("statuses", strings(status))]));
        }
        let mut compose = Vec::new();
        compose.extend(self.compose_sha256.as_deref().map(|sha256| ("sha256", strings(sha256))));
        compose.extend(self.image_digest.as_deref().map(|digest| ("image_digest", string(digest))));
        section("[compose]", table(compose));
        if let Some(key) = &self.tpm_key {
            section("[tpm]", table(vec![("ak_sha256", strings(key))]));
            section(
                "[tpm.pcrs]",
                self.tpm_pcrs.iter().map(|(number, value)| (number.to_string(), string(value))).collect(),
            );
        }
        if let Ok(release) = deployment::found(statement) {
            let name = release.name.unwrap_or_default();
            let members = vec![
                ("name", string(&name)),
                ("agent", string(&release.agent)),
                ("ebpf_cgroup", string(&release.ebpf_cgroup)),
                ("ebpf_lsm", string(&release.ebpf_lsm)),
                ("ebpf_netns", string(&release.ebpf_netns)),
                ("seccomp", string(&release.seccomp)),
            ];
            section("[[release]]", table(members));
        }
        section("[policy]", table(vec![("sha256", strings(&statement.policy_sha256))]));
        let functions =
            statement.functions.iter().map(|function| (function.name.clone(), strings(&function.code_sha256)));
        section("[functions]", functions.collect());
        section("[log]", table(vec![("origin", string(&statement.log.origin))]));
        Some(text)
    }
}

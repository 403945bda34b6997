//! The system calls a function may make: data in `seccomp/<architecture>.json`, compiled by seccompiler.
//!
//! Two filters. `allowed` is the allow-list; everything else fails with EPERM, and a foreign
//! architecture kills the process. `absent` answers ENOSYS, so that runtimes use what they used before:
//! `clone3`, whose flags are behind a pointer that no filter can read, and io_uring, which opens sockets
//! without a system call.
use std::collections::BTreeMap;
use std::io;

use seccompiler::{TargetArch, sock_filter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SandboxError;

#[cfg(target_arch = "x86_64")]
const JSON: &str = include_str!("seccomp/x86_64.json");
#[cfg(target_arch = "aarch64")]
const JSON: &str = include_str!("seccomp/aarch64.json");

/// The last one installed decides between two errors (seccomp(2)), so `absent` comes last.
const ORDER: [&str; 2] = ["allowed", "absent"];

/// A compiled filter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filter {
    name: String,
    /// `struct sock_filter`: code, jt, jf, k.
    program: Vec<(u16, u8, u8, u32)>,
}

impl Filter {
    /// Compiles the filters of this build, in the order of their installation.
    ///
    /// # Errors
    /// The data is not valid for this architecture.
    pub fn compile_all() -> Result<Vec<Self>, SandboxError> {
        let invalid = |error: &dyn std::fmt::Display| SandboxError::Seccomp(error.to_string());
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| invalid(&error))?;
        let compiled = seccompiler::compile_from_json(JSON.as_bytes(), arch).map_err(|error| invalid(&error))?;
        let mut compiled: BTreeMap<_, _> = compiled.into_iter().collect();
        ORDER
            .into_iter()
            .map(|name| {
                let program = compiled.remove(name).ok_or_else(|| invalid(&format!("no filter `{name}`")))?;
                let program = program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
                Ok(Self { name: name.to_owned(), program })
            })
            .collect()
    }

    /// SHA-256 (hex) of the instructions of all filters, as installed: each 8 bytes, little-endian, in
    /// the layout of `struct sock_filter`.
    #[must_use]
    pub fn sha256(filters: &[Self]) -> String {
        let mut hash = Sha256::new();
        for (code, jt, jf, k) in filters.iter().flat_map(|filter| &filter.program) {
            hash.update(code.to_le_bytes());
            hash.update([*jt, *jf]);
            hash.update(k.to_le_bytes());
        }
        format!("{:x}", hash.finalize())
    }

    /// Its name in the data file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Installs it for the calling thread, for good.
    pub(super) fn install(&self) -> io::Result<()> {
        let program: Vec<_> = self.program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect();
        seccompiler::apply_filter(&program).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_every_architecture_is_valid() {
        for (json, arch) in [
            (include_str!("seccomp/x86_64.json"), TargetArch::x86_64),
            (include_str!("seccomp/aarch64.json"), TargetArch::aarch64),
        ] {
            let compiled = seccompiler::compile_from_json(json.as_bytes(), arch).unwrap();
            assert!(ORDER.iter().all(|name| compiled.contains_key(*name)), "{arch:?}");
        }
    }

    #[test]
    fn the_filters_of_this_architecture_compile() {
        let filters = Filter::compile_all().unwrap();
        assert_eq!(filters.iter().map(Filter::name).collect::<Vec<_>>(), ORDER);
        assert_eq!(Filter::sha256(&filters).len(), 64);
    }
}

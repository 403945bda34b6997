//! The system calls a function may make: data in `seccomp/<architecture>.json`, compiled by seccompiler, and
//! on x86_64 four instructions.
//!
//! * `x32` kills: see [`X32`].
//! * `allowed` is the allow-list. Everything else fails with EPERM; a foreign architecture (`int 0x80`) kills.
//! * `absent` answers ENOSYS, so that runtimes use what they used before: `clone3`, whose flags are behind a
//!   pointer that no filter can read; io_uring, which opens sockets without a system call; and `io_setup`, whose
//!   contexts are counted for the whole machine.
//! * `last` refuses what installing the others needs: a function installs no filters of its own.
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

/// The last one installed decides between two errors (seccomp(2)), so `absent` comes after `allowed`.
const ORDER: [&str; 3] = ["allowed", "absent", "last"];

/// x86_64 has a second table of system calls, x32, which shares its architecture number and has bit 30 set in each
/// call's number. The data can only name whole calls, and to those with that bit `allowed` would say EPERM, which
/// lets an attacker go on. Here they kill, as every other foreign architecture does.
#[cfg(target_arch = "x86_64")]
const X32: [(u32, u8, u8, u32); 4] = [
    // The first field of `struct seccomp_data` is the number.
    (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
    (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, 1 << 30),
    (libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    (libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
];
#[cfg(not(target_arch = "x86_64"))]
const X32: [(u32, u8, u8, u32); 0] = [];

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
        // Every code is below 0x100.
        let x32 = X32.map(|(code, jt, jf, k)| (code as u16, jt, jf, k)).to_vec();
        let x32 = Some(Self { name: "x32".to_owned(), program: x32 }).filter(|filter| !filter.program.is_empty());
        let data = ORDER.into_iter().map(|name| {
            let program = compiled.remove(name).ok_or_else(|| invalid(&format!("no filter `{name}`")))?;
            let program = program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
            Ok(Self { name: name.to_owned(), program })
        });
        x32.into_iter().map(Ok).chain(data).collect()
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

    /// `x32`, or its name in the data file.
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

    /// What a process without capabilities is refused anyway: that the filter refuses it too cannot be seen from inside.
    #[test]
    fn no_call_that_loads_code_into_the_kernel_is_allowed_on_any_architecture() {
        for json in [include_str!("seccomp/x86_64.json"), include_str!("seccomp/aarch64.json")] {
            let data: serde_json::Value = serde_json::from_str(json).unwrap();
            let calls: Vec<_> = data["allowed"]["filter"]
                .as_array()
                .unwrap()
                .iter()
                .map(|rule| rule["syscall"].as_str().unwrap())
                .collect();
            assert_eq!((&data["allowed"]["match_action"], calls.contains(&"read")), (&"allow".into(), true));
            for call in [
                "kexec_load",
                "kexec_file_load",
                "init_module",
                "finit_module",
                "delete_module",
                "bpf",
                "process_vm_writev",
                "perf_event_open",
            ] {
                assert!(!calls.contains(&call), "{call}");
            }
        }
    }

    #[test]
    fn the_filters_of_this_architecture_compile() {
        let filters = Filter::compile_all().unwrap();
        let names: Vec<_> = filters.iter().map(Filter::name).filter(|name| *name != "x32").collect();
        assert_eq!(names, ORDER);
        assert_eq!(filters.len() - names.len(), usize::from(cfg!(target_arch = "x86_64")));
        assert_eq!(Filter::sha256(&filters).len(), 64);
    }
}

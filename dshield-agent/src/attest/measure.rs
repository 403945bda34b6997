//! What runs here, by hash: taken from the bytes that are loaded, never from files beside them.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use dshield_common::canonical::sha256_hex;
use dshield_common::hex;
use sha2::{Digest, Sha256};

use crate::kernel::objects;
use crate::sandbox::Filter;

/// SHA-256 (hex) by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurements {
    /// `agent`: the running executable. `ebpf_cgroup`, `ebpf_netns`, `ebpf_lsm`: the objects given to the
    /// kernel; whether it took the last one is not a matter of hashes.
    /// `seccomp`: the instructions of the filters ([`Filter::sha256`]).
    pub sha256: BTreeMap<String, String>,
}

impl Measurements {
    /// Measures this process. Blocks while it reads the executable.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn take(filters: &[Filter]) -> io::Result<Self> {
        let sha256 = [
            ("agent", executable()?),
            ("ebpf_cgroup", sha256_hex(objects::CGROUP)),
            ("ebpf_lsm", sha256_hex(objects::LSM)),
            ("ebpf_netns", sha256_hex(objects::NETNS)),
            ("seccomp", Filter::sha256(filters)),
        ];
        Ok(Self { sha256: sha256.into_iter().map(|(name, hash)| (name.to_owned(), hash)).collect() })
    }
}

fn executable() -> io::Result<String> {
    // The link leads to the running file even after another took its name.
    let mut file = File::open("/proc/self/exe")?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

//! Programs at the kernel's security hooks, for processes in the agent's cgroup: an extra that is reported and never
//! relied on, because many kernels are started without BPF LSM.
//!
//! In: the object, and the maps that the other programs report through. Out: the attached programs, or nothing, with
//! the reason in the agent's output.
use std::fmt::Display;
use std::fs::{self, File};

use aya::programs::LsmCgroup;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Btf, Ebpf, EbpfLoader};

use super::bpffs::{self, Pins};
use super::error::chain;
use super::{KernelError, objects};
use crate::walls::{Wall, Walls};

/// The programs, each with its hook (include/linux/lsm_hook_defs.h).
pub(super) const PROGRAMS: [(&str, &str); 3] =
    [("ds_lsm_socket", "socket_create"), ("ds_lsm_bpf", "bpf"), ("ds_lsm_ptrace", "ptrace_access_check")];

/// Maps that the object shares with the one of the cgroup programs.
const SHARED: [&str; 2] = ["DS_EVENTS", "DS_LOST"];

/// Where the kernel lists the security modules that it was started with.
const MODULES: &str = "/sys/kernel/security/lsm";

/// The attached programs.
pub(super) struct Lsm {
    /// Kept open beside their pins.
    _links: Vec<PinnedLink>,
    _ebpf: Ebpf,
}

/// Attaches all of them, or none where the kernel is without or refuses. The shared maps are pinned already.
///
/// # Errors
/// What was pinned before a refusal cannot be removed.
pub(super) fn attach(loader: &mut EbpfLoader<'static>, cgroup: &File, pins: &Pins) -> Result<Option<Lsm>, KernelError> {
    if !Walls::standing().stands(Wall::Lsm) {
        return Ok(None);
    }
    // Finding the hooks means parsing the kernel's types, which takes tens of milliseconds: not in vain.
    if !is_on() {
        tracing::debug!("no programs at the security hooks: {MODULES} does not list bpf");
        return Ok(None);
    }
    match try_attach(loader, cgroup, pins) {
        Ok(lsm) => Ok(Some(lsm)),
        Err(why) => {
            tracing::debug!("no programs at the security hooks: the kernel refuses them: {why}");
            for (name, _) in PROGRAMS {
                bpffs::remove_pin(&pins.link(name))?;
                bpffs::remove_pin(&pins.program(name))?;
            }
            Ok(None)
        }
    }
}

fn is_on() -> bool {
    fs::read_to_string(MODULES).is_ok_and(|list| list.trim().split(',').any(|module| module == "bpf"))
}

fn try_attach(loader: &mut EbpfLoader<'static>, cgroup: &File, pins: &Pins) -> Result<Lsm, String> {
    let btf = Btf::from_sys_fs().map_err(|error| chain(&error))?;
    for map in SHARED {
        loader.map_pin_path(map, pins.map(map));
    }
    let mut ebpf = loader.load(objects::LSM).map_err(|error| chain(&error))?;
    let links = PROGRAMS.into_iter().map(|(name, hook)| {
        let fault = |error: &dyn Display| format!("{name}: {error}");
        let program: &mut LsmCgroup = ebpf
            .program_mut(name)
            .ok_or_else(|| fault(&"not in the object"))?
            .try_into()
            .map_err(|error| fault(&chain(&error)))?;
        program.load(hook, &btf).map_err(|error| fault(&chain(&error)))?;
        let id = program.attach(cgroup).map_err(|error| fault(&chain(&error)))?;
        let link: FdLink = program.take_link(id).map_err(|error| fault(&chain(&error)))?.into();
        let pin = pins.program(name);
        program.pin(&pin).map_err(|error| bpffs::pin_error(&pin)(error).to_string())?;
        let pin = pins.link(name);
        link.pin(&pin).map_err(|error| bpffs::pin_error(&pin)(error).to_string())
    });
    let links = links.collect::<Result<_, _>>()?;
    Ok(Lsm { _links: links, _ebpf: ebpf })
}

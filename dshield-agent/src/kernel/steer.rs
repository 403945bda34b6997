//! `ds_sklookup` for one sealed network namespace: every TCP connection and every DNS query that is made
//! there arrives at the agent's sockets.
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::MapError;
use aya::programs::SkLookup;
use aya::programs::links::{FdLink, PinnedLink};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};

use super::netns::{SealedNetns, slots};
use super::watch::{Instance, Watch};
use super::{KernelError, bpf, bpffs, objects};

pub(super) const PROGRAM: &str = "ds_sklookup";
const MAP: &str = "DS_SOCKETS";

const MAP_PIN: &str = "sockets";
const PROGRAM_PIN: &str = "program";
const LINK_PIN: &str = "link";

/// The attached program, with its map; pinned until dropped.
#[derive(Debug)]
pub struct Steering {
    cookie: u64,
    /// Told before the pins go.
    watch: Arc<Watch>,
    /// How it was set up, until somebody looks.
    noted: Option<Instance>,
    // The order matters: the link first, then the program and the map it uses.
    _link: PinnedLink,
    _ebpf: Ebpf,
    pins: PathBuf,
}

impl Steering {
    /// Loads the program with a map of this namespace's sockets, and attaches it there.
    ///
    /// # Errors
    /// The kernel refuses the program, or a pin cannot be made.
    pub(super) fn attach(
        loader: &mut EbpfLoader<'_>,
        netns: &SealedNetns,
        pins: PathBuf,
        watch: Arc<Watch>,
    ) -> Result<Self, KernelError> {
        let made = loader.load(objects::NETNS).map_err(super::load_error).and_then(|mut ebpf| {
            fill(&mut ebpf, netns, &pins.join(MAP_PIN))?;
            Ok((attach(&mut ebpf, netns, &pins)?, ebpf))
        });
        match made {
            Ok((link, ebpf)) => Ok(Self { cookie: netns.cookie, watch, noted: None, _link: link, _ebpf: ebpf, pins }),
            Err(error) => {
                let _ = unpin(&pins);
                Err(error)
            }
        }
    }
}

impl Steering {
    /// Moves the pins, from the name under which they were made to their instance's.
    ///
    /// # Errors
    /// The pins are gone, or others are there.
    pub(super) fn pin_at(&mut self, pins: PathBuf) -> Result<(), KernelError> {
        fs::rename(&self.pins, &pins).map_err(|source| KernelError::Pin { path: pins.clone(), source })?;
        self.pins = pins;
        Ok(())
    }

    /// From here on the instance is watched: what was changed since it was sealed is found, too. The namespace's
    /// sockets must stay open until it is taken apart.
    pub fn watch(&mut self) {
        if let Some(noted) = self.noted.take() {
            self.watch.add(self.cookie, noted);
        }
    }

    /// Keeps how everything was set up.
    pub(super) fn note(&mut self, instance: Instance) {
        self.noted = Some(instance);
    }

    /// The namespace's.
    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        self.watch.remove(self.cookie);
        if let Err(error) = unpin(&self.pins) {
            tracing::warn!("{error}");
        }
    }
}

/// Removes the pins by name: reading the folder would take a descriptor, which may be what was lacking.
fn unpin(pins: &Path) -> Result<(), KernelError> {
    let gone = |path: &Path, removed: io::Result<()>| match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KernelError::Pin { path: path.into(), source }),
        _ => Ok(()),
    };
    for pin in [LINK_PIN, PROGRAM_PIN, MAP_PIN].map(|name| pins.join(name)) {
        gone(&pin, fs::remove_file(&pin))?;
    }
    gone(pins, fs::remove_dir(pins))
}

fn fill(ebpf: &mut Ebpf, netns: &SealedNetns, pin: &Path) -> Result<(), KernelError> {
    let map = ebpf.map_mut(MAP).ok_or_else(|| super::missing_map(MAP))?;
    map.pin(pin).map_err(bpffs::pin_error(pin))?;
    // aya puts sockets only into maps whose values have four bytes, which nobody can read.
    let map = bpf::get(pin).map_err(KernelError::file(pin))?;
    for (slot, socket) in slots(&netns.sockets) {
        if let Some(socket) = socket {
            let number = u64::from(socket.as_raw_fd().cast_unsigned());
            bpf::update(map.as_fd(), slot, number).map_err(map_error("bpf_map_update_elem"))?;
        }
    }
    Ok(())
}

fn map_error(call: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |io_error| KernelError::Map { map: MAP, source: MapError::SyscallError(SyscallError { call, io_error }) }
}

fn attach(ebpf: &mut Ebpf, netns: &SealedNetns, pins: &Path) -> Result<PinnedLink, KernelError> {
    let error = super::program_error(PROGRAM);
    let program: &mut SkLookup =
        ebpf.program_mut(PROGRAM).ok_or_else(|| super::missing_program(PROGRAM))?.try_into().map_err(&error)?;
    program.load().map_err(&error)?;
    let pin = pins.join(PROGRAM_PIN);
    program.pin(&pin).map_err(bpffs::pin_error(&pin))?;
    let id = program.attach(&netns.fd).map_err(&error)?;
    let link: FdLink = program.take_link(id).map_err(&error)?.into();
    let pin = pins.join(LINK_PIN);
    link.pin(&pin).map_err(bpffs::pin_error(&pin))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernel::Kernel;

    /// The kernel takes 64 programs of this kind in a namespace (`netns_bpf_max_progs`, kernel/bpf/net_namespace.c).
    #[tokio::test]
    async fn a_program_that_cannot_be_attached_leaves_no_pin() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: not root: it loads kernel programs");
        }
        let name = format!("dst-steer-{}", std::process::id());
        let (kernel, _events) = Kernel::start(&name).unwrap();
        let netns = SealedNetns::create().unwrap();
        let (mut attached, mut refused) = (Vec::new(), None);
        while refused.is_none() && attached.len() <= 64 {
            let steered = kernel.steer(&netns).and_then(|mut steering| {
                steering.pin_at(kernel.pins.instance(&format!("i-{}", attached.len())))?;
                Ok(steering)
            });
            match steered {
                Ok(steering) => attached.push(steering),
                Err(error) => refused = Some(error),
            }
        }
        let left = |folder: &str| fs::read_dir(Path::new("/sys/fs/bpf").join(&name).join(folder)).unwrap().count();
        let (instances, prepared) = (left("instances"), left("prepared"));
        let number = attached.len();
        drop(attached);
        let after = left("instances");
        kernel.stop().unwrap();
        assert!(matches!(refused, Some(KernelError::Program { .. })), "{refused:?}");
        assert_eq!((number, instances, prepared, after), (64, 64, 0, 0));
    }
}

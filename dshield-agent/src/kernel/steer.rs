//! `ds_sklookup` for one sealed network namespace: every TCP connection and every DNS query that is made
//! there arrives at the agent's sockets.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::MapError;
use aya::programs::SkLookup;
use aya::programs::links::{FdLink, PinnedLink};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};
use dshield_common::abi::slot;

use super::netns::{SealedNetns, Sockets};
use super::watch::{Instance, Watch};
use super::{KernelError, bpf, bpffs, objects};

const PROGRAM: &str = "ds_sklookup";
const MAP: &str = "DS_SOCKETS";

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
            fill(&mut ebpf, netns, &pins.join("sockets"))?;
            Ok((attach(&mut ebpf, netns, &pins)?, ebpf))
        });
        match made {
            Ok((link, ebpf)) => Ok(Self { cookie: netns.cookie, watch, noted: None, _link: link, _ebpf: ebpf, pins }),
            Err(error) => {
                let _ = bpffs::remove_tree(&pins);
                Err(error)
            }
        }
    }
}

impl Steering {
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
        if let Err(error) = bpffs::remove_tree(&self.pins) {
            tracing::warn!("{error}");
        }
    }
}

/// The sockets by the slot in which the program finds them; a slot may be empty.
type Slots<'a> = [(u32, Option<BorrowedFd<'a>>); slot::COUNT as usize];

pub(super) fn slots(sockets: &Sockets) -> Slots<'_> {
    [
        (slot::PROXY_TCP, Some(sockets.proxy.as_fd())),
        (slot::DNS_TCP, Some(sockets.dns_tcp.as_fd())),
        (slot::DNS_UDP4, Some(sockets.dns_udp4.as_fd())),
        (slot::DNS_UDP6, sockets.dns_udp6.as_ref().map(AsFd::as_fd)),
    ]
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
    let pin = pins.join("program");
    program.pin(&pin).map_err(bpffs::pin_error(&pin))?;
    let id = program.attach(&netns.fd).map_err(&error)?;
    let link: FdLink = program.take_link(id).map_err(&error)?.into();
    let pin = pins.join("link");
    link.pin(&pin).map_err(bpffs::pin_error(&pin))
}

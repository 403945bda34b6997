//! `ds_sklookup` for one sealed network namespace: every TCP connection and every DNS query that is made
//! there arrives at the agent's sockets.
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use aya::maps::SockMap;
use aya::programs::SkLookup;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Ebpf, EbpfLoader};
use dshield_common::abi::slot;

use super::netns::SealedNetns;
use super::{KernelError, bpffs, objects};

const PROGRAM: &str = "ds_sklookup";
const MAP: &str = "DS_SOCKETS";

/// The attached program, with its map; pinned until dropped.
#[derive(Debug)]
pub struct Steering {
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
    pub(super) fn attach(loader: &mut EbpfLoader<'_>, netns: &SealedNetns, pins: PathBuf) -> Result<Self, KernelError> {
        let made = loader.load(objects::NETNS).map_err(super::load_error).and_then(|mut ebpf| {
            fill(&mut ebpf, netns, &pins.join("sockets"))?;
            Ok((attach(&mut ebpf, netns, &pins)?, ebpf))
        });
        match made {
            Ok((link, ebpf)) => Ok(Self { _link: link, _ebpf: ebpf, pins }),
            Err(error) => {
                let _ = bpffs::remove_tree(&pins);
                Err(error)
            }
        }
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        if let Err(error) = bpffs::remove_tree(&self.pins) {
            tracing::warn!("{error}");
        }
    }
}

fn fill(ebpf: &mut Ebpf, netns: &SealedNetns, pin: &Path) -> Result<(), KernelError> {
    let error = |source| KernelError::Map { map: MAP, source };
    let map = ebpf.map_mut(MAP).ok_or_else(|| super::missing_map(MAP))?;
    map.pin(pin).map_err(bpffs::pin_error(pin))?;
    let mut sockets = SockMap::try_from(map).map_err(error)?;
    let own = &netns.sockets;
    sockets.set(slot::PROXY_TCP, &own.proxy.as_raw_fd(), 0).map_err(error)?;
    sockets.set(slot::DNS_TCP, &own.dns_tcp.as_raw_fd(), 0).map_err(error)?;
    sockets.set(slot::DNS_UDP4, &own.dns_udp4.as_raw_fd(), 0).map_err(error)?;
    if let Some(socket) = &own.dns_udp6 {
        sockets.set(slot::DNS_UDP6, &socket.as_raw_fd(), 0).map_err(error)?;
    }
    Ok(())
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

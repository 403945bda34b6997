//! One instance as it was sealed: what runs at its leaf and in its namespace, what steers its connections and
//! where to, and its namespace's network.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use super::lists::Lists;
use super::pins::Pin;

use crate::kernel::bpf::{self, LinkInfo, MapInfo, ProgramInfo};
use crate::kernel::broken::Broken;
use crate::kernel::namespace::Namespace;
use crate::kernel::netns::{self, SealedNetns};

/// What is watched of an instance.
#[derive(Debug)]
pub(in crate::kernel) struct Instance {
    place: String,
    link: Pin<LinkInfo>,
    program: Pin<ProgramInfo>,
    map: Pin<MapInfo>,
    /// The cookie of the socket in each slot of the map.
    sockets: Vec<(u32, Option<u64>)>,
    lists: [Lists; 3],
    network: Arc<Namespace>,
}

impl Instance {
    /// Notes what was just set up; `leaf` are the programs that must run at its leaf.
    pub(super) fn take(name: &str, leaf: Lists, netns: &SealedNetns, pins: &Path) -> Result<Self, Broken> {
        let link = Pin::<LinkInfo>::take("ds_sklookup".into(), pins.join("link"))?;
        let program = Pin::<ProgramInfo>::take("ds_sklookup".into(), pins.join("program"))?;
        let map = Pin::<MapInfo>::take("map DS_SOCKETS".into(), pins.join("sockets"))?;
        let fault = |error| Broken::io("its descriptors", &error);
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", netns.fd.as_raw_fd())).map_err(fault)?.ino();
        link.expect_attached(program.info().id, inode)?;
        if program.info().maps != [map.info().id] {
            return Err(Broken::changed("ds_sklookup: it uses other maps than DS_SOCKETS"));
        }
        let steered = Lists::of_netns("its namespace".into(), netns.fd.clone())?;
        steered.expect_only("sk_lookup", &[program.info().id])?;
        let sockmap = Lists::of_sockmap("map DS_SOCKETS".into(), map.open().clone())?;
        sockmap.expect_only("", &[])?;
        let cookies =
            netns::slots(&netns.sockets).into_iter().map(|(slot, socket)| Ok((slot, socket.map(cookie).transpose()?)));
        let sockets = cookies.collect::<io::Result<_>>().map_err(fault)?;
        let place = format!("instance {name}");
        let lists = [leaf, steered, sockmap];
        Ok(Self { place, link, program, map, sockets, lists, network: netns.network.clone() })
    }

    /// Compares with what was noted.
    pub(super) fn check(&self) -> Result<(), Broken> {
        self.parts().map_err(|error| error.at(&self.place))
    }

    fn parts(&self) -> Result<(), Broken> {
        self.link.check()?;
        self.program.check()?;
        self.map.check()?;
        self.lists.iter().try_for_each(Lists::check)?;
        for (slot, cookie) in &self.sockets {
            let now = match bpf::lookup(self.map.open().as_fd(), *slot) {
                Ok(now) => Some(now),
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => None,
                Err(error) => return Err(Broken::io("map DS_SOCKETS", &error)),
            };
            if now != *cookie {
                let what = if now.is_some() { "has another socket than it had" } else { "has no socket any more" };
                return Err(Broken::changed(format!("map DS_SOCKETS: slot {slot} {what}")));
            }
        }
        self.network.check()
    }
}

/// socket(7): `SO_COOKIE`, unique while the machine runs.
fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `cookie`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

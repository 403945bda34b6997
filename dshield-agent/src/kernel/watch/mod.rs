//! Whether what was set up still stands.
//!
//! In: the programs, links and maps as they were loaded, and each instance as it was sealed. Out: yes, or the
//! first thing that differs, in words.
//!
//! | file | what is compared |
//! | --- | --- |
//! | `pins` | each program, link and map that is pinned: the pin, and what the kernel says of the thing itself |
//! | `lists` | which programs run at a cgroup, a namespace or a map, and in which order: foreign ones too |
//! | `instance` | all of this for one instance, its namespace's network ([`super::namespace`]), and the sockets that its connections are steered to |
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::lists::Lists;
use self::pins::Pin;
use super::bpf::{self, Info, LinkInfo, MapInfo, ProgramInfo};
use super::bpffs::Pins;
use super::broken::Broken;
use super::{AgentCgroup, Leaf, SealedNetns};

mod instance;
mod lists;
mod pins;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(super) use self::instance::Instance;
pub use self::lists::hook_name;

/// What is watched.
#[derive(Debug)]
pub(super) struct Watch {
    links: Vec<Pin<LinkInfo>>,
    programs: Vec<Pin<ProgramInfo>>,
    maps: Vec<Pin<MapInfo>>,
    frozen: Vec<Frozen>,
    cgroup: Lists,
    instances: Mutex<BTreeMap<u64, Arc<Mutex<Option<Instance>>>>>,
}

impl Watch {
    /// Notes what is attached, pinned and frozen now. Blocks.
    ///
    /// # Errors
    /// Something is not as it was just set up.
    pub(super) fn take(
        cgroup: &AgentCgroup,
        pins: &Pins,
        programs: impl Iterator<Item = &'static str> + Clone,
        maps: impl Iterator<Item = String>,
    ) -> Result<Self, Broken> {
        let links = programs.clone().map(|name| Pin::take(name.to_owned(), pins.link(name)));
        let links: Vec<Pin<LinkInfo>> = links.collect::<Result<_, _>>()?;
        let programs = programs.map(|name| Pin::take(name.to_owned(), pins.program(name)));
        let programs: Vec<Pin<ProgramInfo>> = programs.collect::<Result<_, _>>()?;
        let maps = maps.map(|name| Pin::take(format!("map {name}"), pins.map(&name))).collect::<Result<_, _>>()?;
        let folder = cgroup.path();
        let fault = |error| Broken::io(folder.display(), &error);
        let open = File::open(folder).map_err(fault)?;
        let id = open.metadata().map_err(fault)?.ino();
        for (link, program) in links.iter().zip(&programs) {
            link.expect_attached(program.info().id, id)?;
        }
        let frozen = Frozen::of(programs.iter().flat_map(|program| &program.info().maps))?;
        let cgroup = Lists::of_cgroup(format!("cgroup {}", folder.display()), open)?;
        // A hook that the kernel does not list is not compared: none of ours may be there.
        if let Some(program) = programs.iter().find(|program| !cgroup.runs(program.info().id)) {
            return Err(Broken::changed(format!("{} is not listed at the cgroup", program.info().name)));
        }
        Ok(Self { links, programs, maps, frozen, cgroup, instances: Mutex::default() })
    }

    /// Notes what an instance is made of, for [`Watch::add`]. Blocks.
    ///
    /// # Errors
    /// Something is not as it was just set up.
    pub(super) fn note(&self, name: &str, leaf: &Leaf, netns: &SealedNetns, pins: &Path) -> Result<Instance, Broken> {
        let folder = File::open(leaf.path()).map_err(|error| Broken::io(leaf.path().display(), &error))?;
        // A leaf has the programs of the cgroup above it, and none of its own.
        let leaf = self.cgroup.same_at(format!("cgroup {}", leaf.path().display()), folder);
        Instance::take(name, leaf, netns, pins).map_err(|error| error.at(&format!("instance {name}")))
    }

    /// From here on the instance is looked at, too.
    pub(super) fn add(&self, cookie: u64, instance: Instance) {
        self.instances().insert(cookie, Arc::new(Mutex::new(Some(instance))));
    }

    /// From here on nobody looks at the instance, so that it can be taken apart. Waits while somebody does.
    pub(super) fn remove(&self, cookie: u64) {
        let instance = self.instances().remove(&cookie);
        if let Some(instance) = instance {
            // Whoever has listed it already finds nothing any more.
            let _ = instance.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Compares everything with what was noted. Blocks for a few tenths of a millisecond for each instance.
    ///
    /// # Errors
    /// The first thing that differs.
    pub(super) fn look(&self) -> Result<(), Broken> {
        self.links.iter().try_for_each(Pin::check)?;
        self.programs.iter().try_for_each(Pin::check)?;
        self.maps.iter().try_for_each(Pin::check)?;
        self.frozen.iter().try_for_each(Frozen::check)?;
        self.cgroup.check()?;
        let instances: Vec<_> = self.instances().values().cloned().collect();
        for instance in instances {
            let mut instance = instance.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(instance) = instance.as_mut() {
                instance.check()?;
            }
        }
        Ok(())
    }

    fn instances(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Mutex<Option<Instance>>>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A map of constants (`.rodata`): its programs read it, and nobody may write it any more.
#[derive(Debug)]
struct Frozen {
    /// `/proc/self/fdinfo/` of the map: the only place that says it.
    fdinfo: File,
    _map: OwnedFd,
}

impl Frozen {
    /// Those of the maps with these ids that hold constants.
    fn of<'a>(maps: impl Iterator<Item = &'a u32>) -> Result<Vec<Self>, Broken> {
        use std::os::fd::{AsFd, AsRawFd};
        let mut ids: Vec<_> = maps.copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut frozen = Vec::new();
        for id in ids {
            let error = |error| Broken::io(format_args!("map {id}"), &error);
            let map = bpf::map(id).map_err(error)?;
            if MapInfo::of(map.as_fd()).map_err(error)?.name.ends_with(".rodata") {
                let fdinfo = File::open(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).map_err(error)?;
                let constants = Self { fdinfo, _map: map };
                constants.check()?;
                frozen.push(constants);
            }
        }
        Ok(frozen)
    }

    fn check(&self) -> Result<(), Broken> {
        let mut text = [0; 1024];
        let length = self.fdinfo.read_at(&mut text, 0).map_err(|error| Broken::io(".rodata", &error))?;
        let frozen = text[..length].split(|byte| *byte == b'\n').any(|line| line == b"frozen:\t1");
        if frozen { Ok(()) } else { Err(Broken::changed(".rodata: it can be written")) }
    }
}

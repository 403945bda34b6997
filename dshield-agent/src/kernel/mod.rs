//! The kernel side: programs, cgroups and sealed network namespaces.
//!
//! In: a name and the embedded objects. Out: a [`Kernel`] in which instances can be sealed, a stream of
//! refusals ([`Events`]), and the answer to "who opened this connection?". Nothing here knows the policy.
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use dshield_common::abi::{AF_INET, AF_INET6, Asker, FlowKey};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::bpffs::Pins;
pub use self::broken::Broken;
pub use self::cgroup::{AgentCgroup, Leaf, Limits};
pub use self::error::KernelError;
pub use self::events::{Events, KernelEvent, KernelRefusal, process};
use self::lsm::Lsm;
pub use self::netns::{RUNTIME_API, SealedNetns, Sockets};
pub use self::rundir::{RunDir, RunningAgent};
use self::sealed::Sealed;
pub use self::steer::Steering;
use self::watch::Watch;
pub use self::watch::hook_name;
use crate::walls::{Wall, Walls};

pub mod bpf;
pub mod bpffs;
mod broken;
mod cgroup;
mod error;
mod events;
mod lsm;
mod namespace;
mod netlink;
mod netns;
pub mod objects;
mod rundir;
mod sealed;
mod steer;
mod watch;

/// The programs attached at the agent's cgroup.
pub const PROGRAMS: [&str; 7] =
    ["ds_sock_create", "ds_connect4", "ds_connect6", "ds_sendmsg4", "ds_sendmsg6", "ds_egress", "ds_sockops"];

/// The loaded and attached kernel side of one agent.
pub struct Kernel {
    cgroup: AgentCgroup,
    pins: Pins,
    /// Kept open beside their pins.
    _links: Vec<PinnedLink>,
    _ebpf: Ebpf,
    lsm: Option<Lsm>,
    /// Kept, because making one parses the whole kernel's BTF: forty milliseconds of a cold start.
    loader: Mutex<EbpfLoader<'static>>,
    sealed: Sealed,
    watch: Arc<Watch>,
    askers: Mutex<HashMap<MapData, [u8; 32], [u8; 24]>>,
    run_dir: RunDir,
}

impl Kernel {
    /// Removes what a killed agent of this name left, then loads, attaches and pins everything. Blocks;
    /// must be called inside a tokio runtime, for the event stream.
    ///
    /// # Errors
    /// What is missing on this machine, and what to do about it. Nothing is left behind.
    pub fn start(name: &str) -> Result<(Self, Events), KernelError> {
        let run_dir = RunDir::lock(name)?;
        let cgroup = match own_cgroup(name) {
            Ok(cgroup) => cgroup,
            Err(error) => {
                if run_dir.is_new() {
                    let _ = run_dir.remove();
                }
                return Err(error);
            }
        };
        let result = run_dir.exclusively(|| Pins::create(name)).and_then(|pins| {
            let loaded = load(&cgroup, &pins);
            if loaded.is_err() {
                let _ = pins.remove();
            }
            loaded.map(|loaded| (pins, loaded))
        });
        match result {
            Ok((pins, loaded)) => {
                let Loaded { loader, ebpf, links, lsm, sealed, watch, askers, events } = loaded;
                let (loader, askers) = (Mutex::new(loader), Mutex::new(askers));
                let watch = Arc::new(watch);
                let (_links, _ebpf) = (links, ebpf);
                Ok((Self { cgroup, pins, _links, _ebpf, lsm, loader, sealed, watch, askers, run_dir }, events))
            }
            Err(error) => {
                let _ = cgroup.destroy();
                let _ = run_dir.remove();
                Err(error)
            }
        }
    }

    /// The agent's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &AgentCgroup {
        &self.cgroup
    }

    /// Whether programs stand at the kernel's security hooks: not every kernel takes them.
    #[must_use]
    pub fn bpf_lsm(&self) -> bool {
        self.lsm.is_some()
    }

    /// The programs that are attached, by name: at the cgroup, in each instance's namespace, and at the security hooks.
    #[must_use]
    pub fn programs(&self) -> Vec<String> {
        let lsm = lsm::PROGRAMS.iter().map(|(name, _)| *name).filter(|_| self.lsm.is_some());
        attached().chain([steer::PROGRAM]).chain(lsm).map(str::to_owned).collect()
    }

    /// Compares everything in the kernel with what was set up: programs, links and maps, foreign programs beside
    /// them, sealed namespaces and their routes. Blocks for a few tenths of a millisecond for each instance.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn look(&self) -> Result<(), Broken> {
        self.watch.look()?;
        self.sealed.check()
    }

    /// The agent's run-time folder.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// The agent's number; see [`RunDir::number`].
    #[must_use]
    pub fn number(&self) -> u32 {
        self.run_dir.number()
    }

    /// Steers what happens in a namespace to its sockets. Blocks for about a millisecond. Nothing in it may connect
    /// before it is [given to an instance](Kernel::assign).
    ///
    /// # Errors
    /// The kernel refused.
    pub fn steer(&self, netns: &SealedNetns) -> Result<Steering, KernelError> {
        let pins = self.pins.prepared(netns.cookie)?;
        let mut loader = self.loader.lock().unwrap_or_else(PoisonError::into_inner);
        Steering::attach(&mut loader, netns, pins, self.watch.clone())
    }

    /// Gives a steered namespace to an instance and declares it sealed: from here on, processes in it may connect. How
    /// it stands now, together with its leaf, is what [`Steering::watch`] compares with later.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn assign(
        &self,
        netns: &SealedNetns,
        steering: &mut Steering,
        leaf: &Leaf,
        instance: &str,
    ) -> Result<(), KernelError> {
        let pins = self.pins.instance(instance);
        steering.pin_at(pins.clone())?;
        steering.note(self.watch.note(instance, leaf, netns, &pins)?);
        self.sealed.add(netns.cookie)
    }

    /// [Steers](Kernel::steer) a namespace and [assigns](Kernel::assign) it.
    ///
    /// # Errors
    /// As those.
    pub fn seal(&self, netns: &SealedNetns, leaf: &Leaf, instance: &str) -> Result<Steering, KernelError> {
        let mut steering = self.steer(netns)?;
        self.assign(netns, &mut steering, leaf, instance)?;
        Ok(steering)
    }

    /// Takes an instance apart: stops watching it, kills its processes, and takes its namespace off the list. Blocks
    /// until nothing is left but the namespace.
    ///
    /// # Errors
    /// Processes did not end in time.
    pub fn take_apart(&self, leaf: &Leaf, steering: Steering) -> Result<(), KernelError> {
        // First, and waiting for a look that is under way: what goes from here on is no difference.
        self.watch.remove(steering.cookie());
        // While a process lives, its walls stand.
        let removed = leaf.destroy();
        self.sealed.remove(steering.cookie());
        drop(steering);
        removed
    }

    /// Who opened the TCP connection with this source, as far as `ds_sockops` saw; asks once.
    #[must_use]
    pub fn asker(&self, netns: u64, source: SocketAddr) -> Option<Asker> {
        let key = flow_key(netns, source).to_bytes();
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let asker = askers.get(&key, 0).ok()?;
        let _ = askers.remove(&key);
        Some(Asker::from_bytes(asker))
    }

    /// Kills what is left in the cgroup and removes everything: links, pins, cgroup, run-time folder. The
    /// programs themselves go with the last handle. Blocks.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn stop(&self) -> Result<(), KernelError> {
        // Processes first: while any lives, its programs stay attached.
        let removed = self.cgroup.destroy();
        self.pins.remove().and(removed)?;
        self.run_dir.remove()
    }
}

/// Makes the agent's cgroup, in place of what a killed agent left. A cgroup or pins that no agent made are
/// somebody's: they must not be killed and removed for a name that an operator chose without knowing.
fn own_cgroup(name: &str) -> Result<AgentCgroup, KernelError> {
    if let Some(path) = Pins::foreign(name) {
        return Err(KernelError::NameTaken { name: name.into(), path });
    }
    if AgentCgroup::destroy_leftover(name)? {
        tracing::info!("removed what an earlier agent named `{name}` left behind");
    }
    AgentCgroup::create(name)
}

struct Loaded {
    loader: EbpfLoader<'static>,
    ebpf: Ebpf,
    links: Vec<PinnedLink>,
    lsm: Option<Lsm>,
    sealed: Sealed,
    watch: Watch,
    askers: HashMap<MapData, [u8; 32], [u8; 24]>,
    events: Events,
}

fn load(cgroup: &AgentCgroup, pins: &Pins) -> Result<Loaded, KernelError> {
    let verbose = tracing::enabled!(target: "dshield_cgroup", tracing::Level::DEBUG);
    static DEBUG: u8 = aya_log::Level::Debug as u8;
    static OFF: u8 = 0;
    let mut loader = EbpfLoader::new();
    // The objects need no relocation against the kernel's types.
    loader.btf(None).override_global(aya_log::LEVEL, if verbose { &DEBUG } else { &OFF }, false);
    let mut ebpf = loader.load(objects::CGROUP).map_err(load_error)?;
    if verbose {
        forward_debug_output(&mut ebpf);
    }
    for (name, map) in ebpf.maps() {
        if is_pinned(name) {
            let path = pins.map(name);
            map.pin(&path).map_err(bpffs::pin_error(&path))?;
        }
    }
    let folder = cgroup.open()?;
    let links = attached()
        .map(|name| {
            let program = ebpf.program_mut(name).ok_or_else(|| missing_program(name))?;
            attach(program, name, &folder, pins)
        })
        .collect::<Result<_, _>>()?;
    let maps: Vec<_> = ebpf.maps().map(|(name, _)| name.to_owned()).filter(|name| is_pinned(name)).collect();
    let lsm = lsm::attach(&mut loader, &folder, pins)?;
    let at_hooks = lsm.iter().flat_map(|_| lsm::PROGRAMS).map(|(name, _)| name);
    let watch = Watch::take(cgroup, pins, attached().chain(at_hooks), maps.into_iter())?;
    let sealed = Sealed::new(take(&mut ebpf, sealed::MAP)?);
    let askers = take(&mut ebpf, "DS_ASKERS")?;
    let ring: RingBuf<MapData> = take(&mut ebpf, "DS_EVENTS")?;
    let lost: PerCpuArray<MapData, u64> = take(&mut ebpf, "DS_LOST")?;
    let events = Events::new(ring, lost)?;
    Ok(Loaded { loader, ebpf, links, lsm, sealed, watch, askers, events })
}

/// bpffs takes no dot, so .rodata stays unpinned; it is frozen and lives with its programs.
fn is_pinned(map: &str) -> bool {
    !map.contains('.')
}

/// Loads, pins, attaches, and pins the link.
fn attach(program: &mut Program, name: &'static str, cgroup: &File, pins: &Pins) -> Result<PinnedLink, KernelError> {
    // "Single" is flags 0; for links the kernel allows further programs beside ours all the same.
    let mode = CgroupAttachMode::Single;
    let error = program_error(name);
    let link: FdLink = match program {
        Program::CgroupSock(program) => {
            program.load().map_err(&error)?;
            let id = program.attach(cgroup.as_fd(), mode).map_err(&error)?;
            program.take_link(id).map_err(&error)?.try_into().map_err(|_| missing_program(name))?
        }
        Program::CgroupSockAddr(program) => {
            program.load().map_err(&error)?;
            let id = program.attach(cgroup.as_fd(), mode).map_err(&error)?;
            program.take_link(id).map_err(&error)?.try_into().map_err(|_| missing_program(name))?
        }
        Program::CgroupSkb(program) => {
            program.load().map_err(&error)?;
            let id = program.attach(cgroup.as_fd(), CgroupSkbAttachType::Egress, mode).map_err(&error)?;
            program.take_link(id).map_err(&error)?.try_into().map_err(|_| missing_program(name))?
        }
        Program::SockOps(program) => {
            program.load().map_err(&error)?;
            let id = program.attach(cgroup.as_fd(), mode).map_err(&error)?;
            program.take_link(id).map_err(&error)?.try_into().map_err(|_| missing_program(name))?
        }
        _ => return Err(missing_program(name)),
    };
    let path = pins.program(name);
    program.pin(&path).map_err(bpffs::pin_error(&path))?;
    let path = pins.link(name);
    link.pin(&path).map_err(bpffs::pin_error(&path))
}

/// [`PROGRAMS`].
fn attached() -> impl Iterator<Item = &'static str> + Clone {
    let walls = Walls::standing();
    PROGRAMS.into_iter().filter(move |program| match *program {
        "ds_sock_create" => walls.stands(Wall::SockCreate),
        "ds_connect4" | "ds_connect6" => walls.stands(Wall::Connect),
        "ds_sendmsg4" | "ds_sendmsg6" => walls.stands(Wall::Sendmsg),
        "ds_egress" => walls.stands(Wall::Egress),
        _ => true,
    })
}

/// Sends what the programs print with aya-log to `tracing`, under the target `dshield_cgroup`.
fn forward_debug_output(ebpf: &mut Ebpf) {
    let logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!("no debug output of the kernel programs: {error}"),
    };
    tokio::spawn(async move {
        // SAFETY: the logger owns its descriptor, which stays the same until it is dropped.
        let Ok(mut logger) = (unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }) else { return };
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError> {
    let map = ebpf.take_map(name).ok_or_else(|| missing_map(name))?;
    M::try_from(map).map_err(|source| KernelError::Map { map: name, source })
}

fn flow_key(netns: u64, source: SocketAddr) -> FlowKey {
    let mut key = FlowKey { netns, port: source.port(), ..FlowKey::default() };
    match source {
        SocketAddr::V4(v4) => {
            key.family = AF_INET.into();
            key.addr[..4].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            key.family = AF_INET6.into();
            key.addr = v6.ip().octets();
        }
    }
    key
}

fn load_error(source: EbpfError) -> KernelError {
    KernelError::Load { source: Box::new(source) }
}

fn program_error(program: &'static str) -> impl Fn(ProgramError) -> KernelError {
    move |source| KernelError::Program { program, source: Box::new(source) }
}

fn missing_program(program: &'static str) -> KernelError {
    KernelError::Program { program, source: Box::new(ProgramError::NotLoaded) }
}

fn missing_map(map: &'static str) -> KernelError {
    KernelError::Map { map, source: MapError::InvalidName { name: map.to_owned() } }
}

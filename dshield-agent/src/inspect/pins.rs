//! What the kernel tells about pinned programs, links and maps.
use std::error::Error;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{self, MapData, MapInfo, MapType};
use aya::programs::ProgramInfo;
use serde::Serialize;

use super::{InspectError, unreadable};
use crate::kernel::bpf::{self, Info, LinkInfo};
use crate::kernel::bpffs::Pins;
use crate::kernel::hook_name;

/// A loaded program.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its id, as in bpftool.
    pub id: u32,
    /// Its type, as in bpftool.
    pub r#type: String,
    /// Which hook, as in bpftool, when it is attached.
    pub attach_type: Option<String>,
    /// The kernel's hash over its instructions.
    pub tag: String,
}

/// What attaches a program.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    /// The name of its pin.
    pub name: String,
    /// Its id, as in bpftool.
    pub id: u32,
    /// The program.
    pub program_id: u32,
    /// `cgroup` or `netns`.
    pub r#type: String,
    /// Which hook, as in bpftool.
    pub attach_type: String,
    /// The cgroup; 0 when it was detached.
    pub cgroup_id: Option<u64>,
    /// The network namespace; 0 when it was detached.
    pub netns_inode: Option<u64>,
}

/// A map.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Its id, as in bpftool.
    pub id: u32,
    /// Its type, as in bpftool.
    pub r#type: String,
    /// How many entries it can have; a ring buffer's size in bytes.
    pub max_entries: u32,
    /// How many it has, where they can be counted.
    pub entries: Option<usize>,
}

impl Program {
    /// With the hook of its link.
    pub(super) fn attached_by<'a>(mut self, mut links: impl Iterator<Item = &'a Link>) -> Self {
        self.attach_type = links.find(|link| link.program_id == self.id).map(|link| link.attach_type.clone());
        self
    }
}

/// Where an agent's pins are.
pub(super) fn folder(name: &str) -> PathBuf {
    Pins::folder(name)
}

/// The names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, InspectError> {
    let entries = fs::read_dir(folder).map_err(unreadable(folder))?;
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// What `look` finds at each pin of a folder.
pub(super) fn each<T>(folder: &Path, look: impl Fn(&Path) -> Result<T, InspectError>) -> Result<Vec<T>, InspectError> {
    names(folder)?.into_iter().map(|name| look(&folder.join(name))).collect()
}

pub(super) fn program(pin: &Path) -> Result<Program, InspectError> {
    let info = ProgramInfo::from_pin(pin).map_err(told(pin))?;
    Ok(Program {
        name: text(info.name()),
        id: info.id(),
        r#type: format!("{:?}", info.program_type()).trim_start_matches("BPF_PROG_TYPE_").to_lowercase(),
        // Of the link, which `Program::attached_by` knows.
        attach_type: None,
        tag: format!("{:016x}", info.tag()),
    })
}

pub(super) fn link(pin: &Path) -> Result<Link, InspectError> {
    let info = bpf::get(pin).and_then(|fd| LinkInfo::of(fd.as_fd())).map_err(unreadable(pin))?;
    let (kind, cgroup_id, netns_inode) = match info.kind {
        bpf::LINK_CGROUP => ("cgroup", Some(info.target), None),
        bpf::LINK_NETNS => ("netns", None, Some(info.target)),
        _ => ("unknown", None, None),
    };
    Ok(Link {
        name: pin.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        id: info.id,
        program_id: info.program,
        r#type: kind.to_owned(),
        attach_type: hook_name(info.attach_type).map_or_else(|| info.attach_type.to_string(), str::to_owned),
        cgroup_id,
        netns_inode,
    })
}

pub(super) fn map(pin: &Path) -> Result<Map, InspectError> {
    let info = MapInfo::from_pin(pin).map_err(told(pin))?;
    let kind = info.map_type().map_err(told(pin))?;
    let most = usize::try_from(info.max_entries()).unwrap_or(usize::MAX);
    let entries = match kind {
        MapType::Hash | MapType::LruHash => match (info.key_size(), info.value_size()) {
            (8, 4) => count::<[u8; 8], [u8; 4]>(pin, most),
            (8, 24) => count::<[u8; 8], [u8; 24]>(pin, most),
            (32, 24) => count::<[u8; 32], [u8; 24]>(pin, most),
            _ => None,
        },
        _ => None,
    };
    Ok(Map { name: text(info.name()), id: info.id(), r#type: map_type(kind), max_entries: info.max_entries(), entries })
}

/// No more than fit: where entries come and go meanwhile, the kernel may begin again at the first.
fn count<K: Pod, V: Pod>(pin: &Path, most: usize) -> Option<usize> {
    let map = maps::Map::from_map_data(MapData::from_pin(pin).ok()?).ok()?;
    let map: maps::HashMap<_, K, V> = map.try_into().ok()?;
    Some(map.keys().take(most).filter(Result::is_ok).count())
}

/// bpftool's names of the types that the agent has.
fn map_type(kind: MapType) -> String {
    match kind {
        MapType::LruHash => "lru_hash".to_owned(),
        MapType::PerCpuArray => "percpu_array".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// The kernel's answer is the last cause; aya says before it which call it was.
fn told<E: Error>(pin: &Path) -> impl Fn(E) -> InspectError {
    let path = pin.to_owned();
    move |error| {
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        InspectError::Pin { path: path.clone(), cause: format!("{error}{cause}") }
    }
}

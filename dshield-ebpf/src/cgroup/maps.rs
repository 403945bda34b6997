//! What the programs and the agent share while running.
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use dshield_common::abi::{Asker, FlowKey};

/// Network namespaces that are sealed, by cookie. The value is 1. Only the agent writes.
#[map]
pub static DS_SEALED: HashMap<u64, u32> = HashMap::with_max_entries(16_384, 0);

/// Who called `connect`, by socket cookie, until `ds_sockops` knows the source port.
///
/// An LRU map, because it decides nothing: a function that floods it costs log entries, other functions' too, the
/// process id.
#[map]
pub static DS_PENDING: LruHashMap<u64, Asker> = LruHashMap::with_max_entries(4_096, 0);

/// Who opened a TCP connection, by its source; the proxy looks it up after `accept`. LRU as above.
#[map]
pub static DS_ASKERS: LruHashMap<FlowKey, Asker> = LruHashMap::with_max_entries(16_384, 0);

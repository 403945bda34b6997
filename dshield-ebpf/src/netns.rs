//! `ds_sklookup`: attached to one sealed network namespace, steers what arrives there to its sockets.
//!
//! Loaded once per instance, because its map holds that instance's sockets and Linux before 6.15 gives
//! this program type no way to tell namespaces apart.
#![no_std]
#![no_main]

#[path = "object.rs"]
mod object;

use core::cell::UnsafeCell;
use core::ffi::c_void;

use aya_ebpf::bindings::bpf_map_def;
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SOCKMAP;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release};
use aya_ebpf::macros::{map, sk_lookup};
use aya_ebpf::programs::SkLookupContext;
use dshield_common::abi::{AF_INET, DNS_PORT, slot};

const IPPROTO_TCP: u32 = 6;

/// The instance's sockets, by [`slot`]. A socket leaves the map when it closes, so nothing is steered to
/// a dead agent.
#[map]
pub static DS_SOCKETS: Sockets = Sockets(UnsafeCell::new(bpf_map_def {
    type_: BPF_MAP_TYPE_SOCKMAP,
    key_size: size_of::<u32>() as u32,
    value_size: size_of::<u64>() as u32,
    max_entries: slot::COUNT,
    map_flags: 0,
    id: 0,
    pinning: 0,
}));

/// A sockmap whose values have eight bytes: the kernel lets nobody read any other. `aya_ebpf::maps::SockMap` has four.
#[repr(transparent)]
pub struct Sockets(UnsafeCell<bpf_map_def>);

// SAFETY: only the loader reads the definition; the program uses its address.
unsafe impl Sync for Sockets {}

impl Sockets {
    /// Steers what is looked up to the socket in this slot; false when there is none.
    #[inline(always)]
    fn steer(&self, ctx: &SkLookupContext, slot: u32) -> bool {
        let map = self.0.get().cast::<c_void>();
        // SAFETY: the key has the map's size; a socket that was found is released once, as the verifier demands.
        unsafe {
            let socket = bpf_map_lookup_elem(map.cast(), (&raw const slot).cast());
            if socket.is_null() {
                return false;
            }
            let result = bpf_sk_assign(ctx.lookup.cast(), socket, 0);
            bpf_sk_release(socket);
            result == 0
        }
    }
}

#[sk_lookup]
pub fn ds_sklookup(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel passes a valid bpf_sk_lookup; the verifier checks each access.
    let (family, protocol, port, v4) = unsafe {
        let lookup = ctx.lookup;
        ((*lookup).family, (*lookup).protocol, (*lookup).local_port, (*lookup).local_ip4)
    };
    let ipv4 = family == u32::from(AF_INET);
    // A function may talk to itself, and to the runtime API, over loopback addresses.
    let loopback = if ipv4 { v4.to_ne_bytes()[0] == 127 } else { is_loopback6(&ctx) };
    if loopback {
        return SK_PASS;
    }
    let dns = port == u32::from(DNS_PORT);
    let target = match (protocol == IPPROTO_TCP, dns) {
        (true, false) => slot::PROXY_TCP,
        (true, true) => slot::DNS_TCP,
        (false, true) if ipv4 => slot::DNS_UDP4,
        (false, true) => slot::DNS_UDP6,
        // `ds_sendmsg` lets no other datagram out; here is the second place that says so. Replies of
        // the DNS sockets to a function's own socket come by too: they find a connected or bound
        // socket of the function, at a port that is not DNS.
        (false, false) => return SK_PASS,
    };
    // No such socket: the agent is gone, or never made one. Refused, not passed to whoever listens.
    if DS_SOCKETS.steer(&ctx, target) { SK_PASS } else { SK_DROP }
}

#[inline(always)]
fn is_loopback6(ctx: &SkLookupContext) -> bool {
    // SAFETY: as above; volatile keeps each access at the four bytes that the verifier accepts.
    unsafe {
        let words = core::ptr::addr_of!((*ctx.lookup).local_ip6).cast::<u32>();
        words.read_volatile() == 0
            && words.add(1).read_volatile() == 0
            && words.add(2).read_volatile() == 0
            && words.add(3).read_volatile() == 1u32.to_be()
    }
}

//! `ds_sockops`: before the SYN, when the source port is chosen, notes who asked.
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SOCK_OPS_TCP_CONNECT_CB;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use dshield_common::abi::{AF_INET, FlowKey};

use crate::maps::{DS_ASKERS, DS_PENDING};

#[sock_ops]
pub fn ds_sockops(ctx: SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return 1;
    }
    // SAFETY: the context is a valid argument for both helpers in this program type.
    let (cookie, netns) = unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_get_netns_cookie(ctx.as_ptr())) };
    let Some(asker) = DS_PENDING.get_ptr(cookie) else { return 1 };
    // SAFETY: the map's value stays readable for the run of the program.
    let asker = unsafe { *asker };
    let key =
        FlowKey { netns, addr: source(&ctx), port: ctx.local_port() as u16, family: ctx.family() as u16, zero: 0 };
    // Full maps cost the log a process id, never the decision.
    let _ = DS_ASKERS.insert(key, asker, 0);
    let _ = DS_PENDING.remove(cookie);
    1
}

#[inline(always)]
fn source(ctx: &SockOpsContext) -> [u8; 16] {
    let mut addr = [0; 16];
    if ctx.family() == u32::from(AF_INET) {
        addr[..4].copy_from_slice(&ctx.local_ip4().to_ne_bytes());
        return addr;
    }
    // SAFETY: the kernel passes a valid bpf_sock_ops; volatile keeps each access at the four bytes that
    // the verifier accepts.
    unsafe {
        let words = core::ptr::addr_of!((*ctx.ops).local_ip6).cast::<u32>();
        addr[0..4].copy_from_slice(&words.read_volatile().to_ne_bytes());
        addr[4..8].copy_from_slice(&words.add(1).read_volatile().to_ne_bytes());
        addr[8..12].copy_from_slice(&words.add(2).read_volatile().to_ne_bytes());
        addr[12..16].copy_from_slice(&words.add(3).read_volatile().to_ne_bytes());
    }
    addr
}

//! `ds_connect4/6` and `ds_sendmsg4/6`: only from a sealed network namespace, and UDP only to DNS.
//!
//! A datagram carries its destination past any listener, so the one UDP port that the agent answers on
//! is the one that may be used. TCP may go anywhere: `ds_sklookup` hands it to the proxy.
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id,
    generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use dshield_common::abi::{DNS_PORT, Hook, Reason, Refusal};

use crate::maps::{DS_PENDING, DS_SEALED};
use crate::refuse::{current, report};

const SOCK_STREAM: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn ds_connect4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect4, destination4(ctx.sock_addr))
}

#[cgroup_sock_addr(connect6)]
pub fn ds_connect6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Connect6, destination6(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn ds_sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg4, destination4(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn ds_sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Sendmsg6, destination6(ctx.sock_addr))
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, hook: Hook, addr: [u8; 16]) -> i32 {
    // SAFETY: the context is a valid argument for the helper in this program type.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the kernel passes a valid bpf_sock_addr; the verifier checks each access.
    let (family, kind, protocol, port) = unsafe {
        let sock = ctx.sock_addr;
        // user_port holds 16 bits in network byte order.
        ((*sock).family, (*sock).type_, (*sock).protocol, u16::from_be((*sock).user_port as u16))
    };
    let reason = if DS_SEALED.get_ptr(netns).is_none() {
        Reason::NotSealed
    } else if kind == SOCK_STREAM {
        // SAFETY: as above. TCP reaches only the connect hooks, never sendmsg.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        // Full maps cost the log a process id, never the decision.
        let _ = DS_PENDING.insert(cookie, current(), 0);
        return 1;
    } else if port == DNS_PORT {
        return 1;
    } else {
        Reason::UdpPort
    };
    aya_log_ebpf::debug!(ctx, "refused: hook {} port {} reason {}", hook as u8, port, reason as u8);
    report(Refusal {
        netns,
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        asker: current(),
        addr,
        family,
        kind,
        protocol,
        port,
        hook: hook as u8,
        reason: reason as u8,
    });
    0
}

#[inline(always)]
fn destination4(sock: *mut bpf_sock_addr) -> [u8; 16] {
    // SAFETY: as in `judge`; volatile keeps the access at the four bytes that the verifier accepts.
    let word = unsafe { core::ptr::addr_of!((*sock).user_ip4).read_volatile() };
    let mut addr = [0; 16];
    addr[..4].copy_from_slice(&word.to_ne_bytes());
    addr
}

#[inline(always)]
fn destination6(sock: *mut bpf_sock_addr) -> [u8; 16] {
    let mut addr = [0; 16];
    // SAFETY: as in `destination4`, once for each word.
    unsafe {
        let words = core::ptr::addr_of!((*sock).user_ip6).cast::<u32>();
        addr[0..4].copy_from_slice(&words.read_volatile().to_ne_bytes());
        addr[4..8].copy_from_slice(&words.add(1).read_volatile().to_ne_bytes());
        addr[8..12].copy_from_slice(&words.add(2).read_volatile().to_ne_bytes());
        addr[12..16].copy_from_slice(&words.add(3).read_volatile().to_ne_bytes());
    }
    addr
}

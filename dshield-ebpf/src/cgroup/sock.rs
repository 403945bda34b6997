//! `ds_sock_create`: an allow-list of socket types.
//!
//! UDP-Lite, raw and ping sockets never reach the address hooks, and MPTCP opens further flows from a
//! kernel worker, so they must not come into being. Families other than IPv4 and IPv6 do not pass here
//! at all; seccomp refuses those.
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, generated::bpf_get_netns_cookie};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use dshield_common::abi::{AF_INET, AF_INET6, Hook, Reason, Refusal};

use crate::refuse::{current, report};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

#[cgroup_sock(sock_create)]
pub fn ds_sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the kernel passes a valid bpf_sock; the verifier checks each access.
    let (family, kind, protocol) = unsafe { ((*ctx.sock).family, (*ctx.sock).type_, (*ctx.sock).protocol) };
    let inet = family == u32::from(AF_INET) || family == u32::from(AF_INET6);
    let plain = (kind == SOCK_STREAM && protocol == IPPROTO_TCP) || (kind == SOCK_DGRAM && protocol == IPPROTO_UDP);
    if inet && plain {
        return 1;
    }
    aya_log_ebpf::debug!(&ctx, "socket refused: family {} type {} protocol {}", family, kind, protocol);
    report(Refusal {
        // SAFETY: the context is a valid argument for the helper in this program type.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        asker: current(),
        addr: [0; 16],
        family,
        kind,
        protocol,
        port: 0,
        hook: Hook::SockCreate as u8,
        reason: Reason::SocketType as u8,
    });
    0
}

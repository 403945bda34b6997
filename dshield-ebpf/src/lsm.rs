//! The programs at the kernel's security hooks, attached to the agent's cgroup where the kernel takes them.
//!
//! They see what the socket hooks cannot: families that those are never asked about, and reaching for the kernel or for
//! another process. Nothing relies on them, because many kernels run without BPF LSM. Returning 0 means refused (EPERM).
#![no_std]
#![no_main]

#[path = "object.rs"]
mod object;
#[path = "cgroup/refuse.rs"]
mod refuse;

use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use dshield_common::abi::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, Hook, Reason, Refusal};

use crate::refuse::{current, report};

/// include/uapi/linux/netlink.h: what getifaddrs(3) asks.
const NETLINK_ROUTE: u32 = 0;

/// `PTRACE_MODE_ATTACH` of include/linux/ptrace.h: more than looking.
const ATTACH: u32 = 0x02;

/// `socket_create(int family, int type, int protocol, int kern)`
#[lsm_cgroup(hook = "socket_create")]
pub fn ds_lsm_socket(ctx: LsmContext) -> i32 {
    let (family, kind, protocol, kern): (u32, u32, u32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let plain = [AF_INET, AF_INET6, AF_UNIX].iter().any(|allowed| u32::from(*allowed) == family);
    let routes = family == u32::from(AF_NETLINK) && protocol == NETLINK_ROUTE;
    // The kernel's own sockets are nobody's to use.
    if kern != 0 || plain || routes {
        return 1;
    }
    refuse(Hook::LsmSocket, Reason::SocketFamily, family, kind, protocol)
}

/// `bpf(int cmd, union bpf_attr *attr, unsigned int size)`
#[lsm_cgroup(hook = "bpf")]
pub fn ds_lsm_bpf(ctx: LsmContext) -> i32 {
    refuse(Hook::LsmBpf, Reason::Bpf, 0, ctx.arg(0), 0)
}

/// `ptrace_access_check(struct task_struct *child, unsigned int mode)`: also asked by process_vm_readv(2),
/// pidfd_getfd(2) and for `/proc/<pid>/mem`.
#[lsm_cgroup(hook = "ptrace_access_check")]
pub fn ds_lsm_ptrace(ctx: LsmContext) -> i32 {
    let mode: u32 = ctx.arg(1);
    if mode & ATTACH == 0 {
        return 1;
    }
    refuse(Hook::LsmPtrace, Reason::Ptrace, 0, mode, 0)
}

#[inline(always)]
fn refuse(hook: Hook, reason: Reason, family: u32, kind: u32, protocol: u32) -> i32 {
    report(Refusal {
        // No helper tells it here; the cgroup tells whose it was.
        netns: 0,
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        asker: current(),
        addr: [0; 16],
        family,
        kind,
        protocol,
        port: 0,
        hook: hook as u8,
        reason: reason as u8,
    });
    0
}

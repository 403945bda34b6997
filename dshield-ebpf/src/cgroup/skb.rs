//! `ds_egress`: no packet of a function leaves by an interface other than `lo`.
//!
//! The sealed namespace has no other interface; this holds even if one appeared.
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_skb_cgroup_id;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use dshield_common::abi::{Asker, Hook, Reason, Refusal};

use crate::refuse::report;

/// `lo` is the first interface of every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

#[cgroup_skb(egress)]
pub fn ds_egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the kernel passes a valid __sk_buff; the verifier checks the access.
    let (ifindex, family, protocol) =
        unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).family, (*ctx.skb.skb).protocol) };
    if ifindex == LOOPBACK {
        return 1;
    }
    report(Refusal {
        // The helper for the namespace exists here from Linux 6.15 on only; the cgroup tells whose it was.
        netns: 0,
        // SAFETY: the context is a valid argument for the helper in this program type.
        cgroup: unsafe { bpf_skb_cgroup_id(ctx.as_ptr().cast()) },
        // Packets also leave from softirq context, where "current" is somebody else.
        asker: Asker { pid: 0, uid: 0, comm: [0; 16] },
        addr: [0; 16],
        family,
        kind: 0,
        protocol,
        port: 0,
        hook: Hook::Egress as u8,
        reason: Reason::LeavesLo as u8,
    });
    0
}

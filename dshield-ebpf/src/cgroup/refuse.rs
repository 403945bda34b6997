//! Reports a refusal to the agent.
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use dshield_common::abi::{Asker, Refusal};

use crate::maps::{DS_EVENTS, DS_LOST};

/// Who is running now. Only for hooks that run in the caller's context.
#[inline(always)]
pub fn current() -> Asker {
    Asker {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
    }
}

/// Sends the refusal, or counts it when the buffer is full.
#[inline(always)]
pub fn report(refusal: Refusal) {
    if let Some(mut entry) = DS_EVENTS.reserve::<Refusal>(0) {
        entry.write(refusal);
        entry.submit(0);
    } else if let Some(lost) = DS_LOST.get_ptr_mut(0) {
        // SAFETY: the pointer is valid for this CPU's slot, which no other program instance writes
        // while this one runs on the CPU.
        unsafe { *lost += 1 }
    }
}

//! Reports a refusal to the agent. Part of two objects, whose maps of these names the agent makes one.
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use dshield_common::abi::{Asker, Refusal};

/// Refusals ([`dshield_common::abi::Refusal`]) for the log.
#[map]
pub static DS_EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Refusals that `DS_EVENTS` had no room for: counted, never lost.
#[map]
pub static DS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

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

//! The programs that are attached once, at the agent's cgroup, and hold for every instance below it.
//!
//! Socket calls of functions flow in; verdicts flow out, refusals go to `DS_EVENTS`. None of them reads
//! the whitelist: the kernel's part is "every connection goes through the proxy, or does not happen".
#![no_std]
#![no_main]

mod addr;
mod maps;
mod refuse;
mod skb;
mod sock;
mod sockops;

/// The kernel gives the helpers used here to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves this unreachable: no program that could panic loads.
    loop {}
}

//! The programs that are attached once, at the agent's cgroup, and hold for every instance below it.
//!
//! Socket calls of functions flow in; verdicts flow out, refusals go to `DS_EVENTS`. None of them reads
//! the whitelist: the kernel's part is "every connection goes through the proxy, or does not happen".
#![no_std]
#![no_main]

mod addr;
mod maps;
#[path = "../object.rs"]
mod object;
mod refuse;
mod skb;
mod sock;
mod sockops;

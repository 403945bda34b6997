//! What a browser calls. Bytes flow in and out through the module's own memory.
//!
//! A caller asks for room ([`alloc`]), writes its request there, calls, and gives back ([`free`]) both the request and the
//! answer. A caller that does otherwise harms nothing but this module's memory, which is its own.
//!
//! An answer is one number: where its bytes are in the lower 32 bits, how many there are in the upper 32.
#![allow(unsafe_code, reason = "names that are exported, and memory that is lent to a caller outside")]
use std::{ptr, slice};

/// Room for `len` bytes; ends the module where there is not as much.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    lend(vec![0; len])
}

/// Takes back what [`alloc`] or an answer gave.
///
/// # Safety
/// It gave exactly this, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(start: *mut u8, len: usize) {
    // SAFETY: `lend` made this pointer from a box of `len` bytes, says the caller.
    drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(start, len)) });
}

/// [`crate::answer`].
///
/// # Safety
/// `alloc(len)` gave `start`, and nobody writes there meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn verify(start: *const u8, len: usize) -> u64 {
    // SAFETY: `alloc` made `len` bytes at `start`, all of them written, says the caller.
    give(crate::answer(unsafe { slice::from_raw_parts(start, len) }))
}

/// The version of this crate.
#[unsafe(no_mangle)]
pub extern "C" fn version() -> u64 {
    give(env!("CARGO_PKG_VERSION").to_owned())
}

fn give(answer: String) -> u64 {
    let len = answer.len() as u64;
    len << 32 | lend(answer.into_bytes()) as u64
}

fn lend(bytes: Vec<u8>) -> *mut u8 {
    Box::into_raw(bytes.into_boxed_slice()).cast()
}

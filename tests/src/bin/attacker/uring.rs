//! io_uring by hand: one submission, one completion (io_uring(7)).
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_long};

use crate::Got;
use crate::calls::{self, check, outside4};

const OP_CONNECT: u8 = 16;
const OP_SOCKET: u8 = 45;

/// `struct io_uring_params`, include/uapi/linux/io_uring.h.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, resv1, user_addr.
    sq_off: [u32; 10],
    /// head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1, user_addr.
    cq_off: [u32; 10],
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Submission {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

pub fn connect(number: u8) -> Got {
    let stream = calls::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    // SAFETY: plain integers; a SYN is all that is wanted.
    unsafe { libc::fcntl(stream.0, libc::F_SETFL, libc::O_NONBLOCK) };
    let address = outside4(number);
    let submission = Submission {
        opcode: OP_CONNECT,
        fd: stream.0,
        addr: (&raw const address) as u64,
        off: size_of_val(&address) as u64,
        ..EMPTY
    };
    // Not waiting for it: the SYN leaves with the submission, and nobody answers.
    match submit(submission, 0)? {
        None | Some(0) => Ok("sent".to_owned()),
        Some(result) => Err(format!("connect: {}", std::io::Error::from_raw_os_error(-result))),
    }
}

pub fn socket(family: c_int) -> Got {
    let submission = Submission { opcode: OP_SOCKET, fd: family, off: libc::SOCK_STREAM as u64, ..EMPTY };
    match submit(submission, 1)? {
        Some(result) if result < 0 => Err(format!("socket: {}", std::io::Error::from_raw_os_error(-result))),
        _ => Ok("made".to_owned()),
    }
}

const EMPTY: Submission = Submission {
    opcode: 0,
    flags: 0,
    ioprio: 0,
    fd: 0,
    off: 0,
    addr: 0,
    len: 0,
    op_flags: 0,
    user_data: 0,
    rest: [0; 3],
};

/// Submits one operation and waits for so many results: its own, where there is one.
fn submit(submission: Submission, results: u32) -> Result<Option<i32>, String> {
    let mut params = Params::default();
    // SAFETY: the parameters have the kernel's layout and outlive the call.
    let ring = check("io_uring_setup", unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params) })?;
    let sq = map(ring, 0, params.sq_off[6] as usize + params.sq_entries as usize * 4)?;
    let cq = map(ring, 0x800_0000, params.cq_off[5] as usize + params.cq_entries as usize * 16)?;
    let entries = map(ring, 0x1000_0000, params.sq_entries as usize * size_of::<Submission>())?;
    // SAFETY: the kernel maps these structures at the offsets that it returned; only this thread uses them.
    unsafe {
        entries.cast::<Submission>().write(submission);
        sq.add(params.sq_off[6] as usize).cast::<u32>().write(0);
        let tail = &*sq.add(params.sq_off[1] as usize).cast::<AtomicU32>();
        tail.fetch_add(1, Ordering::Release);
        check("io_uring_enter", libc::syscall(libc::SYS_io_uring_enter, ring, 1, results, 1, 0, 0))?;
        let done = (*cq.add(params.cq_off[1] as usize).cast::<AtomicU32>()).load(Ordering::Acquire);
        // struct io_uring_cqe: user_data (8 bytes), res (4), flags (4).
        Ok((done > 0).then(|| cq.add(params.cq_off[5] as usize + 8).cast::<i32>().read_volatile()))
    }
}

fn map(ring: c_long, offset: i64, length: usize) -> Result<*mut u8, String> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping, of a descriptor that is ours.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, ring as c_int, offset) };
    if address == libc::MAP_FAILED {
        return Err(format!("mmap: {}", std::io::Error::last_os_error()));
    }
    Ok(address.cast())
}

//! Other processes, and namespaces.
use std::fs;

use libc::{c_int, pid_t};

use crate::Got;
use crate::calls::check;
use crate::net;

/// The name by which the attacker finds the other function.
const VICTIM: &str = "victim";

/// Waits to be attacked.
pub fn be_the_victim() -> ! {
    // SAFETY: the string ends with NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"victim".as_ptr()) };
    println!("{VICTIM} ready");
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// The process that started this one: the agent, or 0 where the pid namespace hides it.
pub fn parent() -> pid_t {
    // SAFETY: no arguments.
    unsafe { libc::getppid() }
}

/// The other function's process, where it can be seen: of the same agent, because several may be under attack.
pub fn victim() -> Result<pid_t, String> {
    let agent = parent_of(parent())?;
    let listed = fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let pids = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let called = |pid: &pid_t| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == VICTIM)
            && parent_of(*pid) == Ok(agent)
    };
    pids.into_iter().find(called).ok_or_else(|| "no such process is visible".to_owned())
}

fn visible(pid: pid_t) -> Result<pid_t, String> {
    if pid > 0 { Ok(pid) } else { Err("no such process is visible".to_owned()) }
}

pub fn ptrace(pid: pid_t) -> Got {
    let pid = visible(pid)?;
    // SAFETY: plain integers. The tracee goes on, and is let go when this process ends.
    check("ptrace", unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) })?;
    Ok("attached".to_owned())
}

pub fn vm_read(pid: pid_t) -> Got {
    let pid = visible(pid)?;
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: 0x1000 as *mut _, iov_len: 1 };
    // SAFETY: the local part outlives the call; the remote address is the other process's affair.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    // Nothing is mapped there: that the kernel looked is what matters.
    if read < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT) {
        return Ok("was allowed to look".to_owned());
    }
    check("process_vm_readv", read as i64)?;
    Ok("read".to_owned())
}

pub fn open_memory(pid: pid_t) -> Got {
    let path = format!("/proc/{}/mem", visible(pid)?);
    fs::File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    Ok("opened".to_owned())
}

pub fn descriptors(pid: pid_t) -> Got {
    let path = format!("/proc/{}/fd", visible(pid)?);
    let count = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?.count();
    Ok(format!("saw {count}"))
}

pub fn take_descriptor(pid: pid_t) -> Got {
    let pid = visible(pid)?;
    // SAFETY: plain integers.
    let pidfd = check("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: plain integers.
    check("pidfd_getfd", unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) })?;
    Ok("took descriptor 0".to_owned())
}

pub fn signal(pid: pid_t) -> Got {
    let pid = visible(pid)?;
    // SAFETY: plain integers; signal 0 only asks.
    check("kill", unsafe { libc::kill(pid, 0) }.into())?;
    Ok("was allowed to".to_owned())
}

pub fn write_file(pid: pid_t) -> Got {
    let path = format!("/proc/{}/root/tmp/from-the-attacker", visible(pid)?);
    fs::write(&path, "x").map_err(|error| format!("{path}: {error}"))?;
    Ok("wrote".to_owned())
}

/// Into the network namespace of whoever started this process, and out from there.
pub fn enter_network(number: u8) -> Got {
    // Each attempt runs in a child of the attacker.
    let path = format!("/proc/{}/ns/net", visible(parent_of(parent())?)?);
    let namespace = fs::File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    // SAFETY: plain integers; the descriptor is open.
    check("setns", unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&namespace), libc::CLONE_NEWNET) }.into())?;
    net::tcp4(number)
}

fn parent_of(pid: pid_t) -> Result<pid_t, String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:")).ok_or("no PPid")?;
    line.trim().parse().map_err(|_| "no PPid".to_owned())
}

pub fn unshare(flag: c_int) -> Got {
    // SAFETY: plain integers.
    check("unshare", unsafe { libc::unshare(flag) }.into())?;
    Ok("made".to_owned())
}

pub fn clone_user_namespace() -> Got {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork, and the child ends at once.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) }
    }
    check("clone", child)?;
    Ok("made".to_owned())
}

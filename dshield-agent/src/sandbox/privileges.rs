//! Gives up everything that the function must not have: root, capabilities, new privileges, resources,
//! descriptors, writes and system calls. The last step before `execve`.
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::spawn::STATUS_FD;
use super::step::{StepError, step};
use super::{Spec, landlock};
use crate::walls::Wall;

/// Processes and threads; counted for each user id, and every instance has its own.
const PROCESSES: u64 = 512;

/// In the order that the kernel demands: what needs root first.
pub(super) fn give_up(spec: &Spec) -> Result<(), StepError> {
    if spec.walls.stands(Wall::Limits) {
        limit_resources()?;
    }
    if spec.walls.stands(Wall::Privileges) {
        become_nobody(spec)?;
    }
    close_descriptors()?;
    // After the user id: an instance's own root needs no privilege to be restricted. Before seccomp, which
    // refuses the calls that this needs.
    if spec.walls.stands(Wall::Landlock) {
        landlock::restrict()?;
    }
    if spec.walls.stands(Wall::Seccomp) {
        for filter in &spec.seccomp {
            filter.install().map_err(step(format!("install the seccomp filter {}", filter.name())))?;
        }
    }
    Ok(())
}

fn become_nobody(spec: &Spec) -> Result<(), StepError> {
    drop_bounding_set()?;
    setgroups(&[]).map_err(step("drop groups"))?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.uid));
    setresgid(gid, gid, gid).map_err(step("set the group id"))?;
    // Leaving user id 0 clears the permitted, effective and ambient sets (capabilities(7)).
    setresuid(uid, uid, uid).map_err(step("set the user id"))?;
    clear_capabilities()?;
    nix::sys::prctl::set_no_new_privs().map_err(step("no_new_privs"))
}

fn limit_resources() -> Result<(), StepError> {
    let limits = [
        (Resource::RLIMIT_NOFILE, 1024),
        (Resource::RLIMIT_NPROC, PROCESSES),
        (Resource::RLIMIT_MEMLOCK, 64 << 10),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_SIGPENDING, 1024),
        (Resource::RLIMIT_RTPRIO, 0),
        (Resource::RLIMIT_NICE, 0),
    ];
    limit_core_dumps()?;
    for (resource, limit) in limits {
        let (_, hard) = getrlimit(resource).map_err(step("read a resource limit"))?;
        // Only ever lowered: raising needs CAP_SYS_RESOURCE, which an agent may lack.
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit).map_err(step(format!("limit {resource:?}")))?;
    }
    Ok(())
}

/// Not 0: where `core_pattern` names a program, the kernel hands it the memory of a process that crashes whatever
/// the limit is, but at exactly 1 (fs/coredump.c). The program would run as root, outside. The filter of system
/// calls keeps it at 1.
fn limit_core_dumps() -> Result<(), StepError> {
    // From 0 it can be raised with CAP_SYS_RESOURCE only.
    let limited = setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|_| setrlimit(Resource::RLIMIT_CORE, 0, 0));
    limited.map_err(step("limit core dumps"))
}

fn drop_bounding_set() -> Result<(), StepError> {
    // include/uapi/linux/capability.h: numbers are dense; the first unknown one is EINVAL.
    for capability in 0..64 {
        // SAFETY: plain integers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(step("drop the bounding set")(error));
        }
    }
    Ok(())
}

/// capset(2) with empty sets, which also clears the inheritable set that a container may have given.
fn clear_capabilities() -> Result<(), StepError> {
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    let sets = [0u32; 6];
    // SAFETY: both arrays have the layout of capset(2) for version 3 and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(step("clear capabilities")(io::Error::last_os_error())) }
}

const _: () = assert!(STATUS_FD >= 3, "the status descriptor is closed with the rest");

/// Closed by `execve`, so that this process can still say what fails until then.
fn close_descriptors() -> Result<(), StepError> {
    // SAFETY: plain integers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(step("close inherited descriptors")(io::Error::last_os_error())) }
}

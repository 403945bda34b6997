//! Keeps the agent's secrets in the agent: keys, and what functions are configured with.
//!
//! In: a process that has no secrets yet. Out: one whose memory no other user can read, that dumps no core, and whose
//! pages, where the machine lets it, never reach a swap device, which may belong to somebody else. None of it is inherited
//! by what the agent starts: `execve` makes a process readable to its own user again, and `fork` unlocks its memory.
use std::io;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::walls::{Wall, Walls};

/// Why the agent could not make its memory its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HardenError {
    /// The kernel refused what it grants to every process.
    #[error("cannot keep the agent's memory from other processes: {0}; is a seccomp filter around the agent?")]
    Exposed(io::Error),
}

/// Whether the agent's pages can reach a swap device.
#[derive(Debug)]
#[must_use = "whether memory is locked is reported"]
pub enum Memory {
    /// They cannot.
    Locked,
    /// They can, for this reason.
    Swappable(io::Error),
}

/// Hardens this process. To be called before there are secrets; twice does no harm.
///
/// # Errors
/// Memory could be read or dumped. That it cannot be locked is no error: the machine may have no swap.
pub fn harden() -> Result<Memory, HardenError> {
    if !Walls::standing().stands(Wall::Agent) {
        return Ok(Memory::Swappable(io::Error::other("the wall `agent` was taken away")));
    }
    let exposed = |errno: nix::Error| HardenError::Exposed(errno.into());
    // Also against core_pattern's pipe to a program, which no limit stops (core(5)).
    set_dumpable(false).map_err(exposed)?;
    // One byte is no dump either, and unlike 0 it can be left to instances, for whom it must be 1.
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).map_err(exposed)?;
    setrlimit(Resource::RLIMIT_CORE, hard.min(1), hard.min(1)).map_err(exposed)?;
    Ok(lock().map_or_else(Memory::Swappable, |()| Memory::Locked))
}

/// Locks pages as they come into use: a stack or a heap that is only reserved costs nothing.
fn lock() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    if !unlimited {
        // Under a limit, memory that the agent asks for later could be denied. At 0 only CAP_IPC_LOCK lets this succeed,
        // and to its holder no limit applies, now or later (mlock(2)).
        setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard)?;
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault);
    if !unlimited {
        setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    }
    Ok(locked?)
}

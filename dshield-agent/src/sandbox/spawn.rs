//! Starts an instance's first process: `clone3` into the cgroup and the namespaces, then this same
//! program as `dshield __instance`.
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{INIT_COMMAND, Probe, SandboxError, Spec};
use crate::instance::Exit;
use crate::walls::Wall;

/// The descriptor on which the first process finds its [`Spec`].
pub(super) const SPEC_FD: RawFd = 3;
/// The descriptor on which it reports a failure; closed by `execve` when all is well.
pub(super) const STATUS_FD: RawFd = 4;

/// New namespaces besides the network namespace, which is entered, and the cgroup namespace, which must
/// be made inside the cgroup.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// include/uapi/linux/sched.h; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How long a probe may take; it takes milliseconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Where a first process starts.
struct Place {
    cgroup: RawFd,
    /// The network namespace to enter.
    netns: Option<RawFd>,
    /// The namespaces to make: `CLONE_NEW…`.
    namespaces: libc::c_int,
}

/// Starts first processes.
#[derive(Debug)]
pub struct Spawner {
    program: File,
}

/// A started first process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, in the agent's pid namespace.
    pub pid: u32,
    /// What the function prints.
    pub stdout: File,
    /// What the function prints as errors.
    pub stderr: File,
    pidfd: OwnedFd,
}

impl Spawner {
    /// Opens the running program, so that an upgrade on disk cannot change what instances start with.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn new() -> Result<Self, SandboxError> {
        let program = File::open("/proc/self/exe").map_err(step("open /proc/self/exe"))?;
        Ok(Self { program })
    }

    /// Starts a process by `spec` in `cgroup` and `netns`, and waits until it has become the function.
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// The step that failed, in the agent or in the new process. The process is gone then.
    pub fn spawn(&self, spec: &Spec, cgroup: &impl AsFd, netns: &impl AsFd) -> Result<Child, SandboxError> {
        let (child, mut status) = self.start(spec, None, cgroup, netns)?;
        let mut failure = Vec::new();
        let read = status.read_to_end(&mut failure);
        if read.is_ok() && failure.is_empty() {
            return Ok(child);
        }
        child.kill();
        child.reap();
        read.map_err(step("read its status"))?;
        Err(SandboxError::Setup(String::from_utf8_lossy(&failure).into_owned()))
    }

    /// Starts a process by `spec` that tries `probe` instead of becoming a function, and waits until it has ended:
    /// the kernel's answer to each attempt, 0 or an error number. Blocks for some milliseconds, 5 s at most.
    ///
    /// # Errors
    /// As [`Self::spawn`]; or the process ended before it had tried everything.
    pub fn probe(
        &self,
        spec: &Spec,
        probe: &Probe,
        cgroup: &impl AsFd,
        netns: &impl AsFd,
    ) -> Result<Vec<i32>, SandboxError> {
        let (child, status) = self.start(spec, Some(probe), cgroup, netns)?;
        let read = read_within(status, PROBE_DEADLINE);
        if read.is_err() {
            child.kill();
        }
        let exit = child.reap();
        let report = read.map_err(step("read its status"))?;
        match (probe.parse(&report), exit) {
            (Ok(answers), _) => Ok(answers),
            (Err(_), Exit::Code(1..)) if !report.is_empty() => Err(SandboxError::Setup(report)),
            (Err(attempt), exit) => Err(SandboxError::Probe { attempt: attempt.clone(), exit }),
        }
    }

    /// Starts the process: it, and the descriptor on which it reports until it executes something or ends.
    fn start(
        &self,
        spec: &Spec,
        probe: Option<&Probe>,
        cgroup: &impl AsFd,
        netns: &impl AsFd,
    ) -> Result<(Child, File), SandboxError> {
        let walls = spec.walls;
        let spec = spec_file(spec, probe).map_err(step("pass the specification"))?;
        let null = File::open("/dev/null").map_err(step("open /dev/null"))?;
        let (stdout, stdout_inside) = pipe()?;
        let (stderr, stderr_inside) = pipe()?;
        let (status, status_inside) = pipe()?;
        let descriptors = [
            null.as_raw_fd(),
            stdout_inside.as_raw_fd(),
            stderr_inside.as_raw_fd(),
            spec.as_raw_fd(),
            status_inside.as_raw_fd(),
        ];
        let mut place = Place {
            cgroup: cgroup.as_fd().as_raw_fd(),
            netns: Some(netns.as_fd().as_raw_fd()),
            namespaces: NAMESPACES,
        };
        if !walls.stands(Wall::Netns) {
            place.netns = None;
        }
        if !walls.stands(Wall::Processes) {
            place.namespaces &= !libc::CLONE_NEWPID;
        }
        let (pid, pidfd) = self.clone_into(&place, descriptors)?;
        drop((stdout_inside, stderr_inside, status_inside));
        let child = Child { pid, stdout: File::from(stdout), stderr: File::from(stderr), pidfd };
        Ok((child, File::from(status)))
    }

    fn clone_into(&self, place: &Place, descriptors: [RawFd; 5]) -> Result<(u32, OwnedFd), SandboxError> {
        // Everything the child uses is made before: it shares a heap with threads that are not there.
        let program = self.program.as_raw_fd();
        let argv = [CString::from(c"dshield"), CString::new(INIT_COMMAND).map_err(|e| step("argv")(e.into()))?];
        let argv = [argv[0].as_ptr(), argv[1].as_ptr(), std::ptr::null()];
        let envp: [*const libc::c_char; 1] = [std::ptr::null()];
        let mut pidfd: RawFd = -1;
        let mut args = libc::clone_args {
            flags: (place.namespaces as u64) | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP,
            pidfd: (&raw mut pidfd) as u64,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: libc::SIGCHLD as u64,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: place.cgroup as u64,
        };
        // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything, and below
        // runs only system calls on values made before. `args` and `pidfd` outlive the call.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
        if pid == 0 {
            // SAFETY: this is the child, single-threaded, and never returns.
            unsafe { become_init(program, place.netns, descriptors, argv.as_ptr(), envp.as_ptr()) }
        }
        if pid < 0 {
            return Err(step("clone3 (Linux 5.7 or newer)")(io::Error::last_os_error()));
        }
        // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok((u32::try_from(pid).map_err(|error| step("clone3")(io::Error::other(error)))?, pidfd))
    }
}

/// The child's few instructions between `clone3` and `execve`. What fails is said on the status descriptor.
///
/// # Safety
/// To be called once, in a freshly forked child, with valid descriptors and NULL-terminated arrays.
unsafe fn become_init(
    program: RawFd,
    netns: Option<RawFd>,
    descriptors: [RawFd; 5],
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) -> ! {
    // SAFETY: system calls only, no allocation, no lock; the caller vouches for the arguments.
    unsafe {
        if let Some(netns) = netns
            && libc::setns(netns, libc::CLONE_NEWNET) != 0
        {
            fail(descriptors[4], c"enter the network namespace");
        }
        // First out of the way of the targets, then onto them: a source may be one of 0 to 4.
        let mut moved = [0; 6];
        for (slot, source) in moved.iter_mut().zip(descriptors.into_iter().chain([program])) {
            *slot = libc::fcntl(source, libc::F_DUPFD_CLOEXEC, 64);
            if *slot < 0 {
                fail(descriptors[4], c"move descriptors");
            }
        }
        for (target, source) in moved[..5].iter().enumerate() {
            if libc::dup2(*source, target as RawFd) < 0 {
                fail(moved[4], c"set descriptors");
            }
        }
        // A signal mask or an ignored signal of the agent must not reach the function.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::syscall(libc::SYS_close_range, 5, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        libc::syscall(libc::SYS_execveat, moved[5], c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH);
        fail(moved[4], c"execute the agent's own program")
    }
}

/// Says what failed, and ends the child.
///
/// # Safety
/// As `become_init`: to be called in the child only, with the status descriptor.
unsafe fn fail(status: RawFd, what: &CStr) -> ! {
    // SAFETY: system calls only; the string has this many bytes.
    unsafe {
        libc::write(status, what.as_ptr().cast(), what.count_bytes());
        libc::_exit(127)
    }
}

impl Child {
    /// Waits until the process has ended, and reaps it.
    ///
    /// # Errors
    /// The descriptor cannot be registered with the reactor.
    pub async fn wait(pidfd: OwnedFd) -> io::Result<Exit> {
        // SAFETY: the descriptor is owned and stays the same until it is dropped.
        let ready = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)?;
        drop(ready.readable().await?);
        Ok(reap(ready.get_ref()))
    }

    /// Gives the parts to whoever reads the output and to whoever waits.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, File, File) {
        (self.pidfd, self.stdout, self.stderr)
    }

    /// Ends a process that is not reaped yet, so that its id is still its own.
    fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
    }

    /// Waits, blocking, for a process that failed to set itself up.
    fn reap(self) -> Exit {
        reap(&self.pidfd)
    }
}

fn reap(pidfd: &OwnedFd) -> Exit {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
        Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
        // Somebody else reaped it: that it ended is all that is known.
        Ok(_) | Err(_) => Exit::Code(-1),
    }
}

fn spec_file(spec: &Spec, probe: Option<&Probe>) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"dshield-spec", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&(spec, probe))?)?;
    file.rewind()?;
    Ok(file)
}

/// Everything until the other end is closed.
fn read_within(mut file: File, patience: Duration) -> io::Result<String> {
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; 1024];
        match file.read(&mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| step("pipe")(errno.into()))
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Spawn { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{AgentCgroup, Limits};
    use crate::walls::Walls;

    /// The child died silently before `execve`, which reads like success: the instance was reported as a
    /// function that had crashed.
    #[test]
    fn a_child_that_fails_before_execve_says_so() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: not root: it makes namespaces and a cgroup");
        }
        let cgroup = AgentCgroup::create(&format!("dst-spawn-{}", std::process::id())).unwrap();
        // Where controllers are delegated, only a leaf takes processes.
        let leaf = cgroup.leaf("f", Limits { memory_bytes: 64 << 20, pids: 8 }).unwrap();
        let spec = Spec {
            hostname: "f".into(),
            uid: 1_900_000_000,
            root: "/".into(),
            code: "/".into(),
            ca_bundle: "/dev/null".into(),
            runtime_files: Default::default(),
            tmp_bytes: 0,
            argv: vec![],
            env: vec![],
            seccomp: vec![],
            walls: Walls::standing(),
        };
        let no_namespace = File::open("/dev/null").unwrap();
        let spawned = Spawner::new().unwrap().spawn(&spec, &leaf.open().unwrap(), &no_namespace);
        cgroup.destroy().unwrap();
        assert!(
            matches!(&spawned, Err(SandboxError::Setup(what)) if what.contains("network namespace")),
            "{spawned:?}"
        );
    }
}

//! Landlock: a second opinion of the kernel about files, for the day that a mount is not what it should be.
//!
//! In: nothing; the rules name paths of the instance's own root, so it must have been entered. Out: this process and
//! all its children may read and execute everything below `/`, write below [`WRITABLE`] and to [`DEVICES`], and
//! nothing else, whatever user they are. From ABI 6 on they also reach no abstract unix socket and signal no
//! process outside. Ports are not ruled: the sealed namespace leaves nothing to rule.
//!
//! A kernel without Landlock starts instances all the same: [`abi`] says which it is, and the log records it.
use std::io;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::rootfs::DEVICES;
use super::step::{StepError, step};

/// The newest version whose rights are used; an older kernel gets those that it knows. Fixed, so that a newer kernel
/// does not enforce what was never tried.
const NEWEST: ABI = ABI::V6;

const WRITABLE: [&str; 2] = ["/tmp", "/dev/shm"];

/// The version of Landlock that this kernel offers; 0 when it has none or does not use it.
#[must_use]
pub fn abi() -> u32 {
    /// include/uapi/linux/landlock.h.
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let attributes = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel reads no attributes and only returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// Restricts this process for good, as far as the kernel can.
pub(super) fn restrict() -> Result<(), StepError> {
    if abi() == 0 {
        return Ok(());
    }
    let status = rules().and_then(|rules| rules.restrict_self().map_err(io::Error::other)).map_err(step("landlock"))?;
    match status {
        RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. } => {
            Err(step("landlock")(io::Error::other("the kernel offers it and does not enforce it")))
        }
        _ => Ok(()),
    }
}

fn rules() -> io::Result<RulesetCreated> {
    let read = AccessFs::from_read(NEWEST);
    // There is no device to make: the mounts refuse them too.
    let write = AccessFs::from_write(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    rules = allow(rules, "/", read)?;
    for folder in WRITABLE {
        rules = allow(rules, folder, read | write)?;
    }
    for device in DEVICES {
        rules = allow(rules, &format!("/dev/{device}"), AccessFs::from_file(NEWEST) & !AccessFs::Execute)?;
    }
    Ok(rules)
}

fn allow(rules: RulesetCreated, path: &str, access: BitFlags<AccessFs>) -> io::Result<RulesetCreated> {
    let below = PathFd::new(path).map_err(io::Error::other)?;
    rules.add_rule(PathBeneath::new(below, access)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output};

    use nix::sys::signal::kill;
    use nix::unistd::getppid;

    use super::*;

    /// Runs `script` as the user of this test, root perhaps, behind Landlock alone; `None` where there is none.
    fn behind_landlock(script: &str) -> Option<Output> {
        if abi() == 0 {
            eprintln!("skipped: this kernel has no Landlock");
            return None;
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        // SAFETY: between fork and exec, `restrict` makes system calls and allocates; glibc's allocator works in
        // the child of a process with threads.
        unsafe { command.pre_exec(|| restrict().map_err(io::Error::other)) };
        Some(command.output().unwrap())
    }

    #[test]
    fn by_itself_it_refuses_every_write_outside_even_to_root() {
        // Not below /tmp, where writing is allowed.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "before").unwrap();
        let (path, new) = (file.display(), folder.path().join("new").display().to_string());
        for attempt in [
            format!("echo after > {path}"),
            format!("truncate -s 0 {path}"),
            format!("echo after > {new}"),
            format!("mkdir {new}"),
            format!("ln -s / {new}"),
            format!("mkfifo {new}"),
            format!("rm {path}"),
            format!("mv {path} {new}"),
        ] {
            // Truncation without opening for writing is ruled from ABI 3 on.
            if attempt.starts_with("truncate") && abi() < 3 {
                continue;
            }
            let Some(output) = behind_landlock(&attempt) else { return };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("ermission denied"), "{attempt}: {said}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    }

    #[test]
    fn it_leaves_reading_executing_and_the_writable_places() {
        let script = "set -e; file=$(mktemp -d /tmp/landlock.XXXXXX)/file
            echo one > $file; echo two >> $file; chmod 700 $file; mkdir $file.d; mv $file $file.d/
            grep -q one $file.d/file; rm -r $(dirname $file)
            file=$(mktemp /dev/shm/landlock.XXXXXX); rm $file
            echo > /dev/null; head -c 1 /dev/urandom > /dev/full && exit 7
            echo said > /dev/stderr; ls / /usr /proc/self/fd > /dev/stdout";
        let Some(output) = behind_landlock(script) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.ends_with("said\n"), "{:?} {said}", output.status);
    }

    /// What `action` fails with in a child behind Landlock, or without.
    fn in_child(restricted: bool, action: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Option<i32> {
        let mut command = Command::new("/bin/true");
        let act = move || {
            if restricted {
                restrict().map_err(io::Error::other)?;
            }
            action()
        };
        // SAFETY: as above.
        unsafe { command.pre_exec(act) };
        command.status().err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn from_abi_6_on_it_refuses_abstract_sockets_and_signals_outside() {
        if abi() < 6 {
            return eprintln!("skipped: Landlock ABI {} has no scopes", abi());
        }
        let name = format!("dshield-landlock-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        for (restricted, expected) in [(false, None), (true, Some(libc::EPERM))] {
            let address = address.clone();
            let connect = move || UnixStream::connect_addr(&address).map(drop);
            assert_eq!(in_child(restricted, connect), expected, "connect, restricted: {restricted}");
            let signal = || Ok(kill(getppid(), None)?);
            assert_eq!(in_child(restricted, signal), expected, "kill, restricted: {restricted}");
        }
    }
}

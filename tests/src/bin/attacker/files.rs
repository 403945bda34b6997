//! File systems: mounts, the cgroup tree, kernel settings, devices. `/host` is there only where the wall is not.
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;

use crate::Got;
use crate::calls::check;
use crate::net;

/// A path as it is, and as it is below the machine's root.
fn both(path: &str) -> [String; 2] {
    [format!("/host{path}"), path.to_owned()]
}

fn environment(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set"))
}

/// The root of the cgroup tree: as it is mounted, or mounted anew.
fn cgroup_root() -> Result<String, String> {
    let given = environment("ATTACK_CGROUP")?;
    let found = both(&given).into_iter().find(|path| fs::exists(format!("{path}/cgroup.procs")).unwrap_or(false));
    found.ok_or_else(|| "the cgroup tree is not there".to_owned())
}

pub fn leave_cgroup(number: u8) -> Got {
    let path = format!("{}/cgroup.procs", cgroup_root()?);
    fs::write(&path, "0").map_err(|error| format!("{path}: {error}"))?;
    net::tcp4(number)
}

pub fn clone_into_cgroup(number: u8) -> Got {
    let path = cgroup_root()?;
    let folder = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    // SAFETY: all zeros are empty arguments.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = 0x2_0000_0000; // CLONE_INTO_CGROUP
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = folder.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is a fork; the arguments outlive the call.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if child == 0 {
        let sent = net::tcp4(number).is_ok();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(i32::from(!sent)) }
    }
    check("clone3", child)?;
    let mut status = 0;
    // SAFETY: the status outlives the call; the child is ours.
    unsafe { libc::waitpid(child as i32, &raw mut status, 0) };
    if status == 0 { Ok("sent".to_owned()) } else { Err("connect was refused in the child".to_owned()) }
}

fn mount_point(name: &str) -> Result<CString, String> {
    let path = format!("/tmp/{name}");
    fs::create_dir_all(&path).map_err(|error| format!("{path}: {error}"))?;
    CString::new(path).map_err(|error| error.to_string())
}

pub fn mount() -> Got {
    let at = mount_point("mounted")?;
    let null = std::ptr::null();
    // SAFETY: the strings end with NUL.
    check("mount", unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, null) }.into())?;
    Ok("mounted".to_owned())
}

pub fn mount_new_api() -> Got {
    // SAFETY: the string ends with NUL.
    let opened = check("fsopen", unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0) });
    let clone = 1; // OPEN_TREE_CLONE
    // SAFETY: the string ends with NUL.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/tmp".as_ptr(), clone) };
    opened.or_else(|_| check("open_tree", tree))?;
    Ok("opened".to_owned())
}

pub fn mount_over() -> Got {
    fs::write("/tmp/resolv.conf", "nameserver 192.0.2.1\n").map_err(|error| error.to_string())?;
    let (from, at) = (c"/tmp/resolv.conf", c"/etc/resolv.conf");
    // SAFETY: the strings end with NUL.
    let bound = unsafe { libc::mount(from.as_ptr(), at.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()) };
    check("mount", bound.into())?;
    Ok("bound".to_owned())
}

pub fn change_root() -> Got {
    let at = mount_point("root")?;
    // SAFETY: the strings end with NUL.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, at.as_ptr(), at.as_ptr()) };
    // SAFETY: the string ends with NUL.
    check("pivot_root", pivoted).or_else(|_| check("chroot", unsafe { libc::chroot(at.as_ptr()) }.into()))?;
    Ok("changed".to_owned())
}

pub fn open_for_writing(paths: &[&str]) -> Got {
    let mut refused = Vec::new();
    for path in paths.iter().flat_map(|path| both(path)) {
        // Nothing is written: these are the machine's own settings.
        match OpenOptions::new().write(true).open(&path) {
            Ok(_) => return Ok(format!("opened {path}")),
            Err(error) => refused.push(format!("{path}: {error}")),
        }
    }
    Err(refused.join("; "))
}

pub fn write_on_the_machine() -> Got {
    let folder = environment("ATTACK_FOLDER")?;
    let mut refused = Vec::new();
    for path in both(&format!("{folder}/written")) {
        match fs::write(&path, "by the attacker") {
            Ok(()) => return Ok(format!("wrote {path}")),
            Err(error) => refused.push(format!("{path}: {error}")),
        }
    }
    Err(refused.join("; "))
}

/// `/dev/mem`.
pub fn mknod() -> Got {
    // SAFETY: the string ends with NUL.
    let made = unsafe { libc::mknod(c"/tmp/mem".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)) };
    check("mknod", made.into())?;
    Ok("made".to_owned())
}

pub fn tun() -> Got {
    const TUNSETIFF: u64 = 0x4004_54ca;
    let mut refused = Vec::new();
    for path in both("/dev/net/tun") {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(device) => {
                // struct ifreq: name (16 bytes), flags (IFF_TUN).
                let mut request = [0u8; 40];
                request[16] = 1;
                // SAFETY: the request has the kernel's size and outlives the call.
                check("TUNSETIFF", unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }.into())?;
                return Ok("made".to_owned());
            }
            Err(error) => refused.push(format!("{path}: {error}")),
        }
    }
    Err(refused.join("; "))
}

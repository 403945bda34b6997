//! What the function sees of the file system: a small read-only root with its own `/tmp`.
//!
//! ```text
//! /usr /bin /lib …  the host's, read-only        /var/task     the code, read-only
//! /etc              made here, read-only         /var/runtime  the bootstrap, read-only
//! /dev              five devices                 /tmp /dev/shm private, limited in size
//! /proc             of the own pid namespace, read-only
//! ```
use std::fs;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::step::{StepError, step};
use super::{NAMESERVER, Spec, trust};
use crate::walls::Wall;

/// System folders taken from the host: as a link where the host has a link.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Files of `/etc` that programs need and that say nothing about the host.
const ETC: [&str; 6] = ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mime.types", "ssl/openssl.cnf"];

/// Devices below `/dev`; there are no others.
pub(super) const DEVICES: [&str; 5] = ["full", "null", "random", "urandom", "zero"];

/// Files of `/proc` that tell about the machine and that no function needs.
const MASKED: [&str; 9] = [
    "cmdline",
    "interrupts",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
];

const SHM_BYTES: u64 = 16 << 20;

/// Builds the root and enters it; nothing of the host's file system is reachable after.
pub(super) fn enter(spec: &Spec) -> Result<(), StepError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(step("make mounts private"))?;
    let root = spec.root.as_path();
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Holds only folders, links and the few files made below.
    mount(Some("tmpfs"), root, Some("tmpfs"), sealed, Some("mode=0755,size=4m,nr_inodes=1k"))
        .map_err(step("mount the new root"))?;
    system_folders(root)?;
    etc(root, spec)?;
    devices(root)?;
    make_dir(&root.join("var/runtime"))?;
    for (name, content) in &spec.runtime_files {
        write(&root.join("var/runtime").join(name), content)?;
    }
    bind(&spec.code, &root.join("var/task"), true)?;
    // 0 is no limit (tmpfs(5)).
    let (tmp, shm) = if spec.walls.stands(Wall::Limits) { (spec.tmp_bytes, SHM_BYTES) } else { (0, 0) };
    limited_tmpfs(&root.join("tmp"), tmp, "16k")?;
    limited_tmpfs(&root.join("dev/shm"), shm, "1k")?;
    proc(root)?;
    if !spec.walls.stands(Wall::Files) {
        show_the_machine(&root.join("host"))?;
    }
    for trust_path in trust::BUNDLE_PATHS {
        bind(&spec.ca_bundle, &root.join(trust_path.trim_start_matches('/')), false)?;
    }
    chdir(root).map_err(step("enter the new root"))?;
    pivot_root(".", ".").map_err(step("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("detach the old root"))?;
    chdir("/").map_err(step("enter /"))?;
    remount_read_only(Path::new("/"))
}

/// The machine's own root, writable: what the rest of this file keeps out of reach.
fn show_the_machine(inside: &Path) -> Result<(), StepError> {
    make_dir(inside)?;
    mount(Some("/"), inside, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(step("bind the machine's root"))
}

fn system_folders(root: &Path) -> Result<(), StepError> {
    for name in SYSTEM {
        let outside = Path::new("/").join(name);
        let inside = root.join(name);
        match fs::symlink_metadata(&outside) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&outside).map_err(step(format!("read {}", outside.display())))?;
                symlink(target, &inside).map_err(step(format!("link {}", inside.display())))?;
            }
            Ok(meta) if meta.is_dir() => bind(&outside, &inside, true)?,
            _ => {}
        }
    }
    Ok(())
}

fn etc(root: &Path, spec: &Spec) -> Result<(), StepError> {
    let etc = root.join("etc");
    let uid = spec.uid;
    make_dir(&etc)?;
    for (name, content) in [
        ("passwd", format!("root:x:0:0::/:/usr/sbin/nologin\nfunction:x:{uid}:{uid}::/tmp:/bin/sh\n")),
        ("group", format!("root:x:0:\nfunction:x:{uid}:\n")),
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        ("hostname", format!("{}\n", spec.hostname)),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        ("resolv.conf", format!("nameserver {NAMESERVER}\noptions timeout:2 attempts:2\n")),
    ] {
        write(&etc.join(name), &content)?;
    }
    for name in ETC {
        let outside = Path::new("/etc").join(name);
        if let Ok(meta) = fs::metadata(&outside) {
            bind(&outside, &etc.join(name), meta.is_dir())?;
        }
    }
    for entry in fs::read_dir("/etc").map_err(step("read /etc"))?.flatten() {
        let name = entry.file_name();
        // Debian keeps what a JVM reads first there, such as /etc/java-17-openjdk/security.
        if name.as_encoded_bytes().starts_with(b"java-") && entry.path().is_dir() {
            bind(&entry.path(), &etc.join(name), true)?;
        }
    }
    Ok(())
}

fn devices(root: &Path) -> Result<(), StepError> {
    let dev = root.join("dev");
    make_dir(&dev)?;
    for name in DEVICES {
        let inside = dev.join(name);
        write(&inside, "")?;
        bind_device(name, &inside)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name)).map_err(step(format!("link /dev/{name}")))?;
    }
    Ok(())
}

fn proc(root: &Path) -> Result<(), StepError> {
    let proc = root.join("proc");
    make_dir(&proc)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("proc"), &proc, Some("proc"), flags, Some("hidepid=2")).map_err(step("mount /proc"))?;
    for name in MASKED {
        let masked = proc.join(name);
        if masked.exists() {
            bind_device("null", &masked)?;
        }
    }
    Ok(())
}

fn limited_tmpfs(path: &Path, bytes: u64, inodes: &str) -> Result<(), StepError> {
    make_dir(path)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode=1777,size={bytes},nr_inodes={inodes}");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(step(format!("mount {}", path.display())))
}

/// Shows `outside` at `inside`, read-only, without set-user-id bits and devices.
fn bind(outside: &Path, inside: &Path, is_dir: bool) -> Result<(), StepError> {
    if is_dir {
        make_dir(inside)?;
    } else {
        if let Some(parent) = inside.parent() {
            make_dir(parent)?;
        }
        write(inside, "")?;
    }
    mount(Some(outside), inside, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(step(format!("bind {}", outside.display())))?;
    remount_read_only(inside)
}

/// Shows a device. What is written to it goes to its driver; the file itself belongs to the whole machine, and its
/// times could carry messages between functions if it were not read-only.
fn bind_device(name: &str, inside: &Path) -> Result<(), StepError> {
    let (outside, none) = (Path::new("/dev").join(name), None::<&str>);
    mount(Some(&outside), inside, none, MsFlags::MS_BIND, none).map_err(step(format!("bind /dev/{name}")))?;
    remount(inside, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)
}

fn remount_read_only(path: &Path) -> Result<(), StepError> {
    remount(path, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

fn remount(path: &Path, flags: MsFlags) -> Result<(), StepError> {
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .map_err(step(format!("make {} read-only", path.display())))
}

fn make_dir(path: &Path) -> Result<(), StepError> {
    fs::create_dir_all(path).map_err(step(format!("create {}", path.display())))?;
    set_mode(path, 0o755)
}

fn write(path: &Path, content: &str) -> Result<(), StepError> {
    fs::write(path, content).map_err(step(format!("write {}", path.display())))?;
    set_mode(path, 0o644)
}

/// The agent's umask must not decide what the function can read.
fn set_mode(path: &Path, mode: u32) -> Result<(), StepError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(step(format!("chmod {}", path.display())))
}

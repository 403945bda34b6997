//! What can be told about the machine by looking, without changing anything.
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use nix::unistd::geteuid;

use super::{Check, Status};
use crate::kernel::{AgentCgroup, bpffs};
use crate::proxy;
use crate::sandbox::{Filter, landlock};

/// The oldest kernel that has everything: `bpf_get_netns_cookie` for sock_ops programs came with 5.15. Before it:
/// `SO_NETNS_COOKIE` and `cgroup.kill` with 5.14, `close_range` with close-on-exec 5.11, sk_lookup programs 5.9,
/// `CLONE_INTO_CGROUP` 5.7.
const OLDEST: (u32, u32) = (5, 15);

/// include/uapi/linux/capability.h: what the agent uses, by number.
const CAPABILITIES: [(u32, &str); 6] = [
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (10, "CAP_NET_BIND_SERVICE"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
];

/// `DS_SEALED` in dshield-ebpf has room for so many namespaces.
const NAMESPACES: u64 = 16_384;

/// 2026-01-01T00:00:00Z. A clock before it has not been set: no certificate would be valid.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_767_225_600);

pub(super) fn checks() -> Vec<Check> {
    vec![
        root(),
        kernel(),
        cgroup2(),
        controllers(),
        bpffs(),
        seccomp(),
        instances(),
        clock(),
        landlock(),
        btf(),
        unprivileged_bpf(),
        locked_memory(),
        core_dumps(),
        tdx(),
    ]
}

fn ok(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, status: Status::Ok, detail: detail.into(), fix: None }
}

fn missing(name: &'static str, detail: impl Into<String>, fix: &'static str) -> Check {
    Check { name, status: Status::Missing, detail: detail.into(), fix: Some(fix) }
}

fn optional(name: &'static str, detail: impl Into<String>, fix: Option<&'static str>) -> Check {
    Check { name, status: Status::Optional, detail: detail.into(), fix }
}

fn root() -> Check {
    if !geteuid().is_root() {
        return missing("root", format!("user id {}", geteuid()), "run it with sudo, or in a privileged container");
    }
    let Some(effective) = capabilities() else {
        return missing("root", "/proc/self/status does not say which capabilities there are", "mount /proc");
    };
    let lacking: Vec<_> =
        CAPABILITIES.iter().filter(|(number, _)| effective & (1 << number) == 0).map(|(_, name)| *name).collect();
    if lacking.is_empty() {
        return ok("root", "user id 0, with every capability that is needed");
    }
    missing("root", format!("user id 0, but without {}", lacking.join(", ")), "start the container privileged")
}

/// Those in force, by bit.
fn capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(effective.trim(), 16).ok()
}

fn kernel() -> Check {
    let Ok(names) = uname() else { return missing("kernel", "uname(2) fails", "report this: it should not happen") };
    let release = names.release().to_string_lossy();
    let text = format!("Linux {release}; {}.{} or newer is needed", OLDEST.0, OLDEST.1);
    match version(&release) {
        Some(version) if version >= OLDEST => ok("kernel", text),
        _ => missing("kernel", text, "boot Linux 5.15 or newer: older ones cannot tell which namespace asked"),
    }
}

/// The first two numbers of a release such as `6.12.53+deb13-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroup2() -> Check {
    match AgentCgroup::folder("") {
        Ok(root) => ok("cgroup2", format!("mounted at {}", root.display().to_string().trim_end_matches('/'))),
        Err(_) => missing(
            "cgroup2",
            "no cgroup v2 hierarchy is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup; in a container: --cgroupns host -v /sys/fs/cgroup:/sys/fs/cgroup:rw",
        ),
    }
}

fn controllers() -> Check {
    let file = AgentCgroup::folder("").map(|root| root.join("cgroup.controllers"));
    let listed = file.ok().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let lacking: Vec<_> =
        ["memory", "pids"].into_iter().filter(|name| !listed.split_whitespace().any(|one| one == *name)).collect();
    if lacking.is_empty() {
        return ok("controllers", "memory and processes of an instance are bounded by its cgroup");
    }
    optional(
        "controllers",
        format!("cgroup v2 lacks {}: that limit of an instance is not enforced by its cgroup", lacking.join(" and ")),
        Some("boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"),
    )
}

fn bpffs() -> Check {
    let detail = if bpffs::is_mounted() { "mounted at" } else { "will be mounted at" };
    ok("bpffs", format!("{detail} {}", bpffs::BPFFS))
}

fn seccomp() -> Check {
    let fix = "boot a kernel with CONFIG_SECCOMP_FILTER=y";
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        return missing("seccomp", "the kernel has no seccomp filters", fix);
    }
    match Filter::compile_all() {
        Ok(filters) => ok("seccomp", format!("{} filters, for {}", filters.len(), std::env::consts::ARCH)),
        Err(error) => missing("seccomp", error.to_string(), "use a build for this machine's architecture"),
    }
}

fn instances() -> Check {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    let fit = proxy::most_instances(limit).min(NAMESPACES);
    if fit == 0 {
        let detail =
            format!("with so few descriptors one function's connections can hold up all (RLIMIT_NOFILE {limit})");
        return optional("instances", detail, Some("raise LimitNOFILE= of the unit, or `ulimit -Hn`"));
    }
    ok("instances", format!("{fit} fit, each with its share of descriptors (RLIMIT_NOFILE {limit})"))
}

fn clock() -> Check {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let format = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(format).ok());
    let detail = format!("it is {}", time.unwrap_or_else(|| format!("{seconds} s after 1970")));
    if since >= CLOCK_IS_SET {
        return ok("clock", detail);
    }
    missing("clock", format!("{detail}: upstream certificates would not be valid yet"), "set the clock")
}

fn landlock() -> Check {
    match landlock::abi() {
        abi @ 1.. => ok("landlock", format!("ABI {abi} bounds what instances write")),
        0 => optional(
            "landlock",
            "no Landlock: the file system is held by mounts and user ids alone",
            Some("boot with lsm=landlock,… in the kernel's command line"),
        ),
    }
}

/// `attached` is what the kernel did when it was asked.
pub(super) fn bpf_lsm(attached: bool) -> Check {
    let fix = Some("boot with lsm=…,bpf in the kernel's command line");
    if attached {
        return ok("bpf_lsm", "programs at the security hooks refuse other families, bpf(2) and ptrace");
    }
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) if list.trim().split(',').any(|one| one == "bpf") => {
            optional("bpf_lsm", "the kernel lists it, and refuses the programs", None)
        }
        Ok(list) => optional("bpf_lsm", format!("not among the security modules: {}", list.trim()), fix),
        Err(_) => optional(
            "bpf_lsm",
            "cannot be told: /sys/kernel/security/lsm is not there",
            Some("mount -t securityfs none /sys/kernel/security"),
        ),
    }
}

fn btf() -> Check {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return ok("btf", "the kernel describes its types");
    }
    optional("btf", "the kernel does not describe its types; only BPF LSM programs need it", None)
}

fn unprivileged_bpf() -> Check {
    let value = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    match value.as_deref().map(str::trim) {
        Ok("0") => optional(
            "unprivileged_bpf",
            "other users of this machine may load eBPF programs; instances may not",
            Some("sysctl kernel.unprivileged_bpf_disabled=2"),
        ),
        Ok(value) => ok("unprivileged_bpf", format!("only root loads eBPF programs (set to {value})")),
        Err(_) => ok("unprivileged_bpf", "this kernel has no switch for it"),
    }
}

fn locked_memory() -> Check {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(_, hard)| hard);
    if limit == u64::MAX || capabilities().is_some_and(|effective| effective & CAP_IPC_LOCK != 0) {
        return ok("locked_memory", "the agent's keys stay out of swap");
    }
    optional(
        "locked_memory",
        format!("{} KiB (RLIMIT_MEMLOCK): the agent's keys could be swapped out", limit >> 10),
        Some("give it CAP_IPC_LOCK, or run without swap"),
    )
}

fn core_dumps() -> Check {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    match pattern.trim() {
        // Linux 6.16 and newer: a socket, for which no limit counts.
        socket if socket.starts_with('@') => optional(
            "core_dumps",
            format!("the kernel sends the memory of a function that crashes to {socket}"),
            Some("sysctl kernel.core_pattern=core"),
        ),
        // What a limit of 1 would stop cannot be set.
        program if program.starts_with('|') && !can_limit_core_dumps() => optional(
            "core_dumps",
            format!("the kernel hands the memory of a function that crashes to {}", program.trim_start_matches('|')),
            Some(
                "start it with a hard RLIMIT_CORE above 0 (docker: --ulimit core=-1), or sysctl kernel.core_pattern=core",
            ),
        ),
        _ => ok("core_dumps", "the memory of a function that crashes goes nowhere"),
    }
}

fn can_limit_core_dumps() -> bool {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    getrlimit(Resource::RLIMIT_CORE).is_ok_and(|(_, hard)| hard > 0)
        || capabilities().is_some_and(|effective| effective & CAP_SYS_RESOURCE != 0)
}

fn tdx() -> Check {
    let found = ["/sys/kernel/config/tsm/report", "/dev/tdx_guest"].into_iter().find(|path| Path::new(path).exists());
    match found {
        Some(path) => ok("tdx", format!("{path}: quotes can be asked for")),
        None => optional("tdx", "not a TDX guest: no hardware can vouch for what runs here", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("6.12.53+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("5.15-rc1"), Some((5, 15)));
        assert!(version("5.4.0-generic") < Some(OLDEST) && version("5.14.21") < Some(OLDEST));
        assert!(version("10.0.0") > Some(OLDEST));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn what_is_missing_or_optional_says_what_to_do() {
        for check in checks() {
            assert!(check.status != Status::Missing || check.fix.is_some(), "{check:?}");
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }
}

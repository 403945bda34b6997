//! The guest's whole file system: compiled tests and a kernel flow in; an initramfs flows out, in which everything
//! has the path that it has on this machine.
use super::{cpio::Archive, kernel::Kernel, suite::Test};
use crate::{
    cargo,
    shell::{self, Error},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's programs that tests start; those that are not built (yet) are left out.
const PROGRAMS: [&str; 4] = ["dshield", "dshield-unwalled", "probe", "attacker"];

/// What tests and functions call and busybox does not have, or has with fewer options. A test that needs one that this
/// machine lacks is skipped by its name in the guest.
const TOOLS: [&str; 32] = [
    "bash", "bpftool", "cat", "chmod", "curl", "dirname", "env", "grep", "head", "ip", "ln", "ls", "mkdir", "mkfifo",
    "mktemp", "mount", "mv", "nsenter", "openssl", "prlimit", "python3", "rm", "setpriv", "sh", "sleep", "ss",
    "strace", "tc", "touch", "truncate", "umount", "unshare",
];

/// What a hostile function might find in a kernel: a wall is not shown to stand where the module behind it is merely
/// not loaded. Not the tunnels gre, ipip and sit, which put an interface into every new network namespace.
const MODULES: [&str; 13] = [
    "af_packet",
    "algif_hash",
    "algif_skcipher",
    "dummy",
    "kcm",
    "l2tp_ip",
    "macvlan",
    "sctp",
    "tcp_diag",
    "tipc",
    "tun",
    "veth",
    "vsock_loopback",
];

/// Parts of Python's library that are large and that no test uses.
const NOT_OF_PYTHON: [&str; 8] =
    ["ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tkinter", "turtledemo"];

/// Writes the initramfs for this kernel to `to`; `scratch` is for stripped copies.
pub fn write(kernel: &Kernel, tests: &[Test], scratch: &Path, to: &Path) -> Result<(), Error> {
    let mut archive = Archive::default();
    let workspace = cargo::workspace();
    for folder in ["/proc", "/sys", "/run", "/tmp", "/root", "/var/lib", "/var/tmp", "/etc"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    archive.put("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    archive.put("/etc/group", "root:x:0:\n", 0o644);
    archive.put("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644);
    // Tests mount their own over these.
    archive.put("/etc/nsswitch.conf", "hosts: files dns\n", 0o644);
    archive.put("/etc/resolv.conf", "nameserver 127.0.0.1\n", 0o644);
    let init = workspace.join("vm-images/init");
    archive.put("/init", fs::read(&init).map_err(Error::file(&init))?, 0o755);
    let mut programs = system(&mut archive)?;
    programs.extend(built(&mut archive, tests, scratch)?);
    libraries(&mut archive, &programs)?;
    sources(&mut archive, &workspace)?;
    modules(&mut archive, kernel)?;
    archive.put("/vm/tests", list(tests), 0o644);
    archive.write(to)
}

/// Links such as /bin, busybox, tools and Python. Returns what may need libraries.
fn system(archive: &mut Archive) -> Result<Vec<PathBuf>, Error> {
    for folder in ["/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/usr/lib"].map(Path::new) {
        if folder.exists() {
            archive.add(folder)?;
        }
    }
    let mut programs = Vec::new();
    for tool in TOOLS {
        let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|folder| Path::new(folder).join(tool));
        if let Some(path) = found.into_iter().find(|path| path.is_file()) {
            archive.add(&path)?;
            programs.push(path);
        }
    }
    archive.add(Path::new("/bin/busybox"))?;
    let stdlib = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    if let Some(folder) = shell::ask(Command::new("/usr/bin/python3").args(["-c", stdlib])) {
        let wanted = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with("config-") && !NOT_OF_PYTHON.contains(&&*name)
        };
        archive.add_tree(Path::new(&folder), &wanted)?;
        let extensions = Path::new(&folder).join("lib-dynload");
        for entry in fs::read_dir(&extensions).map_err(Error::file(&extensions))? {
            programs.push(entry.map_err(Error::file(&extensions))?.path());
        }
    }
    Ok(programs)
}

/// The workspace's programs and the tests, without symbols: those are most of their size.
fn built(archive: &mut Archive, tests: &[Test], scratch: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = cargo::target()?.join("debug");
    let programs = PROGRAMS.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    let mut all: Vec<_> = programs.chain(tests.iter().map(|test| test.program.clone())).collect();
    all.dedup();
    fs::create_dir_all(scratch).map_err(Error::file(scratch))?;
    for program in &all {
        let stripped = scratch.join(program.file_name().unwrap_or_default());
        shell::run(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        archive.add_as(program, &stripped)?;
    }
    Ok(all)
}

/// What the dynamic linker would load for these.
fn libraries(archive: &mut Archive, programs: &[PathBuf]) -> Result<(), Error> {
    // It fails when one of them is static or a script, and has listed the others.
    let listed = Command::new("ldd").args(programs).output();
    let listed = listed.map_err(|cause| Error::Start { command: "ldd".into(), cause })?;
    for path in String::from_utf8_lossy(&listed.stdout).lines().filter_map(library) {
        archive.add(Path::new(path))?;
    }
    Ok(())
}

/// The path in `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<&str> {
    let path = line.trim().rsplit("=> ").next()?.split(' ').next()?;
    // Headings end with a colon.
    (path.starts_with('/') && !path.ends_with(':')).then_some(path)
}

/// Functions and examples that tests use in place, and the folders in which tests run.
fn sources(archive: &mut Archive, workspace: &Path) -> Result<(), Error> {
    for folder in ["tests/functions", "examples"] {
        archive.add_tree(&workspace.join(folder), &|_| true)?;
    }
    for folder in ["dshield-agent", "dshield-agent/src", "tests", "vm-images"] {
        archive.add(&workspace.join(folder))?;
    }
    Ok(())
}

fn modules(archive: &mut Archive, kernel: &Kernel) -> Result<(), Error> {
    let mut list = String::new();
    for path in kernel.modules(&MODULES)? {
        let name = format!("/vm/{}", path.file_stem().unwrap_or_default().to_string_lossy());
        archive.put(&name, module(&path)?, 0o644);
        list += &format!("{name}\n");
    }
    archive.put("/vm/modules", list, 0o644);
    Ok(())
}

/// A module's bytes, which Debian compresses since 13.
fn module(path: &Path) -> Result<Vec<u8>, Error> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).map_err(Error::file(path));
    }
    let mut unpack = Command::new("busybox");
    unpack.arg("xzcat").arg(path);
    let output = unpack.output().map_err(|cause| Error::Start { command: shell::show(&unpack), cause })?;
    if !output.status.success() {
        return Err(Error::Failed { command: shell::show(&unpack), status: output.status });
    }
    Ok(output.stdout)
}

/// What the guest's init runs: `name|folder|command`.
fn list(tests: &[Test]) -> String {
    let quote = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let line = |test: &Test| {
        let filters: String = test.filters.iter().map(|filter| format!(" {}", quote(filter))).collect();
        let program = quote(&test.program.to_string_lossy());
        // The escape suite looks at the machine as a whole, and attacks it from several instances at once already.
        let threads = if test.name == "security" { 1 } else { 2 };
        format!("{}|{}|{program} --color=never --test-threads={threads}{filters}\n", test.name, test.folder.display())
    };
    tests.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_read_from_each_form_of_line() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x7f)"), None);
        assert_eq!(library("/usr/bin/env:"), None);
        assert_eq!(library("\tstatically linked"), None);
    }

    #[test]
    fn a_filter_cannot_be_a_command() {
        let test = Test {
            name: "kernel".into(),
            program: "/t/kernel".into(),
            folder: "/s".into(),
            filters: vec!["a'; reboot".into()],
        };
        let expected = "kernel|/s|'/t/kernel' --color=never --test-threads=2 'a'\\''; reboot'\n";
        assert_eq!(list(&[test]), expected);
    }
}

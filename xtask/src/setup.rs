//! `cargo xtask setup`: the machine flows in, and out comes one that can build and test D-Shield, or a
//! sentence that says what is in the way. One line for each thing it found or did; asks nothing.
use crate::{
    apt, build_object, cargo, clients,
    shell::{self, Error},
    wasm,
};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The emulator of the test machines.
pub const QEMU: &str = "qemu-system-x86_64";
/// The bpf-linker that goes with the eBPF crates of this workspace.
const LINKER: &str = "0.13.0";

/// The LLVM versions that this bpf-linker can be built on.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Something the machine must have, and the Debian packages that bring it.
struct Need {
    name: &'static str,
    what_for: &'static str,
    packages: &'static [&'static str],
    found: fn() -> Option<String>,
}

/// Programs are looked for before packages: Node and others are often installed outside the package manager.
/// Interpreters count only in `/usr/bin`, which is what a function sees.
const NEEDS: [Need; 14] = [
    Need {
        name: "C compiler",
        what_for: "links, and builds ring",
        packages: &["gcc", "libc6-dev"],
        found: || in_path("cc").filter(|_| Path::new("/usr/include/stdlib.h").exists()),
    },
    Need { name: "python3", what_for: "runs functions", packages: &["python3"], found: || there("/usr/bin/python3") },
    Need {
        name: "requests",
        what_for: "an unmodified client in the tests",
        packages: &["python3-requests"],
        found: || {
            let version = "import requests; print(requests.__version__)";
            shell::ask(Command::new("/usr/bin/python3").args(["-c", version]))
        },
    },
    Need { name: "node", what_for: "runs functions", packages: &["nodejs"], found: || there("/usr/bin/node") },
    Need {
        name: "curl",
        what_for: "an unmodified client in the tests",
        packages: &["curl"],
        found: || there("/usr/bin/curl"),
    },
    Need {
        name: "openssl",
        what_for: "checks the log's signatures in the tests",
        packages: &["openssl"],
        found: || there("/usr/bin/openssl"),
    },
    Need {
        name: "strace",
        what_for: "plays a kernel that lacks something in the tests",
        packages: &["strace"],
        found: || in_path("strace"),
    },
    Need {
        name: "bpftool",
        what_for: "shows the kernel programs",
        packages: &["bpftool"],
        found: || in_path("bpftool"),
    },
    Need {
        name: "pip",
        what_for: "installs Python clients for the tests",
        packages: &["python3-pip"],
        found: || shell::ask(Command::new("/usr/bin/python3").args(["-m", "pip", "--version"])),
    },
    Need { name: "npm", what_for: "installs Node clients for the tests", packages: &["npm"], found: || in_path("npm") },
    Need {
        name: "git",
        what_for: "an unmodified client in the tests",
        packages: &["git"],
        found: || there("/usr/bin/git"),
    },
    Need {
        name: "redis",
        what_for: "a server and its client in the tests",
        packages: &["redis-server", "redis-tools"],
        found: || there("/usr/bin/redis-cli").filter(|_| there("/usr/bin/redis-server").is_some()),
    },
    Need {
        name: "postgresql",
        what_for: "a server and its client in the tests",
        packages: &["postgresql"],
        found: || there("/usr/lib/postgresql"),
    },
    Need { name: "ip", what_for: "shows network namespaces", packages: &["iproute2"], found: || in_path("ip") },
];

/// What `cargo xtask vm` needs beside those; some 100 MB, so only where it is asked for.
const FOR_VM: [Need; 2] = [
    Need {
        name: "qemu",
        what_for: "runs the tests on other kernels",
        packages: &["qemu-system-x86"],
        found: || in_path(QEMU),
    },
    Need {
        name: "busybox",
        what_for: "is the shell of those machines",
        packages: &["busybox-static"],
        // Debian's other busybox needs libraries.
        found: || there("/bin/busybox").filter(|_| apt::is_installed("busybox-static")),
    },
];

/// What quotes by a TPM are built and tested with. D-Shield is built without, so where these cannot be had, setup goes on
/// and says so, and what needs them is skipped.
const FOR_TPM: [Need; 3] = [
    Need {
        name: "pkg-config",
        what_for: "finds libraries for the feature `tpm`",
        packages: &["pkg-config"],
        found: || in_path("pkg-config"),
    },
    Need {
        name: "tpm2-tss",
        what_for: "speaks to a TPM, with the feature `tpm`",
        packages: &["libtss2-dev"],
        found: || shell::ask(Command::new("pkg-config").args(["--modversion", "tss2-esys"])),
    },
    Need { name: "swtpm", what_for: "is the TPM of the tests", packages: &["swtpm"], found: || in_path("swtpm") },
];

/// What the pages of `dshield-verify serve` are read with in the tests: 124 MB to fetch, 412 MB installed. As above, the
/// tests that need it are skipped without.
const FOR_PAGES: [Need; 1] = [Need {
    name: "browser",
    what_for: "reads pages in the tests",
    packages: &["chromium"],
    found: || there("/usr/bin/chromium").or_else(|| there("/usr/bin/google-chrome")),
}];

/// Runs the task.
pub fn run() -> Result<(), Error> {
    install(&NEEDS)?;
    for (name, needs) in [("tpm", FOR_TPM.as_slice()), ("browser", &FOR_PAGES)] {
        if let Err(error) = install(needs) {
            say(name, &format!("not installed, so what needs it is skipped: {error}"));
        }
    }
    let rustc = rustc()?;
    linker(&rustc)?;
    components()?;
    say("wasm", &wasm::prepare());
    for (name, said) in clients::install()? {
        say(&format!("{name} clients"), &said);
    }
    let toolchain = build_object::find_toolchain().map_err(Error::Unfit)?;
    say("ready", &format!("kernel programs are built by {} ({})", toolchain.origin, toolchain.rustc.display()));
    if !apt::is_root() {
        eprintln!("setup: loading kernel programs needs root: run demo and test as root");
    }
    Ok(())
}

/// `--vm`: what `cargo xtask vm` needs.
pub fn vm() -> Result<(), Error> {
    install(&FOR_VM)
}

/// The first thing that `cargo xtask vm` needs and that is not there, and the packages that bring all of them.
pub fn missing_for_vm() -> Option<(&'static str, String)> {
    let missing = FOR_VM.iter().find(|need| (need.found)().is_none())?;
    Some((missing.name, FOR_VM.iter().flat_map(|need| need.packages).copied().collect::<Vec<_>>().join(" ")))
}

/// The first thing that building with the feature `tpm` needs and that is not there. The tests themselves look for swtpm.
pub fn missing_for_tpm() -> Option<&'static str> {
    FOR_TPM.iter().filter(|need| need.name != "swtpm").find(|need| (need.found)().is_none()).map(|need| need.name)
}

fn install(needs: &'static [Need]) -> Result<(), Error> {
    let mut missing = Vec::new();
    for need in needs {
        match (need.found)() {
            Some(found) => say(need.name, &found),
            None => {
                say(need.name, &format!("missing ({}): installing {}", need.what_for, need.packages.join(" ")));
                missing.push(need);
            }
        }
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    apt::install(&packages)?;
    for need in missing {
        let found = (need.found)().ok_or_else(|| {
            Error::Unfit(format!("{} is still missing after installing {}", need.name, need.packages.join(" ")))
        })?;
        say(need.name, &format!("installed: {found}"));
    }
    Ok(())
}

/// A rustc that has the sources of `core`: found, or Debian's, or rustup's.
fn rustc() -> Result<PathBuf, Error> {
    let found = |word: &str| {
        build_object::find_rustc().map(|(path, origin)| {
            say("rustc for eBPF", &format!("{word}{} ({origin})", path.display()));
            path
        })
    };
    if let Some(path) = found("") {
        return Ok(path);
    }
    if env::var_os("DSHIELD_EBPF_RUSTC").is_some() {
        return Err(Error::Unfit(
            "DSHIELD_EBPF_RUSTC names no rustc whose sysroot holds the sources of `core`: correct it or unset it"
                .into(),
        ));
    }
    let refused = match ["rustc", "rustup"].into_iter().find(|package| apt::is_installed(package)) {
        Some(package) => format!("rustc-web cannot be installed beside Debian's `{package}`, which is installed"),
        None => {
            say("rustc for eBPF", "missing (needs the sources of `core`): trying Debian's rustc-web and rust-web-src");
            let installed = apt::install(&["rustc-web", "rust-web-src"]);
            if let Some(path) = found("installed: ") {
                return Ok(path);
            }
            installed.err().map_or_else(|| "it has no sources of `core`".to_owned(), |error| error.to_string())
        }
    };
    if in_path("rustup").is_some() {
        say("rustc for eBPF", &format!("not Debian's ({refused}): trying `rustup component add rust-src`"));
        let added = shell::run(Command::new("rustup").args(["component", "add", "rust-src"]));
        if let (Ok(()), Some(path)) = (added, found("installed: ")) {
            return Ok(path);
        }
    }
    Err(Error::Unfit(format!(
        "no Rust compiler with the sources of `core` could be installed.\n  Debian's: {refused}\n  \
         Otherwise: install rustup, run `rustup component add rust-src`, then `cargo xtask setup` again"
    )))
}

/// A bpf-linker of the right version: found, or built on the LLVM of the compiler it works for.
fn linker(rustc: &Path) -> Result<(), Error> {
    if let Some(path) = build_object::find_linker() {
        let version = shell::ask(Command::new(&path).arg("--version"));
        match version.as_deref().and_then(|said| said.strip_prefix("bpf-linker ")) {
            Some(version) if at_least(version, LINKER) => {
                say("bpf-linker", &format!("{} ({version})", path.display()));
                return Ok(());
            }
            Some(version) => say("bpf-linker", &format!("{} is {version}, needs {LINKER}", path.display())),
            None => say("bpf-linker", &format!("{} does not run", path.display())),
        }
    }
    let llvm = cargo::llvm_of(rustc)?;
    let elsewhere = format!(
        "put bpf-linker {LINKER} or newer, built on LLVM {llvm} or newer, into PATH (its release page has binaries), \
         then run `cargo xtask setup` again"
    );
    if !LLVM.contains(&llvm) {
        return Err(Error::Unfit(format!(
            "{} has LLVM {llvm}, which bpf-linker {LINKER} does not know: name another compiler in DSHIELD_EBPF_RUSTC, \
             or {elsewhere}",
            rustc.display()
        )));
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if !prefix.join("include/llvm-c").is_dir() {
        let package = format!("llvm-{llvm}-dev");
        say("LLVM", &format!("missing (bpf-linker is built on it): installing {package}"));
        apt::install(&[&package]).map_err(|error| Error::Unfit(format!("{error}\n  otherwise: {elsewhere}")))?;
    }
    say("LLVM", &prefix.display().to_string());
    say("bpf-linker", &format!("building {LINKER} with `cargo install`, about a minute"));
    let feature = format!("llvm-{llvm}");
    let options = ["--locked", "--force", "--no-default-features", "--features", &feature];
    // Not in the workspace: the alias and the lints there are not meant for it.
    let install = ["install", "bpf-linker", "--version", LINKER];
    shell::run(cargo::cargo().current_dir("/").env("LLVM_PREFIX", &prefix).args(install).args(options))?;
    match build_object::find_linker() {
        Some(path) => say("bpf-linker", &format!("installed: {}", path.display())),
        None => return Err(Error::Unfit(format!("cargo's bin folder is not where it should be: {elsewhere}"))),
    }
    Ok(())
}

/// `cargo fmt` and `cargo clippy`, which rustup's minimal profile leaves out.
fn components() -> Result<(), Error> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let version = || shell::ask(cargo::cargo().args([command, "--version"]));
        if let Some(version) = version() {
            say(component, &version);
            continue;
        }
        say(component, "missing (tests check the sources with it): trying `rustup component add`");
        let added = shell::run(Command::new("rustup").args(["component", "add", component]));
        match (added, version()) {
            (_, Some(version)) => say(component, &format!("installed: {version}")),
            (Err(error), None) => {
                return Err(Error::Unfit(format!("`cargo {command}` is missing and could not be added: {error}")));
            }
            (Ok(()), None) => return Err(Error::Unfit(format!("`cargo {command}` is missing even with {component}"))),
        }
    }
    Ok(())
}

fn say(name: &str, found: &str) {
    eprintln!("setup: {name:<15} {found}");
}

fn there(path: &str) -> Option<String> {
    Path::new(path).exists().then(|| path.to_owned())
}

/// A program's place in PATH or in the folders that only root's PATH has.
fn in_path(program: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file()).map(|file| file.display().to_string())
}

fn at_least(version: &str, least: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        text.trim().split(['-', '+']).next()?.split('.').map(|part| part.parse().ok()).collect()
    };
    matches!((numbers(version), numbers(least)), (Some(version), Some(least)) if version >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_linker_does_not_do_and_a_newer_one_does() {
        assert!(at_least("0.13.0", LINKER));
        assert!(at_least("0.14.2\n", LINKER));
        assert!(at_least("1.0.0-rc.1", LINKER));
        assert!(!at_least("0.9.15", LINKER));
        assert!(!at_least("unknown", LINKER));
    }
}

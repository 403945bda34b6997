//! How the kernel objects are built: one routine for the agent's `build.rs` and for `cargo xtask`.
//!
//! Std only, because both include it by path. The objects must come out byte-identical wherever they
//! are built, so every absolute path is remapped; [`strip`](../dshield-agent/build.rs) removes DWARF.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The objects, by file name.
pub const OBJECTS: [&str; 3] = ["dshield-cgroup", "dshield-netns", "dshield-lsm"];

const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can build for BPF.
#[derive(Debug)]
pub struct Toolchain {
    /// The rustc to use.
    pub rustc: PathBuf,
    /// The cargo that goes with it.
    pub cargo: PathBuf,
    /// For the reader: where it was found.
    pub origin: String,
}

/// Finds a rustc whose sysroot holds the sources of `core`, and a `bpf-linker`.
///
/// # Errors
/// One sentence that names `cargo xtask setup`.
pub fn find_toolchain() -> Result<Toolchain, String> {
    let advice = "run `cargo xtask setup`, which installs what is missing";
    let Some((rustc, origin)) = find_rustc() else {
        return Err(format!("no Rust compiler with the sources of `core` for the kernel programs: {advice}"));
    };
    if find_linker().is_none() {
        return Err(format!("`bpf-linker` is not in PATH or cargo's bin folder: {advice}"));
    }
    // A rustup toolchain's own cargo knows the layout of its sources. A distribution's cargo may be years
    // older than its rustc-web, so beside that the cargo that runs us is used.
    let beside = rustc.with_file_name("cargo");
    let own = beside.exists() && !beside.starts_with("/usr/bin");
    let cargo = if own { beside } else { env::var_os("CARGO").map_or("cargo".into(), PathBuf::from) };
    Ok(Toolchain { rustc, cargo, origin })
}

/// The compiler and where it was found: `DSHIELD_EBPF_RUSTC`, or else the first that has the sources of `core`
/// of Debian's `rustc-web`, rustup's default toolchain and rustup's nightly.
pub fn find_rustc() -> Option<(PathBuf, String)> {
    let mut candidates = Vec::new();
    if let Some(path) = env::var_os("DSHIELD_EBPF_RUSTC") {
        candidates.push((PathBuf::from(path), "DSHIELD_EBPF_RUSTC"));
    } else {
        candidates.push((PathBuf::from("/usr/bin/rustc"), "Debian's rustc-web"));
        for (arguments, origin) in [
            (["which", "rustc"].as_slice(), "rustup's default toolchain"),
            (["which", "--toolchain", "nightly", "rustc"].as_slice(), "rustup's nightly"),
        ] {
            if let Some(path) = output(Command::new("rustup").args(arguments)) {
                candidates.push((PathBuf::from(path), origin));
            }
        }
    }
    candidates.into_iter().find(|(rustc, _)| has_sources(rustc)).map(|(rustc, origin)| (rustc, origin.to_owned()))
}

/// `bpf-linker` in PATH or in cargo's bin folder.
pub fn find_linker() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    folders.extend(cargo_home().map(|home| home.join("bin")));
    folders.into_iter().map(|folder| folder.join("bpf-linker")).find(|path| path.is_file())
}

/// Builds the objects from `workspace` (the repository's root) below `target_dir`; returns their paths.
///
/// # Errors
/// The compiler's own output goes to stderr; the error says what was run.
pub fn build(workspace: &Path, target_dir: &Path, toolchain: &Toolchain) -> Result<Vec<PathBuf>, String> {
    let cargo_home = cargo_home().ok_or("neither CARGO_HOME nor HOME is set")?;
    let sysroot = output(Command::new(&toolchain.rustc).args(["--print", "sysroot"]))
        .ok_or_else(|| format!("{} does not run", toolchain.rustc.display()))?;
    let mut flags = vec!["-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
    for (from, to) in [
        (workspace.display().to_string(), "/dshield"),
        (cargo_home.display().to_string(), "/cargo"),
        (sysroot.clone() + "/lib/rustlib/src/rust", "/rust"),
        (sysroot, "/rust"),
    ] {
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    let linker = find_linker().ok_or("`bpf-linker` is not in PATH or cargo's bin folder")?;
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(workspace.join("dshield-ebpf"))
        .args(["build", "--release", "--locked", "--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    // What cargo and clippy set for the build they run us from is not meant for this one.
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "CARGO_INCREMENTAL",
    ] {
        command.env_remove(name);
    }
    let status = command.status().map_err(|error| format!("{}: {error}", toolchain.cargo.display()))?;
    if !status.success() {
        return Err(format!("building the kernel programs with {} failed ({status})", toolchain.origin));
    }
    Ok(OBJECTS.iter().map(|name| target_dir.join(TARGET).join("release").join(name)).collect())
}

fn has_sources(rustc: &Path) -> bool {
    output(Command::new(rustc).args(["--print", "sysroot"]))
        .is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

/// Where cargo keeps what it downloads.
pub fn cargo_home() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

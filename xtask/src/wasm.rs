//! `cargo xtask wasm`: the verifier's sources flow in; out flow `target/wasm/dshield_verify.wasm` and the script that
//! loads it. What it is tested with flows from a native build of the same judge.
use crate::{
    apt, build_object,
    cargo::{self, cargo},
    shell::{self, Error},
};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Longest that the build may take. It takes a few minutes where the standard library is built too.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How this machine can build for browsers.
#[derive(Debug)]
enum Way {
    /// The toolchain that runs us has the target's standard library (`rustup target add`).
    Installed,
    /// A rustc with the sources of the standard library builds that first.
    FromSources {
        toolchain: build_object::Toolchain,
        /// Where the toolchain brings none: LLVM's.
        linker: Option<PathBuf>,
    },
}

/// Why this machine cannot.
enum Lacks {
    /// A linker, which this package of Debian brings.
    Linker(String),
    /// Something else; a sentence.
    Other(String),
}

/// Builds, and says where the module is.
pub fn run() -> Result<(), Error> {
    let module = build(&find().map_err(|lacks| Error::Unfit(lacks.to_string()))?)?;
    println!("{}", module.display());
    Ok(())
}

/// The step of `cargo xtask test`: what this machine cannot do is a line in the file `skips`.
pub fn step(skips: &Path) -> Result<(), Error> {
    let skip = |why: &str| {
        eprintln!("skipped: {why}");
        let mut file = fs::OpenOptions::new().append(true).open(skips).map_err(Error::file(skips))?;
        writeln!(file, "verifier for browsers: {why}").map_err(Error::file(skips))
    };
    let way = match find() {
        Ok(way) => way,
        Err(lacks) => return skip(&lacks.to_string()),
    };
    let module = build(&way)?;
    if shell::ask(Command::new("node").arg("--version")).is_none() {
        return skip("it is built, and cannot be run: node is not in PATH");
    }
    let cases = module.with_file_name("cases");
    let fixture = cargo::target()?.join("debug/examples/browser-fixture");
    shell::run(Command::new(fixture).arg(&cases))?;
    let test = cargo::workspace().join("dshield-verify/wasm/tests/verify.mjs");
    shell::run_within(Command::new("node").arg(test).arg(&module).arg(&cases), Duration::from_secs(120))
}

/// For `cargo xtask setup`: what is there, after installing what is missing.
pub fn prepare() -> String {
    let installed = match find() {
        Err(Lacks::Linker(package)) => {
            eprintln!("setup: the linker for browsers is missing: installing {package}");
            apt::install(&[&package]).err()
        }
        _ => None,
    };
    let without = |why: &dyn std::fmt::Display| format!("not there, so the verifier for browsers is not built: {why}");
    match (find(), installed) {
        (Ok(way), _) => way.to_string(),
        (Err(_), Some(error)) => without(&error),
        (Err(lacks), None) => without(&lacks),
    }
}

fn find() -> Result<Way, Lacks> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Some(folder) = target_libraries(Command::new(rustc).args(["--target", TARGET]))
        && fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
    {
        return Ok(Way::Installed);
    }
    let toolchain = build_object::find_toolchain().map_err(Lacks::Other)?;
    let own = target_libraries(&mut Command::new(&toolchain.rustc));
    if own.is_some_and(|libraries| libraries.with_file_name("bin").join("rust-lld").is_file()) {
        return Ok(Way::FromSources { toolchain, linker: None });
    }
    let llvm = cargo::llvm_of(&toolchain.rustc).map_err(|error| Lacks::Other(error.to_string()))?;
    // Of the same version: an older one may not understand the compiler's objects.
    let linker = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/wasm-ld"));
    if !linker.is_file() {
        return Err(Lacks::Linker(format!("lld-{llvm}")));
    }
    Ok(Way::FromSources { toolchain, linker: Some(linker) })
}

/// Where a rustc keeps its libraries for a target, its own by default; whether they are there or not.
fn target_libraries(rustc: &mut Command) -> Option<PathBuf> {
    shell::ask(rustc.current_dir(cargo::workspace()).args(["--print", "target-libdir"])).map(PathBuf::from)
}

fn build(way: &Way) -> Result<PathBuf, Error> {
    eprintln!("building with {way}");
    let started = Instant::now();
    let folder = cargo::target()?.join("wasm");
    let mut command = match way {
        Way::Installed => {
            let mut command = cargo();
            command.arg("rustc");
            command
        }
        Way::FromSources { toolchain, linker } => {
            let mut command = cargo::that(&toolchain.cargo);
            command.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
            command.arg("rustc").arg("-Zbuild-std=std,panic_abort");
            if let Some(linker) = linker {
                command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            }
            command
        }
    };
    command.args(["--package", "dshield-verify-wasm", "--lib", "--crate-type", "cdylib"]);
    command.args(["--profile", "browser", "--locked", "--target", TARGET, "--target-dir"]).arg(folder.join("build"));
    command.env("CARGO_ENCODED_RUSTFLAGS", remapped(way)?);
    // What was set for the build that runs us is not meant for this one.
    for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_INCREMENTAL"] {
        command.env_remove(name);
    }
    shell::run_within(&mut command, DEADLINE)?;
    let module = folder.join("dshield_verify.wasm");
    copy(&folder.join("build").join(TARGET).join("browser/dshield_verify_wasm.wasm"), &module)?;
    copy(&cargo::workspace().join("dshield-verify/wasm/dshield-verify.mjs"), &folder.join("dshield-verify.mjs"))?;
    let size = fs::metadata(&module).map_err(Error::file(&module))?.len();
    eprintln!("{}: {} KiB, after {:.0} s", module.display(), size / 1024, started.elapsed().as_secs_f64());
    Ok(module)
}

/// Flags that keep this machine's folders out of the module, where panics name source files.
fn remapped(way: &Way) -> Result<String, Error> {
    let home = build_object::cargo_home().ok_or_else(|| Error::Unfit("neither CARGO_HOME nor HOME is set".into()))?;
    let mut folders = vec![(cargo::workspace(), "/dshield"), (home.clone(), "/cargo")];
    // Named after where the machine gets crates from. Where several match, the last counts.
    let sources = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    let mut registries: Vec<_> = sources.map(|folder| folder.path()).collect();
    registries.sort();
    folders.extend(registries.into_iter().map(|folder| (folder, "/cargo/registry")));
    if let Way::FromSources { toolchain, .. } = way {
        let sysroot = shell::read(Command::new(&toolchain.rustc).args(["--print", "sysroot"]))?;
        folders.push((Path::new(&sysroot).join("lib/rustlib/src/rust"), "/rust"));
    }
    let flags = folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    Ok(flags.collect::<Vec<_>>().join("\u{1f}"))
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(|_| ()).map_err(Error::file(from))
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Installed => write!(f, "this toolchain's {TARGET}"),
            Self::FromSources { toolchain, linker } => {
                write!(f, "{} ({}) and its standard library's sources", toolchain.origin, toolchain.rustc.display())?;
                linker.as_ref().map_or(Ok(()), |linker| write!(f, ", linked by {}", linker.display()))
            }
        }
    }
}

impl std::fmt::Display for Lacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Linker(package) => write!(f, "no linker for {TARGET} (apt-get install {package}"),
            Self::Other(why) => write!(f, "no compiler for {TARGET} ({why}"),
        }?;
        write!(f, ", or `rustup target add {TARGET}`)")
    }
}

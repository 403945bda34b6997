//! Builds the kernel programs and leaves the objects, without DWARF, in `OUT_DIR` for embedding.
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

#[path = "../dshield-ebpf/build_object.rs"]
mod build_object;

fn main() {
    if let Err(error) = run() {
        println!("cargo::error={error}");
        process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("not run by cargo")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("not run by cargo")?);
    let workspace = manifest.parent().ok_or("the agent is not in a workspace")?;
    for path in [
        "dshield-ebpf/src",
        "dshield-ebpf/abi",
        "dshield-ebpf/Cargo.toml",
        "dshield-ebpf/Cargo.lock",
        "dshield-ebpf/build_object.rs",
        "dshield-common/src/abi.rs",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-env-changed=DSHIELD_EBPF_RUSTC");
    println!("cargo::rerun-if-changed=build.rs");
    let toolchain = build_object::find_toolchain()?;
    // Not below OUT_DIR: shared by debug, release and clippy builds of the agent.
    let target = ebpf_target(&out).ok_or("OUT_DIR is not below a target folder")?;
    for built in build_object::build(workspace, &target, &toolchain)? {
        let name = built.file_name().ok_or("an object without a name")?;
        strip(&built, &out.join(name))?;
    }
    Ok(())
}

/// `<target>/ebpf`, from `<target>/<profile>/build/<package>/out`.
fn ebpf_target(out: &Path) -> Option<PathBuf> {
    Some(out.ancestors().nth(4)?.join("ebpf"))
}

/// Copies an object without its DWARF sections; BTF, which the kernel reads, stays.
fn strip(from: &Path, to: &Path) -> Result<(), String> {
    let name = |error: &dyn std::fmt::Display| format!("{}: {error}", from.display());
    let data = fs::read(from).map_err(|error| name(&error))?;
    let mut elf = Builder::read(&*data).map_err(|error| name(&error))?;
    for section in &mut elf.sections {
        let is_dwarf = |prefix: &[u8]| section.name.as_slice().starts_with(prefix);
        section.delete = is_dwarf(b".debug_") || is_dwarf(b".rel.debug_");
    }
    // LLVM keeps section names and symbol names in one table; the writer wants one for each.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped).map_err(|error| name(&error))?;
    fs::write(to, stripped).map_err(|error| format!("{}: {error}", to.display()))
}

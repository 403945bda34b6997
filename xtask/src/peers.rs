//! `cargo xtask bench proxy --install`: the machine flows in, and has the proxies that ours is compared with.
use crate::{
    apt, cargo,
    shell::{self, Error},
};
use std::process::Command;

/// Debian's packages.
const PACKAGES: [&str; 5] = ["haproxy", "libnginx-mod-stream", "nftables", "nginx-light", "squid-openssl"];

/// Installs what is missing, as Debian does it: with services that may start, which the bench does not use; mitmproxy from PyPI into the target folder, where `cargo clean` removes it.
pub fn install() -> Result<(), Error> {
    let missing: Vec<&str> = PACKAGES.into_iter().filter(|package| !apt::is_installed(package)).collect();
    apt::install(&missing)?;
    // Where the bench, a program of target/release, looks for it.
    let folder = cargo::target()?.join("mitmproxy");
    if folder.join("bin/mitmdump").exists() {
        return Ok(());
    }
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    shell::run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "mitmproxy"]))
}

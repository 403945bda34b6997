//! Debian's kernels: a line such as 6.1 flows in; the unpacked package, fetched once and kept in the user's cache,
//! flows out. Nothing is installed, and apt's own lists stay as they are.
use crate::shell::{self, Error};
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

/// The package that depends on the newest kernel of a suite, in the flavour for virtual machines.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Where Debian keeps the keys that its archive is signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel line, and the suites of Debian that have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// As in `--kernel`.
    pub name: &'static str,
    suites: &'static [&'static str],
}

/// What is tested: Debian 12's kernel and Debian 13's, the same on either.
pub const LINES: [Line; 2] =
    [Line { name: "6.1", suites: &["bookworm"] }, Line { name: "6.12", suites: &["trixie", "bookworm-backports"] }];

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel itself.
    pub image: PathBuf,
    /// `lib/modules/<release>`, with a `modules.dep`.
    modules: PathBuf,
}

impl Kernel {
    /// From the cache, or fetched into it.
    pub fn get(line: Line) -> Result<Self, Error> {
        let cache = cache()?;
        if let Some(found) = newest(&cache, line) {
            return Self::read(&found);
        }
        let mut refused = Vec::new();
        for suite in line.suites {
            match fetch(line, suite, &cache) {
                Ok(folder) => return Self::read(&folder),
                Err(error) => refused.push(format!("{suite}: {error}")),
            }
        }
        Err(Error::Unfit(format!("no kernel {} could be fetched ({})", line.name, refused.join("; "))))
    }

    fn read(package: &Path) -> Result<Self, Error> {
        // Since Debian 13 below /usr.
        let folders = ["lib/modules", "usr/lib/modules"].map(|folder| package.join(folder));
        let modules = folders.iter().find_map(|folder| only_entry(folder, ""));
        match (only_entry(&package.join("boot"), "vmlinuz-"), modules) {
            (Some(image), Some(modules)) => Ok(Self { image, modules }),
            _ => {
                Err(Error::Unfit(format!("{} holds no kernel: remove it, and it is fetched again", package.display())))
            }
        }
    }

    /// The files of these modules and of those they need, each after what it needs. A module that is built into
    /// the kernel has none.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
        let read = |file: &str| {
            let path = self.modules.join(file);
            fs::read_to_string(&path).map_err(Error::file(&path))
        };
        let ordered = in_order(&read("modules.dep")?, &read("modules.builtin")?, names)
            .map_err(|name| Error::Unfit(format!("{} has no module {name}", self.modules.display())))?;
        Ok(ordered.into_iter().map(|file| self.modules.join(file)).collect())
    }
}

fn in_order<'a>(dependencies: &str, builtin: &str, names: &[&'a str]) -> Result<Vec<String>, &'a str> {
    let is = |file: &str, name: &str| {
        let file = file.rsplit('/').next().unwrap_or(file);
        file.split(".ko").next().unwrap_or(file).replace('-', "_") == name
    };
    let mut seen = BTreeSet::new();
    let mut ordered = Vec::new();
    for name in names {
        let files = dependencies.lines().filter_map(|line| Some(line.split_once(':')?.0));
        let found: Vec<_> = files.filter(|file| is(file, name)).map(str::to_owned).collect();
        if found.is_empty() && !builtin.lines().any(|file| is(file, name)) {
            return Err(name);
        }
        ordered.extend(closure(dependencies, found).into_iter().filter(|file| seen.insert(file.clone())));
    }
    Ok(ordered)
}

/// Files with what they need before them. The kernel's modules need each other in no circle.
fn closure(dependencies: &str, files: Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    for file in files {
        let needs = dependencies.lines().find_map(|line| line.strip_prefix(&file)?.strip_prefix(':'));
        let needs = needs.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        all.extend(closure(dependencies, needs));
        all.push(file);
    }
    all
}

fn cache() -> Result<PathBuf, Error> {
    let given = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let root = given.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let root = root.ok_or_else(|| Error::Unfit("neither XDG_CACHE_HOME nor HOME says where a cache may be".into()))?;
    let cache = root.join("dshield/kernels");
    fs::create_dir_all(&cache).map_err(Error::file(&cache))?;
    Ok(cache)
}

/// The package of this line that was fetched last.
fn newest(cache: &Path, line: Line) -> Option<PathBuf> {
    let folders = fs::read_dir(cache).ok()?.flatten();
    let of_line = folders.filter(|folder| is_of(&folder.file_name().to_string_lossy(), line));
    of_line.max_by_key(|folder| folder.metadata().and_then(|meta| meta.modified()).ok()).map(|folder| folder.path())
}

fn is_of(package: &str, line: Line) -> bool {
    let version = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(line.name));
    version.is_some_and(|rest| rest.starts_with('.')) && package.ends_with("-cloud-amd64")
}

/// Fetches the suite's kernel and unpacks it; returns its folder in the cache.
fn fetch(line: Line, suite: &str, cache: &Path) -> Result<PathBuf, Error> {
    let scratch = cache.join(format!("partial-{}", process::id()));
    let fetched = fetch_into(line, suite, &scratch).and_then(|(package, unpacked)| {
        let folder = cache.join(package);
        fs::rename(&unpacked, &folder).map_err(Error::file(&folder))?;
        Ok(folder)
    });
    fs::remove_dir_all(&scratch).map_err(Error::file(&scratch))?;
    fetched
}

fn fetch_into(line: Line, suite: &str, scratch: &Path) -> Result<(String, PathBuf), Error> {
    for folder in ["lists/partial", "archives/partial", "unpacked"] {
        let folder = scratch.join(folder);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    }
    let configuration = scratch.join("apt.conf");
    let write = |path: &Path, text: String| fs::write(path, text).map_err(Error::file(path));
    write(&scratch.join("sources.list"), source(suite)?)?;
    write(&configuration, private(scratch))?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-c").arg(&configuration).current_dir(scratch);
        command
    };
    eprintln!("vm: fetching Debian's kernel {} from {suite}", line.name);
    said(apt("apt-get").args(["-q", "update"]))?;
    let about = said(apt("apt-cache").args(["show", METAPACKAGE]))?;
    let package = dependency(&about)
        .filter(|package| is_of(package, line))
        .ok_or_else(|| Error::Unfit(format!("its {METAPACKAGE} is not a {}", line.name)))?;
    said(apt("apt-get").args(["-q", "download", &package]))?;
    let archive = only_entry(scratch, "linux-image-")
        .ok_or_else(|| Error::Unfit(format!("apt-get download left no file of {package}")))?;
    let unpacked = scratch.join("unpacked");
    said(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&unpacked))?;
    let kernel = Kernel::read(&unpacked)?;
    // The package has it made when it is installed. busybox looks below lib only.
    let base = kernel.modules.ancestors().nth(3).unwrap_or(&unpacked);
    let release = kernel.modules.file_name().unwrap_or_default();
    said(Command::new("busybox").args(["depmod", "-b"]).arg(base).arg(release))?;
    Ok((package, unpacked))
}

/// The machine's own Debian mirror with another suite.
fn source(suite: &str) -> Result<String, Error> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let targets = shell::ask(&mut targets).unwrap_or_default();
    // Not the security archive, which has other suites.
    let mirror = targets.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    let mirror = mirror.ok_or_else(|| Error::Unfit("this machine's apt sources name no mirror of Debian".into()))?;
    let signed = if Path::new(KEYRING).exists() { format!(" signed-by={KEYRING}") } else { String::new() };
    Ok(format!("deb [arch=amd64{signed}] {mirror} {suite} main\n"))
}

/// Makes apt keep everything of its own in `scratch`, and run none of the machine's hooks.
fn private(scratch: &Path) -> String {
    let scratch = scratch.display();
    format!(
        "Dir::Etc::sourcelist \"{scratch}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::lists \"{scratch}/lists\";\nDir::Cache::archives \"{scratch}/archives\";\n\
         Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"1\";\nAcquire::http::Timeout \"30\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         #clear APT::Update;\n#clear DPkg::Post-Invoke;\n"
    )
}

/// The kernel in `Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)`.
fn dependency(about: &str) -> Option<String> {
    let depends = about.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let package = depends.split([' ', ',']).find(|word| word.starts_with("linux-image-"))?;
    Some(package.to_owned())
}

/// What a command prints on stdout, or an error with what it complained about.
fn said(command: &mut Command) -> Result<String, Error> {
    let shown = shell::show(command);
    let output = command.stdin(Stdio::null()).output().map_err(|cause| Error::Start { command: shown, cause })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let why: Vec<_> = complaint.lines().filter(|line| !line.starts_with("W: ")).map(str::trim).collect();
    Err(Error::Unfit(format!("{}: {}", command.get_program().to_string_lossy(), why.join(" "))))
}

fn only_entry(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_of_its_own_line_only() {
        let [old, new] = LINES;
        assert!(is_of("linux-image-6.1.0-50-cloud-amd64", old));
        assert!(!is_of("linux-image-6.12.107+deb13-cloud-amd64", old));
        assert!(is_of("linux-image-6.12.107+deb13-cloud-amd64", new));
        assert!(!is_of("linux-image-6.1.0-50-amd64", old));
    }

    #[test]
    fn the_metapackage_names_the_kernel() {
        let about = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";
        assert_eq!(dependency(about).as_deref(), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(dependency("Package: x\n"), None);
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let dependencies = "a/sctp.ko.xz: a/tunnel.ko.xz a/crc.ko.xz\na/tunnel.ko.xz: a/crc.ko.xz\na/crc.ko.xz:\n";
        let builtin = "kernel/net/af-packet.ko\n";
        let ordered = in_order(dependencies, builtin, &["sctp", "crc", "af_packet"]);
        assert_eq!(ordered.unwrap(), ["a/crc.ko.xz", "a/tunnel.ko.xz", "a/sctp.ko.xz"]);
        assert_eq!(in_order(dependencies, builtin, &["absent"]), Err("absent"));
    }
}

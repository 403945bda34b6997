//! What a service mounts: `volumes`, `configs` and `secrets`.
use std::collections::BTreeSet;

use super::lint::Findings;
use super::service::Context;
use super::yaml::Node;

/// What a folder of the machine can be used for, by path. `/var/run` is `/run` on the machine.
const REACHES: &[(&str, &str)] = &[
    ("/run/dstack.sock", "which makes quotes over anything"),
    ("/run/dstack", "whose sockets make quotes over anything"),
    ("/run/tappd.sock", "which makes quotes over anything"),
    ("/run/docker.sock", "with which it can start a privileged container"),
    ("/run/containerd", "with whose socket it can start a privileged container"),
    ("/dev/tdx_guest", "which makes quotes over anything"),
    ("/sys/kernel/config/tsm", "which makes quotes over anything"),
    ("/sys/fs/bpf", "where D-Shield's programs are pinned"),
    ("/sys/fs/cgroup", "where D-Shield's programs are attached"),
    ("/proc", "which has the files of every process"),
];

/// Files of the machine that say nothing, as long as they are only read.
const TO_READ: &[&str] = &["/etc/localtime", "/etc/timezone"];

/// Folders of the machine that D-Shield works on, each mounted where it is.
const FOR_DSHIELD: &[&str] = &["/dev", "/lib/modules", "/proc", "/run", "/sys"];

/// Where D-Shield may have its data. Elsewhere a mount could replace its program.
const DATA_OF_DSHIELD: &[&str] = &["/etc/dshield", "/run", "/srv", "/var/lib/dshield"];

/// One entry of `volumes`.
struct Mount<'a> {
    source: Source<'a>,
    target: &'a str,
    read_only: bool,
}

enum Source<'a> {
    /// A path of the machine.
    Path(&'a str),
    /// A volume by name.
    Named(&'a str),
    /// Nothing that anybody else has: an anonymous volume, a tmpfs.
    Own,
}

/// The named volumes in a service's `volumes`.
pub(super) fn named_volumes(volumes: &Node) -> BTreeSet<String> {
    let mounts = volumes.items().unwrap_or_default().iter().filter_map(|item| read(item).ok());
    mounts
        .filter_map(|mount| if let Source::Named(name) = mount.source { Some(name.to_owned()) } else { None })
        .collect()
}

/// Looks at a service's `volumes`.
pub(super) fn lint(context: &Context<'_>, volumes: &Node, found: &mut Findings) {
    let Some(items) = volumes.items() else { return found.add(Some(context.name), "volumes", "is not a list") };
    for (at, item) in items.iter().enumerate() {
        let wrong = match read(item) {
            Err(why) => Some(why),
            Ok(mount) if context.is_dshield => of_dshield(&mount, context),
            Ok(mount) => of_another(&mount, context),
        };
        if let Some(sentence) = wrong {
            found.add(Some(context.name), format!("volumes[{at}]"), sentence);
        }
    }
}

fn of_another(mount: &Mount<'_>, context: &Context<'_>) -> Option<String> {
    match mount.source {
        Source::Own => None,
        Source::Named(name) if context.volumes.are_its_own(name) => {
            Some(format!("{name} is D-Shield's own volume; use another one"))
        }
        Source::Named(name) => undeclared(name, context),
        Source::Path(path) => {
            let Some(clean) = cleaned(path) else {
                return Some(format!(
                    "{path} is no plain absolute path, so nothing tells what is there; use a named volume"
                ));
            };
            if let Some((reached, why)) = REACHES.iter().find(|(reached, _)| overlaps(&clean, reached)) {
                return Some(format!("{path} reaches {reached}, {why}; only D-Shield may"));
            }
            let harmless = mount.read_only && TO_READ.contains(&&*clean);
            (!harmless)
                .then(|| format!("{path} is the machine's, and what is there is not measured; use a named volume"))
        }
    }
}

fn of_dshield(mount: &Mount<'_>, context: &Context<'_>) -> Option<String> {
    let target = cleaned(mount.target);
    let data = |target: &Option<String>| {
        let target = target.as_ref().filter(|target| DATA_OF_DSHIELD.iter().any(|folder| is_below(target, folder)));
        target.is_none().then(|| {
            let places = DATA_OF_DSHIELD.join(", ");
            format!("{} may be where D-Shield's program is; mount it below one of {places}", mount.target)
        })
    };
    match mount.source {
        Source::Own => data(&target),
        Source::Named(name) => undeclared(name, context).or_else(|| data(&target)),
        Source::Path(path) => {
            let source = cleaned(path).filter(|source| FOR_DSHIELD.iter().any(|folder| is_below(source, folder)));
            let same = source.is_some() && source == target;
            (!same).then(|| {
                format!(
                    "{path} on {} is not what D-Shield works with: of the machine only {}, each where it is; give files as configs",
                    mount.target,
                    FOR_DSHIELD.join(", ")
                )
            })
        }
    }
}

fn undeclared(name: &str, context: &Context<'_>) -> Option<String> {
    (!context.volumes.has(name)).then(|| format!("the volume {name} is not declared below volumes"))
}

/// Whether mounting `path` shows `reached`, or something in it.
fn overlaps(path: &str, reached: &str) -> bool {
    is_below(path, reached) || is_below(reached, path)
        // The link /var/run leads there.
        || path == "/var"
}

fn is_below(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An absolute path without detours; none where it is relative, or goes up.
fn cleaned(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return None;
    }
    let clean = format!("/{}", parts.join("/"));
    Some(match clean.strip_prefix("/var/run") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("/run{rest}"),
        _ => clean,
    })
}

fn read(item: &Node) -> Result<Mount<'_>, String> {
    match item {
        Node::Scalar { text, .. } => short(text),
        Node::Map(entries) => long(item, entries),
        Node::List(_) => Err("is neither a text nor a mapping".to_owned()),
    }
}

/// `[SOURCE:]TARGET[:MODE]`.
fn short(text: &str) -> Result<Mount<'_>, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(format!("{text:?} has too many colons")),
    };
    if !target.starts_with('/') {
        return Err(format!("{text:?} is not on an absolute path of the container"));
    }
    if let Some(option) = mode.split(',').find(|one| !matches!(*one, "" | "ro" | "rw" | "z" | "Z" | "nocopy")) {
        return Err(format!("the option {option:?} is not known to this lint"));
    }
    let source = match source.chars().next() {
        None if parts.len() > 1 => return Err(format!("{text:?} has an empty part")),
        None => Source::Own,
        Some('/' | '.' | '~' | '\\') => Source::Path(source),
        Some(_) => named(source)?,
    };
    Ok(Mount { source, target, read_only: mode.split(',').next_back() == Some("ro") })
}

/// What docker takes for a volume's name. A single letter is a drive of Windows to docker compose, and so a path.
fn named(name: &str) -> Result<Source<'_>, String> {
    let of_name = |one: char| one.is_ascii_alphanumeric() || matches!(one, '_' | '.' | '-');
    if name.len() > 1 && name.starts_with(|one: char| one.is_ascii_alphanumeric()) && name.chars().all(of_name) {
        Ok(Source::Named(name))
    } else {
        Err(format!("{name:?} is no name of a volume"))
    }
}

/// `type`, `source`, `target` and more.
fn long<'a>(item: &'a Node, entries: &'a [(String, Node)]) -> Result<Mount<'a>, String> {
    let known: &[(&str, &[&str])] = &[
        ("type", &[]),
        ("source", &[]),
        ("target", &[]),
        ("read_only", &[]),
        ("consistency", &[]),
        ("bind", &["create_host_path", "selinux"]),
        ("volume", &["labels", "nocopy", "subpath"]),
        ("tmpfs", &["mode", "size"]),
    ];
    for (key, value) in entries {
        let Some((_, within)) = known.iter().find(|(one, _)| one == key) else {
            return Err(format!("{key} is not known to this lint"));
        };
        let within_it = if let Node::Map(within_it) = value { within_it.as_slice() } else { &[] };
        if let Some((other, _)) = within_it.iter().find(|(one, _)| !within.contains(&&**one)) {
            return Err(format!("{key}.{other} is not known to this lint"));
        }
    }
    let text = |key: &str| item.get(key).and_then(Node::text);
    let target = text("target").filter(|target| target.starts_with('/'));
    let target = target.ok_or("has no target that is an absolute path of the container")?;
    let source = match (text("type"), text("source")) {
        (Some("bind"), Some(source)) => Source::Path(source),
        (Some("volume"), Some(source)) => named(source)?,
        (Some("volume" | "tmpfs"), None) => Source::Own,
        (kind, _) => {
            return Err(format!("the type {:?} with this source is not known to this lint", kind.unwrap_or("")));
        }
    };
    Ok(Mount { source, target, read_only: text("read_only") == Some("true") })
}

/// Looks at a service's `configs` or `secrets`. What they hold is looked at where they are declared; here it matters where
/// they are put in D-Shield's container.
pub(super) fn files(context: &Context<'_>, key: &str, value: &Node, found: &mut Findings) {
    let Some(items) = value.items() else { return found.add(Some(context.name), key, "is not a list") };
    for (at, item) in items.iter().enumerate().filter(|_| context.is_dshield) {
        let target = match (key, item) {
            ("secrets", Node::Scalar { .. }) => continue,
            (_, Node::Scalar { text, .. }) => format!("/{text}"),
            ("secrets", item) => {
                let target = item.get("target").and_then(Node::text).unwrap_or("its-name");
                if target.starts_with('/') { target.to_owned() } else { format!("/run/secrets/{target}") }
            }
            (_, item) => item.get("target").and_then(Node::text).unwrap_or("/").to_owned(),
        };
        let clean = cleaned(&target);
        if !clean.is_some_and(|clean| DATA_OF_DSHIELD.iter().any(|folder| is_below(&clean, folder))) {
            let sentence = format!("{target} may be where D-Shield's program is; give it a target below /etc/dshield");
            found.add(Some(context.name), format!("{key}[{at}]"), sentence);
        }
    }
}

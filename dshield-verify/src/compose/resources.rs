//! The top-level `volumes`, `networks`, `configs` and `secrets` of a compose file.
use std::collections::BTreeSet;

use super::lint::Findings;
use super::mounts;
use super::variables;
use super::yaml::Node;

/// The named volumes of a file.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    declared: BTreeSet<String>,
    /// Those that D-Shield mounts.
    its_own: BTreeSet<String>,
}

impl Volumes {
    /// Reads the names, and which of them the service that is D-Shield mounts.
    pub fn read(volumes: Option<&Node>, dshield: Option<&Node>, found: &mut Findings) -> Self {
        let declared = volumes.map_or(Some(&[][..]), Node::entries);
        if declared.is_none() {
            found.add(None, "volumes", "is not a mapping");
        }
        let declared = declared.unwrap_or_default().iter().map(|(name, _)| name.clone()).collect();
        let mounted = dshield.and_then(|service| service.get("volumes"));
        let its_own = mounted.map(mounts::named_volumes).unwrap_or_default();
        Self { declared, its_own }
    }

    /// Whether the file says what this volume is.
    pub fn has(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// Whether D-Shield mounts it.
    pub fn are_its_own(&self, name: &str) -> bool {
        self.its_own.contains(name)
    }
}

/// What may be said about one resource without looking further.
const HARMLESS: &[(&str, &[&str])] = &[
    ("volumes", &["labels"]),
    ("networks", &["attachable", "enable_ipv4", "enable_ipv6", "internal", "ipam", "labels"]),
    ("configs", &["content", "environment", "labels"]),
    ("secrets", &["environment", "labels"]),
];

/// Looks at all of them.
pub(super) fn lint(file: &Node, allowed_envs: &[String], found: &mut Findings) {
    for (kind, harmless) in HARMLESS {
        let Some(all) = file.get(kind) else { continue };
        let Some(all) = all.entries() else {
            // Of volumes that is said where they are read.
            if *kind != "volumes" {
                found.add(None, *kind, "is not a mapping");
            }
            continue;
        };
        for (name, resource) in all {
            let field = format!("{kind}.{name}");
            let Some(entries) = resource.entries() else {
                found.add(None, field, "is not a mapping");
                continue;
            };
            let entries = entries.iter().filter(|(key, _)| !key.starts_with("x-") && !harmless.contains(&&**key));
            for (key, value) in entries {
                let sentence = match variables::first(value) {
                    Some(variable) => Some(variables::sentence(&variable, allowed_envs)),
                    None => refused(kind, key, value).map(str::to_owned),
                };
                if let Some(sentence) = sentence {
                    found.add(None, format!("{field}.{key}"), sentence);
                }
            }
        }
    }
}

/// Why this may not be said about a resource of this kind.
fn refused(kind: &str, key: &str, value: &Node) -> Option<&'static str> {
    match (kind, key, value.text()) {
        (_, "external", Some("false")) => None,
        (_, "external", _) => Some("is made by somebody else, so nothing here says what it is; let the file make it"),
        ("volumes", "driver", Some("local")) | ("networks", "driver", Some("bridge")) => None,
        ("volumes" | "networks", "driver_opts", _) if value.is_empty() => None,
        ("volumes", "driver_opts", _) => Some("can bind any folder of the machine under a harmless name; leave it out"),
        ("volumes", "driver", _) => Some("may be any folder of the machine; use the driver local"),
        ("volumes", "name", _) => Some("may be the name of another volume, D-Shield's too; leave it out"),
        ("networks", "driver", _) => Some("may be the machine's own network; use the driver bridge"),
        ("networks", "name", Some("host" | "none" | "bridge")) => Some("is a network of the machine; leave it out"),
        ("networks" | "configs" | "secrets", "name", _) => None,
        ("configs" | "secrets", "file", _) => Some("mounts a file of the machine, which is not measured; write it out"),
        _ => Some("is not known to this lint"),
    }
}

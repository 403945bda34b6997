//! One service of a compose file: what it may say, and what only D-Shield may.
use super::lint::{Findings, pinned};
use super::mounts;
use super::resources::Volumes;
use super::variables;
use super::yaml::Node;

/// What is known about a service and its file.
pub(super) struct Context<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is D-Shield.
    pub is_dshield: bool,
    /// What `allowed_envs` has.
    pub allowed_envs: &'a [String],
    /// The file's named volumes.
    pub volumes: &'a Volumes,
}

/// Keys that give a container nothing outside itself, whatever they say; variables may decide them.
const HARMLESS: &[&str] = &[
    "attach",
    "cap_drop",
    "command",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "environment",
    "expose",
    "extra_hosts",
    "group_add",
    "healthcheck",
    "hostname",
    "init",
    "labels",
    "links",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "oom_kill_disable",
    "oom_score_adj",
    "pids_limit",
    "platform",
    "ports",
    "profiles",
    "read_only",
    "restart",
    "scale",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "working_dir",
];

/// Keys that give a container something of the machine, and why only D-Shield may have it.
const PRIVILEGES: &[(&str, &str)] = &[
    ("privileged", "a privileged container can take D-Shield's walls down"),
    ("cap_add", "more capabilities than a container has by default can take D-Shield's walls down"),
    ("devices", "a device may make quotes or reach the machine's memory"),
    ("device_cgroup_rules", "a device may make quotes or reach the machine's memory"),
    ("security_opt", "it takes protection away, or loads it from a file that is not measured"),
    ("pid", "with the processes of others it can reach into them"),
    ("network_mode", "with another's network it can act as that one, or take its walls down"),
    ("ipc", "with another's memory it can act as that one"),
    ("uts", "it can rename the machine"),
    ("userns_mode", "its root is the machine's root"),
    ("cgroup", "it sees the groups that D-Shield's programs are attached to"),
    ("cgroup_parent", "it may leave the group that D-Shield's programs are attached to"),
];

/// Keys that no service may have, and why.
const REFUSED: &[(&str, &str)] = &[
    ("build", "an image that is built on the machine is not pinned; name one by digest (image: …@sha256:…)"),
    ("extends", "takes in another file or service, which may not be measured; write the service out"),
    ("volumes_from", "takes the volumes of another container, D-Shield's too; name the volumes"),
    ("use_api_socket", "gives the container engine's socket, with which it can start a privileged container"),
    ("env_file", "reads a file that is not measured; write the variables out (environment)"),
    ("label_file", "reads a file that is not measured; write the labels out"),
    ("credential_spec", "reads a file that is not measured"),
    ("gpus", "gives devices, whose driver can reach the machine's memory"),
    ("runtime", "another runtime may give the container what this lint does not see"),
    ("provider", "runs a program of the machine"),
    ("pre_start", "runs another container, which this lint does not look at"),
];

/// Capabilities that docker gives a container anyway: to add them adds nothing.
const BY_DEFAULT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Looks at a service.
pub(super) fn lint(context: &Context<'_>, service: &Node, found: &mut Findings) {
    let name = Some(context.name);
    let is_name = |one: char| one.is_ascii_alphanumeric() || matches!(one, '.' | '_' | '-');
    if !context.name.chars().all(is_name) {
        found.add(None, "services", format!("{:?} is no name of a service", context.name));
    }
    let Node::Map(entries) = service else { return found.add(name, "service", "is not a mapping") };
    if service.get("image").is_none() && service.get("build").is_none() {
        found.add(name, "image", "is not there; name one by digest (…@sha256:…)");
    }
    for (key, value) in entries.iter().filter(|(key, _)| !key.starts_with("x-")) {
        let key = key.as_str();
        if context.is_dshield && ONLY_ITS_OWN.contains(&key) {
            its_own(context, key, value, found);
        } else if HARMLESS.contains(&key) {
        } else if let Some((_, why)) = REFUSED.iter().find(|(one, _)| *one == key) {
            found.add(name, key, *why);
        } else if let Some(variable) = variables::first(value) {
            found.add(name, key, variables::sentence(&variable, context.allowed_envs));
        } else if let Some((_, why)) = PRIVILEGES.iter().find(|(one, _)| *one == key) {
            if !context.is_dshield && !is_no_privilege(key, value) {
                found.add(name, key, format!("only D-Shield may have this: {why}"));
            }
        } else {
            looked_into(context, key, value, found);
        }
    }
}

/// Keys whose value must be looked at.
fn looked_into(context: &Context<'_>, key: &str, value: &Node, found: &mut Findings) {
    let name = Some(context.name);
    match key {
        "image" if value.text().and_then(pinned).is_some() => {}
        "image" => {
            let image = value.text().unwrap_or_default();
            let sentence = format!("{image:?} is not pinned, so any image may run; name it by digest (…@sha256:…)");
            found.add(name, key, sentence);
        }
        "volumes" => mounts::lint(context, value, found),
        "configs" | "secrets" => mounts::files(context, key, value, found),
        "logging" => {
            let driver = value.get("driver").map_or(Some("json-file"), Node::text);
            if !matches!(driver, Some("json-file" | "local" | "none" | "journald")) {
                let sentence =
                    "sends what the container writes over the network from outside of every wall; use json-file";
                found.add(name, key, sentence);
            }
        }
        "pull_policy" if value.text() != Some("build") => {}
        "networks" => unknown_in(value, key, &NETWORK_OF_SERVICE, context, found),
        "deploy" => deploy(context, value, found),
        "post_start" | "pre_stop" => {
            for (at, hook) in value.items().unwrap_or_default().iter().enumerate() {
                let field = format!("{key}[{at}]");
                let known = ["command", "environment", "privileged", "user", "working_dir"];
                unknown_keys(hook, &field, &known, context, found);
                if hook.get("privileged").is_some_and(|flag| !flag.is_false()) {
                    found.add(
                        name,
                        format!("{field}.privileged"),
                        "a privileged command can take D-Shield's walls down",
                    );
                }
            }
        }
        _ => found.add(name, key, "is not known to this lint"),
    }
}

/// What a service may say about a network that it joins.
const NETWORK_OF_SERVICE: [&str; 8] = [
    "aliases",
    "gw_priority",
    "interface_name",
    "ipv4_address",
    "ipv6_address",
    "link_local_ips",
    "mac_address",
    "priority",
];

fn unknown_in(value: &Node, field: &str, known: &[&str], context: &Context<'_>, found: &mut Findings) {
    for (key, value) in value.entries().unwrap_or_default() {
        unknown_keys(value, &format!("{field}.{key}"), known, context, found);
    }
}

fn unknown_keys(value: &Node, field: &str, known: &[&str], context: &Context<'_>, found: &mut Findings) {
    let Some(entries) = value.entries() else {
        return found.add(Some(context.name), field, "is not a mapping");
    };
    for (key, _) in entries.iter().filter(|(key, _)| !key.starts_with("x-") && !known.contains(&&**key)) {
        found.add(Some(context.name), format!("{field}.{key}"), "is not known to this lint");
    }
}

fn deploy(context: &Context<'_>, value: &Node, found: &mut Findings) {
    let known = [
        "endpoint_mode",
        "labels",
        "mode",
        "placement",
        "replicas",
        "resources",
        "restart_policy",
        "rollback_config",
        "update_config",
    ];
    unknown_keys(value, "deploy", &known, context, found);
    let Some(resources) = value.get("resources") else { return };
    unknown_keys(resources, "deploy.resources", &["limits", "reservations"], context, found);
    let bounds: &[(&str, &[&str])] =
        &[("limits", &["cpus", "memory", "pids"]), ("reservations", &["cpus", "devices", "memory"])];
    for (kind, known) in bounds {
        let Some(bound) = resources.get(kind) else { continue };
        unknown_keys(bound, &format!("deploy.resources.{kind}"), known, context, found);
        if bound.get("devices").is_some_and(|devices| !devices.is_empty()) {
            let field = format!("deploy.resources.{kind}.devices");
            found.add(Some(context.name), field, "gives devices, whose driver can reach the machine's memory");
        }
    }
}

/// Whether a key of [`PRIVILEGES`] says no more than its default.
fn is_no_privilege(key: &str, value: &Node) -> bool {
    let all = |good: fn(&str) -> bool| {
        value.items().is_some_and(|items| items.iter().all(|item| item.text().is_some_and(good)))
    };
    match key {
        "privileged" => value.is_false(),
        "cap_add" => all(|one| BY_DEFAULT.contains(&one.strip_prefix("CAP_").unwrap_or(one))),
        "devices" | "device_cgroup_rules" => value.is_empty(),
        "security_opt" => {
            all(|one| matches!(one, "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true"))
        }
        "network_mode" => matches!(value.text(), Some("bridge" | "none")),
        "ipc" => matches!(value.text(), Some("none" | "private")),
        "cgroup" => value.text() == Some("private"),
        _ => false,
    }
}

/// Keys that are harmless or unwatched elsewhere, and could make D-Shield's container run something that is not D-Shield.
const ONLY_ITS_OWN: &[&str] = &["command", "entrypoint", "environment", "healthcheck", "post_start", "pre_stop"];

fn its_own(context: &Context<'_>, key: &str, value: &Node, found: &mut Findings) {
    let name = Some(context.name);
    match key {
        "command" => match variables::first(value) {
            Some(variable) => found.add(name, key, variables::sentence(&variable, context.allowed_envs)),
            None => found.notes.push(format!(
                "service {}: D-Shield is started with the arguments {:?}",
                context.name,
                value.texts().join(" ")
            )),
        },
        "environment" => environment(context, value, found),
        _ => found.add(name, key, "runs another program with D-Shield's privileges than its image names; leave it out"),
    }
}

/// Secrets may come from outside; what changes how a program runs must not be there at all, and `DSHIELD_…` must be
/// written.
fn environment(context: &Context<'_>, value: &Node, found: &mut Findings) {
    let list = value.items().unwrap_or_default().iter().map(|item| {
        let text = item.text().unwrap_or_default();
        text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)))
    });
    let map = value.entries().unwrap_or_default().iter().map(|(name, value)| (&**name, value.text()));
    for (variable, value) in list.chain(map) {
        let field = format!("environment.{variable}");
        if variable.starts_with("DSHIELD_") || variable == "RUST_LOG" || variable == "RUST_BACKTRACE" {
            let from = value.map_or(Some(variable.to_owned()), variables::first_in);
            if let Some(from) = from {
                found.add(Some(context.name), field, variables::sentence(&from, context.allowed_envs));
            }
        } else if variables::steers(variable) || variables::first_in(variable).is_some() {
            found.add(Some(context.name), field, "changes what D-Shield's container runs or reads; leave it out");
        }
    }
}

#![allow(clippy::unwrap_used)]
use dshield_common::canonical::Sha256Digest;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{AppCompose, AppComposeFault, Expectations, Finding, Findings, lint};

const D: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
const E: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

/// The compose file of the documentation, with a service beside D-Shield. `WEB`, `DSHIELD` and `TOP` are where tests add.
const GOOD: &str = "\
# A function that summarises, and its cache.
services:
  dshield:
    image: registry.example/dshield@sha256:DDD
    privileged: true
    network_mode: host
    cgroup: host
    pid: host
    command: [\"run\", \"--config\", \"/etc/dshield/dshield.toml\"]
    environment:
      - ANTHROPIC_API_KEY
      - DSHIELD_LOG=info
    configs:
      - source: policy
        target: /etc/dshield/dshield.toml
    secrets: [token]
    volumes:
      - /var/run/dstack.sock:/var/run/dstack.sock
      - /sys/fs/bpf:/sys/fs/bpf
      - /sys/fs/cgroup:/sys/fs/cgroup
      - /sys/kernel/config/tsm:/sys/kernel/config/tsm
      - dshield-data:/var/lib/dshield
    devices: [/dev/tdx_guest]
    security_opt: [\"apparmor:unconfined\"]
    restart: unless-stopped
    DSHIELD
  web:
    image: registry.example:5000/a/web:1.2@sha256:EEE
    command: >
      serve --threads 4
      --port 80
    environment:
      GREETING: \"${GREETING:-hello}\"
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    security_opt: [\"no-new-privileges:true\"]
    ports: [\"8080:80\"]
    networks: { inner: { aliases: [cache] } }
    volumes:
      - cache:/var/cache
      - type: volume
        source: cache
        target: /again
        read_only: true
        volume: { nocopy: true }
      - type: tmpfs
        target: /tmp
        tmpfs: { size: 1000000 }
      - /etc/localtime:/etc/localtime:ro
      - /anonymous
    deploy:
      resources:
        limits: { cpus: 2, memory: 1g }
    healthcheck:
      test: [\"CMD\", \"/check\"]
    logging: { driver: json-file, options: { max-size: 10m } }
    labels: { a: b }
    post_start:
      - command: /warm-up
        privileged: false
    x-note: anything
    WEB
volumes:
  dshield-data: {}
  cache:
networks:
  inner: { internal: true }
configs:
  policy:
    content: |
      [policy]
      log_level = \"all\"
secrets:
  token: { environment: TOKEN }
x-note: { privileged: true }
TOP
";

fn compose(dshield: &str, web: &str, top: &str) -> String {
    let text = GOOD.replace("DDD", D).replace("EEE", E);
    text.replace("    DSHIELD\n", &indented(dshield)).replace("    WEB\n", &indented(web)).replace("TOP\n", top)
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("    {line}\n")).collect()
}

fn manifest(compose: &str) -> Value {
    json!({
        "manifest_version": 2, "name": "a", "runner": "docker-compose", "docker_compose_file": compose,
        "kms_enabled": true, "key_provider": "kms", "public_logs": false, "allowed_envs": ["CHOSEN", "GREETING", "TOKEN"],
    })
}

fn parse(text: &str) -> Result<AppCompose, AppComposeFault> {
    AppCompose::parse(text, &Sha256Digest::of(text.as_bytes()))
}

fn expecting_d() -> Expectations {
    Expectations { dshield_image: Some([0xdd; 32].into()), ..Expectations::default() }
}

fn found(compose: &str) -> Findings {
    lint(&parse(&manifest(compose).to_string()).unwrap(), &expecting_d())
}

#[track_caller]
fn only(found: Findings) -> Finding {
    assert_eq!(found.findings.len(), 1, "{:#?}", found.findings);
    found.findings.into_iter().next().unwrap()
}

#[test]
fn a_compose_file_where_only_dshield_is_privileged_passes() {
    let good = compose("", "", "");
    let found = found(&good);
    assert_eq!(found.findings, []);
    let shield = found.dshield.unwrap();
    assert_eq!((shield.service.as_str(), shield.digest.to_string().as_str()), ("dshield", D));
    let said = found.notes;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("with the arguments \"run --config /etc/dshield/dshield.toml\""), "{said:?}");
    assert!(said[1].starts_with("service web runs beside D-Shield, not under it"), "{said:?}");
}

#[test]
fn without_an_expected_digest_the_only_privileged_service_is_taken_for_dshield() {
    let app = parse(&manifest(&compose("", "", "")).to_string()).unwrap();
    let found = lint(&app, &Expectations::default());
    assert_eq!(found.findings, []);
    assert_eq!(found.dshield.unwrap().service, "dshield");
    assert!(found.notes[0].contains(&format!("compare its image registry.example/dshield@sha256:{D}")));
    let two = compose("", "privileged: true", "");
    let found = lint(&parse(&manifest(&two).to_string()).unwrap(), &Expectations::default());
    assert_eq!(found.dshield, None);
    assert!(found.findings[0].sentence.starts_with("dshield and web are both privileged"), "{:?}", found.findings);
    let none = two.replace("privileged: true", "init: true");
    let found = lint(&parse(&manifest(&none).to_string()).unwrap(), &Expectations::default());
    assert!(found.findings[0].to_string().starts_with("services: none is privileged"), "{:?}", found.findings);
}

/// Each is the good file and one line more or other; each has exactly one finding, of that field.
#[test]
fn whoever_could_get_around_dshield_is_found() {
    let web = [
        ("privileged: true", "privileged", "only D-Shield may have this: a privileged container"),
        ("privileged: \"true\"", "privileged", "only D-Shield may"),
        ("privileged: yes", "privileged", "only D-Shield may"),
        ("\"privil\\x65ged\": true", "privileged", "only D-Shield may"),
        ("privileged: ${CHOSEN}", "privileged", "the variable CHOSEN, which allowed_envs lets whoever deploys choose"),
        ("privileged: ${OTHER:-false}", "privileged", "the variable \"OTHER\", which the compose hash does not cover"),
        ("devices: [/dev/mem]", "devices", "only D-Shield may"),
        ("devices:\n  - \"/dev/tdx_guest:/dev/x\"", "devices", "may make quotes"),
        ("devices: [\"/dev/$$a\"]", "devices", "only D-Shield may"),
        ("device_cgroup_rules: [\"c 1:1 rwm\"]", "device_cgroup_rules", "only D-Shield may"),
        ("pid: host", "pid", "only D-Shield may"),
        ("pid: \"service:dshield\"", "pid", "reach into them"),
        ("network_mode: host", "network_mode", "only D-Shield may"),
        ("network_mode: \"container:dshield\"", "network_mode", "act as that one"),
        ("network_mode: \"service:dshield\"", "network_mode", "act as that one"),
        ("ipc: host", "ipc", "only D-Shield may"),
        ("uts: host", "uts", "only D-Shield may"),
        ("userns_mode: host", "userns_mode", "the machine's root"),
        ("cgroup: host", "cgroup", "only D-Shield may"),
        ("cgroup_parent: /elsewhere", "cgroup_parent", "may leave the group"),
        ("volumes_from: [dshield]", "volumes_from", "takes the volumes of another"),
        ("use_api_socket: true", "use_api_socket", "the container engine's socket"),
        ("build: .", "build", "is not pinned"),
        ("extends: { file: other.yaml, service: x }", "extends", "may not be measured"),
        ("env_file: .env", "env_file", "not measured"),
        ("label_file: labels", "label_file", "not measured"),
        ("gpus: all", "gpus", "devices"),
        ("runtime: sysbox-runc", "runtime", "another runtime"),
        ("credential_spec: { file: a.json }", "credential_spec", "not measured"),
        ("provider: { type: a }", "provider", "a program of the machine"),
        ("pre_start:\n  - command: x", "pre_start", "another container"),
        ("pre_stop:\n  - command: x\n    privileged: true", "pre_stop[0].privileged", "privileged command"),
        ("pull_policy: build", "pull_policy", "not known"),
        ("annotations: { a: b }", "annotations", "not known"),
        ("Privileged: true", "Privileged", "not known"),
        ("something_new: 1", "something_new", "not known"),
    ];
    for (line, field, part) in web {
        let one = only(found(&compose("", line, "")));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (Some("web"), field), "{line}: {one}");
        assert!(one.sentence.contains(part), "{line}: {one}");
    }
}

#[test]
fn what_replaces_a_harmless_value_is_found() {
    let image = format!("registry.example:5000/a/web:1.2@sha256:{E}");
    let changes = [
        (image.as_str(), "web:latest", "image", "\"web:latest\" is not pinned"),
        (&image, "web@sha256:abcd", "image", "is not pinned"),
        (&image, &format!("${{CHOSEN}}@sha256:{E}"), "image", "the variable CHOSEN"),
        (&image, "", "image", "is not pinned"),
        ("cap_add: [NET_BIND_SERVICE]", "cap_add: [CAP_SYS_ADMIN]", "cap_add", "only D-Shield may"),
        ("cap_add: [NET_BIND_SERVICE]", "cap_add: [CHOWN, ALL]", "cap_add", "only D-Shield may"),
        ("no-new-privileges:true", "seccomp:unconfined", "security_opt", "only D-Shield may"),
        ("no-new-privileges:true", "label:disable", "security_opt", "only D-Shield may"),
        ("no-new-privileges:true", "seccomp:./profile.json", "security_opt", "not measured"),
        ("privileged: false", "privileged: \"on\"", "post_start[0].privileged", "privileged command"),
        ("driver: json-file", "driver: syslog", "logging", "outside of every wall"),
        ("aliases: [cache]", "driver_opts: { a: b }", "networks.inner.driver_opts", "not known"),
        (
            "limits: { cpus: 2, memory: 1g }",
            "reservations: { devices: [{ driver: x }] }",
            "deploy.resources.reservations.devices",
            "devices",
        ),
        ("limits: { cpus: 2, memory: 1g }", "limits: { devices: all }", "deploy.resources.limits.devices", "not known"),
    ];
    for (from, to, field, part) in changes {
        let good = compose("", "", "");
        assert!(good.contains(from), "{from}");
        let found = found(&good.replace(from, to));
        let one = &found.findings[0];
        assert_eq!((one.service.as_deref(), one.field.as_str()), (Some("web"), field), "{to}: {one}");
        assert!(one.sentence.contains(part), "{to}: {one}");
        // A field that is both unknown and a device has two.
        assert!(found.findings.len() == 1 || field.ends_with("limits.devices"), "{:?}", found.findings);
    }
    let found = found(&compose("", "", "").replace(&format!("image: {image}"), "init: true"));
    assert!(only(found).sentence.contains("is not there"));
}

#[test]
fn no_service_but_dshield_mounts_what_is_the_machines() {
    let mounts = [
        ("/var/run/dstack.sock:/x", "reaches /run/dstack.sock"),
        ("/run/dstack.sock:/run/dstack.sock:ro", "reaches /run/dstack.sock"),
        ("/var/run/dstack/dstack.sock:/x", "reaches /run/dstack,"),
        ("/run/tappd.sock:/x", "reaches /run/tappd.sock"),
        ("/run/docker.sock:/x", "reaches /run/docker.sock"),
        ("/var/run/docker.sock:/x", "a privileged container"),
        ("/run/containerd/containerd.sock:/x", "reaches /run/containerd"),
        ("/dev/tdx_guest:/x", "reaches /dev/tdx_guest"),
        ("/dev:/x", "reaches /dev/tdx_guest"),
        ("/sys/kernel/config/tsm:/x", "reaches /sys/kernel/config/tsm"),
        ("/sys/kernel/config:/x", "reaches /sys/kernel/config/tsm"),
        ("/sys/fs/bpf/dshield:/x", "reaches /sys/fs/bpf"),
        ("/sys/fs/cgroup:/x", "reaches /sys/fs/cgroup"),
        ("/sys:/x:ro", "reaches /sys/"),
        ("/:/host", "/ reaches /run/dstack.sock"),
        ("/run:/x", "reaches /run/dstack.sock"),
        ("//run/./:/x", "reaches /run/dstack.sock"),
        ("/var/run:/x", "reaches /run/dstack.sock"),
        ("/var:/x", "reaches /run/dstack.sock"),
        ("/proc/1/root:/x", "reaches /proc"),
        ("/tmp/../run:/x", "no plain absolute path"),
        ("./data:/x", "no plain absolute path"),
        ("~/data:/x", "no plain absolute path"),
        ("/dstack:/x", "is the machine's"),
        ("/etc/localtime:/etc/localtime", "is the machine's"),
        ("dshield-data:/x", "D-Shield's own volume"),
        ("other:/x", "not declared"),
        ("c:/x", "no name of a volume"),
        ("cache:/x:rshared", "\"rshared\" is not known"),
        ("cache:/x:ro:ro", "too many colons"),
        ("${CHOSEN}:/x", "the variable CHOSEN"),
        ("cache:/x/$CHOSEN", "the variable CHOSEN"),
    ];
    for (mount, part) in mounts {
        let one = only(found(&compose("", "", "").replace("- /anonymous", &format!("- \"{mount}\""))));
        assert_eq!(one.service.as_deref(), Some("web"), "{mount}: {one}");
        assert!(one.field.starts_with("volumes") && one.sentence.contains(part), "{mount}: {one}");
    }
    let long = [
        ("{ type: bind, source: /run, target: /x }", "reaches /run/dstack.sock"),
        ("{ type: bind, source: data, target: /x }", "no plain absolute path"),
        ("{ type: volume, source: dshield-data, target: /x }", "D-Shield's own volume"),
        ("{ type: volume, source: /run, target: /x }", "no name of a volume"),
        ("{ type: cluster, source: a, target: /x }", "\"cluster\" with this source is not known"),
        ("{ type: image, source: a, target: /x }", "\"image\" with this source is not known"),
        (
            "{ type: bind, source: /etc/localtime, target: /x, bind: { propagation: shared } }",
            "bind.propagation is not known",
        ),
        ("{ source: cache, target: /x }", "is not known"),
        ("{ type: volume, source: cache }", "no target"),
        ("[cache]", "neither a text nor a mapping"),
    ];
    for (mount, part) in long {
        let one = only(found(&compose("", "", "").replace("- /anonymous", &format!("- {mount}"))));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (Some("web"), "volumes[4]"), "{mount}: {one}");
        assert!(one.sentence.contains(part), "{mount}: {one}");
    }
}

#[test]
fn dshields_own_container_runs_what_its_image_names() {
    let added = [
        ("entrypoint: [\"/bin/sh\", \"-c\", \"true\"]", "entrypoint", "runs another program"),
        ("healthcheck: { test: [CMD, \"/bin/sh\"] }", "healthcheck", "runs another program"),
        ("post_start:\n  - command: /bin/sh", "post_start", "runs another program"),
        ("build: .", "build", "is not pinned"),
        ("env_file: a", "env_file", "not measured"),
        ("cgroup_parent: $CHOSEN", "cgroup_parent", "the variable CHOSEN"),
        ("something_new: 1", "something_new", "not known"),
    ];
    for (line, field, part) in added {
        let one = only(found(&compose(line, "", "")));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (Some("dshield"), field), "{line}: {one}");
        assert!(one.sentence.contains(part), "{line}: {one}");
    }
    let changed = [
        ("\"run\"", "\"$CHOSEN\"", "command", "the variable CHOSEN"),
        ("- ANTHROPIC_API_KEY", "- LD_PRELOAD=/x.so", "environment.LD_PRELOAD", "changes what"),
        ("- ANTHROPIC_API_KEY", "- PATH", "environment.PATH", "changes what"),
        ("DSHIELD_LOG=info", "DSHIELD_LOG", "environment.DSHIELD_LOG", "the variable \"DSHIELD_LOG\""),
        ("DSHIELD_LOG=info", "DSHIELD_LOG=$CHOSEN", "environment.DSHIELD_LOG", "the variable CHOSEN"),
        (
            "- dshield-data:/var/lib/dshield",
            "- dshield-data:/usr/local/bin",
            "volumes[4]",
            "where D-Shield's program is",
        ),
        ("- dshield-data:/var/lib/dshield", "- /usr/local/bin", "volumes[4]", "where D-Shield's program is"),
        ("- dshield-data:/var/lib/dshield", "- ./a:/etc/dshield", "volumes[4]", "is not what D-Shield works with"),
        ("- dshield-data:/var/lib/dshield", "- /sys/fs/bpf:/usr", "volumes[4]", "is not what D-Shield works with"),
        ("target: /etc/dshield/dshield.toml", "target: /usr/bin/dshield", "configs[0]", "where D-Shield's program is"),
        (
            "target: /etc/dshield/dshield.toml",
            "target: /etc/dshield/../../bin",
            "configs[0]",
            "where D-Shield's program is",
        ),
        (
            "secrets: [token]",
            "secrets:\n      - { source: token, target: /bin/x }",
            "secrets[0]",
            "where D-Shield's program is",
        ),
    ];
    for (from, to, field, part) in changed {
        let good = compose("", "", "");
        assert!(good.contains(from), "{from}");
        let one = only(found(&good.replacen(from, to, 1)));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (Some("dshield"), field), "{to}: {one}");
        assert!(one.sentence.contains(part), "{to}: {one}");
    }
}

#[test]
fn the_digest_that_is_expected_tells_which_service_is_dshield() {
    let good = compose("", "", "");
    let one = only(found(&good.replace(E, D)).clone_only("services"));
    assert!(one.sentence.contains("dshield and web both have D-Shield's image"), "{one}");
    let other = found(&good.replace(D, &"a".repeat(64)));
    assert_eq!(other.dshield, None);
    let none = other.findings.iter().find(|one| one.field == "services").unwrap();
    assert!(none.sentence.ends_with(&format!("sha256:{D}")), "{none}");
    // Nobody is D-Shield, so nobody may be privileged.
    assert!(other.findings.iter().any(|one| one.field == "privileged"), "{:?}", other.findings);
}

impl Findings {
    fn clone_only(mut self, field: &str) -> Self {
        self.findings.retain(|one| one.field == field);
        self
    }
}

#[test]
fn what_the_file_declares_besides_services_is_looked_at() {
    let changes = [
        (
            "cache:\n",
            "cache: { driver_opts: { type: none, o: bind, device: /run } }\n",
            "volumes.cache.driver_opts",
            "any folder",
        ),
        ("cache:\n", "cache: { driver: nfs }\n", "volumes.cache.driver", "any folder"),
        ("cache:\n", "cache:\n  x-a: { external: true }\n", "volumes.x-a.external", "somebody else"),
        ("cache:\n", "cache: { external: true }\n", "volumes.cache.external", "somebody else"),
        ("cache:\n", "cache: { name: a_dshield-data }\n", "volumes.cache.name", "another volume"),
        ("cache:\n", "cache: { driver: \"${CHOSEN}\" }\n", "volumes.cache.driver", "the variable CHOSEN"),
        ("internal: true", "external: true", "networks.inner.external", "somebody else"),
        ("internal: true", "driver: macvlan", "networks.inner.driver", "the machine's own"),
        ("internal: true", "name: host", "networks.inner.name", "a network of the machine"),
        ("internal: true", "driver_opts: { a: b }", "networks.inner.driver_opts", "not known"),
        ("environment: TOKEN", "file: /run/x", "secrets.token.file", "a file of the machine"),
        ("environment: TOKEN", "external: true", "secrets.token.external", "somebody else"),
        (
            "content: |\n      [policy]\n      log_level = \"all\"",
            "file: ./dshield.toml",
            "configs.policy.file",
            "not measured",
        ),
        ("x-note: { privileged: true }", "include: [other.yaml]", "include", "another file"),
        ("x-note: { privileged: true }", "models: { a: { model: b } }", "models", "not known"),
        ("x-note: { privileged: true }", "name: \"$CHOSEN\"", "name", "the variable CHOSEN"),
    ];
    for (from, to, field, part) in changes {
        let good = compose("", "", "");
        assert!(good.contains(from), "{from}");
        let one = only(found(&good.replacen(from, to, 1)));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (None, field), "{to}: {one}");
        assert!(one.sentence.contains(part), "{to}: {one}");
    }
    for (file, part) in [
        ("", "has no services"),
        ("services: {}", "there are none"),
        ("[a]", "has no services"),
        ("a", "has no services"),
    ] {
        let one = only(found(file));
        assert!(one.sentence.contains(part), "{file}: {one}");
    }
}

/// docker compose reads YAML with another parser. What the two could read differently is not read at all.
#[test]
fn yaml_that_two_readers_may_read_differently_is_refused() {
    let web = [
        ("init: &a true", "an anchor"),
        ("<<: { privileged: true }", "an anchor, alias or merge key"),
        ("\"<<\": { privileged: true }", "an anchor, alias or merge key"),
        ("dns: !reset []", "a YAML tag"),
        ("init: !!bool true", "a YAML tag"),
        ("init: true\ninit: false", "the key \"init\" a second time"),
        ("init: true\n\"in\\x69t\": false", "the key \"init\" a second time"),
        ("image: other", "the key \"image\" a second time"),
        ("hostname: a\n  b", "goes on in the next line"),
        ("hostname: 'a\n  b'", "goes on in the next line"),
        ("hostname: \"a\\\n  b\"", "goes on in the next line"),
        ("? [a]\n: b", "a key that is not a plain name"),
        ("? |\n  init\n: b", "a key that is not a plain name"),
        (": b", "a key that is not a plain name"),
        ("dns: [a:b]", "\"a:b\" between brackets"),
        ("sysctls: { a, b: c }", "between brackets"),
        ("hostname:\ta", "U+0009"),
        ("# a\u{2028}    privileged: true", "U+2028"),
        ("# a\u{85}    privileged: true", "U+0085"),
        ("# a\r    privileged: true", "U+000D"),
        ("# \u{202e}", "U+202E"),
        ("hostname: [", "it is not YAML"),
    ];
    for (line, part) in web {
        let one = only(found(&compose("", line, "")));
        assert_eq!((one.service, one.field.as_str()), (None, "docker_compose_file"), "{line}");
        assert!(one.sentence.contains(part), "{line}: {}", one.sentence);
    }
    let good = compose("", "", "");
    for (text, part) in [
        (format!("{good}---\nservices: {{}}\n"), "more than one YAML document"),
        (format!("{good}...\nservices: {{}}\n"), "more than one YAML document"),
        (format!("%YAML 1.1\n---\n{good}"), "a YAML directive"),
        (format!("\u{feff}{good}"), "U+FEFF"),
    ] {
        assert!(only(found(&text)).sentence.contains(part), "{text}");
    }
    assert_eq!(found(&format!("---\n{good}")).findings, []);
}

#[test]
fn a_file_that_unfolds_or_nests_without_end_is_refused_at_once() {
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    let nested = "- ".repeat(60_000);
    let brackets = "[".repeat(200);
    let many = "- a\n".repeat(30_000);
    let keys: String = (0..15_000).map(|at| format!("{at}: a\n")).collect();
    let open = format!("a: \"{}", "x ".repeat(60_000));
    for (text, part) in [
        (bomb, "an anchor"),
        (&nested, "nest deeper"),
        (&brackets, "nest deeper"),
        (&many, "more than 20000 values"),
        (&keys, "more than 20000 values"),
        (&open, "it is not YAML"),
    ] {
        let started = std::time::Instant::now();
        let one = only(found(text));
        assert!(one.sentence.contains(part), "{one}");
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{part}: {:?}", started.elapsed());
    }
}

#[test]
fn scripts_are_findings_unless_the_compose_hash_is_approved() {
    for (field, value) in [
        ("pre_launch_script", json!("true")),
        ("init_script", json!("true")),
        ("init_script", json!(["", "true"])),
        ("verity_volumes", json!([])),
        ("something_new", json!(1)),
    ] {
        let mut manifest = manifest(&compose("", "", ""));
        manifest[field] = value;
        let app = parse(&manifest.to_string()).unwrap();
        let one = only(lint(&app, &expecting_d()));
        assert_eq!((one.service.as_deref(), one.field.as_str()), (None, field));
        assert!(one.sentence.contains("approve the compose hash"), "{one}");
        let approved = lint(&app, &Expectations { compose_hash_approved: true, ..expecting_d() });
        assert_eq!(approved.findings, []);
        assert!(approved.notes.iter().any(|note| note.starts_with(field) && note.ends_with("that you approved")));
    }
    for empty in [json!({ "pre_launch_script": "" }), json!({ "init_script": null }), json!({ "key_provider": null })] {
        let mut manifest = manifest(&compose("", "", ""));
        manifest.as_object_mut().unwrap().extend(empty.as_object().unwrap().clone());
        assert_eq!(lint(&parse(&manifest.to_string()).unwrap(), &expecting_d()).findings, []);
    }
}

#[test]
fn no_variable_that_steers_the_machines_own_programs_is_chosen_later() {
    for name in ["COMPOSE_FILE", "APP_COMPOSE_FILE", "DOCKER_HOST", "LD_PRELOAD", "PATH", "BASH_ENV", "DSHIELD_LOG"] {
        let mut manifest = manifest(&compose("", "", ""));
        manifest["allowed_envs"] = json!(["MINE", name]);
        let approved = Expectations { compose_hash_approved: true, ..expecting_d() };
        let one = only(lint(&parse(&manifest.to_string()).unwrap(), &approved));
        assert_eq!(one.field, "allowed_envs");
        assert!(one.sentence.contains(&format!("set \"{name}\"")), "{one}");
    }
}

#[test]
fn public_logs_are_noted() {
    let mut manifest = manifest(&compose("", "", ""));
    manifest["public_logs"] = json!(true);
    let found = lint(&parse(&manifest.to_string()).unwrap(), &expecting_d());
    assert!(found.notes.iter().any(|note| note.starts_with("public_logs: anybody may read")));
}

#[test]
fn the_manifest_is_read_from_the_bytes_that_were_measured() {
    let text = manifest("services: {}").to_string();
    let app = parse(&text).unwrap();
    assert_eq!((app.name.as_str(), app.docker_compose_file.as_str()), ("a", "services: {}"));
    assert_eq!((app.kms_enabled, app.key_provider.as_deref(), app.public_tcbinfo), (true, Some("kms"), true));
    assert_eq!(app.allowed_envs, ["CHOSEN", "GREETING", "TOKEN"]);
    assert_eq!(app.unknown, Vec::<String>::new());
    let said = AppCompose::parse(&format!("{text}\n"), &app.hash).unwrap_err().to_string();
    assert!(said.starts_with("the SHA-256 of app-compose.json is ") && said.contains(&app.hash.to_string()), "{said}");
}

#[test]
fn a_manifest_that_cannot_be_judged_is_a_fault() {
    let good = manifest("services: {}");
    let with = |field: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[field] = value;
        manifest.to_string()
    };
    for (text, part) in [
        (with("runner", json!("bash")), "the runner \"bash\"; only \"docker-compose\""),
        (with("runner", json!("nerdctl-compose")), "the runner \"nerdctl-compose\""),
        (with("runner", json!(1)), "runner should be a text"),
        (with("docker_compose_file", Value::Null), "docker_compose_file should be a text"),
        (with("pre_launch_script", Value::Null), "pre_launch_script should be a text"),
        (with("allowed_envs", json!("A")), "allowed_envs should be a list of texts"),
        (with("init_script", json!([1])), "init_script should be a list of texts"),
        (with("public_logs", json!("no")), "public_logs should be true or false"),
        ("[]".to_owned(), "the file should be an object"),
        ("{}".to_owned(), "the runner \"\""),
        ("services:".to_owned(), "is not understood"),
        (format!("{good}{good}"), "is not understood"),
        (good.to_string().replacen('{', "{\"runner\":\"bash\",", 1), "the name \"runner\" is there twice"),
        (good.to_string().replacen('{', "{\"run\\u006eer\":\"bash\",", 1), "the name \"runner\" is there twice"),
        (
            with("requirements", json!({ "b": 1 })).replace("\"b\":1", "\"b\":1,\"b\":2"),
            "the name \"b\" is there twice",
        ),
        ("[".repeat(10_000), "is not understood"),
        (with("name", json!("a".repeat(256 << 10))), "dstack takes at most 262144"),
    ] {
        let said = parse(&text).unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    }
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC{0,300}") {
        let _ = parse(&text);
        let _ = found(&text);
    }

    #[test]
    fn any_lines_of_yaml_are_judged_without_a_panic(lines in prop::collection::vec(any_line(), 0..30)) {
        let _ = found(&lines.concat());
    }

    #[test]
    fn a_line_more_never_hides_what_was_found(at in 0usize..60, line in any_line()) {
        // Below an extension, the service would not be started.
        prop_assume!(!line.starts_with("x-a:"));
        let bad = compose("", "privileged: true", "");
        let mut lines: Vec<&str> = bad.split_inclusive('\n').collect();
        lines.insert(at.min(lines.len()), &line);
        prop_assert!(!found(&lines.concat()).findings.is_empty());
    }
}

fn any_line() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "services:",
        "volumes:",
        "web:",
        "image:",
        "privileged:",
        "- ",
        "true",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ",",
        ": ",
        "|",
        ">",
        "|2",
        "#",
        " #",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "? ",
        "---",
        "...",
        "%",
        "a",
        "x-a:",
        "\\",
        "$A",
    ]);
    (0usize..8, prop::collection::vec(words, 0..6))
        .prop_map(|(indent, words)| format!("{}{}\n", " ".repeat(indent), words.concat()))
}

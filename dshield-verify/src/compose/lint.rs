//! The lint: a measured `app-compose.json` and what the verifier expects flow in; findings flow out.
use std::fmt;

use dshield_common::canonical::Sha256Digest;
use dshield_common::hex;

use super::app_compose::AppCompose;
use super::resources::{self, Volumes};
use super::service::{self, Context};
use super::variables;
use super::yaml::{self, Node};

/// What a verifier knows before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expectations {
    /// Whether the compose hash is one that the verifier approved: then scripts and fields that cannot be judged here are
    /// part of what was approved, and only noted.
    pub compose_hash_approved: bool,
    /// The digest that D-Shield's image is pinned by. Where it is not given, the only privileged service is taken for
    /// D-Shield, and its digest must be compared by whoever reads the findings.
    pub dshield_image: Option<Sha256Digest>,
}

/// What the lint found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Findings {
    /// Which service is D-Shield; none where nothing tells.
    pub dshield: Option<Shield>,
    /// What must be changed, or approved by a person. Empty: D-Shield alone is privileged and can have quotes made.
    pub findings: Vec<Finding>,
    /// What a person should know, as sentences.
    pub notes: Vec<String>,
}

/// The service that is D-Shield.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shield {
    /// Its name in the compose file.
    pub service: String,
    /// Its image, as written.
    pub image: String,
    /// The digest that the image is pinned by.
    pub digest: Sha256Digest,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The service that it is about; none where it is about the whole file.
    pub service: Option<String>,
    /// The field, such as `volumes[0]`.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = &self.service {
            write!(f, "service {service}: ")?;
        }
        write!(f, "{}: {}", self.field, self.sentence)
    }
}

impl Findings {
    pub(super) fn add(&mut self, service: Option<&str>, field: impl Into<String>, sentence: impl Into<String>) {
        let (service, field, sentence) = (service.map(str::to_owned), field.into(), sentence.into());
        self.findings.push(Finding { service, field, sentence });
    }
}

/// Top-level keys besides `services` and those of [`resources`] that start nothing.
const TOP_LEVEL: &[&str] = &["name", "version"];

/// Looks for whatever lets anybody but D-Shield out of its container or make quotes.
#[must_use]
pub fn lint(app: &AppCompose, expectations: &Expectations) -> Findings {
    let mut found = Findings::default();
    machine(app, expectations, &mut found);
    // dstack writes the text into a file, with one more line end: that file is what docker compose reads.
    match yaml::read(&format!("{}\n", app.docker_compose_file)) {
        Err(fault) => found.add(None, "docker_compose_file", fault.to_string()),
        Ok(file) => compose_file(&file, app, expectations, &mut found),
    }
    found
}

/// What dstack does besides starting containers.
fn machine(app: &AppCompose, expectations: &Expectations, found: &mut Findings) {
    let mut unseen = |field: &str, what: &str| {
        if expectations.compose_hash_approved {
            found.notes.push(format!("{field} {what}; it is part of the compose hash that you approved"));
        } else {
            let advice = "read it and approve the compose hash, or leave it out";
            found.add(None, field, format!("{what}, and is not judged here; {advice}"));
        }
    };
    if app.pre_launch_script.is_some() {
        unseen("pre_launch_script", "runs as root before any container");
    }
    if !app.init_scripts.is_empty() {
        unseen("init_script", "runs as root before anything else");
    }
    for field in &app.unknown {
        unseen(field, "is not known to this lint");
    }
    for name in app.allowed_envs.iter().filter(|name| variables::steers(name)) {
        let sentence = format!(
            "lets whoever deploys set {name:?}, which changes what the machine's own programs run or read; use another name"
        );
        found.add(None, "allowed_envs", sentence);
    }
    if app.public_logs {
        let note = "public_logs: anybody may read what the containers write to stdout and stderr";
        found.notes.push(note.to_owned());
    }
}

fn compose_file(file: &Node, app: &AppCompose, expectations: &Expectations, found: &mut Findings) {
    let Some(top) = file.entries().filter(|top| !top.is_empty()) else {
        return found.add(None, "docker_compose_file", "has no services");
    };
    for (key, value) in top {
        match key.as_str() {
            "services" | "volumes" | "networks" | "configs" | "secrets" => {}
            key if key.starts_with("x-") => {}
            key if TOP_LEVEL.contains(&key) => {
                if let Some(variable) = variables::first(value) {
                    found.add(None, key, variables::sentence(&variable, &app.allowed_envs));
                }
            }
            "include" => found.add(None, key, "takes in another file, which is not measured; write its services here"),
            _ => found.add(None, key, "is not known to this lint"),
        }
    }
    let Some(services) = file.get("services").and_then(Node::entries).filter(|services| !services.is_empty()) else {
        return found.add(None, "services", "there are none");
    };
    found.dshield = which_is_dshield(services, expectations, found);
    let dshield = found.dshield.as_ref().map(|shield| shield.service.clone());
    let its_own = services.iter().find(|(name, _)| Some(name) == dshield.as_ref());
    let volumes = Volumes::read(file.get("volumes"), its_own.map(|(_, service)| service), found);
    resources::lint(file, &app.allowed_envs, found);
    for (name, node) in services {
        let is_dshield = Some(name) == dshield.as_ref();
        let context = Context { name, is_dshield, allowed_envs: &app.allowed_envs, volumes: &volumes };
        service::lint(&context, node, found);
        if !is_dshield && dshield.is_some() {
            let note = format!(
                "service {name} runs beside D-Shield, not under it: the policy says nothing about where it sends data"
            );
            found.notes.push(note);
        }
    }
}

fn which_is_dshield(services: &[(String, Node)], expectations: &Expectations, found: &mut Findings) -> Option<Shield> {
    let shield = |name: &str, service: &Node| {
        let image = service.get("image").and_then(Node::text)?;
        Some(Shield { service: name.to_owned(), image: image.to_owned(), digest: pinned(image)? })
    };
    if let Some(expected) = expectations.dshield_image {
        let mut all = services.iter().filter_map(|(name, service)| shield(name, service));
        let mut those = all.by_ref().filter(|shield| shield.digest == expected);
        return match (those.next(), those.next()) {
            (Some(one), None) => Some(one),
            (None, _) => {
                let sentence = format!("none has the image of D-Shield that is expected, sha256:{expected}");
                found.add(None, "services", sentence);
                None
            }
            (Some(one), Some(other)) => {
                let (one, other) = (one.service, other.service);
                found.add(None, "services", format!("{one} and {other} both have D-Shield's image; leave one out"));
                None
            }
        };
    }
    let is_privileged = |service: &Node| service.get("privileged").is_some_and(|flag| !flag.is_false());
    let mut privileged = services.iter().filter(|(_, service)| is_privileged(service));
    match (privileged.next(), privileged.next()) {
        (Some((name, service)), None) => {
            let shield = shield(name, service)?;
            found.notes.push(format!(
                "service {name} is taken for D-Shield, being the only privileged one: compare its image {}",
                shield.image
            ));
            Some(shield)
        }
        (None, _) => {
            found.add(None, "services", "none is privileged, so none can be D-Shield");
            None
        }
        (Some((one, _)), Some((other, _))) => {
            let sentence = format!(
                "{one} and {other} are both privileged, so nothing tells which is D-Shield; say which image digest you expect"
            );
            found.add(None, "services", sentence);
            None
        }
    }
}

/// The digest of an image reference that is pinned: `name@sha256:` and 64 hexadecimal digits.
pub(super) fn pinned(image: &str) -> Option<Sha256Digest> {
    let (name, digest) = image.split_once("@sha256:")?;
    let is_name = !name.is_empty() && name.chars().all(|one| one.is_ascii_alphanumeric() || "./:_-".contains(one));
    hex::decode_array::<32>(digest).filter(|_| is_name).map(Sha256Digest::from)
}

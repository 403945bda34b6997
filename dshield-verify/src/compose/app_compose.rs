//! dstack's `app-compose.json`: its exact text and its measured hash flow in, the fields that matter flow out.
use dshield_common::canonical::Sha256Digest;
use serde_json::{Map, Value};

use super::json::Strict;

/// The longest file that dstack takes, in bytes.
pub const MAX_TEXT: usize = 256 << 10;
/// The runner that this lint understands.
const RUNNER: &str = "docker-compose";

/// Fields that are read by dstack and need no look here: what they say is measured, and they start no program.
const HARMLESS: &[&str] = &[
    "event_log_version",
    "features",
    "key_provider_id",
    "local_key_provider_enabled",
    "manifest_version",
    "port_policy",
    "requirements",
    "storage_fs",
    "swap_size",
    "tproxy_enabled",
];

/// What a machine was told to run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppCompose {
    /// The SHA-256 of the text: the machine's compose hash.
    pub hash: Sha256Digest,
    /// The application's name.
    pub name: String,
    /// The compose file, YAML as text.
    pub docker_compose_file: String,
    /// Run as root before the containers, on every start.
    pub pre_launch_script: Option<String>,
    /// Run as root before the container engine starts.
    pub init_scripts: Vec<String>,
    /// Names of environment variables whose values whoever deploys may choose, and change, without another compose hash.
    pub allowed_envs: Vec<String>,
    /// Whether anybody may read what containers write to stdout and stderr.
    pub public_logs: bool,
    /// Whether anybody may read facts about the machine, such as its containers.
    pub public_sysinfo: bool,
    /// Whether anybody may read the machine's measurements.
    pub public_tcbinfo: bool,
    /// Whether a key service gives the machine its keys.
    pub kms_enabled: bool,
    /// `none`, `kms`, `local` or `tpm`, where the file says it.
    pub key_provider: Option<String>,
    /// Whether the machine is reached through dstack's gateway.
    pub gateway_enabled: bool,
    /// Whether the machine has no identity besides its application's.
    pub no_instance_id: bool,
    /// Whether the machine waits for authenticated time.
    pub secure_time: bool,
    /// Fields that are not known here and may mean anything to the machine.
    pub unknown: Vec<String>,
}

/// Why a text is not what a machine runs, or cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppComposeFault {
    /// It is larger than dstack takes.
    #[error("app-compose.json is {0} bytes long; dstack takes at most {MAX_TEXT}: it is not what the machine runs")]
    TooLong(usize),
    /// It is another file than the one that was measured.
    #[error(
        "the SHA-256 of app-compose.json is {found}, the machine measured {measured}: it is another file, or was written anew; give its exact bytes"
    )]
    OtherFile {
        /// Of the text.
        found: Sha256Digest,
        /// Of the event log.
        measured: Sha256Digest,
    },
    /// It is no JSON, or JSON that readers read differently.
    #[error("app-compose.json is not understood: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A field is missing or of another type.
    #[error("app-compose.json: {field} should be {should}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What would be right.
        should: &'static str,
    },
    /// It does not run containers by docker compose.
    #[error(
        "app-compose.json has the runner {0:?}; only \"{RUNNER}\" can be judged: what another one starts is not looked at here"
    )]
    Runner(String),
}

impl AppCompose {
    /// Reads the file that `measured` (the compose hash of a replayed event log) is the hash of.
    ///
    /// # Errors
    /// When it is another file, or one that cannot be judged.
    pub fn parse(text: &str, measured: &Sha256Digest) -> Result<Self, AppComposeFault> {
        if text.len() > MAX_TEXT {
            return Err(AppComposeFault::TooLong(text.len()));
        }
        let hash = Sha256Digest::of(text.as_bytes());
        if hash != *measured {
            return Err(AppComposeFault::OtherFile { found: hash, measured: *measured });
        }
        let Strict(value) = serde_json::from_str(text).map_err(AppComposeFault::Malformed)?;
        let Value::Object(members) = value else {
            return Err(AppComposeFault::Field { field: "the file", should: "an object" });
        };
        let mut fields = Fields(members);
        let runner = fields.text("runner")?.unwrap_or_default();
        if runner != RUNNER {
            return Err(AppComposeFault::Runner(runner));
        }
        let compose = fields.text("docker_compose_file")?;
        let compose = compose.ok_or(AppComposeFault::Field { field: "docker_compose_file", should: "a text" })?;
        Ok(Self {
            hash,
            name: fields.text("name")?.unwrap_or_default(),
            docker_compose_file: compose,
            pre_launch_script: fields.text("pre_launch_script")?.filter(|script| !script.is_empty()),
            init_scripts: fields
                .unless_null("init_script")
                .texts("init_script", true)?
                .into_iter()
                .filter(|script| !script.is_empty())
                .collect(),
            allowed_envs: fields.texts("allowed_envs", false)?,
            public_logs: fields.flag("public_logs", false)?,
            public_sysinfo: fields.flag("public_sysinfo", false)?,
            public_tcbinfo: fields.flag("public_tcbinfo", true)?,
            kms_enabled: fields.flag("kms_enabled", false)?,
            key_provider: fields.unless_null("key_provider").text("key_provider")?,
            gateway_enabled: fields.flag("gateway_enabled", false)?,
            no_instance_id: fields.flag("no_instance_id", false)?,
            secure_time: fields.flag("secure_time", true)?,
            unknown: fields.0.into_iter().map(|(name, _)| name).filter(|name| !HARMLESS.contains(&&**name)).collect(),
        })
    }
}

/// The members that have not been read yet.
struct Fields(Map<String, Value>);

impl Fields {
    /// Drops a field that dstack takes for absent where it is null. Its scripts read other ones as the text "null".
    fn unless_null(&mut self, field: &str) -> &mut Self {
        if self.0.get(field).is_some_and(Value::is_null) {
            self.0.remove(field);
        }
        self
    }

    fn text(&mut self, field: &'static str) -> Result<Option<String>, AppComposeFault> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(AppComposeFault::Field { field, should: "a text" }),
        }
    }

    fn flag(&mut self, field: &'static str, default: bool) -> Result<bool, AppComposeFault> {
        match self.0.remove(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(AppComposeFault::Field { field, should: "true or false" }),
        }
    }

    fn texts(&mut self, field: &'static str, or_one: bool) -> Result<Vec<String>, AppComposeFault> {
        let wrong = AppComposeFault::Field { field, should: "a list of texts" };
        match self.0.remove(field) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) if or_one => Ok(vec![text]),
            Some(Value::Array(items)) => {
                let texts = items.into_iter().map(|item| match item {
                    Value::String(text) => Some(text),
                    _ => None,
                });
                texts.collect::<Option<_>>().ok_or(wrong)
            }
            Some(_) => Err(wrong),
        }
    }
}

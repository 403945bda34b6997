//! What a verifier expects to find: `expect.toml` as typed values.
//!
//! Its text flows in once and is either wrong, with line and field, or needs no further check. What is not in it is not
//! expected, and what a verdict needs and is not expected cannot be judged.
use std::collections::BTreeMap;
use std::str::FromStr;

use dshield_common::hex;
use dshield_common::policy::Deployment;
use dshield_common::tlog::TrustPolicy;
use serde::Deserialize;

/// The expectations. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Firmware and kernel: one of these.
    pub machines: Vec<Machine>,
    /// How current the platform's firmware has to be.
    pub tcb: TcbPolicy,
    /// What was deployed on the machine.
    pub compose: Compose,
    /// Agent, kernel programs and filters: one of these.
    pub releases: Vec<Release>,
    /// The policy.
    pub policy: Policy,
    /// Functions' code, by name: one of the hashes. Where there are any, there is no other function.
    pub functions: BTreeMap<String, Vec<String>>,
    /// The log.
    pub log: Log,
    /// SHA-256 (hex) of attestation keys of TPMs that are trusted.
    pub tpm_keys: Vec<String>,
    /// A TPM's PCRs (SHA-256 bank) in hexadecimal, by number.
    pub tpm_pcrs: BTreeMap<u8, String>,
}

/// Measurements of a virtual machine: SHA-384 in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// For the reader.
    #[serde(default)]
    pub name: Option<String>,
    /// The firmware's image.
    pub mrtd: String,
    /// Firmware configuration; differs with processors and memory.
    pub rtmr0: String,
    /// Kernel and what loads it.
    pub rtmr1: String,
    /// The kernel's command line and first file system.
    pub rtmr2: String,
    /// What these measurements start.
    #[serde(default)]
    pub starts: Starts,
}

/// What a machine with known measurements starts: who has to say what runs there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Starts {
    /// Whatever its compose file says (dstack, and any image for everybody): without that file nothing is known.
    #[default]
    Compose,
    /// D-Shield, and nothing that could go around it: an image made for that, whose measurements cover all of it.
    Dshield,
}

/// Which states of the platform's firmware are good enough.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcbPolicy {
    /// TCB statuses, as Intel names them.
    pub statuses: Vec<String>,
    /// For how many days after its level's date an `OutOfDate` platform is still taken.
    pub grace_days: u32,
    /// The lowest `tcbEvaluationDataNumber`: Intel's data of before it are not taken.
    pub min_evaluation_number: u32,
    /// Advisories (`INTEL-SA-…`) that must not apply.
    pub reject_advisories: Vec<String>,
}

impl Default for TcbPolicy {
    fn default() -> Self {
        Self {
            statuses: vec!["UpToDate".to_owned()],
            grace_days: 0,
            min_evaluation_number: 0,
            reject_advisories: Vec::new(),
        }
    }
}

/// What is expected of dstack's compose file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compose {
    /// SHA-256 (hex) of `app-compose.json`: one of these.
    pub sha256: Vec<String>,
    /// D-Shield's image in it: `sha256:…`.
    pub image_digest: Option<String>,
}

/// A release's hashes, named as `dshield measure --json` prints them: SHA-256 in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// For the reader.
    #[serde(default)]
    pub name: Option<String>,
    /// The executable.
    pub agent: String,
    /// The kernel programs of the cgroup.
    pub ebpf_cgroup: String,
    /// Those at the security hooks.
    pub ebpf_lsm: String,
    /// Those of a network namespace.
    pub ebpf_netns: String,
    /// The seccomp filters.
    pub seccomp: String,
}

/// The policy that is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// SHA-256 (hex) of its canonical form: one of these.
    pub sha256: Vec<String>,
    /// Its canonical form, where a file was given: what a difference is shown against.
    pub canonical: Option<String>,
}

/// What is expected of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What its checkpoints name it by.
    pub origin: Option<String>,
    /// How many of its entries are looked at.
    pub entries: Entries,
    /// Who has to have witnessed it (C2SP tlog-policy).
    pub witnesses: Option<TrustPolicy>,
}

/// How many entries of a log are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entries {
    /// The last boot's entry, the last entries, and some between, each with its proof.
    #[default]
    Sample,
    /// Each.
    All,
    /// None: the checkpoint stands for them.
    None,
}

impl FromStr for Entries {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sample" => Ok(Self::Sample),
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => Err("write all, sample or none".to_owned()),
        }
    }
}

/// Why a text is no expectation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectError {
    /// It is no TOML of that form.
    #[error("{0}")]
    Toml(String),
    /// A value has another form than its field wants.
    #[error("{field} is {value:?}; it wants {wants}")]
    Value {
        /// Which.
        field: String,
        /// What it is.
        value: String,
        /// What it should be.
        wants: &'static str,
    },
    /// A file that it names cannot be used.
    #[error("{field} = {name:?}: {why}")]
    File {
        /// Which field names it.
        field: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
}

/// Reads a file that an expectation names, relative to it.
pub type ReadFile<'r> = &'r mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

const SHA256: &str = "64 hexadecimal digits in lower case";
const SHA384: &str = "96 hexadecimal digits in lower case";
const STATUSES: [&str; 8] = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
];

impl Expect {
    /// Reads an `expect.toml`, and through `read` the files that it names.
    ///
    /// # Errors
    /// With the field that is wrong.
    pub fn parse(text: &str, read: ReadFile<'_>) -> Result<Self, ExpectError> {
        let file: File =
            toml::from_str(text).map_err(|error| ExpectError::Toml(error.to_string().trim().to_owned()))?;
        let File { machine, tcb, compose, release, policy, functions, log, tpm } = file;
        for machine in &machine {
            let all = [
                ("mrtd", &machine.mrtd),
                ("rtmr0", &machine.rtmr0),
                ("rtmr1", &machine.rtmr1),
                ("rtmr2", &machine.rtmr2),
            ];
            for (field, value) in all {
                hexadecimal::<48>(&format!("machine.{field}"), value, SHA384)?;
            }
        }
        for status in &tcb.statuses {
            if !STATUSES.contains(&status.as_str()) {
                let wants =
                    "statuses as Intel names them, such as UpToDate or SWHardeningNeeded; Revoked is never taken";
                return Err(ExpectError::Value { field: "tcb.statuses".to_owned(), value: status.clone(), wants });
            }
        }
        all_sha256("compose.sha256", &compose.sha256)?;
        if let Some(digest) = &compose.image_digest {
            let wants = "an image's digest, sha256: and 64 hexadecimal digits";
            let field = "compose.image_digest";
            let digits = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex::decode_array::<32>(digits).is_none() {
                return Err(ExpectError::Value { field: field.to_owned(), value: digest.clone(), wants });
            }
        }
        let mut releases = Vec::with_capacity(release.len());
        for release in release {
            releases.push(release.load(read)?);
        }
        for hashes in functions.values() {
            all_sha256("functions", hashes)?;
        }
        all_sha256("tpm.ak_sha256", &tpm.ak_sha256)?;
        let mut tpm_pcrs = BTreeMap::new();
        for (number, value) in tpm.pcrs {
            hexadecimal::<32>(&format!("tpm.pcrs.{number}"), &value, SHA256)?;
            let wants = "numbers of PCRs, 0 to 23";
            let wrong = || ExpectError::Value { field: "tpm.pcrs".to_owned(), value: number.clone(), wants };
            let index = number.parse::<u8>().ok().filter(|index| *index < 24).ok_or_else(wrong)?;
            tpm_pcrs.insert(index, value);
        }
        let policy = policy.load(read)?;
        let log = log.load(read)?;
        Ok(Self {
            machines: machine,
            tcb,
            compose,
            releases,
            policy,
            functions,
            log,
            tpm_keys: tpm.ak_sha256,
            tpm_pcrs,
        })
    }

    /// Whether nothing is expected of what runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
            && self.releases.is_empty()
            && self.compose == Compose::default()
            && self.policy == Policy::default()
            && self.functions.is_empty()
            && self.tpm_keys.is_empty()
            && self.tpm_pcrs.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    machine: Vec<Machine>,
    #[serde(default)]
    tcb: TcbPolicy,
    #[serde(default)]
    compose: Compose,
    #[serde(default)]
    release: Vec<ReleaseFile>,
    #[serde(default)]
    policy: PolicyFile,
    #[serde(default)]
    functions: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    log: LogFile,
    #[serde(default)]
    tpm: Tpm,
}

/// Inline, or in the file that `dshield measure --json` wrote.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseFile {
    name: Option<String>,
    manifest: Option<String>,
    agent: Option<String>,
    ebpf_cgroup: Option<String>,
    ebpf_lsm: Option<String>,
    ebpf_netns: Option<String>,
    seccomp: Option<String>,
}

impl ReleaseFile {
    fn load(self, read: ReadFile<'_>) -> Result<Release, ExpectError> {
        let Self { name, manifest, agent, ebpf_cgroup, ebpf_lsm, ebpf_netns, seccomp } = self;
        let mut given = BTreeMap::new();
        if let Some(manifest) = manifest {
            let why = |why: String| ExpectError::File { field: "release.manifest", name: manifest.clone(), why };
            let bytes = read(&manifest).map_err(why)?;
            given = serde_json::from_slice::<BTreeMap<String, String>>(&bytes).map_err(|error| {
                why(format!("{error}; give what `dshield measure --json` prints, without --config"))
            })?;
        }
        let mut take = |field: &str, inline: Option<String>| {
            let value = inline.or_else(|| given.remove(field)).unwrap_or_default();
            hexadecimal::<32>(&format!("release.{field}"), &value, SHA256).map(|()| value)
        };
        Ok(Release {
            name,
            agent: take("agent", agent)?,
            ebpf_cgroup: take("ebpf_cgroup", ebpf_cgroup)?,
            ebpf_lsm: take("ebpf_lsm", ebpf_lsm)?,
            ebpf_netns: take("ebpf_netns", ebpf_netns)?,
            seccomp: take("seccomp", seccomp)?,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyFile {
    sha256: Vec<String>,
    file: Option<String>,
}

impl PolicyFile {
    fn load(self, read: ReadFile<'_>) -> Result<Policy, ExpectError> {
        let Self { mut sha256, file } = self;
        all_sha256("policy.sha256", &sha256)?;
        let Some(file) = file else { return Ok(Policy { sha256, canonical: None }) };
        let why = |why: String| ExpectError::File { field: "policy.file", name: file.clone(), why };
        let text = String::from_utf8(read(&file).map_err(why)?).map_err(|_| why("it is not UTF-8 text".to_owned()))?;
        // The certificates that it names lie beside it.
        let beside = |name: &str| match file.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{name}"),
            None => name.to_owned(),
        };
        let deployment = Deployment::parse(&text, &mut |name| read(&beside(name)))
            .map_err(|problems| why(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        let canonical = deployment.policy.canonical();
        sha256.push(deployment.policy.hash().to_string());
        Ok(Policy { sha256, canonical: Some(canonical) })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogFile {
    origin: Option<String>,
    entries: Entries,
    witnesses: Option<String>,
}

impl LogFile {
    fn load(self, read: ReadFile<'_>) -> Result<Log, ExpectError> {
        let Self { origin, entries, witnesses } = self;
        let witnesses = match witnesses {
            None => None,
            Some(file) => {
                let why = |why: String| ExpectError::File { field: "log.witnesses", name: file.clone(), why };
                Some(TrustPolicy::parse(&read(&file).map_err(why)?).map_err(|error| why(error.to_string()))?)
            }
        };
        Ok(Log { origin, entries, witnesses })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tpm {
    ak_sha256: Vec<String>,
    pcrs: BTreeMap<String, String>,
}

fn hexadecimal<const N: usize>(field: &str, value: &str, wants: &'static str) -> Result<(), ExpectError> {
    match hex::decode_array::<N>(value) {
        Some(_) => Ok(()),
        None => Err(ExpectError::Value { field: field.to_owned(), value: value.to_owned(), wants }),
    }
}

fn all_sha256(field: &str, values: &[String]) -> Result<(), ExpectError> {
    values.iter().try_for_each(|value| hexadecimal::<32>(field, value, SHA256))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Expect, String> {
        let mut read = |name: &str| match name {
            "release.json" => Ok(["agent", "ebpf_cgroup", "ebpf_lsm", "ebpf_netns", "seccomp"]
                .map(|name| format!("\"{name}\":\"{}\"", "a".repeat(64)))
                .join(",")
                .into_bytes())
            .map(|text: Vec<u8>| [b"{", text.as_slice(), b"}"].concat()),
            "folder/dshield.toml" => {
                let text = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"c\"\n\
                    [[function.egress]]\nhost = \"a.com\"\nca = \"ca.pem\"\n";
                Ok(text.as_bytes().to_vec())
            }
            "folder/ca.pem" => Ok(b"-----BEGIN CERTIFICATE-----\nMAMBAgM=\n-----END CERTIFICATE-----\n".to_vec()),
            "witnesses" => Ok(b"quorum none\n".to_vec()),
            _ => Err("No such file".to_owned()),
        };
        Expect::parse(text, &mut read).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_expected() {
        let (sha256, sha384) = ("a".repeat(64), "b".repeat(96));
        let text = format!(
            "[[machine]]\nname = \"4 vCPU\"\nmrtd = \"{sha384}\"\nrtmr0 = \"{sha384}\"\nrtmr1 = \"{sha384}\"\nrtmr2 = \"{sha384}\"\n\
             [tcb]\nstatuses = [\"UpToDate\", \"OutOfDate\"]\ngrace_days = 30\nmin_evaluation_number = 18\nreject_advisories = [\"INTEL-SA-1\"]\n\
             [compose]\nsha256 = [\"{sha256}\"]\nimage_digest = \"sha256:{sha256}\"\n\
             [[release]]\nmanifest = \"release.json\"\n\
             [policy]\nfile = \"folder/dshield.toml\"\nsha256 = [\"{sha256}\"]\n\
             [functions]\nf = [\"{sha256}\"]\n[log]\norigin = \"x\"\nentries = \"all\"\nwitnesses = \"witnesses\"\n\
             [tpm]\nak_sha256 = [\"{sha256}\"]\n[tpm.pcrs]\n7 = \"{sha256}\"\n"
        );
        let expect = parse(&text).unwrap();
        assert_eq!(expect.releases[0].seccomp, sha256);
        assert_eq!(expect.policy.sha256.len(), 2);
        assert!(expect.policy.canonical.unwrap().contains("\"host\":\"a.com\""));
        assert_eq!(expect.log.entries, Entries::All);
        assert!(expect.log.witnesses.is_some());
        assert_eq!(expect.tcb.grace_days, 30);
        assert_eq!(expect.tpm_pcrs.get(&7), Some(&sha256));
    }

    #[test]
    fn nothing_expected_is_told_from_something() {
        assert!(parse("").unwrap().is_empty());
        assert!(parse("[tcb]\ngrace_days = 1").unwrap().is_empty());
        assert!(!parse(&format!("[policy]\nsha256 = [\"{}\"]", "a".repeat(64))).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("[machine]\n", "expected"),
            ("[[machine]]\nmrtd = \"\"\n", "missing field"),
            ("[tcb]\nstatuses = [\"Revoked\"]", "never taken"),
            ("[tcb]\ngrace = 1", "unknown field"),
            ("[policy]\nsha256 = [\"AA\"]", "policy.sha256 is \"AA\"; it wants 64 hexadecimal digits"),
            ("[policy]\nfile = \"gone\"", "policy.file = \"gone\": No such file"),
            ("[[release]]\nmanifest = \"gone\"", "release.manifest"),
            ("[[release]]\nagent = \"\"", "release.agent is \"\""),
            ("[compose]\nimage_digest = \"latest\"", "an image's digest"),
            ("[log]\nwitnesses = \"folder/ca.pem\"", "log.witnesses"),
            ("[tpm.pcrs]\n7 = \"0\"", "tpm.pcrs.7"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

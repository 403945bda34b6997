//! Which deployments may be asked about: a file or arguments flow in, and are wrong in one sentence or need no further check.
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::client::Client;
use crate::expect::Expect;

/// How long a verdict counts unless told otherwise.
pub(super) const DEFAULT_MAX_AGE: &str = "10m";
/// Shorter than a look may take, nothing would ever be verified; longer, and nobody would call it fresh.
const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(30 * 24 * 60 * 60);
const MOST_NAME: usize = 64;
/// Expectations are read once and shown to everybody.
const MOST_FILE: usize = 1 << 20;

/// What a deployment is called in paths: lower-case letters, digits, `-` and `_`. So nothing that could be a URL, and no
/// text that needs an escape in a path, in HTML or in a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(String);

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        (!text.is_empty() && text.len() <= MOST_NAME && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A deployment that may be asked about.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) name: Name,
    /// Where it is looked at.
    pub(super) url: String,
    /// Where others reach it: the URL of the command that repeats the look.
    pub(super) public_url: String,
    pub(super) expect: Expect,
    /// What the expectations were read from: `expect.toml`, and what it names.
    pub(super) documents: Vec<Document>,
    /// How long a verdict counts, from the beginning of the look.
    pub(super) max_age: Duration,
    /// How often it is looked at.
    pub(super) every: Duration,
}

/// A file that expectations were read from.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Relative to the first, as that names it.
    pub(super) name: String,
    pub(super) bytes: Bytes,
}

/// Why a configuration is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum ConfigError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Toml { path: PathBuf, why: String },
    #[error("{0:?} is no name for a deployment: up to {MOST_NAME} lower-case letters, digits, - and _")]
    Name(String),
    #[error("two deployments are called {0}")]
    SameName(Name),
    #[error("{first} and {second} have the same URL, whose log would be remembered for both: leave one out")]
    SameUrl { first: Name, second: Name },
    #[error("deployment {name}: {url:?} is no URL of the form https://HOST:PORT or http://HOST:PORT")]
    Url { name: Name, url: String },
    #[error("deployment {name}: {}: {why}", path.display())]
    Expect { name: Name, path: PathBuf, why: String },
    #[error("deployment {name}: max_age = {text:?}; it wants 2s to 30 days, such as 90s, 10m or 2h")]
    MaxAge { name: Name, text: String },
    #[error("deployment {name}: every = {text:?}; it wants a time of at least 1s and less than max_age")]
    Every { name: Name, text: String },
    #[error("--deployment {0:?} wants NAME=URL")]
    Pair(String),
    #[error("--deployment is given {deployments} times and --expect {expects} times: each deployment needs one")]
    Pairs { deployments: usize, expects: usize },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    deployment: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: String,
    public_url: Option<String>,
    expect: PathBuf,
    max_age: Option<String>,
    every: Option<String>,
}

/// Reads a `deployments.toml`; the files that it names lie beside it.
pub(super) fn from_file(path: &Path) -> Result<Vec<Configured>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    let file: File = toml::from_str(&text)
        .map_err(|error| ConfigError::Toml { path: path.to_owned(), why: error.to_string().trim().to_owned() })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    configured(file.deployment.into_iter().map(|entry| Entry { expect: folder.join(&entry.expect), ..entry }))
}

/// Deployments from the command line.
pub(super) fn from_pairs(
    deployments: &[String],
    expects: &[PathBuf],
    max_age: &str,
) -> Result<Vec<Configured>, ConfigError> {
    if deployments.len() != expects.len() {
        return Err(ConfigError::Pairs { deployments: deployments.len(), expects: expects.len() });
    }
    let mut entries = Vec::with_capacity(deployments.len());
    for (pair, expect) in deployments.iter().zip(expects) {
        let (name, url) = pair.split_once('=').ok_or_else(|| ConfigError::Pair(pair.clone()))?;
        entries.push(Entry {
            name: name.to_owned(),
            url: url.to_owned(),
            public_url: None,
            expect: expect.clone(),
            max_age: Some(max_age.to_owned()),
            every: None,
        });
    }
    configured(entries)
}

fn configured(entries: impl IntoIterator<Item = Entry>) -> Result<Vec<Configured>, ConfigError> {
    let all: Vec<Configured> = entries.into_iter().map(Entry::load).collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    for (index, one) in all.iter().enumerate() {
        if !names.insert(&one.name) {
            return Err(ConfigError::SameName(one.name.clone()));
        }
        if let Some(other) = all[..index].iter().find(|other| other.url == one.url) {
            return Err(ConfigError::SameUrl { first: other.name.clone(), second: one.name.clone() });
        }
    }
    Ok(all)
}

impl Entry {
    fn load(self) -> Result<Configured, ConfigError> {
        let Self { name, url, public_url, expect, max_age, every } = self;
        let name = Name::parse(&name).ok_or(ConfigError::Name(name))?;
        let public_url = public_url.unwrap_or_else(|| url.clone());
        for url in [&url, &public_url] {
            if Client::unjudged(url).is_err() {
                return Err(ConfigError::Url { name, url: url.clone() });
            }
        }
        let text = max_age.unwrap_or_else(|| DEFAULT_MAX_AGE.to_owned());
        let Some(max_age) = duration(&text).filter(|age| MAX_AGE.contains(age)) else {
            return Err(ConfigError::MaxAge { name, text });
        };
        let every = match every {
            None => max_age / 2,
            Some(text) => match duration(&text).filter(|every| *every >= Duration::from_secs(1) && *every < max_age) {
                Some(every) => every,
                None => return Err(ConfigError::Every { name, text }),
            },
        };
        let (expect, documents) = match expectations(&expect) {
            Ok(read) => read,
            Err(why) => return Err(ConfigError::Expect { name, path: expect, why }),
        };
        Ok(Configured { name, url, public_url, expect, documents, max_age, every })
    }
}

/// Reads an `expect.toml`, and keeps it and all that it names: whoever repeats a look needs them too.
fn expectations(path: &Path) -> Result<(Expect, Vec<Document>), String> {
    let read = |path: &Path| -> Result<Vec<u8>, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        if bytes.len() > MOST_FILE { Err(format!("it is longer than {MOST_FILE} bytes")) } else { Ok(bytes) }
    };
    let text = String::from_utf8(read(path)?).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut documents = vec![Document { name: "expect.toml".to_owned(), bytes: Bytes::from(text.clone()) }];
    let mut keep = |name: &str| -> Result<Vec<u8>, String> {
        let bytes = read(&folder.join(name))?;
        if documents.iter().all(|document| document.name != name) {
            documents.push(Document { name: name.to_owned(), bytes: Bytes::from(bytes.clone()) });
        }
        Ok(bytes)
    };
    let expect = Expect::parse(&text, &mut keep).map_err(|error| error.to_string())?;
    Ok((expect, documents))
}

/// A whole number of seconds, minutes or hours: `90s`, `10m`, `2h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, factor) = [("s", 1), ("m", 60), ("h", 60 * 60)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits)?;
    number.checked_mul(factor).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(text: &str) -> Result<Vec<Configured>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/expect.toml"), "[policy]\nfile = \"dshield.toml\"\n").unwrap();
        std::fs::write(
            folder.path().join("a/dshield.toml"),
            "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"c\"\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("bad.toml"), "[nonsense]\n").unwrap();
        let file = folder.path().join("deployments.toml");
        std::fs::write(&file, text).unwrap();
        from_file(&file).map_err(|error| error.to_string())
    }

    const GOOD: &str = "[[deployment]]\nname = \"a\"\nurl = \"https://a.example\"\nexpect = \"a/expect.toml\"\n";

    #[test]
    fn a_deployment_has_its_expectations_and_all_files_that_they_name() {
        let [one] = load(GOOD).unwrap().try_into().unwrap();
        assert_eq!(one.expect.policy.sha256.len(), 1);
        let names: Vec<&str> = one.documents.iter().map(|document| document.name.as_str()).collect();
        assert_eq!(names, ["expect.toml", "dshield.toml"]);
        assert_eq!((one.max_age, one.every), (Duration::from_secs(600), Duration::from_secs(300)));
        assert_eq!(one.public_url, "https://a.example");
        let more = format!("{GOOD}max_age = \"2h\"\nevery = \"90s\"\npublic_url = \"https://b.example/x\"\n");
        let [one] = load(&more).unwrap().try_into().unwrap();
        assert_eq!((one.max_age, one.every), (Duration::from_secs(7200), Duration::from_secs(90)));
        assert_eq!(one.public_url, "https://b.example/x");
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let with = |line: &str| format!("{GOOD}{line}\n");
        for (text, why) in [
            (GOOD.replace("name = \"a\"", "name = \"A/b\""), "\"A/b\" is no name"),
            (GOOD.replace("name = \"a\"", "name = \"\""), "is no name"),
            (GOOD.replace("https://a.example", "file:///etc"), "is no URL"),
            (with("public_url = \"nonsense\""), "\"nonsense\" is no URL"),
            (GOOD.replace("a/expect.toml", "gone"), "gone: No such file"),
            (GOOD.replace("a/expect.toml", "bad.toml"), "bad.toml: "),
            (with("max_age = \"1s\""), "it wants 2s to 30 days"),
            (with("max_age = \"ten\""), "it wants 2s to 30 days"),
            (with("max_age = \"1m\"\nevery = \"1m\""), "less than max_age"),
            (with("colour = 1"), "unknown field"),
            (GOOD.repeat(2), "two deployments are called a"),
            (format!("{GOOD}{}", GOOD.replace("\"a\"", "\"b\"")), "have the same URL"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn every_deployment_of_the_command_line_has_its_expectations() {
        let why = |deployments: &[&str], expects: &[&str]| {
            let deployments: Vec<String> = deployments.iter().map(|&text| text.to_owned()).collect();
            let expects: Vec<PathBuf> = expects.iter().map(PathBuf::from).collect();
            from_pairs(&deployments, &expects, "10m").unwrap_err().to_string()
        };
        assert!(why(&["a=https://a.example"], &[]).contains("each deployment needs one"));
        assert!(why(&["https://a.example"], &["x"]).contains("wants NAME=URL"));
        assert!(from_pairs(&[], &[], "10m").unwrap().is_empty());
    }

    #[test]
    fn times_are_whole_numbers_of_a_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "10", "1.5m", "+1s", "-1s", "18446744073709551615h", "１s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}

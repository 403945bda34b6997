//! The policy file (C2SP tlog-policy, "Policy file syntax and structure").
//!
//! The file's octets flow in; a [`TrustPolicy`] flows out, or the first line that is wrong, with its number.
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::{Group, Log, Member, Octets, TrustPolicy, Witness};
use crate::tlog::key::{KeyError, KeyId, SignatureType, VerifierKey};
use crate::tlog::text::plain_decimal;

impl TrustPolicy {
    /// Reads a policy file. The newline of the last line may be missing.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line. The fault is that of whoever wrote the file.
    pub fn parse(file: &[u8]) -> Result<Self, PolicyError> {
        let mut draft = Draft::default();
        let lines = file.strip_suffix(b"\n").unwrap_or(file).split(|byte| *byte == b'\n');
        let mut count = 0;
        for (line, number) in lines.zip(1..) {
            draft.read(line).map_err(|cause| PolicyError { line: number, cause })?;
            count = number;
        }
        let quorum = draft.quorum.ok_or(PolicyError { line: count, cause: PolicyCause::NoQuorum })?;
        let Draft { logs, witnesses, groups, .. } = draft;
        Ok(Self { logs, witnesses, groups, quorum })
    }
}

/// What the lines so far have defined.
#[derive(Default)]
struct Draft {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    quorum: Option<Option<Member>>,
    names: BTreeMap<Octets, Member>,
    /// Those that are in a group already.
    taken: BTreeSet<Member>,
    log_keys: BTreeSet<Vec<u8>>,
    witness_keys: BTreeSet<Vec<u8>>,
}

impl Draft {
    fn read(&mut self, line: &[u8]) -> Result<(), PolicyCause> {
        if let Some(octet) = line.iter().find(|byte| (**byte < 0x20 && **byte != b'\t') || **byte == 0x7f) {
            return Err(PolicyCause::ControlCharacter(*octet));
        }
        let mut items = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|item| !item.is_empty());
        let Some(keyword) = items.next().filter(|keyword| !keyword.starts_with(b"#")) else {
            return Ok(());
        };
        let arguments: Vec<&[u8]> = items.collect();
        match (keyword, arguments.as_slice()) {
            (b"log", [key, url @ ..]) if url.len() < 2 => self.log(key, url.first()),
            (b"witness", [name, key, url @ ..]) if url.len() < 2 => self.witness(name, key, url.first()),
            (b"group", [name, needed, members @ ..]) if !members.is_empty() => self.group(name, needed, members),
            (b"quorum", [name]) => self.set_quorum(name),
            (b"log", _) => Err(PolicyCause::Arguments("log <vkey> [<url>]")),
            (b"witness", _) => Err(PolicyCause::Arguments("witness <name> <vkey> [<url>]")),
            (b"group", _) => Err(PolicyCause::Arguments("group <name> <number|any|all> <member>…")),
            (b"quorum", _) => Err(PolicyCause::Arguments("quorum <name|none>")),
            (other, _) => Err(PolicyCause::Keyword(octets(other))),
        }
    }

    fn log(&mut self, key: &[u8], url: Option<&&[u8]>) -> Result<(), PolicyCause> {
        let key = vkey(key)?;
        if !self.log_keys.insert(key.public_key().to_owned()) {
            return Err(PolicyCause::DuplicateKey { id: key.id() });
        }
        self.logs.push(Log { key, url: url.map(|url| octets(url)) });
        Ok(())
    }

    fn witness(&mut self, name: &[u8], key: &[u8], url: Option<&&[u8]>) -> Result<(), PolicyCause> {
        let key = vkey(key)?;
        if key.signature_type() != SignatureType::CosignatureV1 {
            return Err(PolicyCause::WitnessType { instead: as_witness(&key).map(|key| key.to_string()) });
        }
        if !self.witness_keys.insert(key.public_key().to_owned()) {
            return Err(PolicyCause::DuplicateKey { id: key.id() });
        }
        let name = self.define(name, Member::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name, key, url: url.map(|url| octets(url)) });
        Ok(())
    }

    fn group(&mut self, name: &[u8], needed: &[u8], names: &[&[u8]]) -> Result<(), PolicyCause> {
        let mut members = Vec::with_capacity(names.len());
        for name in names {
            let member = self.defined(name)?;
            if !self.taken.insert(member) {
                return Err(PolicyCause::MemberTwice(octets(name)));
            }
            members.push(member);
        }
        let number = || std::str::from_utf8(needed).ok().and_then(plain_decimal)?.try_into().ok();
        let needed = match needed {
            b"any" => Some(1),
            b"all" => Some(members.len()),
            _ => number(),
        };
        let needed = needed.filter(|needed| (1..=members.len()).contains(needed));
        let needed = needed.ok_or(PolicyCause::Threshold { members: members.len() })?;
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { needed, members });
        Ok(())
    }

    fn set_quorum(&mut self, name: &[u8]) -> Result<(), PolicyCause> {
        if self.quorum.is_some() {
            return Err(PolicyCause::SecondQuorum);
        }
        let member = if name == NONE { None } else { Some(self.defined(name)?) };
        self.quorum = Some(member);
        Ok(())
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<Octets, PolicyCause> {
        let name = octets(name);
        if name.as_bytes() == NONE {
            return Err(PolicyCause::NameTaken(name));
        }
        match self.names.entry(name.clone()) {
            Entry::Occupied(_) => Err(PolicyCause::NameTaken(name)),
            Entry::Vacant(free) => {
                free.insert(member);
                Ok(name)
            }
        }
    }

    fn defined(&self, name: &[u8]) -> Result<Member, PolicyCause> {
        let name = octets(name);
        self.names.get(&name).copied().ok_or(PolicyCause::UnknownName(name))
    }
}

const NONE: &[u8] = b"none";

fn octets(bytes: &[u8]) -> Octets {
    Octets(bytes.to_owned())
}

fn vkey(bytes: &[u8]) -> Result<VerifierKey, PolicyCause> {
    let text = std::str::from_utf8(bytes).map_err(|_| PolicyCause::Key(KeyError::Form))?;
    VerifierKey::parse(text).map_err(PolicyCause::Key)
}

/// The same Ed25519 key as that of a witness: what is meant where the key's vkey for plain notes is written.
fn as_witness(key: &VerifierKey) -> Option<VerifierKey> {
    let public = key.public_key().try_into().ok()?;
    VerifierKey::cosignature_v1(key.name().clone(), public).ok()
}

fn or_write(instead: Option<&str>) -> String {
    instead.map(|key| format!("; write {key}")).unwrap_or_default()
}

/// Which line of a policy file is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the trust policy: {cause}")]
pub struct PolicyError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    #[source]
    pub cause: PolicyCause,
}

/// What is wrong with a line of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyCause {
    /// A control character that is neither tab nor newline, such as the carriage return of a Windows line end.
    #[error("the control character {0:#04x} is not allowed; lines end in a newline alone")]
    ControlCharacter(u8),
    /// Not one of the four keywords.
    #[error("{0} is none of log, witness, group and quorum")]
    Keyword(Octets),
    /// Too few items on the line, or too many.
    #[error("write {0}")]
    Arguments(&'static str),
    /// The key cannot be read.
    #[error("{0}")]
    Key(#[source] KeyError),
    /// The key is not one for cosignatures.
    #[error("a witness has a key of type 0x04{}", or_write(.instead.as_deref()))]
    WitnessType {
        /// The vkey for cosignatures of the same public key, if it can have one.
        instead: Option<String>,
    },
    /// Another line has the same public key, perhaps under another name.
    #[error("the public key of {id} is listed already")]
    DuplicateKey {
        /// The key's ID on this line.
        id: KeyId,
    },
    /// Witnesses and groups have names of their own, and none of them is called `none`.
    #[error("the name {0} is taken; give the witness or group another one")]
    NameTaken(Octets),
    /// Nothing above the line has that name.
    #[error("no line above defines {0}")]
    UnknownName(Octets),
    /// A member counts once, in one group.
    #[error("{0} is a member of a group already")]
    MemberTwice(Octets),
    /// Not a number that the group can reach.
    #[error("write any, all or a number from 1 to {members}, without leading zeros")]
    Threshold {
        /// The number of members.
        members: usize,
    },
    /// There is a quorum line above.
    #[error("the quorum is set already")]
    SecondQuorum,
    /// The file has no quorum line; its last line is named.
    #[error("the file has no quorum line; write \"quorum none\" if no witness is needed")]
    NoQuorum,
}

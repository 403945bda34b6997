//! One log entry.
//!
//! An entry is a JSON object in canonical form (RFC 8785): `seq`, `time`, `boot_id` and `kind` always,
//! `function`, `instance` and `request_id` where they apply, and the fields of its [`Event`]. The bytes of
//! that object are what is hashed and signed.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, to_canonical_json};

/// An entry as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the log, counted from 0 without gaps.
    pub seq: u64,
    /// When the entry was numbered: RFC 3339, UTC, microseconds. The guest's clock, which the host sets.
    pub time: String,
    /// The boot that sealed the entry: 32 hexadecimal digits.
    pub boot_id: String,
    /// How the policy was applied when it was written, where that was not by refusing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What happened, and to whom.
    #[serde(flatten)]
    pub record: Record,
}

/// How a policy is applied other than by refusing what it does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// What it does not allow is let through, and written down as refused.
    Observe,
}

impl Entry {
    /// The canonical text: its bytes are what is hashed, signed and stored.
    ///
    /// # Errors
    /// When a number is beyond 2⁵³−1, which not every reader of JSON could hold.
    pub fn canonical(&self) -> Result<String, CanonicalError> {
        to_canonical_json(self)
    }
}

/// What a writer hands to the log; the log numbers, dates and signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whom it concerns.
    #[serde(flatten)]
    pub subject: Subject,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Whom an entry concerns. All empty for the agent itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The instance's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The invocation that the instance was serving at that moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Record {
    /// A record about the agent itself.
    #[must_use]
    pub fn agent(event: Event) -> Self {
        Self { subject: Subject::default(), event }
    }
}

/// What happened: `kind` and its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The first entry of every boot.
    Boot(Boot),
    /// An instance started or ended.
    Function(Lifecycle),
    /// An invocation began or ended.
    Invoke(Invoke),
    /// A whitelisted name was asked for and got its synthetic address.
    Dns(Dns),
    /// A connection was allowed; durable before anything was sent upstream.
    Connect(Connect),
    /// A request inside a connection; its `begin` is durable before anything of it was sent upstream.
    Request(Request),
    /// A connection ended.
    Close(Close),
    /// Something was refused.
    Refused(Refused),
    /// The policy in force, at start and at every change.
    Policy(PolicyInForce),
    /// What the hardware vouches for: in each boot whose machine makes quotes, and once more when there is collateral to it.
    Attestation(Attestation),
    /// The enforcement was found changed.
    Tamper {
        /// What differs.
        what: String,
    },
    /// Events that could not be delivered one by one.
    Lost {
        /// How many.
        count: u64,
        /// What they were, or where they were lost.
        source: String,
    },
}

/// [`Event::Lost`]'s source where the log itself was at fault: the ends of connections may be among them.
pub const LOST_BY_LOG: &str = "records while the log could not be written";

/// [`Event::Boot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// D-Shield's version.
    pub version: String,
    /// The public key (PEM, SubjectPublicKeyInfo, P-256) that signs every entry of this boot.
    pub key: String,
    /// SHA-256 (hex) of what runs, by name: `agent`, `ebpf_cgroup`, `ebpf_lsm`, `ebpf_netns`, `seccomp`.
    pub sha256: BTreeMap<String, String>,
    /// What this machine adds to the walls that stand everywhere; absent in entries of versions before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// True when the log is kept in memory only and ends with the agent.
    pub memory_only: bool,
    /// Names the log, through all of its boots: 32 hexadecimal digits; absent in entries of versions before it had a
    /// name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_id: Option<String>,
    /// A TPM's monotonic counter, which goes up with each boot of the agent; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_boots: Option<u64>,
    /// What verifies the checkpoints of this boot, as vkeys (C2SP signed-note): P-256, which is `key`, and Ed25519.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkpoint_keys: Vec<String>,
    /// The entry before this one; absent for the first boot of a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
}

/// The walls that depend on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The version of Landlock that the kernel offers: 0 for none, from 6 on with scopes for sockets and signals.
    pub landlock_abi: u32,
    /// The cgroup controllers that bound instances: of `memory` and `pids`, those that work.
    pub controllers: Vec<String>,
    /// Whether programs on the kernel's security hooks are attached.
    pub bpf_lsm: bool,
}

/// The head that a boot found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its number.
    pub seq: u64,
    /// Its RFC 6962 leaf hash, `SHA-256(0x00 ‖ entry)`, in hex.
    pub leaf_hash: String,
    /// The root of the Merkle tree (RFC 6962) over all entries up to it, in hex; absent in entries of versions before
    /// there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Whether the boot before ended in order; otherwise it was killed, or the machine stopped, and what was under way
    /// has no end in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<bool>,
}

/// [`Event::Function`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// `start` or `end`.
    pub phase: Phase,
    /// The process id of the instance's first process, in the agent's pid namespace.
    pub pid: u32,
    /// Why it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// [`Event::Invoke`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// `begin` or `end`.
    pub phase: Phase,
    /// `ok`, `error`, `timeout` or `crash`; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Milliseconds from begin to end; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// Which end of something an entry marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It begins.
    Begin,
    /// It ended.
    End,
}

/// [`Event::Dns`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// The name, canonical.
    pub name: String,
    /// The record type asked for.
    pub qtype: String,
    /// The address given, when the type was A.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// [`Event::Connect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Names the connection in its later entries: unique within a boot.
    pub connection: u64,
    /// The one name of the flow.
    pub host: String,
    /// The port that the function asked for.
    pub port: u16,
    /// `inspect`, `passthrough` or `none`.
    pub tls: String,
    /// The rule that allowed it.
    pub rule: String,
    /// Who asked, as far as the kernel could tell. For the reader: the function chooses its threads' names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// A process inside an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the agent's pid namespace.
    pub pid: u32,
    /// The thread's name, with everything but printable ASCII replaced by `?`.
    pub comm: String,
}

/// [`Event::Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `begin` before the first byte goes upstream, `end` when the response is through or has failed.
    pub phase: Phase,
    /// See [`Connect::connection`].
    pub connection: u64,
    /// The `seq` of the `begin` entry; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<u64>,
    /// The name in `Host` (equal to the connection's name); at the begin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method; at the begin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path without its query, which may hold secrets; at the begin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The rule that allowed it; at the begin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The upstream's status; at the end, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes of the request body sent upstream; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    /// Bytes of the response body; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    /// Milliseconds from begin to end; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why it failed; at the end only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// [`Event::Close`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// See [`Connect::connection`].
    pub connection: u64,
    /// Bytes that the function sent on the connection, TLS included.
    pub bytes_from_function: u64,
    /// Bytes that the function got on the connection, TLS included.
    pub bytes_to_function: u64,
    /// Milliseconds the connection was open.
    pub duration_ms: u64,
    /// Why it ended, unless in the ordinary way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// [`Event::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Where: `kernel`, `dns`, `connect`, `tls`, `http` or `upstream`.
    pub layer: String,
    /// Why, as a stable word such as `name_not_allowed`.
    pub reason: String,
    /// What the function tried, in words for a reader.
    pub detail: String,
    /// The rule or kernel program that refused it, or `default` when no rule allows it.
    pub rule: String,
    /// True when it went on all the same, because the policy only observes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub let_through: bool,
    /// See [`Connect::connection`]; when the connection had been allowed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// What it was, taken apart; absent where nothing of it could be parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
    /// Who asked, as far as the kernel could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// How many alike refusals this entry stands for, when there were more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// What a function tried, as far as it came: what a rule would have to allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The name, or the address.
    pub host: String,
    /// The TCP port; absent for a DNS question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The request's method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The request's path without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// [`Event::Attestation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// Who made the quote: `dstack`, `configfs-tsm`, `tpm` or `development`.
    pub provider: String,
    /// Evidence ([`crate::attestation::evidence`]) as JSON, over the keys that this boot's entry lists. Where all of it does
    /// not fit into an entry, without what can be had elsewhere.
    pub evidence: String,
}

/// [`Event::Policy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// SHA-256 (hex) of the policy's canonical form.
    pub sha256: String,
    /// Names of the functions it covers.
    pub functions: Vec<String>,
    /// SHA-256 (hex) of each function's code as it runs ([`crate::attestation::code`]), by the function's name; absent in
    /// entries of versions before it was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub code_sha256: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_survives_its_canonical_form() {
        let event = Event::Lost { count: 3, source: "ring buffer".to_owned() };
        let subject = Subject { function: Some("summarize".to_owned()), ..Subject::default() };
        let entry = Entry {
            seq: 9,
            time: "2026-01-02T03:04:05.000006Z".to_owned(),
            boot_id: "00112233445566778899aabbccddeeff".to_owned(),
            mode: None,
            record: Record { subject, event },
        };
        let text = entry.canonical().unwrap();
        let expected = concat!(
            r#"{"boot_id":"00112233445566778899aabbccddeeff","count":3,"function":"summarize","#,
            r#""kind":"lost","seq":9,"source":"ring buffer","time":"2026-01-02T03:04:05.000006Z"}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn every_entry_of_a_policy_that_observes_says_so() {
        let event = Event::Lost { count: 3, source: String::new() };
        let (time, boot_id, mode) = (String::new(), String::new(), Some(Mode::Observe));
        let entry = Entry { seq: 9, time, boot_id, mode, record: Record::agent(event) };
        let text = entry.canonical().unwrap();
        assert!(text.contains(r#""mode":"observe""#), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    /// Logs outlive versions: what an older one signed must still be what it signed.
    #[test]
    fn a_policy_entry_without_code_hashes_is_read_and_keeps_its_bytes() {
        let text = concat!(
            r#"{"boot_id":"00112233445566778899aabbccddeeff","functions":["f"],"kind":"policy","seq":1,"#,
            r#""sha256":"44136fa3","time":"2026-01-02T03:04:05.000006Z"}"#
        );
        let mut entry = serde_json::from_str::<Entry>(text).unwrap();
        assert_eq!(entry.canonical().unwrap(), text);
        let Event::Policy(policy) = &mut entry.record.event else { panic!("{entry:?}") };
        policy.code_sha256.insert("f".to_owned(), "e3b0".to_owned());
        let text = entry.canonical().unwrap();
        assert!(text.contains(r#""code_sha256":{"f":"e3b0"},"functions""#), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn a_number_beyond_two_to_the_53_has_no_canonical_form() {
        let event = Event::Lost { count: 1 << 53, source: String::new() };
        let entry =
            Entry { seq: 0, time: String::new(), boot_id: String::new(), mode: None, record: Record::agent(event) };
        assert!(entry.canonical().is_err());
    }
}

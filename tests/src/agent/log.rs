//! The signed log, fetched page by page through the API.
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dshield_common::log::entry::{Connect, Entry, Event, Phase, Record, Refused, Request};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{DerSignature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use serde_json::Value;

use crate::client::{self, Error};

/// Entries asked for at once: few enough that ordinary tests turn pages.
const PAGE: usize = 50;

/// One line of `/v1/log/entries`.
#[derive(Clone, Debug)]
pub struct Line {
    /// The line as it came.
    pub text: String,
    /// The entry's canonical form: the bytes that are signed.
    pub canonical: String,
    /// The entry.
    pub entry: Entry,
    /// The signature, DER.
    pub signature: Vec<u8>,
}

/// All entries, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The lines.
    pub lines: Vec<Line>,
    /// The key that the agent says signs them (PEM).
    pub key: String,
}

impl Log {
    /// Reads key and entries from the agent at `address`.
    ///
    /// # Errors
    /// When the API does not answer, or not in the documented form.
    pub fn fetch(address: SocketAddr) -> Result<Self, Error> {
        let get = |path: &str| client::request(address, "GET", path, "", Duration::from_secs(30));
        let mut log = Self { key: get("/v1/log/key")?.text(), lines: Vec::new() };
        loop {
            let page = get(&format!("/v1/log/entries?from={}&limit={PAGE}", log.lines.len()))?;
            if page.status != 200 {
                return Err(format!("status {}: {}", page.status, page.text()).into());
            }
            let before = log.lines.len();
            for line in page.text().lines() {
                log.lines.push(Line::parse(line)?);
            }
            if log.lines.len() == before {
                return Ok(log);
            }
        }
    }

    /// The events, with the function they concern.
    pub fn events(&self) -> impl Iterator<Item = (Option<&str>, &Event)> {
        self.lines.iter().map(|line| (line.entry.record.subject.function.as_deref(), &line.entry.record.event))
    }

    /// What was refused to this function.
    #[must_use]
    pub fn refused(&self, function: &str) -> Vec<&Refused> {
        self.of(function, |event| if let Event::Refused(refused) = event { Some(refused) } else { None })
    }

    /// Connections allowed to this function.
    #[must_use]
    pub fn connects(&self, function: &str) -> Vec<&Connect> {
        self.of(function, |event| if let Event::Connect(connect) = event { Some(connect) } else { None })
    }

    /// Requests of this function that were let through: their `begin` entries.
    #[must_use]
    pub fn requests(&self, function: &str) -> Vec<&Request> {
        self.of(function, |event| match event {
            Event::Request(request) if request.phase == Phase::Begin => Some(request),
            _ => None,
        })
    }

    fn of<T>(&self, function: &str, pick: impl Fn(&Event) -> Option<&T>) -> Vec<&T> {
        self.events().filter(|(who, _)| *who == Some(function)).filter_map(|(_, event)| pick(event)).collect()
    }

    /// Checks that the entries are numbered from 0 without gaps, that every one is signed by the key of its
    /// boot's first entry, and that the last boot's key is the one the agent names.
    ///
    /// # Errors
    /// The first thing that is wrong, in words.
    pub fn verify(&self) -> Result<(), String> {
        let mut key: Option<(String, VerifyingKey)> = None;
        for (expected, line) in self.lines.iter().enumerate() {
            let entry = &line.entry;
            if entry.seq != expected as u64 {
                return Err(format!("entry {expected} has the number {}", entry.seq));
            }
            if let Event::Boot(boot) = &entry.record.event {
                let parsed = VerifyingKey::from_public_key_pem(&boot.key)
                    .map_err(|error| format!("entry {expected}: the key is none: {error}"))?;
                key = Some((boot.key.clone(), parsed));
            }
            let (_, signer) = key.as_ref().ok_or("the first entry is not a boot entry")?;
            let signature = DerSignature::from_bytes(&line.signature)
                .map_err(|error| format!("entry {expected}: the signature is not DER: {error}"))?;
            signer
                .verify(line.canonical.as_bytes(), &signature)
                .map_err(|_| format!("entry {expected}: the signature is wrong"))?;
        }
        let (last, _) = key.ok_or("the log is empty")?;
        if last.trim() != self.key.trim() {
            return Err("the key at /v1/log/key is not that of the last boot entry".into());
        }
        Ok(())
    }
}

impl Line {
    /// Reads one line of `/v1/log/entries`, or one event of `/v1/log/stream`.
    ///
    /// # Errors
    /// When it does not have the documented form.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |error: &dyn fmt::Display| Error::from(format!("not a log line ({error}): {text}"));
        let line: Value = serde_json::from_str(text).map_err(|error| bad(&error))?;
        let entry: Entry = serde_json::from_value(line["entry"].clone()).map_err(|error| bad(&error))?;
        if line["seq"].as_u64() != Some(entry.seq) {
            return Err(bad(&"`seq` differs from the entry's"));
        }
        let signature = STANDARD.decode(line["signature"].as_str().unwrap_or_default()).map_err(|error| bad(&error))?;
        // serde_json sorts keys, and no entry has a number that is not an integer: this is the form of RFC 8785.
        let canonical = line["entry"].to_string();
        if !text.contains(&canonical) {
            return Err(bad(&"the entry is not in canonical form"));
        }
        Ok(Self { text: text.to_owned(), canonical, entry, signature })
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

/// One entry as a line for people: number, function, what happened.
#[must_use]
pub fn in_words(entry: &Entry) -> String {
    let Entry { seq, record: Record { subject, event }, .. } = entry;
    let who = subject.function.as_deref().unwrap_or("agent");
    let what = match event {
        Event::Boot(boot) => format!("boot      D-Shield {}", boot.version),
        Event::Policy(policy) => format!("policy    {} for {}", short(&policy.sha256), policy.functions.join(", ")),
        Event::Function(change) => format!("instance  {:?} pid {}", change.phase, change.pid),
        Event::Invoke(invoke) => format!("invoke    {:?} {}", invoke.phase, invoke.outcome.as_deref().unwrap_or("")),
        Event::Dns(dns) => format!("dns       {} {} -> {}", dns.qtype, dns.name, dns.answer.as_deref().unwrap_or("-")),
        Event::Connect(c) => format!("connect   {}:{} tls={} rule={}", c.host, c.port, c.tls, c.rule),
        Event::Request(r) if r.phase == Phase::Begin => {
            let part = |field: &Option<String>| field.clone().unwrap_or_default();
            format!("request   {} https://{}{}", part(&r.method), part(&r.host), part(&r.path))
        }
        Event::Request(r) => format!(
            "request   done, status {} ({} bytes out, {} bytes in)",
            r.status.map_or_else(|| "-".into(), |status| status.to_string()),
            r.request_bytes.unwrap_or(0),
            r.response_bytes.unwrap_or(0)
        ),
        Event::Close(c) => format!("close     {} bytes out, {} bytes in", c.bytes_from_function, c.bytes_to_function),
        Event::Refused(r) => format!("refused   {} {}: {} [{}]", r.layer, r.reason, r.detail, r.rule),
        Event::Tamper { what } => format!("tamper    {what}"),
        Event::Lost { count, source } => format!("lost      {count} from {source}"),
        _ => "something newer than this program".into(),
    };
    format!("#{seq:<3} {who:<10} {}", what.trim_end())
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};
    use serde_json::json;

    use super::*;

    /// Two entries, signed as the agent would.
    fn log() -> Log {
        let signer = SigningKey::from_slice(&[7; 32]).expect("a valid scalar");
        let key = signer.verifying_key().to_public_key_pem(LineEnding::LF).expect("a key has a PEM form");
        let boot = json!({"seq": 0, "time": "t", "boot_id": "b", "kind": "boot", "version": "1", "key": key, "sha256": {}, "memory_only": false});
        let lost = json!({"seq": 1, "time": "t", "boot_id": "b", "kind": "lost", "count": 3, "source": "ring"});
        let sign = |entry: Value| {
            let signature: DerSignature = signer.sign(entry.to_string().as_bytes());
            let text =
                json!({"seq": entry["seq"], "entry": entry, "signature": STANDARD.encode(signature)}).to_string();
            Line::parse(&text).expect("it is as the agent writes it")
        };
        Log { lines: vec![sign(boot), sign(lost)], key }
    }

    #[test]
    fn a_whole_log_verifies() {
        assert_eq!(log().verify(), Ok(()));
        assert_eq!(in_words(&log().lines[1].entry), "#1   agent      lost      3 from ring");
    }

    #[test]
    fn a_gap_a_change_and_a_strange_key_are_found() {
        let mut gap = log();
        gap.lines.remove(0);
        assert!(gap.verify().is_err());
        let mut changed = log();
        changed.lines[1].canonical = changed.lines[1].canonical.replace('3', "2");
        assert_eq!(changed.verify(), Err("entry 1: the signature is wrong".into()));
        let strange = Log { key: "another".into(), ..log() };
        assert!(strange.verify().is_err());
    }
}

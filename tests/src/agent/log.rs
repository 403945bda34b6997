//! The signed log, fetched page by page through the API.
use std::fmt;
use std::path::PathBuf;

use dshield_common::log::entry::{Connect, Entry, Event, Lifecycle, Phase, Record, Refused, Request};
use dshield_common::log::line::SignedEntry;
use dshield_verify::log::{Expectations, LogKey, verify_lines};

use crate::client::{Answer, Error};

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
    /// Reads key and entries, asking `get` for each path of the API.
    ///
    /// # Errors
    /// When the API does not answer, or not in the documented form.
    pub(super) fn fetch(get: impl Fn(&str) -> Result<Answer, Error>) -> Result<Self, Error> {
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

    /// The `/tmp` of the first instance, for a file that says to go on. Panics when there was no instance.
    #[must_use]
    #[track_caller]
    pub fn tmp(&self) -> PathBuf {
        let pid = self.events().find_map(|(_, event)| match event {
            Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => Some(*pid),
            _ => None,
        });
        PathBuf::from(format!("/proc/{}/root/tmp", pid.expect("an instance was started")))
    }

    fn of<T>(&self, function: &str, pick: impl Fn(&Event) -> Option<&T>) -> Vec<&T> {
        self.events().filter(|(who, _)| *who == Some(function)).filter_map(|(_, event)| pick(event)).collect()
    }

    /// Lets `dshield-verify` judge it: numbered from 0 without a gap, every entry signed by the key of its boot,
    /// every boot naming the entry before it, the last boot's key the one that the agent names.
    ///
    /// # Errors
    /// The first thing that is wrong, in words.
    pub fn verify(&self) -> Result<(), String> {
        let key = LogKey::from_pem(&self.key).map_err(|error| error.to_string())?;
        let expectations = Expectations { last_key: Some(key), ..Expectations::default() };
        let lines = self.lines.iter().map(|line| &line.text);
        verify_lines(lines, expectations).map(|_| ()).map_err(|fault| fault.to_string())
    }
}

impl Line {
    /// Reads one line of `/v1/log/entries`, or one event of `/v1/log/stream`.
    ///
    /// # Errors
    /// When it does not have the documented form.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |error: &dyn fmt::Display| Error::from(format!("not a log line ({error}): {text}"));
        let signed = SignedEntry::parse(text).map_err(|error| bad(&error))?;
        let entry = signed.decode().map_err(|error| bad(&error))?;
        Ok(Self { text: text.to_owned(), canonical: signed.entry, entry, signature: signed.signature })
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
        Event::Attestation(attestation) => format!("attested  by {}", attestation.provider),
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
    use super::*;

    #[test]
    fn a_line_is_read_and_told() {
        let entry = r#"{"boot_id":"b","count":3,"kind":"lost","seq":1,"source":"ring","time":"t"}"#;
        let line =
            Line::parse(&format!(r#"{{"seq":1,"entry":{entry},"signature":"AAEC"}}"#)).expect("the form is right");
        assert_eq!((line.canonical.as_str(), &line.signature[..]), (entry, &[0, 1, 2][..]));
        assert_eq!(in_words(&line.entry), "#1   agent      lost      3 from ring");
    }

    #[test]
    fn an_empty_log_does_not_pass() {
        assert!(Log::default().verify().is_err());
    }
}

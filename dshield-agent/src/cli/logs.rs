//! `dshield logs`: prints the log, for people or as the signed NDJSON lines.
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use bytes::Bytes;
use dshield_common::attestation::{Evidence, Provider, Statement};
use dshield_common::log::entry::{
    Attestation, Boot, Close, Connect, Dns, Entry, Event, Invoke, Lifecycle, Phase, PolicyInForce, Previous, Process,
    Refused, Request,
};
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use super::whom::AgentArgs;
use dshield_verify::client::{Client, ClientError, printable};

/// Entries asked for at once.
const PAGE: usize = 500;

/// Show the log: what ran, what was allowed and what was refused
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dshield logs --follow\n  dshield logs --from 120\n  dshield logs --json > log.ndjson"
)]
pub struct LogsArgs {
    /// Keep printing entries as they are written
    #[arg(long, short)]
    pub follow: bool,
    /// Print the signed lines as they are (NDJSON)
    #[arg(long)]
    pub json: bool,
    /// The number of the first entry to print
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// The agent
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Runs the command.
pub async fn run(args: LogsArgs) -> ExitCode {
    let client = match args.agent.client() {
        Ok(client) => client,
        Err(error) => {
            eprintln!("dshield: {error}");
            return ExitCode::from(2);
        }
    };
    match print(&client, &args).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has had enough.
        Err(LogsError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dshield: {}", printable(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Why the log was not printed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogsError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the log could not be printed: {0}")]
    Output(#[from] io::Error),
    #[error("the agent did not give its log (status {status}): {message}")]
    Refused { status: u16, message: String },
    #[error("the agent has closed the log; it is probably stopping")]
    Ended,
}

async fn print(client: &Client, args: &LogsArgs) -> Result<(), LogsError> {
    let mut next = args.from;
    loop {
        let text = page(client, next).await?;
        let mut out = io::stdout().lock();
        let before = next;
        for line in text.lines() {
            show(&mut out, line, args.json)?;
            next += 1;
        }
        out.flush()?;
        if next == before {
            break;
        }
    }
    if args.follow { follow(client, next, args.json).await } else { Ok(()) }
}

async fn follow(client: &Client, from: u64, json: bool) -> Result<(), LogsError> {
    let mut stream = get(client, &format!("/v1/log/stream?from={from}")).await?.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = stream.frame().await {
        let Ok(data) = frame.map_err(|cause| client.broken(cause))?.into_data() else { continue };
        pending.extend_from_slice(&data);
        let Some(end) = pending.iter().rposition(|&byte| byte == b'\n') else { continue };
        let complete: Vec<u8> = pending.drain(..=end).collect();
        let mut out = io::stdout().lock();
        for line in String::from_utf8_lossy(&complete).lines() {
            if let Some(line) = line.strip_prefix("data: ") {
                show(&mut out, line, json)?;
            }
        }
        out.flush()?;
    }
    Err(LogsError::Ended)
}

/// The lines of the entries from number `from` on, or of the first few of them.
pub(super) async fn page(client: &Client, from: u64) -> Result<String, LogsError> {
    text(client, &format!("/v1/log/entries?from={from}&limit={PAGE}")).await
}

/// What the API has at `path`.
pub(super) async fn text(client: &Client, path: &str) -> Result<String, LogsError> {
    let body = client.body(get(client, path).await?).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn get(client: &Client, path: &str) -> Result<Response<Incoming>, LogsError> {
    let response = client.send(Method::GET, path, Bytes::new()).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body: serde_json::Value = serde_json::from_slice(&client.body(response).await?).unwrap_or_default();
    let message = body["error"]["message"].as_str().unwrap_or("no reason given; check --url").to_owned();
    Err(LogsError::Refused { status: status.as_u16(), message })
}

fn show(out: &mut impl io::Write, line: &str, json: bool) -> io::Result<()> {
    if json { writeln!(out, "{line}") } else { writeln!(out, "{}", human(line)) }
}

/// A line of the log as a line for people: time, number, kind, function and a sentence.
#[must_use]
pub fn human(line: &str) -> String {
    #[derive(Deserialize)]
    struct Line {
        entry: Entry,
    }
    // An entry of a newer version still has to be seen.
    let Ok(Line { entry }) = serde_json::from_str(line) else { return printable(line) };
    let event = &entry.record.event;
    let subject = &entry.record.subject;
    // The clock's time of the day; the date changes rarely and is in --json.
    let time = entry.time.split_once('T').map_or(entry.time.as_str(), |(_, time)| time.get(..12).unwrap_or(time));
    let function = subject.function.as_deref().unwrap_or("-");
    let mode = if entry.mode.is_some() { "observing " } else { "" };
    let mut text = format!("{time} {:>6} {mode}{:<8} {function:<16} ", entry.seq, kind(event));
    text.push_str(&sentence(event, subject.instance.as_deref().unwrap_or("?")));
    if let Event::Refused(refused) = event
        && let Some(hint) = refused.hint(function)
    {
        let _ = write!(text, "; {hint}");
    }
    if let (Event::Invoke(_), Some(id)) = (event, &subject.request_id) {
        let _ = write!(text, " [{id}]");
    }
    printable(&text)
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Boot(_) => "boot",
        Event::Function(_) => "function",
        Event::Invoke(_) => "invoke",
        Event::Dns(_) => "dns",
        Event::Connect(_) => "connect",
        Event::Request(_) => "request",
        Event::Close(_) => "close",
        Event::Refused(Refused { let_through: true, .. }) => "OBSERVED",
        Event::Refused(_) => "REFUSED",
        Event::Policy(_) => "policy",
        Event::Attestation(_) => "attested",
        Event::Tamper { .. } => "TAMPER",
        Event::Lost { .. } => "LOST",
        _ => "?",
    }
}

fn sentence(event: &Event, instance: &str) -> String {
    match event {
        Event::Boot(boot) => boot_sentence(boot),
        Event::Function(Lifecycle { phase: Phase::Begin, pid, .. }) => {
            format!("instance {instance} started as process {pid}")
        }
        Event::Function(Lifecycle { reason, .. }) => {
            format!("instance {instance} ended: {}", reason.as_deref().unwrap_or("no longer needed"))
        }
        Event::Invoke(Invoke { phase: Phase::Begin, .. }) => format!("began in instance {instance}"),
        Event::Invoke(Invoke { outcome, duration_ms, .. }) => {
            format!("ended: {} after {} ms", outcome.as_deref().unwrap_or("?"), duration_ms.unwrap_or_default())
        }
        Event::Dns(Dns { name, qtype, answer }) => {
            format!("{name} {qtype} answered with {}", answer.as_deref().unwrap_or("no address"))
        }
        Event::Connect(Connect { connection, host, port, tls, rule, process }) => {
            format!("allowed {host}:{port} ({tls}) by {rule}, connection {connection}{}", asked_by(process.as_ref()))
        }
        Event::Request(request) => request_sentence(request),
        Event::Close(Close { connection, bytes_from_function, bytes_to_function, duration_ms, error }) => {
            let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!(
                "connection {connection} closed after {duration_ms} ms, {bytes_from_function} bytes out, {bytes_to_function} bytes in{why}"
            )
        }
        Event::Refused(Refused { layer, reason, detail, rule, let_through, count, process, .. }) => {
            let times = count.map(|count| format!(", {count} times")).unwrap_or_default();
            let through = if *let_through { ", let through" } else { "" };
            format!("{detail}: {reason}, by {rule} ({layer}){times}{}{through}", asked_by(process.as_ref()))
        }
        Event::Policy(PolicyInForce { sha256, functions, code_sha256 }) => {
            let with_code = |name: &String| match code_sha256.get(name) {
                Some(hash) => format!("{name} (code {})", beginning(hash)),
                None => name.clone(),
            };
            let functions: Vec<_> = functions.iter().map(with_code).collect();
            format!("in force: {} for {}", beginning(sha256), functions.join(", "))
        }
        Event::Attestation(attestation) => attestation_sentence(attestation),
        Event::Tamper { what } => what.clone(),
        Event::Lost { count, source } => format!("{count} events could not be delivered one by one: {source}"),
        _ => "an event this version does not know; see --json".to_owned(),
    }
}

/// Enough of a hash to tell it from others.
fn beginning(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

fn boot_sentence(Boot { version, memory_only, previous, .. }: &Boot) -> String {
    let place = if *memory_only { ", log in memory only" } else { "" };
    match previous {
        Some(Previous { seq, closed, .. }) => {
            let crashed = if *closed == Some(false) { ", which was not closed in order" } else { "" };
            format!("D-Shield {version} started after entry {seq}{crashed}{place}")
        }
        None => format!("D-Shield {version} started a new log{place}"),
    }
}

/// What a quote is over; who checks it is told by the command that does.
fn attestation_sentence(Attestation { provider, evidence }: &Attestation) -> String {
    let worth = if provider == Provider::Development.as_str() { ", which proves nothing," } else { "" };
    let statement = Evidence::parse(evidence).ok().and_then(|evidence| Statement::parse(&evidence.statement).ok());
    match statement {
        Some(Statement { agent, policy_sha256, .. }) => format!(
            "a quote by {provider}{worth} over agent {}, policy {} and the keys of this boot",
            beginning(&agent.sha256),
            beginning(&policy_sha256)
        ),
        None => format!("a quote by {provider}{worth} in a form this version does not know; see --json"),
    }
}

fn request_sentence(request: &Request) -> String {
    let connection = request.connection;
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    if request.phase == Phase::Begin {
        let Request { host, method, path, rule, .. } = request;
        return format!("allowed {} {}{} by {}", text(method), text(host), text(path), text(rule));
    }
    let begin = request.begin.map(|seq| format!(" to {seq}")).unwrap_or_default();
    let how = match (&request.error, request.status) {
        (Some(error), _) => format!("failed: {error}"),
        (None, Some(status)) => status.to_string(),
        (None, None) => "ended".to_owned(),
    };
    let (out, back) = (request.request_bytes.unwrap_or_default(), request.response_bytes.unwrap_or_default());
    let ms = request.duration_ms.unwrap_or_default();
    format!("answer{begin} on connection {connection}: {how} after {ms} ms, {out} bytes out, {back} bytes in")
}

fn asked_by(process: Option<&Process>) -> String {
    process.map(|Process { pid, comm }| format!(", asked by {comm} ({pid})")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dshield_common::attestation::{evidence, statement};

    use super::*;

    #[test]
    fn an_entry_reads_as_a_sentence() {
        let line = r#"{"seq":7,"entry":{"seq":7,"time":"2026-01-02T03:04:05.678901Z","boot_id":"00","kind":"refused","function":"summarize","instance":"i-1","layer":"dns","reason":"name_not_allowed","detail":"attacker.example A","rule":"default"},"signature":""}"#;
        let expected =
            "03:04:05.678      7 REFUSED  summarize        attacker.example A: name_not_allowed, by default (dns)";
        assert_eq!(human(line), expected);
    }

    #[test]
    fn a_refusal_says_which_rule_to_add_also_when_it_stands_for_many() {
        let line = r#"{"seq":7,"entry":{"seq":7,"time":"2026-01-02T03:04:05.678901Z","boot_id":"00","kind":"refused","function":"summarize","instance":"i-1","layer":"dns","reason":"name_not_allowed","detail":"dns A b.example","rule":"default","attempt":{"host":"b.example"},"count":3},"signature":""}"#;
        let expected = "dns A b.example: name_not_allowed, by default (dns), 3 times; \
                        to allow it, add below the function `summarize`: [[function.egress]] host = \"b.example\"";
        assert!(human(line).ends_with(expected), "{}", human(line));
    }

    #[test]
    fn what_was_only_observed_is_marked() {
        let line = r#"{"seq":7,"entry":{"seq":7,"time":"2026-01-02T03:04:05.678901Z","boot_id":"00","mode":"observe","kind":"refused","function":"f","layer":"connect","reason":"name_not_allowed","detail":"tcp b.example:443","rule":"default","let_through":true},"signature":""}"#;
        let expected = "03:04:05.678      7 observing OBSERVED f                tcp b.example:443: name_not_allowed, by default (connect), let through";
        assert_eq!(human(line), expected);
    }

    #[test]
    fn a_quote_is_told_by_who_made_it_and_what_it_is_over() {
        let statement = Statement {
            kind: statement::TYPE.to_owned(),
            nonce: None,
            boot_id: String::new(),
            agent: statement::Agent { version: "0.1.0".to_owned(), sha256: "a".repeat(64) },
            ebpf: statement::Ebpf { objects: Vec::new(), programs: Vec::new() },
            policy_sha256: "b".repeat(64),
            functions: Vec::new(),
            isolation: statement::Isolation {
                netns: "sealed".to_owned(),
                seccomp_sha256: String::new(),
                landlock_abi: 0,
                lsm_bpf: false,
                cgroup_controllers: Vec::new(),
            },
            log: statement::Log {
                origin: String::new(),
                ecdsa_p256: String::new(),
                ed25519: String::new(),
                size: 2,
                root: String::new(),
            },
            tls_spki_sha256: None,
        };
        let evidence = Evidence {
            format: evidence::FORMAT.to_owned(),
            provider: Provider::Dstack,
            statement: statement.canonical(),
            policy: String::new(),
            quote: None,
            collateral: None,
            event_log: None,
            vm_config: None,
            app_compose: None,
            tpm: None,
        };
        let line = |provider: &str, evidence: &str| {
            human(
                &serde_json::json!({ "entry": {
                "seq": 2, "time": "2026-01-02T03:04:05.678901Z", "boot_id": "00",
                "kind": "attestation", "provider": provider, "evidence": evidence,
            } })
                .to_string(),
            )
        };
        let text = evidence.to_json();
        let expected = "03:04:05.678      2 attested -                a quote by dstack over agent aaaaaaaaaaaaaaaa, \
                        policy bbbbbbbbbbbbbbbb and the keys of this boot";
        assert_eq!(line("dstack", &text), expected);
        assert!(line("development", &text).contains("a quote by development, which proves nothing, over agent aaaa"));
        let unknown = line("dstack", "{}");
        assert!(unknown.ends_with("a quote by dstack in a form this version does not know; see --json"), "{unknown}");
    }

    #[test]
    fn an_entry_of_a_newer_version_is_shown_as_it_is() {
        assert_eq!(human(r#"{"seq":7,"entry":{"kind":"new"}}"#), r#"{"seq":7,"entry":{"kind":"new"}}"#);
    }
}

//! Shows the log's head to witnesses (C2SP tlog-witness), so that an older log cannot be put in its place unnoticed.
//!
//! In: checkpoints of the log. Out, to each witness of the policy: the checkpoint with the proof that what it saw before
//! is its beginning; back: the witness's cosignature, which is published with the checkpoint. A witness that has seen
//! more entries than the log has tells that the log was rolled back: that is a `tamper` entry.
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use bytes::Bytes;
use dshield_common::log::entry::{Event, Record};
use dshield_common::policy::Witness;
use dshield_common::tlog::NoteSignature;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::log::{Log, LogError, SignedCheckpoint};
use crate::proxy::{OwnEgress, OwnError};

/// More is no answer of a witness.
const MOST_ANSWER: usize = 64 << 10;
/// More entries than these are not looked at one by one.
const MOST_OWN: u64 = 64;
/// The media type of what a witness says that it has seen.
const SIZE: &str = "text/x.tlog.size";

/// The task that asks them.
pub(super) struct Witnesses(JoinHandle<()>);

impl Witnesses {
    /// Asks them every `interval` in which something was written.
    pub(super) fn start(log: Log, egress: OwnEgress, witnesses: Vec<Witness>, interval: Duration) -> Self {
        let asked = witnesses.into_iter().map(|witness| Asked { witness, seen: 0, told: None }).collect();
        Self(tokio::spawn(run(log, egress, asked, interval)))
    }

    /// Ends it, so that nothing of it is written while the log closes.
    pub(super) async fn stop(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

/// A witness, and how much of the log it has seen.
struct Asked {
    witness: Witness,
    seen: u64,
    /// What is in the log already.
    told: Option<Discriminant<WitnessError>>,
}

#[derive(Debug, thiserror::Error)]
enum WitnessError {
    #[error(transparent)]
    Egress(#[from] OwnError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("it answered {status}: {text}")]
    Status { status: StatusCode, text: String },
    #[error("it says that it has seen other entries, and not how many")]
    Conflict,
    #[error("it has seen {seen} entries of this log, which has {size}: the log was rolled back, or there are two")]
    RolledBack { seen: u64, size: u64 },
    #[error(
        "what it has seen of this log is not the beginning of it: entries were changed, or there are two logs ({0})"
    )]
    Forked(String),
    #[error("its answer has no cosignature of its key that verifies")]
    NotSigned,
}

async fn run(log: Log, egress: OwnEgress, mut asked: Vec<Asked>, interval: Duration) {
    let mut shown = 0;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let head = *log.head().borrow();
        if !is_news(&log, shown, head).await {
            continue;
        }
        shown = head;
        for asked in &mut asked {
            if let Err(error) = show(&log, &egress, asked).await {
                let name = asked.witness.key.name();
                // Part of it is the witness's own text.
                tracing::warn!("witness {name}: {}", error.to_string().escape_debug());
                let tampered = matches!(error, WitnessError::RolledBack { .. } | WitnessError::Forked(_));
                let kind = Some(discriminant(&error));
                if tampered && asked.told != kind {
                    asked.told = kind;
                    let what = format!("witness {name}: {error}");
                    // A log that takes nothing says so itself.
                    let _ = log.enqueue_now(Record::agent(Event::Tamper { what }));
                }
            }
        }
    }
}

/// Whether there is something among the entries from `shown` on but what showing the log has written itself.
async fn is_news(log: &Log, shown: u64, head: u64) -> bool {
    #[derive(Deserialize)]
    struct Line {
        entry: Facts,
    }
    #[derive(Deserialize)]
    struct Facts {
        kind: String,
        function: Option<String>,
    }
    if head.saturating_sub(shown) > MOST_OWN {
        return true;
    }
    let Ok(lines) = log.read(shown, MOST_OWN as usize).await else { return true };
    lines.iter().any(|line| {
        let own = |Facts { kind, function }: &Facts| {
            function.is_none() && matches!(kind.as_str(), "connect" | "request" | "close")
        };
        !serde_json::from_str::<Line>(line).is_ok_and(|line| own(&line.entry))
    })
}

/// Shows the present head to one witness.
async fn show(log: &Log, egress: &OwnEgress, asked: &mut Asked) -> Result<(), WitnessError> {
    let mut learned = false;
    loop {
        let checkpoint = log.checkpoint()?;
        if asked.seen > checkpoint.size {
            return Err(WitnessError::RolledBack { seen: asked.seen, size: checkpoint.size });
        }
        let Witness { to, port, path, key, .. } = &asked.witness;
        let body = submission(log, asked.seen, &checkpoint).await?;
        let (status, header, answer) = egress.post(to, *port, path, body, MOST_ANSWER).await?;
        match status {
            StatusCode::OK => {
                let text = String::from_utf8_lossy(&answer);
                let lines = text.lines().filter_map(|line| line.parse::<NoteSignature>().ok());
                let mut own = lines.filter(|line| line.name == *key.name() && line.id == key.id());
                let verifies = |line: &NoteSignature| {
                    key.verify(checkpoint.note.text(), &line.signature).is_ok_and(|at| at.is_some())
                };
                let signature = own.find(verifies).ok_or(WitnessError::NotSigned)?;
                asked.seen = checkpoint.size;
                log.cosigned(&checkpoint, signature)?;
                return Ok(());
            }
            // It saw another head last than we know of: in an earlier boot, or its answer got lost.
            StatusCode::CONFLICT if !learned => {
                asked.seen = seen(&header, &answer).ok_or(WitnessError::Conflict)?;
                learned = true;
            }
            status => {
                let text = String::from_utf8_lossy(&answer).chars().take(200).collect();
                // The proof is right for this log, so the head that it starts from is another's.
                return Err(match status {
                    StatusCode::UNPROCESSABLE_ENTITY => WitnessError::Forked(text),
                    status => WitnessError::Status { status, text },
                });
            }
        }
    }
}

/// `add-checkpoint`: what it saw before, the proof from there, an empty line, the checkpoint.
async fn submission(log: &Log, old: u64, checkpoint: &SignedCheckpoint) -> Result<Bytes, LogError> {
    let mut body = format!("old {old}\n");
    for hash in log.consistency(old, checkpoint.size).await? {
        body.push_str(&format!("{hash}\n"));
    }
    body.push_str(&format!("\n{}", checkpoint.note));
    Ok(body.into())
}

fn seen(headers: &HeaderMap, answer: &[u8]) -> Option<u64> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    if kind.split(';').next()?.trim() != SIZE {
        return None;
    }
    std::str::from_utf8(answer).ok()?.trim_end_matches('\n').parse().ok()
}

//! The log, for whoever wants to read it: its entries, and the key that signs them.
//!
//! A reader is served page by page from what is durable. It holds no lock and no queue of the writer, however
//! slowly it reads.
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::error::ApiError;
use super::query::{Parameters, invalid, known, number};
use crate::log::{Log, LogError};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const LIMIT_RANGE: &str = "must be a whole number from 1 to 1000";
/// Entries that are looked through for one answer, where they are chosen by what they say.
const LOOKED_THROUGH: u64 = 50_000;
/// Where to go on reading.
const NEXT: &str = "x-dshield-next";

/// `GET /v1/log/entries?from=0&limit=100`: NDJSON. With `function`, `kind`, `request`, `since` or `until` only those
/// entries that are so; `x-dshield-next` says where to go on.
pub(super) async fn entries(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let mut parameters = known(query, &["from", "limit", "function", "kind", "request", "since", "until"])?;
    let from = number(&parameters, "from")?.unwrap_or(0);
    let limit = match parameters.get("limit").map(|limit| limit.parse()) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
        Some(_) => return Err(invalid("limit", LIMIT_RANGE)),
    };
    let filter = Filter::take(&mut parameters)?;
    // A caller whose function has answered finds that invocation in the log.
    shared.state.log.settled().await;
    let log = &shared.state.log;
    if let Some(filter) = filter {
        return chosen(log, from, limit, &filter).await;
    }
    // Read before anything is sent, so that a log which cannot be read is an error and not an empty page.
    let first = log.read(from, limit).await?;
    let next = from.saturating_add(limit as u64).min((*log.head().borrow()).max(from));
    let headers = [(header::CONTENT_TYPE.as_str(), NDJSON.to_owned()), (NEXT, next.to_string())];
    let left = limit - first.len();
    if first.is_empty() || left == 0 {
        return Ok((headers, ndjson(&first)).into_response());
    }
    // The log gives less than asked for when entries are large. The rest is read as the reader takes it.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(send_pages(log.clone(), from, left, first, sender));
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

const NDJSON: &str = "application/x-ndjson";

/// Which entries are asked for.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    function: Option<String>,
    kind: Option<String>,
    request: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

/// What of an entry a [`Filter`] looks at.
#[derive(Deserialize)]
struct Facts {
    kind: String,
    time: String,
    function: Option<String>,
    request_id: Option<String>,
}

impl Filter {
    fn take(parameters: &mut Parameters) -> Result<Option<Self>, ApiError> {
        let filter = Self {
            function: parameters.remove("function"),
            kind: parameters.remove("kind"),
            request: parameters.remove("request"),
            since: moment(parameters.remove("since"), "since")?,
            until: moment(parameters.remove("until"), "until")?,
        };
        let none = Self { function: None, kind: None, request: None, since: None, until: None };
        Ok((filter != none).then_some(filter))
    }

    fn wants(&self, facts: &Facts) -> bool {
        let is = |wanted: &Option<String>, found: Option<&String>| wanted.is_none() || wanted.as_ref() == found;
        is(&self.kind, Some(&facts.kind))
            && is(&self.function, facts.function.as_ref())
            && is(&self.request, facts.request_id.as_ref())
            // All have the same form, so their order is that of the text.
            && self.since.as_ref().is_none_or(|since| facts.time >= *since)
            && self.until.as_ref().is_none_or(|until| facts.time < *until)
    }
}

/// A date in the form that entries have it, filled up where it is given less exactly.
fn moment(text: Option<String>, name: &str) -> Result<Option<String>, ApiError> {
    const FORM: &str = "0000-00-00T00:00:00.000000Z";
    let Some(text) = text else { return Ok(None) };
    let bare = text.strip_suffix('Z').unwrap_or(&text);
    // Whole, or cut behind the date, the minutes, the seconds or anywhere in the fraction.
    let cut = [10, 16, 19].contains(&bare.len()) || (21..=26).contains(&bare.len());
    let filled = format!("{bare}{}", FORM.get(bare.len()..).unwrap_or_default());
    let alike = |(digit, form): (u8, u8)| if form == b'0' { digit.is_ascii_digit() } else { digit == form };
    if cut && filled.len() == FORM.len() && filled.bytes().zip(FORM.bytes()).all(alike) {
        return Ok(Some(filled));
    }
    Err(invalid(name, "must be a date in UTC such as 2026-01-02 or 2026-01-02T03:04:05.678Z"))
}

/// Entries that the filter wants: looked for until there are enough, or for long enough.
async fn chosen(log: &Log, from: u64, limit: usize, filter: &Filter) -> Result<Response, ApiError> {
    let mut lines = Vec::new();
    let mut next = from;
    while lines.len() < limit && next - from < LOOKED_THROUGH {
        let page = log.read(next, MAX_LIMIT).await?;
        if page.is_empty() {
            break;
        }
        for line in page {
            next += 1;
            // The line's own form: `{"seq":…,"entry":{…},…}`.
            if serde_json::from_str::<Line>(&line).is_ok_and(|line| filter.wants(&line.entry)) {
                lines.push(line);
                if lines.len() == limit {
                    break;
                }
            }
        }
    }
    let headers = [(header::CONTENT_TYPE.as_str(), NDJSON.to_owned()), (NEXT, next.to_string())];
    Ok((headers, ndjson(&lines)).into_response())
}

#[derive(Deserialize)]
struct Line {
    entry: Facts,
}

/// `GET /v1/log/key`: the key of this boot; those of earlier boots are in their boot entries.
pub(super) async fn key(State(shared): State<Arc<Shared>>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/x-pem-file")];
    (headers, shared.state.log.public_key_pem().to_owned()).into_response()
}

async fn send_pages(
    log: Log,
    from: u64,
    mut left: usize,
    first: Vec<String>,
    sender: mpsc::Sender<Result<Bytes, LogError>>,
) {
    let mut next = from;
    let mut page = Ok(first);
    loop {
        let lines = match page {
            Ok(lines) if lines.is_empty() => return,
            Ok(lines) => lines,
            Err(error) => {
                // Cuts the connection in the middle of the body: the reader knows that something is missing.
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        next += lines.len() as u64;
        // Fails when the reader has gone away.
        if sender.send(Ok(ndjson(&lines).into())).await.is_err() || left == 0 {
            return;
        }
        page = log.read(next, left).await;
        left -= page.as_ref().map_or(0, Vec::len).min(left);
    }
}

fn ndjson(lines: &[String]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_may_be_given_less_exactly_and_nothing_else_is_one() {
        for (given, taken) in [
            ("2026-01-02", "2026-01-02T00:00:00.000000Z"),
            ("2026-01-02T03:04", "2026-01-02T03:04:00.000000Z"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000Z"),
            ("2026-01-02T03:04:05.6Z", "2026-01-02T03:04:05.600000Z"),
            ("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.678901Z"),
        ] {
            assert_eq!(moment(Some(given.to_owned()), "since").ok(), Some(Some(taken.to_owned())));
        }
        for bad in
            ["", "x", "2026", "2026-1-2", "2026-01-02T", "2026-01-02T03:04:05+01:00", "2026-01-02T03:04:05.6789012Z"]
        {
            assert!(moment(Some(bad.to_owned()), "since").is_err(), "{bad}");
        }
    }
}

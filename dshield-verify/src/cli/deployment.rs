//! A deployment that can be reached: its answers, bounded, and the key of the connection that they came by.
//!
//! What it answers is believed by nobody here: that is for the judge.
use std::time::Duration;

use dshield_common::attestation::Nonce;
use dshield_common::tlog::Hash;
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::client::{Client, ClientError, Leaf};
use crate::judge::Channel;

/// Evidence has less than 64 KiB without optional payloads; more than this is no answer.
const MOST_EVIDENCE: usize = 4 << 20;
/// A page of the log is bounded by the agent too.
const MOST_PAGE: usize = 64 << 20;
const MOST_TEXT: usize = 1 << 20;
/// A quote takes a second, and others may wait for theirs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A deployment's API.
#[derive(Debug)]
pub(super) struct Deployment {
    client: Client,
}

/// Why a deployment gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It was not reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It did not answer in time.
    #[error("{path} was not answered within {} seconds", PATIENCE.as_secs())]
    Slow {
        /// What was asked.
        path: String,
    },
    /// It answers, but not with what was asked for.
    #[error("{path} was answered with {status}: {message}")]
    Refused {
        /// What was asked.
        path: String,
        /// What came back.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// Its keeper removed what was asked for.
    #[error(
        "the entries before number {first} are not kept any more, so not each can be looked at; `--entries sample` looks at those that are kept"
    )]
    Pruned {
        /// The number of the first entry that is kept.
        first: u64,
    },
    /// Its answer is something else.
    #[error("the answer to {path} is not understood: {why}")]
    Garbage {
        /// What was asked.
        path: String,
        /// Why.
        why: String,
    },
    /// The TLS certificate cannot be read.
    #[error("the TLS certificate of the connection is not understood: {0}")]
    Certificate(String),
}

impl Deployment {
    /// The one at `url`.
    pub(super) fn new(url: &str) -> Result<Self, AskError> {
        Ok(Self { client: Client::unjudged(url)? })
    }

    /// Evidence, made for `nonce`, and what it came over.
    pub(super) async fn evidence(&self, nonce: Nonce) -> Result<(String, Channel), AskError> {
        let path = format!("/v1/attestation?nonce={nonce}");
        let (text, leaf) = self.text(&path, MOST_EVIDENCE).await?;
        let channel = match leaf {
            None => Channel::Plain,
            Some(Leaf(certificate)) => {
                let spki_sha256 = crate::ratls::spki_sha256(&certificate)
                    .map_err(|error| AskError::Certificate(error.to_string()))?;
                Channel::Tls { spki_sha256 }
            }
        };
        Ok((text, channel))
    }

    pub(super) async fn checkpoint(&self) -> Result<String, AskError> {
        Ok(self.text("/v1/log/checkpoint", MOST_TEXT).await?.0)
    }

    pub(super) async fn witnessed(&self) -> Result<String, AskError> {
        Ok(self.text("/v1/log/tlog/checkpoint", MOST_TEXT).await?.0)
    }

    /// That the log of `old` entries is the beginning of that of `new`.
    pub(super) async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, AskError> {
        #[derive(Deserialize)]
        struct Answer {
            hashes: Vec<String>,
        }
        let path = format!("/v1/log/consistency?old={old}&new={new}");
        let (text, _) = self.text(&path, MOST_TEXT).await?;
        let garbage = |why: String| AskError::Garbage { path: path.clone(), why };
        let Answer { hashes } = serde_json::from_str(&text).map_err(|error| garbage(error.to_string()))?;
        hashes.iter().map(|hash| hash.parse().map_err(|error| garbage(format!("{error}")))).collect()
    }

    /// Lines of entries from `from` on, at most `limit`, where one is named.
    pub(super) async fn entries(&self, from: u64, limit: Option<u64>) -> Result<String, AskError> {
        let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        Ok(self.text(&format!("/v1/log/entries?from={from}{limit}"), MOST_PAGE).await?.0)
    }

    /// The number of the first entry that is kept, or that the deployment says is.
    pub(super) async fn first(&self) -> Result<u64, AskError> {
        match self.entries(0, Some(1)).await {
            Ok(_) => Ok(0),
            Err(AskError::Pruned { first }) => Ok(first),
            Err(error) => Err(error),
        }
    }

    /// Lines of boot entries from `from` on.
    pub(super) async fn boots(&self, from: u64) -> Result<String, AskError> {
        Ok(self.text(&format!("/v1/log/entries?kind=boot&from={from}"), MOST_PAGE).await?.0)
    }

    pub(super) async fn receipt(&self, seq: u64) -> Result<String, AskError> {
        Ok(self.text(&format!("/v1/log/proof/{seq}"), MOST_TEXT).await?.0)
    }

    async fn text(&self, path: &str, most: usize) -> Result<(String, Option<Leaf>), AskError> {
        let asking = async {
            let mut response = self.client.send(Method::GET, path, bytes::Bytes::new()).await?;
            let status = response.status();
            let leaf = response.extensions_mut().remove::<Leaf>();
            let body = self.client.body_of_at_most(response, most).await?;
            let garbage = |why: &str| AskError::Garbage { path: path.to_owned(), why: why.to_owned() };
            let body = body.ok_or_else(|| garbage(&format!("it is longer than {most} bytes")))?;
            let text = String::from_utf8(body.to_vec()).map_err(|_| garbage("it is not UTF-8 text"))?;
            if let Some(first) = pruned(status, &text) {
                return Err(AskError::Pruned { first });
            }
            if status != StatusCode::OK {
                return Err(AskError::Refused { path: path.to_owned(), status, message: message(&text) });
            }
            Ok((text, leaf))
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Slow { path: path.to_owned() }),
        }
    }
}

/// The first entry that is kept, where the answer says that the one asked for is not.
fn pruned(status: StatusCode, text: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(text).ok().filter(|_| status == StatusCode::GONE)?;
    value.pointer("/error/first")?.as_u64()
}

/// What an error answer says, as far as anybody wants to read.
fn message(text: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let said = value.pointer("/error/message").and_then(serde_json::Value::as_str).unwrap_or(text);
    crate::client::printable(&said.chars().take(300).collect::<String>())
}

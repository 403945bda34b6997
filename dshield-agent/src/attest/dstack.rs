//! TDX quotes on dstack: its guest agent makes them, behind a unix socket that is mounted into the container.
//!
//! Report data flow in; a quote over them flows out, with dstack's event log, its description of the machine and the
//! `app-compose.json` that it measured. The interface is JSON over HTTP (dstack, `sdk/curl/api.md`).
//!
//! Nothing here extends a register: whatever of dstack checks quotes compares RTMR3 with dstack's own log.
//!
//! * `client`: one question over the socket, its answer bounded in size and time
mod client;

use std::env;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use dshield_common::attestation::{Provider, ReportData};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use self::client::{Client, Endpoint};
use super::quoter::{QuoteError, Quoted, Quoter};
use super::tdx;
use dshield_common::hex;

/// Where the guest agent's socket is looked for, in this order: as dstack's SDKs do.
pub const SOCKETS: [&str; 4] =
    ["/var/run/dstack.sock", "/run/dstack.sock", "/var/run/dstack/dstack.sock", "/run/dstack/dstack.sock"];

/// The environment variable that names another socket (a path, or an `http://` URL with a
/// loopback address), as in dstack's SDKs.
///
/// Who sets it writes `app-compose.json`, which is measured, and so could as well write another image there. A socket of
/// somebody else's machine gives quotes that name that machine.
pub const ENDPOINT_VARIABLE: &str = "DSTACK_SIMULATOR_ENDPOINT";

/// A quote takes about a second, and there may be others before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest agent of dstack.
#[derive(Clone, Debug)]
pub struct Dstack {
    client: Client,
    /// Of `Info`: it does not change while the machine runs.
    described: Option<Described>,
}

#[derive(Clone, Debug)]
struct Described {
    app_compose: Option<String>,
    vm_config: Option<String>,
}

impl Dstack {
    /// The guest agent that [`ENDPOINT_VARIABLE`] names, or else the first of [`SOCKETS`] that is there.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::find_at(env::var(ENDPOINT_VARIABLE).ok(), &SOCKETS)
    }

    fn find_at(variable: Option<String>, sockets: &[&str]) -> Option<Self> {
        match variable {
            Some(endpoint) if !endpoint.is_empty() => Some(Self::at(&endpoint)),
            _ => sockets.iter().find(|path| is_socket(Path::new(path))).map(|path| Self::at(path)),
        }
    }

    /// The guest agent at this path, or this `http://` URL. Whether there is one shows only when it is asked.
    #[must_use]
    pub fn at(endpoint: &str) -> Self {
        Self { client: Client::new(Endpoint::from(endpoint), PATIENCE), described: None }
    }

    /// Where it is: a path or a URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// 32 bytes that are the same for this `app_id` and `path` after each start: dstack's key service derives them. Whoever
    /// runs that service, and any later version of the app under the same `app_id`, can have them too. The `purpose` only
    /// stands in what the service signs about the key, and other algorithms give the same bytes: choose a path for each
    /// key.
    ///
    /// # Errors
    /// The guest agent refuses or is not there.
    pub fn key(&self, path: &str, purpose: &str) -> Result<Zeroizing<[u8; 32]>, QuoteError> {
        #[derive(Serialize)]
        struct GetKey<'a> {
            path: &'a str,
            purpose: &'a str,
            algorithm: &'static str,
        }
        #[derive(Deserialize)]
        struct Key<'a> {
            // Borrowed, so that no copy is left behind.
            key: &'a str,
        }
        let answer = self.client.ask("GetKey", &GetKey { path, purpose, algorithm: "ed25519" })?;
        let Key { key } = self.client.understood(&answer)?;
        let bytes = hex::decode(key).map(Zeroizing::new);
        let mut seed = Zeroizing::new([0; 32]);
        match bytes {
            Some(bytes) if bytes.len() == seed.len() => seed.copy_from_slice(&bytes),
            _ => return Err(self.client.unreachable("GetKey gave no key of 32 bytes")),
        }
        Ok(seed)
    }

    fn described(&mut self) -> Result<Described, QuoteError> {
        #[derive(Deserialize)]
        struct Info {
            #[serde(default)]
            tcb_info: String,
            #[serde(default)]
            vm_config: String,
        }
        #[derive(Default, Deserialize)]
        struct TcbInfo {
            #[serde(default)]
            app_compose: String,
        }
        if let Some(described) = &self.described {
            return Ok(described.clone());
        }
        let answer = self.client.ask("Info", &Value::Object(serde_json::Map::new()))?;
        let info: Info = self.client.understood(&answer)?;
        let tcb: TcbInfo = match info.tcb_info.as_str() {
            "" => TcbInfo::default(),
            text => self.client.understood(text.as_bytes())?,
        };
        let described = Described { app_compose: given(tcb.app_compose), vm_config: given(info.vm_config) };
        Ok(self.described.insert(described).clone())
    }
}

impl Quoter for Dstack {
    fn provider(&self) -> Provider {
        Provider::Dstack
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError> {
        #[derive(Serialize)]
        struct GetQuote {
            report_data: String,
        }
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            quote: String,
            #[serde(default)]
            event_log: String,
            #[serde(default)]
            vm_config: String,
        }
        let answer = self.client.ask("GetQuote", &GetQuote { report_data: hex::encode(report_data.as_bytes()) })?;
        let answer: Answer = self.client.understood(&answer)?;
        if answer.quote.is_empty() {
            let message = "the guest agent gave none: this dstack runs on another platform than TDX";
            return Err(QuoteError::NotAQuote(message.to_owned()));
        }
        let quote = hex::decode(&answer.quote);
        let quote = quote.ok_or_else(|| QuoteError::NotAQuote("it is not hexadecimal".to_owned()))?;
        tdx::check(&quote, report_data)?;
        let described = self.described()?;
        Ok(Quoted {
            quote: Some(quote),
            event_log: given(answer.event_log).map(slim),
            vm_config: given(answer.vm_config).or(described.vm_config),
            app_compose: described.app_compose,
            ..Quoted::default()
        })
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The event log without the payloads of firmware and boot chain (RTMR0 to 2), of which only the digests mean anything and
/// which make most of it; dstack itself leaves them out from 0.6. An event without a digest is left alone, and so is what
/// is no event log.
fn slim(log: String) -> String {
    let Ok(mut events) = serde_json::from_str::<Vec<Value>>(&log) else { return log };
    for event in &mut events {
        let boot = event["imr"].as_u64().is_some_and(|imr| imr < 3);
        let digest = event["digest"].as_str().is_some_and(|digest| !digest.is_empty());
        if boot && digest && event["event_payload"].is_string() {
            event["event_payload"] = Value::String(String::new());
        }
    }
    serde_json::to_string(&events).unwrap_or(log)
}

#[cfg(test)]
mod tests;

//! The judge as a WebAssembly module: a request flows in as JSON, a verdict flows out as JSON.
//!
//! The module imports nothing, so it can neither ask for the time or for randomness nor reach anybody: what it says follows
//! from the request alone. `dshield-verify.mjs` loads and calls it; [`answer`] is what it calls.
#![deny(unsafe_code)]
#[cfg(target_family = "wasm")]
mod exports;

use dshield_common::attestation::Nonce;
use dshield_common::hex;
use dshield_verify::expect::Expect;
use dshield_verify::{Channel, Options, Presented, judge};
use serde::Deserialize;

/// What to judge, and how. A member that is misspelt is refused: it might have been the one that matters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The evidence: the text that `GET /v1/attestation` answered.
    evidence: String,
    /// The moment to judge for, in seconds since 1970.
    now: u64,
    /// The text of an `expect.toml`; without it nothing can be verified, only shown.
    #[serde(default)]
    expect: String,
    /// What the evidence was asked for with, 64 hexadecimal digits.
    #[serde(default)]
    nonce: Option<Nonce>,
    /// What it came over.
    #[serde(default)]
    channel: Over,
    #[serde(default)]
    insecure_development: bool,
    #[serde(default)]
    insecure_any_measurement: bool,
}

/// [`Channel`] in JSON: `"file"`, `"plain"` or `{"tls_spki_sha256": "64 hexadecimal digits"}`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Over {
    #[default]
    File,
    Plain,
    TlsSpkiSha256(String),
}

impl TryFrom<Over> for Channel {
    type Error = String;

    fn try_from(over: Over) -> Result<Self, String> {
        match over {
            Over::File => Ok(Self::File),
            Over::Plain => Ok(Self::Plain),
            Over::TlsSpkiSha256(digits) => {
                let spki_sha256 = hex::decode_array(&digits).ok_or_else(|| {
                    format!("channel.tls_spki_sha256 is {digits:?}; it wants 64 hexadecimal digits in lower case")
                })?;
                Ok(Self::Tls { spki_sha256 })
            }
        }
    }
}

/// Judges: the verdict as JSON ([`dshield_verify::Verdict`]), or `{"error": "…"}` where the request makes no sense.
#[must_use]
pub fn answer(request: &[u8]) -> String {
    judged(request).unwrap_or_else(|error| serde_json::json!({ "error": error }).to_string())
}

fn judged(request: &[u8]) -> Result<String, String> {
    let request: Request =
        serde_json::from_slice(request).map_err(|error| format!("the request is not understood: {error}"))?;
    let no_files = |_: &str| Err("there are no files here; write the hashes themselves".to_owned());
    let expect = Expect::parse(&request.expect, &mut { no_files }).map_err(|error| format!("expect: {error}"))?;
    let presented =
        Presented { evidence: &request.evidence, nonce: request.nonce, channel: request.channel.try_into()? };
    let options = Options {
        now: request.now,
        insecure_development: request.insecure_development,
        insecure_any_measurement: request.insecure_any_measurement,
        ..Options::default()
    };
    serde_json::to_string(&judge(&presented, &expect, &options).verdict).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(request: &str) -> String {
        let answer: serde_json::Value = serde_json::from_str(&answer(request.as_bytes())).unwrap();
        answer["error"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused_with_what_is_wrong() {
        for (request, says) in [
            ("", "the request is not understood: EOF"),
            ("[]", "the request is not understood: invalid"),
            (r#"{"evidence":"{}"}"#, "missing field `now`"),
            (r#"{"evidence":"{}","now":-1}"#, "invalid value"),
            (r#"{"evidence":"{}","now":1,"expects":""}"#, "unknown field `expects`"),
            (r#"{"evidence":"{}","now":1,"nonce":"00"}"#, "a nonce is 64 hexadecimal digits"),
            (r#"{"evidence":"{}","now":1,"channel":"tls"}"#, "unknown variant `tls`"),
            (r#"{"evidence":"{}","now":1,"channel":{"tls_spki_sha256":"00"}}"#, "it wants 64 hexadecimal digits"),
            (r#"{"evidence":"{}","now":1,"expect":"[machines]"}"#, "expect: "),
            (r#"{"evidence":"{}","now":1,"expect":"[policy]\nfile='p'"}"#, "there are no files here"),
        ] {
            let error = error(request);
            assert!(error.contains(says), "{request}: {error}");
        }
    }

    #[test]
    fn what_is_no_evidence_gets_a_verdict_that_says_so() {
        let verdict: dshield_verify::Verdict =
            serde_json::from_str(&answer(br#"{"evidence":"{}","now":1795848000}"#)).unwrap();
        assert_eq!((verdict.outcome, verdict.at), (dshield_verify::Outcome::NotChecked, 1_795_848_000));
    }
}

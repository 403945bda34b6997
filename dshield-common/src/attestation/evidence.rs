//! The document that carries a quote and all that checking it takes: `GET /v1/attestation`, and the file that a verifier
//! keeps.
//!
//! Exact texts are carried as they were hashed, never parsed and written again. `quote`, `event_log` and `vm_config` are
//! named and written as in dstack's `GetQuote` answer, so that other verifiers for dstack can be given them.
use serde::{Deserialize, Serialize};

/// The value of an evidence document's `format`.
pub const FORMAT: &str = "dshield.evidence/v1";

/// Everything that a verdict on the machine and the policy needs; nothing in it is trusted until it is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`FORMAT`].
    pub format: String,
    /// Who made the quote.
    pub provider: Provider,
    /// The statement's exact text.
    pub statement: String,
    /// The canonical policy's exact text, whose hash the statement holds.
    pub policy: String,
    /// The TDX quote, in hexadecimal; absent where the provider is a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// What Intel says about the platform that made the quote; absent while the agent has not got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collateral: Option<Collateral>,
    /// A JSON array of events, as text: what extended the RTMRs ([`super::event`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<String>,
    /// dstack's description of the virtual machine: JSON as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_config: Option<String>,
    /// dstack's `app-compose.json`, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_compose: Option<String>,
    /// A TPM's quote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmQuote>,
}

/// Who makes quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Provider {
    /// The TDX module, through dstack's guest agent.
    Dstack,
    /// The TDX module, through Linux's configfs-tsm.
    ConfigfsTsm,
    /// A TPM 2.0.
    Tpm,
    /// Nobody: the same formats under keys that anybody can make. Proves nothing.
    Development,
}

impl Provider {
    /// Its name, as in evidence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dstack => "dstack",
            Self::ConfigfsTsm => "configfs-tsm",
            Self::Tpm => "tpm",
            Self::Development => "development",
        }
    }
}

/// Intel's signed data about a platform: named and written as Intel's QVL and dcap-qvl do (`QuoteCollateralV3`). Binary
/// members are in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collateral {
    /// PEM: who signed `pck_crl`, up to the root.
    pub pck_crl_issuer_chain: String,
    /// The root's CRL, DER in hexadecimal.
    pub root_ca_crl: String,
    /// The CRL for PCK certificates, DER in hexadecimal.
    pub pck_crl: String,
    /// PEM: who signed `tcb_info`.
    pub tcb_info_issuer_chain: String,
    /// The exact text that was signed.
    pub tcb_info: String,
    /// r ‖ s, in hexadecimal.
    pub tcb_info_signature: String,
    /// PEM: who signed `qe_identity`.
    pub qe_identity_issuer_chain: String,
    /// The exact text that was signed.
    pub qe_identity: String,
    /// r ‖ s, in hexadecimal.
    pub qe_identity_signature: String,
    /// PEM: the PCK certificate's chain, where the quote does not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pck_certificate_chain: Option<String>,
}

/// A quote of a TPM 2.0 (TPM 2.0 Library, part 3, `TPM2_Quote`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmQuote {
    /// `TPMS_ATTEST`, in hexadecimal; its `extraData` is the SHA-256 of the report data.
    pub attest: String,
    /// ECDSA P-256 with SHA-256 over `attest`: r ‖ s, in hexadecimal.
    pub signature: String,
    /// The attestation key: DER `SubjectPublicKeyInfo`, in hexadecimal.
    pub ak_spki: String,
    /// The values of the PCRs (SHA-256 bank) that are quoted, in hexadecimal, by number.
    pub pcrs: std::collections::BTreeMap<u8, String>,
    /// What the agent extended its PCR with, in order: SHA-256 in hexadecimal.
    pub extended: Vec<String>,
    /// The monotonic counter in the TPM's non-volatile memory, one more with each boot of the agent; absent where there
    /// is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boots: Option<u64>,
}

/// Why a text is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// It is no JSON of that form.
    #[error("this is not evidence: {0}; give what GET /v1/attestation answers")]
    Malformed(#[source] serde_json::Error),
    /// It is of another version.
    #[error("the evidence is of format {0:?}, not \"{FORMAT}\"; use the dshield-verify of its version")]
    Format(String),
}

impl Evidence {
    /// Reads what [`Evidence::to_json`] wrote.
    ///
    /// # Errors
    /// When it is not evidence of this version.
    pub fn parse(text: &str) -> Result<Self, EvidenceError> {
        #[derive(Deserialize)]
        struct Format {
            format: Option<String>,
        }
        let Format { format } = serde_json::from_str(text).map_err(EvidenceError::Malformed)?;
        match format {
            Some(format) if format == FORMAT => {}
            format => return Err(EvidenceError::Format(format.unwrap_or_default())),
        }
        serde_json::from_str(text).map_err(EvidenceError::Malformed)
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and maps of texts have a JSON form")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn evidence_survives_its_json_and_says_which_version_it_needs() {
        let evidence = Evidence {
            format: FORMAT.to_owned(),
            provider: Provider::ConfigfsTsm,
            statement: "{\"a\":\"é\"}".to_owned(),
            policy: "{}".to_owned(),
            quote: Some("00ff".to_owned()),
            collateral: None,
            event_log: Some("[]".to_owned()),
            vm_config: None,
            app_compose: Some("{ \"x\" : 1 }\n".to_owned()),
            tpm: None,
        };
        let text = evidence.to_json();
        assert!(text.contains("\"provider\":\"configfs-tsm\""), "{text}");
        assert_eq!(Evidence::parse(&text).unwrap(), evidence);
        let newer = text.replace("evidence/v1", "evidence/v2");
        assert!(Evidence::parse(&newer).unwrap_err().to_string().contains("dshield-verify of its version"));
        assert!(Evidence::parse("<html>").unwrap_err().to_string().contains("GET /v1/attestation"));
        assert!(Evidence::parse(&text.replace("\"policy\"", "\"polcy\"")).is_err());
    }
}

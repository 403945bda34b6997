//! A TDX quote and its collateral: bytes flow in, what the platform's signature vouches for flows out.
//!
//! The cryptography is dcap-qvl's, in pure Rust: certificate chains up to a root, CRLs, validity at a given time, the
//! quoting enclave's identity, the TCB level. What is good enough is for [`crate::machine`] to say.
use dcap_qvl::quote::{Quote, Report, TDReport10};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};
use dshield_common::attestation::Collateral;
use dshield_common::hex;

/// Whose signature at the top of a quote's chain is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Root {
    /// Intel's SGX root CA.
    #[default]
    Intel,
    /// Another: DER of its certificate.
    Other(Vec<u8>),
}

/// What a verified quote says.
#[derive(Clone, Debug)]
pub struct VerifiedQuote {
    claims: QuoteClaims,
    report: TDReport10,
}

/// Why a quote proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The bytes are no quote.
    #[error("the quote is not understood: {0}")]
    Malformed(String),
    /// It is not about a TDX machine.
    #[error("the quote is of an SGX enclave, not of a TDX machine")]
    NotTdx,
    /// The collateral is malformed.
    #[error("the collateral is not understood: {0} is not hexadecimal")]
    Collateral(&'static str),
    /// Intel's own word, signed like the rest: it holds, and is that nobody should believe the platform.
    #[error("the platform's keys, or a certificate on the way, are revoked ({0})")]
    Revoked(String),
    /// Signature, chain, validity or TCB data do not hold.
    #[error("the quote does not verify: {0}")]
    Invalid(String),
}

impl VerifiedQuote {
    /// Verifies a quote (`quote` in hexadecimal) at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// When the signatures do not lead to `root`, anything on the way is expired or revoked, or the platform's TCB is.
    pub fn verify(quote: &str, collateral: &Collateral, root: &Root, now: u64) -> Result<Self, QuoteError> {
        let bytes = hex::decode(quote).ok_or_else(|| QuoteError::Malformed("it is not hexadecimal".to_owned()))?;
        let collateral = converted(collateral)?;
        let verifier = match root {
            Root::Intel => QuoteVerifier::new_prod(),
            Root::Other(der) => QuoteVerifier::new(der.clone()),
        };
        let claims = verifier
            // A step of its own says so.
            .allow_debug(true)
            .verify_with_policy(&bytes, collateral, now, &QuotePolicy::claims_only(now))
            .map_err(|error| {
                let text = format!("{error:#}");
                // Whole texts, since others quote what nobody has signed.
                match error.root_cause().to_string().as_str() {
                    "CertRevoked" | "TCB status is invalid: Revoked" => QuoteError::Revoked(text),
                    _ => QuoteError::Invalid(explained(&text)),
                }
            })?;
        let report = *td_report(&claims.report)?;
        Ok(Self { claims, report })
    }

    /// What dcap-qvl found out.
    #[must_use]
    pub fn claims(&self) -> &QuoteClaims {
        &self.claims
    }

    /// The machine's registers.
    #[must_use]
    pub fn registers(&self) -> Registers {
        Registers::of(&self.report)
    }
}

/// A virtual machine's measurements and what else its report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The firmware's image.
    pub mrtd: [u8; 48],
    /// The run-time registers.
    pub rtmr: [[u8; 48]; 4],
    /// What the host said about configuration.
    pub mr_config_id: [u8; 48],
    /// Flags of the virtual machine.
    pub attributes: [u8; 8],
    /// Processor features in use.
    pub xfam: [u8; 8],
    /// The TDX module.
    pub mr_seam: [u8; 48],
    /// What the machine chose.
    pub report_data: [u8; 64],
}

impl Registers {
    /// Those of a quote that nobody has verified: to show, not to believe.
    ///
    /// # Errors
    /// When it is no TDX quote.
    pub fn unverified(quote: &str) -> Result<Self, QuoteError> {
        let bytes = hex::decode(quote).ok_or_else(|| QuoteError::Malformed("it is not hexadecimal".to_owned()))?;
        let quote = Quote::parse(&bytes).map_err(|error| QuoteError::Malformed(format!("{error:#}")))?;
        Ok(Self::of(td_report(&quote.report)?))
    }

    fn of(report: &TDReport10) -> Self {
        Self {
            mrtd: report.mr_td,
            rtmr: [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3],
            mr_config_id: report.mr_config_id,
            attributes: report.td_attributes,
            xfam: report.xfam,
            mr_seam: report.mr_seam,
            report_data: report.report_data,
        }
    }
}

/// The last certificate of the chain in a quote, DER: who it says is at the top.
#[must_use]
pub fn top_certificate(quote: &str) -> Option<Vec<u8>> {
    let quote = Quote::parse(&hex::decode(quote)?).ok()?;
    let pem = std::str::from_utf8(quote.raw_cert_chain().ok()?).ok()?.trim_end_matches('\0').to_owned();
    let last = pem.rfind("-----BEGIN CERTIFICATE-----")?;
    let body: String =
        pem[last..].lines().skip(1).take_while(|line| !line.starts_with("-----")).map(str::trim).collect();
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// What the library says, in words for who does not know it.
fn explained(cause: &str) -> String {
    let means = if cause.contains("xpired") {
        "the collateral, Intel's data about the platform, is expired: the agent has not refreshed it, or the moment is a later one"
    } else if cause.contains("in the future") || cause.contains("NotValidYet") {
        "the collateral is from after the moment that was asked for"
    } else {
        return cause.to_owned();
    };
    format!("{means} ({cause})")
}

fn td_report(report: &Report) -> Result<&TDReport10, QuoteError> {
    report.as_td10().ok_or(QuoteError::NotTdx)
}

fn converted(collateral: &Collateral) -> Result<QuoteCollateralV3, QuoteError> {
    let bytes = |name: &'static str, text: &str| hex::decode(text).ok_or(QuoteError::Collateral(name));
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: collateral.pck_crl_issuer_chain.clone(),
        root_ca_crl: bytes("root_ca_crl", &collateral.root_ca_crl)?,
        pck_crl: bytes("pck_crl", &collateral.pck_crl)?,
        tcb_info_issuer_chain: collateral.tcb_info_issuer_chain.clone(),
        tcb_info: collateral.tcb_info.clone(),
        tcb_info_signature: bytes("tcb_info_signature", &collateral.tcb_info_signature)?,
        qe_identity_issuer_chain: collateral.qe_identity_issuer_chain.clone(),
        qe_identity: collateral.qe_identity.clone(),
        qe_identity_signature: bytes("qe_identity_signature", &collateral.qe_identity_signature)?,
        pck_certificate_chain: collateral.pck_certificate_chain.clone(),
    })
}

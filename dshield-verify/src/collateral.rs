//! Collateral: a quote flows in, requests to a PCCS flow out; its answers flow in, [`Collateral`] flows out.
//!
//! Whoever has a connection makes the requests; the agent and the command line have, a browser has not. Nothing is believed
//! here: whether collateral is Intel's, and about this quote, is for [`crate::quote::VerifiedQuote`] to say.
//!
//! The paths and answers are those of Intel's "PCCS design guide" and "API for PCK certificates, TCB info and identities",
//! version 4.
use std::fmt;

use dcap_qvl::config::PckCa;
use dcap_qvl::intel;
use dcap_qvl::quote::Quote;
use dshield_common::attestation::Collateral;
use dshield_common::hex;
use serde::Deserialize;
use serde_json::value::RawValue;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;

use crate::time;

/// No answer is longer, in bytes. Intel's are below 10 KiB; CRLs grow with what is revoked.
pub const MOST_BODY: usize = 128 << 10;
/// Nor is a chain of certificates; Intel's are below 3 KiB.
const MOST_CHAIN: usize = 16 << 10;
/// Certification data of this type hold the chain of PCK certificates.
const PCK_CHAIN: u16 = 5;

/// What a PCCS is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The CRL of the CA that the platform's certificate is from.
    PckCrl,
    /// The CRL of the root.
    RootCrl,
    /// The TCB levels of platforms of this kind.
    TcbInfo,
    /// The quoting enclave that is genuine.
    QeIdentity,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PckCrl => "the CRL for PCK certificates",
            Self::RootCrl => "the root's CRL",
            Self::TcbInfo => "the TCB info",
            Self::QeIdentity => "the quoting enclave's identity",
        })
    }
}

/// A `GET` to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What for.
    pub part: Part,
    /// Path and query, to be put behind the PCCS's URL.
    pub path: String,
}

/// What came back.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The value of a header field, whose name is given in any case.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// The body, which nobody has to have read further than [`MOST_BODY`].
    pub body: &'a [u8],
}

/// Why there is no collateral.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// The bytes are no quote.
    #[error("the quote is not understood: {0}")]
    Quote(String),
    /// It is not about a TDX machine.
    #[error("the quote is of an SGX enclave, not of a TDX machine")]
    NotTdx,
    /// The platform's certificate is not in the quote, so nobody knows what to ask for.
    #[error(
        "the quote does not hold the platform's certificate (its certification data are of type {0}, not {PCK_CHAIN}); \
         register the platform with a PCCS, and name that in the host's quoting service (sgx_default_qcnl.conf)"
    )]
    NoChain(u16),
    /// The platform's certificate does not say which platform it is for.
    #[error("the platform's certificate in the quote is not understood: {0}")]
    Certificate(String),
    /// The PCCS has no such answer.
    #[error("it answered {status} where {part} was asked for")]
    Status {
        /// What was asked for.
        part: Part,
        /// The HTTP status.
        status: u16,
    },
    /// The PCCS's answer is longer than anything that makes sense.
    #[error("{0} that it answered is too long")]
    TooLong(Part),
    /// The PCCS does not say who signed.
    #[error("it did not say who signed {part} (header {header}); is it a PCCS of version 4?")]
    NoIssuer {
        /// What was asked for.
        part: Part,
        /// Where that would stand.
        header: &'static str,
    },
    /// The PCCS's answer is something else.
    #[error("what it answered is not {part}: {why}")]
    Malformed {
        /// What was asked for.
        part: Part,
        /// The cause.
        why: String,
    },
    /// Not all requests were made. A fault of the caller's code.
    #[error("{0} was not asked for")]
    Missing(Part),
}

/// What is to be asked about the platform of one quote, and what was answered.
#[derive(Clone, Debug)]
pub struct Requests {
    fmspc: [u8; 6],
    ca: &'static str,
    pck_crl: Option<(String, Vec<u8>)>,
    root_crl: Option<Vec<u8>>,
    tcb_info: Option<Signed>,
    qe_identity: Option<Signed>,
}

/// A text, as it was signed.
#[derive(Clone, Debug)]
struct Signed {
    chain: String,
    text: String,
    signature: String,
}

impl Requests {
    /// Those about the platform that made `quote`.
    ///
    /// # Errors
    /// When it is no TDX quote, or does not say which platform made it.
    pub fn for_quote(quote: &[u8]) -> Result<Self, CollateralError> {
        let quote = Quote::parse(quote).map_err(|error| CollateralError::Quote(format!("{error:#}")))?;
        if quote.report.as_td10().is_none() {
            return Err(CollateralError::NotTdx);
        }
        if quote.raw_cert_chain().is_err() {
            return Err(CollateralError::NoChain(quote.inner_cert_type()));
        }
        let certificate = |error| CollateralError::Certificate(format!("{error:#}"));
        let fmspc = intel::quote_fmspc(&quote).map_err(certificate)?;
        let ca = match intel::quote_ca(&quote).map_err(certificate)? {
            PckCa::Processor => "processor",
            PckCa::Platform => "platform",
        };
        Ok(Self { fmspc, ca, pck_crl: None, root_crl: None, tcb_info: None, qe_identity: None })
    }

    /// The next to make; none when all are answered.
    #[must_use]
    pub fn next_request(&self) -> Option<Request> {
        let part = self.first_missing()?;
        let path = match part {
            Part::PckCrl => format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", self.ca),
            Part::RootCrl => "/sgx/certification/v4/rootcacrl".to_owned(),
            Part::TcbInfo => {
                let fmspc = hex::encode(&self.fmspc).to_ascii_uppercase();
                format!("/tdx/certification/v4/tcb?fmspc={fmspc}&update=standard")
            }
            Part::QeIdentity => "/tdx/certification/v4/qe/identity?update=standard".to_owned(),
        };
        Some(Request { part, path })
    }

    fn first_missing(&self) -> Option<Part> {
        let missing = [
            (Part::PckCrl, self.pck_crl.is_none()),
            (Part::RootCrl, self.root_crl.is_none()),
            (Part::TcbInfo, self.tcb_info.is_none()),
            (Part::QeIdentity, self.qe_identity.is_none()),
        ];
        missing.into_iter().find_map(|(part, missing)| missing.then_some(part))
    }

    /// Takes the answer to a request.
    ///
    /// # Errors
    /// When it does not hold what was asked for, in its form.
    pub fn answer(&mut self, part: Part, answer: &Answer<'_>) -> Result<(), CollateralError> {
        if answer.status != 200 {
            return Err(CollateralError::Status { part, status: answer.status });
        }
        if answer.body.len() > MOST_BODY {
            return Err(CollateralError::TooLong(part));
        }
        match part {
            Part::PckCrl => {
                self.pck_crl = Some((chain(part, answer, &["SGX-PCK-CRL-Issuer-Chain"])?, crl(part, answer.body)?));
            }
            Part::RootCrl => self.root_crl = Some(crl(part, answer.body)?),
            Part::TcbInfo => {
                #[derive(Deserialize)]
                struct Body<'b> {
                    #[serde(borrow, rename = "tcbInfo")]
                    text: &'b RawValue,
                    signature: String,
                }
                let Body { text, signature } = json(part, answer.body)?;
                let headers = ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"];
                self.tcb_info = Some(signed(part, answer, &headers, text, signature)?);
            }
            Part::QeIdentity => {
                #[derive(Deserialize)]
                struct Body<'b> {
                    #[serde(borrow, rename = "enclaveIdentity")]
                    text: &'b RawValue,
                    signature: String,
                }
                let Body { text, signature } = json(part, answer.body)?;
                let headers = ["SGX-Enclave-Identity-Issuer-Chain"];
                self.qe_identity = Some(signed(part, answer, &headers, text, signature)?);
            }
        }
        Ok(())
    }

    /// All answers together.
    ///
    /// # Errors
    /// When one is missing.
    pub fn finish(self) -> Result<Collateral, CollateralError> {
        let (pck_crl_issuer_chain, pck_crl) = self.pck_crl.ok_or(CollateralError::Missing(Part::PckCrl))?;
        let root_ca_crl = self.root_crl.ok_or(CollateralError::Missing(Part::RootCrl))?;
        let tcb_info = self.tcb_info.ok_or(CollateralError::Missing(Part::TcbInfo))?;
        let qe_identity = self.qe_identity.ok_or(CollateralError::Missing(Part::QeIdentity))?;
        Ok(Collateral {
            pck_crl_issuer_chain,
            root_ca_crl: hex::encode(&root_ca_crl),
            pck_crl: hex::encode(&pck_crl),
            tcb_info_issuer_chain: tcb_info.chain,
            tcb_info: tcb_info.text,
            tcb_info_signature: tcb_info.signature,
            qe_identity_issuer_chain: qe_identity.chain,
            qe_identity: qe_identity.text,
            qe_identity_signature: qe_identity.signature,
            pck_certificate_chain: None,
        })
    }
}

/// When Intel says something new about the platform, in seconds since 1970: at the first `nextUpdate` among the four parts.
/// None where a part is not understood.
#[must_use]
pub fn next_update(collateral: &Collateral) -> Option<u64> {
    let of_text = |text: &str| {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Dated {
            next_update: String,
        }
        let Dated { next_update } = serde_json::from_str(text).ok()?;
        time::parse(&next_update)
    };
    let of_crl = |text: &str| {
        let der = hex::decode(text)?;
        let list: CertificateList = CertificateList::from_der(&der).ok()?;
        // RFC 5280, section 5.1.2.5: all have it.
        Some(list.tbs_cert_list.next_update?.to_unix_duration().as_secs())
    };
    let all = [
        of_text(&collateral.tcb_info)?,
        of_text(&collateral.qe_identity)?,
        of_crl(&collateral.pck_crl)?,
        of_crl(&collateral.root_ca_crl)?,
    ];
    all.into_iter().min()
}

/// The certificates of who signed, PEM: the first of these headers that is there, in which they are percent-encoded.
fn chain(part: Part, answer: &Answer<'_>, headers: &[&'static str]) -> Result<String, CollateralError> {
    let Some(value) = headers.iter().find_map(|header| (answer.header)(header)) else {
        return Err(CollateralError::NoIssuer { part, header: headers[0] });
    };
    if value.len() > MOST_CHAIN {
        return Err(CollateralError::TooLong(part));
    }
    match urlencoding::decode(value) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Ok(pem.into_owned()),
        _ => Err(malformed(part, format!("its header {} has no certificates", headers[0]))),
    }
}

/// A CRL in DER. PCCS serve some of them in hexadecimal.
fn crl(part: Part, body: &[u8]) -> Result<Vec<u8>, CollateralError> {
    let is_crl = |der: &[u8]| CertificateList::<x509_cert::certificate::Rfc5280>::from_der(der).map(drop);
    let digits = std::str::from_utf8(body).ok().and_then(|text| hex::decode(&text.trim().to_ascii_lowercase()));
    let der = digits.unwrap_or_else(|| body.to_vec());
    is_crl(&der).map_err(|error| malformed(part, error.to_string()))?;
    Ok(der)
}

fn json<'b, T: Deserialize<'b>>(part: Part, body: &'b [u8]) -> Result<T, CollateralError> {
    serde_json::from_slice(body).map_err(|error| malformed(part, error.to_string()))
}

/// The signature is over the text's bytes as they were served, so these are kept.
fn signed(
    part: Part,
    answer: &Answer<'_>,
    headers: &[&'static str],
    text: &RawValue,
    signature: String,
) -> Result<Signed, CollateralError> {
    let signature = signature.to_ascii_lowercase();
    if hex::decode_array::<64>(&signature).is_none() {
        return Err(malformed(part, "its signature is not 64 bytes in hexadecimal".to_owned()));
    }
    Ok(Signed { chain: chain(part, answer, headers)?, text: text.get().to_owned(), signature })
}

fn malformed(part: Part, why: String) -> CollateralError {
    CollateralError::Malformed { part, why }
}

#[cfg(test)]
mod tests;

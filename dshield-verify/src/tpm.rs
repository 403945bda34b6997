//! Checks a TPM's quote: what evidence carries and the report data flow in; what the TPM vouches for, or the first fault,
//! flows out.
//!
//! * `attest`: the bytes that a TPM signs
//!
//! A quote is worth what its key and its TPM are worth. Nothing here says whose the key is: pin
//! [`TpmClaims::ak_sha256`]. A TPM that the host emulates is a program of the host's, which can be stopped, copied and put
//! back to an earlier state with its counter; what it says proves nothing against the host. And whoever may use the
//! machine's TPM can get such a quote over any data, so pin the PCRs of the boot too: they say which system it is that
//! would have to let him.
mod attest;
pub(crate) mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use dshield_common::attestation::{ReportData, TpmQuote};
use dshield_common::canonical::Sha256Digest;
use dshield_common::hex;
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use sha2::{Digest, Sha256};

use self::attest::Attest;
pub use self::attest::AttestError;

/// The PCR that an agent extends.
///
/// PCRs 0 to 15 cannot be reset without the machine (TCG PC Client Platform TPM Profile: no locality may), which rules
/// out 16 and 23. Of those that are the operating system's, 8 to 15, this is the one that least is written to: systemd
/// measures system extensions for the initrd there, where there are any (UAPI Group, Linux TPM PCR Registry).
pub const AGENT_PCR: u8 = 13;

/// What is hashed before the counter's value, so that the hash is that of nothing else.
const BOOTS_PREFIX: &[u8] = b"dshield-tpm-boots-v1:";

/// What a TPM vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TpmClaims {
    /// SHA-256 of the attestation key's DER `SubjectPublicKeyInfo`.
    pub ak_sha256: Sha256Digest,
    /// The quoted PCRs (SHA-256 bank), by number; [`AGENT_PCR`] is among them.
    pub pcrs: BTreeMap<u8, [u8; 32]>,
    /// How often the TPM was reset, as it is when its machine starts.
    pub reset_count: u32,
    /// How often it was restarted without a reset since, as when its machine woke up.
    pub restart_count: u32,
    /// The number that the TPM's maker gave its firmware.
    pub firmware_version: u64,
    /// What the agent says it extended its PCR with, in order: what it measured before it served.
    pub measured: Vec<[u8; 32]>,
    /// Whether [`TpmClaims::measured`], after the number of boots, is all that [`AGENT_PCR`] was extended with since the
    /// TPM was reset. When not, others extended it before or after, such as an agent that ran before on the same boot of
    /// the machine: then the PCR says nothing about what was measured.
    pub explained: bool,
    /// The monotonic counter in the TPM, one more with each start of an agent; where there is one. The PCR holds it:
    /// read it together with [`TpmClaims::explained`].
    pub boots: Option<u64>,
}

/// Why a TPM's quote does not hold. Whoever made the evidence or passed it on can have caused it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TpmFault {
    /// A member is not what it is documented to be.
    #[error("the TPM quote's `{0}` is not hexadecimal of the right length, in lower case")]
    Hex(&'static str),
    /// There is no such key.
    #[error("the TPM quote's `ak_spki` is no P-256 key in DER")]
    Key,
    /// What was signed is no quote.
    #[error("the TPM quote's `attest` is not understood: {0}")]
    Attest(#[from] AttestError),
    /// Another key signed it, or it was changed.
    #[error(
        "the TPM quote's signature does not verify with its attestation key; the quote was changed or is of another key"
    )]
    Signature,
    /// It is for something else.
    #[error("the TPM quote is over other report data: it belongs to another statement")]
    OtherReportData,
    /// The PCRs whose values are given are not those that were signed.
    #[error("the TPM quote is over the PCRs {quoted:?}, and there are values for {given:?}")]
    Selection {
        /// Those in `attest`.
        quoted: Vec<u8>,
        /// Those in `pcrs`.
        given: Vec<u8>,
    },
    /// What the agent extended was not quoted.
    #[error("the TPM quote is not over PCR {AGENT_PCR}, which agents extend")]
    NoAgentPcr,
    /// The values were changed.
    #[error("the values of the PCRs are not those that the TPM quoted; somebody changed them")]
    PcrValues,
    /// The counter is not that of which the agent extended its PCR with the hash.
    #[error("the number of boots is not the one that the agent extended PCR {AGENT_PCR} with; somebody changed it")]
    Boots,
}

/// Checks a quote. The report data must be computed from the statement, never taken from the evidence.
///
/// # Errors
/// The first fault found.
pub fn verify(quote: &TpmQuote, report_data: &ReportData) -> Result<TpmClaims, TpmFault> {
    let spki = hex::decode(&quote.ak_spki).ok_or(TpmFault::Hex("ak_spki"))?;
    let attest = hex::decode(&quote.attest).ok_or(TpmFault::Hex("attest"))?;
    let signature = hex::decode_array::<64>(&quote.signature).ok_or(TpmFault::Hex("signature"))?;
    let key = VerifyingKey::from_public_key_der(&spki).map_err(|_| TpmFault::Key)?;
    let signature = Signature::from_slice(&signature).map_err(|_| TpmFault::Signature)?;
    key.verify(&attest, &signature).map_err(|_| TpmFault::Signature)?;

    let attest = Attest::parse(&attest)?;
    if attest.extra_data != qualifying_data(report_data) {
        return Err(TpmFault::OtherReportData);
    }
    let pcrs = pcrs(quote, &attest)?;
    let value = pcrs.get(&AGENT_PCR).ok_or(TpmFault::NoAgentPcr)?;

    let mut measured = quote
        .extended
        .iter()
        .map(|each| hex::decode_array(each).ok_or(TpmFault::Hex("extended")))
        .collect::<Result<Vec<[u8; 32]>, _>>()?;
    let explained = extended(&measured) == *value;
    if let Some(boots) = quote.boots
        && (measured.is_empty() || measured.remove(0) != boots_digest(boots))
    {
        return Err(TpmFault::Boots);
    }
    Ok(TpmClaims {
        ak_sha256: Sha256Digest::of(&spki),
        pcrs,
        reset_count: attest.clock.resets,
        restart_count: attest.clock.restarts,
        firmware_version: attest.firmware_version,
        measured,
        explained,
        boots: quote.boots,
    })
}

/// What a TPM is asked to put into a quote over `report_data`, which is longer than it takes: the SHA-256.
#[must_use]
pub fn qualifying_data(report_data: &ReportData) -> [u8; 32] {
    Sha256::digest(report_data.as_bytes()).into()
}

/// What an agent extends its PCR with before all else where it has a counter: SHA-256 of a prefix and the counter's eight
/// bytes, big-endian. So the quote holds the counter, which by itself nobody signs.
#[must_use]
pub fn boots_digest(boots: u64) -> [u8; 32] {
    Sha256::new().chain_update(BOOTS_PREFIX).chain_update(boots.to_be_bytes()).finalize().into()
}

/// The value of a PCR of the SHA-256 bank that was extended with these, and no others, since the TPM's reset.
fn extended(digests: &[[u8; 32]]) -> [u8; 32] {
    digests
        .iter()
        .fold([0; 32], |value, digest| Sha256::new().chain_update(value).chain_update(digest).finalize().into())
}

/// The values of the PCRs, which must be those that were quoted.
fn pcrs(quote: &TpmQuote, attest: &Attest<'_>) -> Result<BTreeMap<u8, [u8; 32]>, TpmFault> {
    if !quote.pcrs.keys().eq(&attest.pcrs) {
        return Err(TpmFault::Selection { quoted: attest.pcrs.clone(), given: quote.pcrs.keys().copied().collect() });
    }
    let mut digest = Sha256::new();
    let mut pcrs = BTreeMap::new();
    for (pcr, value) in &quote.pcrs {
        let value = hex::decode_array(value).ok_or(TpmFault::Hex("pcrs"))?;
        digest.update(value);
        pcrs.insert(*pcr, value);
    }
    if <[u8; 32]>::from(digest.finalize()) != attest.pcr_digest {
        return Err(TpmFault::PcrValues);
    }
    Ok(pcrs)
}

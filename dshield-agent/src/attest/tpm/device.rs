//! One connection to a TPM: what is to be counted, extended or quoted flows in as bytes, and flows out as the TPM gives
//! it.
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;

use dshield_verify::tpm::AGENT_PCR;
use tss_esapi::abstraction::pcr;
use tss_esapi::attributes::{NvIndexAttributesBuilder, ObjectAttributesBuilder};
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind};
use tss_esapi::constants::{CapabilityType, NvIndexType};
use tss_esapi::handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, PcrHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Data, Digest, DigestValues, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme,
    NvPublicBuilder, PcrSelectionList, PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder,
    PublicEccParametersBuilder, Signature, SignatureScheme, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Context, Error};

use crate::attest::quoter::QuoteError;

/// Where the counter is: in the range of the machine's owner (TCG Registry of Reserved TPM 2.0 Handles and Localities,
/// 0x01800000 to 0x01bfffff).
pub(super) const COUNTER: u32 = 0x0180_0d51;

/// What is quoted: all that the boot was measured into, and [`AGENT_PCR`]. Not PCR 10: Linux's IMA extends it with each
/// file, so its value says nothing without IMA's log.
const QUOTED: [(u8, PcrSlot); 15] = [
    (0, PcrSlot::Slot0),
    (1, PcrSlot::Slot1),
    (2, PcrSlot::Slot2),
    (3, PcrSlot::Slot3),
    (4, PcrSlot::Slot4),
    (5, PcrSlot::Slot5),
    (6, PcrSlot::Slot6),
    (7, PcrSlot::Slot7),
    (8, PcrSlot::Slot8),
    (9, PcrSlot::Slot9),
    (11, PcrSlot::Slot11),
    (12, PcrSlot::Slot12),
    (13, PcrSlot::Slot13),
    (14, PcrSlot::Slot14),
    (15, PcrSlot::Slot15),
];

/// The handle of [`AGENT_PCR`].
const EXTENDED: PcrHandle = PcrHandle::Pcr13;
const _: () = assert!(AGENT_PCR == 13, "EXTENDED is another PCR");

/// What comes before an uncompressed point of P-256 in a DER `SubjectPublicKeyInfo` (RFC 5480).
const P256_SPKI: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A TPM that answers.
pub(super) struct Device {
    context: Context,
    name: String,
}

/// What the TPM signed, and what is needed to check it.
pub(super) struct Quote {
    /// `TPMS_ATTEST`.
    pub(super) attest: Vec<u8>,
    /// r ‖ s.
    pub(super) signature: [u8; 64],
    /// The key: DER `SubjectPublicKeyInfo`.
    pub(super) ak_spki: Vec<u8>,
    /// The values of [`QUOTED`], read just before.
    pub(super) pcrs: BTreeMap<u8, Vec<u8>>,
}

/// What messages call the TPM that `tcti` leads to.
pub(super) fn name(tcti: &str) -> String {
    format!("the TPM at {tcti}")
}

impl Device {
    pub(super) fn connect(tcti: &str) -> Result<Self, QuoteError> {
        let name = name(tcti);
        let Ok(conf) = TctiNameConf::from_str(tcti) else {
            let message = format!(
                "`{tcti}` does not say where a TPM is; write {}, or swtpm:host=127.0.0.1,port=2321",
                super::DEFAULT_TCTI
            );
            return Err(QuoteError::Refused { service: "tpm2-tss".to_owned(), message });
        };
        if let Some(path) = tcti.strip_prefix("device:").map(Path::new) {
            // tpm2-tss has one error for all that can be wrong with a file.
            let opened = std::fs::OpenOptions::new().read(true).write(true).open(path);
            drop(opened.map_err(|source| QuoteError::File { path: path.to_owned(), source })?);
        }
        let context = Context::new(conf).map_err(|error| {
            let kind = tcti.split(':').next().unwrap_or_default();
            let message = format!(
                "it cannot be reached: {}; does it run, is it free, and is Debian's libtss2-tcti-{kind}0 installed?",
                words(error)
            );
            QuoteError::Unreachable { service: name.clone(), message }
        })?;
        Ok(Self { context, name })
    }

    /// Adds one to the counter, making it where there is none: its value. A new one begins above every counter that the
    /// TPM ever had (TPM 2.0 Library, part 1, "NV Counter Index"), so deleting it does not put it back.
    pub(super) fn count(&mut self) -> Result<u64, QuoteError> {
        let counted = self.counter().and_then(|counter| {
            self.context.execute_with_session(Some(AuthSession::Password), |context| {
                context.nv_increment(NvAuth::Owner, counter)?;
                context.nv_read(NvAuth::Owner, counter, 8, 0)
            })
        });
        let value = counted.map_err(|error| self.refused("to count", error))?;
        let value = <[u8; 8]>::try_from(value.as_slice());
        value.map(u64::from_be_bytes).map_err(|_| self.odd("a counter that is not of eight bytes"))
    }

    fn counter(&mut self) -> Result<NvIndexHandle, Error> {
        let index = NvIndexTpmHandle::new(COUNTER)?;
        // Asked for first, because looking for what is not there is an error that tpm2-tss prints.
        let (found, _) = self.context.get_capability(CapabilityType::Handles, COUNTER, 1)?;
        let first = match found {
            CapabilityData::Handles(handles) => handles.into_inner().first().copied(),
            _ => None,
        };
        if first == Some(TpmHandle::NvIndex(index)) {
            return Ok(self.context.tr_from_tpm_public(TpmHandle::NvIndex(index))?.into());
        }
        let attributes = NvIndexAttributesBuilder::new()
            .with_nv_index_type(NvIndexType::Counter)
            .with_owner_write(true)
            .with_owner_read(true)
            .with_auth_read(true)
            .with_no_da(true)
            .build()?;
        let public = NvPublicBuilder::new()
            .with_nv_index(index)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(8)
            .build()?;
        self.context.execute_with_session(Some(AuthSession::Password), |context| {
            context.nv_define_space(Provision::Owner, None, public)
        })
    }

    /// Extends [`AGENT_PCR`].
    pub(super) fn extend(&mut self, sha256: [u8; 32]) -> Result<(), QuoteError> {
        let extended = Digest::try_from(sha256.as_slice()).and_then(|digest| {
            let mut values = DigestValues::new();
            values.set(HashingAlgorithm::Sha256, digest);
            self.context
                .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(EXTENDED, values))
        });
        extended.map_err(|error| self.refused(&format!("to extend PCR {AGENT_PCR}"), error))
    }

    /// A quote over [`QUOTED`] with these bytes in it.
    pub(super) fn quote(&mut self, qualifying_data: [u8; 32]) -> Result<Quote, QuoteError> {
        let (handle, public) = self.key().map_err(|error| self.refused("to make an attestation key", error))?;
        let pcrs = self.pcrs()?;
        let quoted = Data::try_from(qualifying_data.as_slice()).and_then(|data| {
            self.context.execute_with_session(Some(AuthSession::Password), |context| {
                context.quote(handle, data, SignatureScheme::Null, selection()?)
            })
        });
        let (attest, signature) = quoted.map_err(|error| self.refused("to make a quote", error))?;
        let attest = attest.marshall().map_err(|error| self.refused("to make a quote", error))?;
        let signature = match &signature {
            Signature::EcDsa(signature) => pair(signature.signature_r().value(), signature.signature_s().value()),
            _ => None,
        };
        let point = match &public {
            Public::Ecc { unique, .. } => pair(unique.x().value(), unique.y().value()),
            _ => None,
        };
        let (Some(signature), Some(point)) = (signature, point) else {
            return Err(self.odd("a signature or a key that is not of P-256"));
        };
        Ok(Quote { attest, signature, ak_spki: [P256_SPKI.as_slice(), &point].concat(), pcrs })
    }

    /// The attestation key. Primary, so it is the same whenever it is made, and can be pinned without keeping a file; in
    /// the endorsement hierarchy, so that the TPM tells its counts of resets as they are (TPM 2.0 Library, part 1,
    /// "Attestation": to keys of the owner it tells other numbers).
    fn key(&mut self) -> Result<(KeyHandle, Public), Error> {
        let template = template()?;
        let made = self.context.execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })?;
        Ok((made.key_handle, made.out_public))
    }

    fn pcrs(&mut self) -> Result<BTreeMap<u8, Vec<u8>>, QuoteError> {
        let read = selection().and_then(|selection| pcr::read_all(&mut self.context, selection));
        let data = read.map_err(|error| self.refused("to read its PCRs", error))?;
        let bank = data.pcr_bank(HashingAlgorithm::Sha256);
        let value = |slot| bank.and_then(|bank| bank.get_digest(slot)).map(|digest| digest.value().to_vec());
        QUOTED
            .iter()
            .map(|(pcr, slot)| Some((*pcr, value(*slot)?)))
            .collect::<Option<_>>()
            .ok_or_else(|| self.odd("no PCRs of its SHA-256 bank, which is off; turn it on in the firmware's settings"))
    }

    fn odd(&self, what: &str) -> QuoteError {
        QuoteError::Refused { service: self.name.clone(), message: format!("it gave {what}") }
    }

    fn refused(&self, what: &str, error: Error) -> QuoteError {
        let service = self.name.clone();
        let message = format!("{what}: {}", words(error));
        let passes = match error {
            // A code that is none of a TPM's: the connection's.
            Error::Tss2Error(code) => match code.kind() {
                None => true,
                Some(kind) => matches!(
                    kind,
                    Tss2ResponseCodeKind::NvRate
                        | Tss2ResponseCodeKind::Retry
                        | Tss2ResponseCodeKind::Testing
                        | Tss2ResponseCodeKind::Yielded
                ),
            },
            _ => false,
        };
        if passes {
            QuoteError::Unreachable { service, message: format!("it failed {message}") }
        } else {
            QuoteError::Refused { service, message }
        }
    }
}

/// What is signed with, of which the TPM makes the secret part from a seed that it has for itself.
fn template() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Has no password to guess; without this, each power cut would count as a guess (part 1, "Dictionary Attack").
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

fn selection() -> Result<PcrSelectionList, Error> {
    let slots = QUOTED.map(|(_, slot)| slot);
    PcrSelectionListBuilder::new().with_selection(HashingAlgorithm::Sha256, &slots).build()
}

/// Two numbers of 32 bytes each: some TPMs leave zeros in front of them out.
fn pair(first: &[u8], second: &[u8]) -> Option<[u8; 64]> {
    let mut pair = [0; 64];
    for (number, half) in [first, second].into_iter().zip(pair.chunks_exact_mut(32)) {
        let from = half.len().checked_sub(number.len())?;
        half[from..].copy_from_slice(number);
    }
    Some(pair)
}

/// With the code's number, which every manual of a TPM has.
fn words(error: Error) -> String {
    let Error::Tss2Error(code) = error else { return error.to_string() };
    let number = match code {
        Tss2ResponseCode::Success => String::new(),
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    let number = number.trim_start_matches("Response code value: ");
    match code.kind() {
        // Not the TPM's but of the libraries, for which tss-esapi has no words; they print some themselves.
        None => format!("tpm2-tss failed with {number}, see what it printed"),
        Some(Tss2ResponseCodeKind::AuthFail | Tss2ResponseCodeKind::BadAuth) => {
            format!("{code} ({number}); is there a password on this hierarchy? D-Shield uses those without")
        }
        Some(_) => format!("{code} ({number})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_their_leading_zeros_are_of_32_bytes_again() {
        let mut expected = [0; 64];
        expected[30..32].copy_from_slice(&[1, 2]);
        expected[63] = 3;
        assert_eq!(pair(&[1, 2], &[3]), Some(expected));
        assert_eq!(pair(&[7; 32], &[7; 32]), Some([7; 64]));
        assert_eq!(pair(&[0; 33], &[3]), None);
    }
}

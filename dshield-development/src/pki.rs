//! A PKI like that of Intel's SGX: a root; below it the CA of platforms with the PCK certificate of one, and who signs TCB
//! information.
//!
//! The root's secret flows in and is all that needs keeping; every other key follows from it, so a machine keeps its root
//! over a restart. Out flow certificates and CRLs. The same secret always gives the same root certificate, byte for byte.
use std::fmt;
use std::ops::Range;

use dshield_common::canonical::sha256_hex;
use p256::SecretKey;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::key::Key;
use crate::platform::{CERTIFICATES_VALID, Platform};

/// Nobody who reads a certificate may take it for Intel's.
const ROOT_NAME: &str = "D-Shield DEVELOPMENT root, proves nothing";
/// The last second that a certificate can say (RFC 5280, section 4.1.2.5): the end of the year 9999.
const LAST: u64 = 253_402_300_799;

/// The keys of a test PKI, and of the platform that it vouches for.
#[derive(Clone)]
pub struct Pki {
    root: Key,
    platform_ca: Key,
    pub(crate) pck: Key,
    pub(crate) tcb_signing: Key,
    /// The quoting enclave's, which signs quotes.
    pub(crate) attestation: Key,
    certificate: Certificate,
}

/// A certificate that the PKI issues, so one that it can revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// The CA of platforms; revoked by the root.
    PlatformCa,
    /// The platform's own, which signs the quoting enclave; revoked by the CA of platforms.
    Pck,
    /// Of who signs TCB information; revoked by the root.
    TcbSigning,
}

/// Why there is no PKI.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The system's.
    #[error("the system gives no random numbers")]
    Random,
    /// The file's.
    #[error("this is no P-256 private key (PEM, PKCS#8): {0}; remove the file to have a new development PKI made")]
    Malformed(p256::pkcs8::Error),
}

/// The certificates below the root, for one platform.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) platform_ca: Certificate,
    pub(crate) pck: Certificate,
    pub(crate) tcb_signing: Certificate,
}

impl Pki {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, PkiError> {
        let mut bytes = Zeroizing::new([0; 32]);
        loop {
            SystemRandom::new().fill(bytes.as_mut()).map_err(|_| PkiError::Random)?;
            // All but one in 2^32 are scalars of the curve.
            if let Ok(secret) = SecretKey::from_slice(bytes.as_ref()) {
                return Ok(Self::from_secret(secret));
            }
        }
    }

    /// The one that [`Pki::to_pem`] was of.
    ///
    /// # Errors
    /// When the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        Ok(Self::from_secret(SecretKey::from_pkcs8_pem(pem).map_err(PkiError::Malformed)?))
    }

    /// What to keep in a file: the root's private key (PEM, PKCS#8).
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.root.secret().to_pkcs8_pem(LineEnding::LF).expect("a P-256 key has a PKCS#8 form")
    }

    /// The root certificate, in DER: what a verifier has to trust.
    #[must_use]
    pub fn root_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The root certificate, in PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.certificate.pem()
    }

    fn from_secret(secret: SecretKey) -> Self {
        let root = Key::new(secret);
        let [platform_ca, pck, tcb_signing, attestation] =
            ["platform-ca", "pck", "tcb-signing", "attestation"].map(|name| root.derive(name));
        let certificate = ca_params(ROOT_NAME, &root, 1, &CERTIFICATES_VALID).self_signed(&root);
        let certificate = certificate.expect(PARAMS);
        Self { root, platform_ca, pck, tcb_signing, attestation, certificate }
    }

    fn root_issuer(&self) -> Issuer<'_, &Key> {
        Issuer::new(ca_params(ROOT_NAME, &self.root, 1, &CERTIFICATES_VALID), &self.root)
    }

    fn platform_issuer(&self, valid: &Range<u64>) -> Issuer<'_, &Key> {
        Issuer::new(self.platform_ca_params(valid), &self.platform_ca)
    }

    fn platform_ca_params(&self, valid: &Range<u64>) -> CertificateParams {
        ca_params("D-Shield DEVELOPMENT PCK Platform CA", &self.platform_ca, 0, valid)
    }

    pub(crate) fn issue(&self, platform: &Platform) -> Certificates {
        let valid = &platform.certificates_valid;
        let root = self.root_issuer();
        let platform_ca = self.platform_ca_params(valid).signed_by(&self.platform_ca, &root).expect(PARAMS);
        let mut pck = leaf_params("D-Shield DEVELOPMENT PCK Certificate", &self.pck, valid);
        let extension = platform.sgx_extension(&Sha256::digest(self.pck.der_bytes()).into());
        pck.custom_extensions = vec![CustomExtension::from_oid_content(Platform::SGX_EXTENSION, extension)];
        let pck = pck.signed_by(&self.pck, &self.platform_issuer(valid)).expect(PARAMS);
        let tcb_signing = leaf_params("D-Shield DEVELOPMENT TCB Signing", &self.tcb_signing, valid);
        let tcb_signing = tcb_signing.signed_by(&self.tcb_signing, &root).expect(PARAMS);
        Certificates { platform_ca, pck, tcb_signing }
    }

    /// The root's CRL, in DER.
    pub(crate) fn root_crl(&self, valid: Range<u64>, revoked: &[Issued]) -> Vec<u8> {
        let revoked = revoked.iter().filter_map(|issued| match issued {
            Issued::PlatformCa => Some(&self.platform_ca),
            Issued::TcbSigning => Some(&self.tcb_signing),
            Issued::Pck => None,
        });
        let crl = crl_params(&valid, revoked).signed_by(&self.root_issuer());
        crl.expect(PARAMS).der().to_vec()
    }

    /// The CRL of the CA of platforms, in DER.
    pub(crate) fn pck_crl(&self, valid: Range<u64>, revoked: &[Issued]) -> Vec<u8> {
        let revoked = revoked.iter().filter(|issued| **issued == Issued::Pck).map(|_| &self.pck);
        let crl = crl_params(&valid, revoked).signed_by(&self.platform_issuer(&CERTIFICATES_VALID));
        crl.expect(PARAMS).der().to_vec()
    }
}

/// The SHA-256 of the root certificate only.
impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("root_sha256", &sha256_hex(self.root_der())).finish_non_exhaustive()
    }
}

/// Why the maker of certificates cannot fail.
const PARAMS: &str = "its parameters are the same each time, and the key signs anything";

/// The moment `seconds` after 1970 began, or the last that a certificate can say.
pub(crate) fn date(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds.min(LAST)).expect("it is at most 38 bits long");
    OffsetDateTime::from_unix_timestamp(seconds).expect("its year is at most 9999")
}

fn params(name: &str, key: &Key, valid: &Range<u64>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "D-Shield");
    params.serial_number = Some(serial(key));
    params.not_before = date(valid.start);
    params.not_after = date(valid.end);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str, key: &Key, depth: u8, valid: &Range<u64>) -> CertificateParams {
    let mut params = params(name, key, valid);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(name: &str, key: &Key, valid: &Range<u64>) -> CertificateParams {
    let mut params = params(name, key, valid);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

fn crl_params<'a>(valid: &Range<u64>, revoked: impl Iterator<Item = &'a Key>) -> CertificateRevocationListParams {
    let revoked = revoked.map(|key| RevokedCertParams {
        serial_number: serial(key),
        revocation_time: date(valid.start),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    });
    let this_update = valid.start.min(LAST - 1);
    CertificateRevocationListParams {
        this_update: date(this_update),
        next_update: date(valid.end.max(this_update + 1)),
        // A later list has a larger number (RFC 5280, section 5.2.3); readers take 32 bits.
        crl_number: SerialNumber::from(this_update.min(u64::from(u32::MAX))),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// A key's certificates all have one serial number, so a list revokes it whenever it was issued.
fn serial(key: &Key) -> SerialNumber {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(key.der_bytes())[..16]);
    // Neither negative nor zero.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}

//! The API's TLS key and the certificate with evidence inside it (RA-TLS).
//!
//! Randomness of the system and evidence flow in; handshakes are signed, and the key's hash flows out for the statement. The
//! key is made when the agent starts and lives in memory only ([`crate::secret`]); the certificate is remade with each new
//! evidence. It is signed by itself: what it is worth is what the evidence in it is worth to whoever checks that.
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use dshield_common::attestation::ratls::{EVIDENCE_OID_ARCS, MAX_EVIDENCE};
use dshield_common::canonical::sha256_hex;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    PublicKeyData, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::secret::{self, P256Key};

/// One boot's TLS key and its present certificate. A handshake takes the certificate that is there when it begins.
pub struct RatlsCertificate {
    key: P256Key,
    signer: Arc<dyn SigningKey>,
    params: CertificateParams,
    spki_sha256: String,
    current: RwLock<Arc<CertifiedKey>>,
}

/// Why there is no certificate, or none with the evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RatlsError {
    /// The system has no random numbers, or a defect here.
    #[error("cannot make the API's TLS certificate: {0}")]
    Certificate(String),
    /// TLS libraries do not take certificates of that size.
    #[error(
        "evidence of {size} bytes is too large for a TLS certificate ({MAX_EVIDENCE} at most): the certificate carries none, and clients have to ask for it"
    )]
    TooLarge {
        /// In bytes.
        size: usize,
    },
}

impl RatlsCertificate {
    /// Makes a key, and a certificate without evidence for these names and addresses.
    ///
    /// # Errors
    /// The system has no random numbers, or one of `names` is neither a name nor an address.
    pub fn generate(names: impl IntoIterator<Item = String>) -> Result<Self, RatlsError> {
        let (key, signer) = secret::with_new_pkcs8(|pkcs8| {
            let signer = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8))).map_err(error)?;
            Ok((P256Key::from_pkcs8(pkcs8).map_err(error)?, signer))
        })
        .map_err(error)??;
        // An address becomes an iPAddress, a name a dNSName.
        let mut params = CertificateParams::new(names.into_iter().collect::<Vec<_>>()).map_err(error)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "D-Shield");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // It ends with the boot, whatever it says. The guest's clock is the host's, so no date that is taken from it would
        // mean more than these: the end is RFC 5280's for "no well-defined expiration date" (section 4.1.2.5).
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31).replace_time(time::Time::MAX.truncate_to_second());
        let spki_sha256 = sha256_hex(&key.subject_public_key_info());
        let first = make(&key, &signer, &params, None)?;
        Ok(Self { key, signer, params, spki_sha256, current: RwLock::new(first) })
    }

    /// SHA-256 (hex) of the key's DER `SubjectPublicKeyInfo`: a statement's `tls_spki_sha256`.
    #[must_use]
    pub fn spki_sha256(&self) -> &str {
        &self.spki_sha256
    }

    /// Puts evidence (its JSON) into the certificate, in place of what was there; for the handshakes that begin from now on.
    ///
    /// # Errors
    /// [`RatlsError::TooLarge`]: the certificate then carries no evidence at all, rather than that before. After any other
    /// error it is as it was.
    pub fn set_evidence(&self, evidence: &[u8]) -> Result<(), RatlsError> {
        let carried = Some(evidence).filter(|evidence| evidence.len() <= MAX_EVIDENCE);
        let made = make(&self.key, &self.signer, &self.params, carried)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
        match carried {
            Some(_) => Ok(()),
            None => Err(RatlsError::TooLarge { size: evidence.len() }),
        }
    }

    /// For a test that shows another's certificate.
    #[cfg(test)]
    pub(crate) fn signer(&self) -> Arc<dyn SigningKey> {
        self.signer.clone()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for RatlsCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for RatlsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RatlsCertificate").field("spki_sha256", &self.spki_sha256).finish_non_exhaustive()
    }
}

fn make(
    key: &P256Key,
    signer: &Arc<dyn SigningKey>,
    params: &CertificateParams,
    evidence: Option<&[u8]>,
) -> Result<Arc<CertifiedKey>, RatlsError> {
    let mut params = params.clone();
    // Two certificates with one issuer and number are an error to browsers that saw both.
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(error)?;
    // Positive and of that length (RFC 5280, section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    if let Some(evidence) = evidence {
        let value = yasna::construct_der(|der| der.write_bytes(evidence));
        params.custom_extensions.push(CustomExtension::from_oid_content(&EVIDENCE_OID_ARCS, value));
    }
    let certificate = params.self_signed(key).map_err(error)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.into()], signer.clone())))
}

fn error(error: impl fmt::Display) -> RatlsError {
    RatlsError::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_common::attestation::ratls::EVIDENCE_OID;
    use dshield_verify::ratls::{evidence_of, spki_sha256};

    use super::*;

    fn certificate() -> RatlsCertificate {
        RatlsCertificate::generate(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).unwrap()
    }

    fn der(certificate: &RatlsCertificate) -> Vec<u8> {
        certificate.current().end_entity_cert().unwrap().to_vec()
    }

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_verifier_finds_the_key_and_the_latest_evidence_and_at_first_none() {
        let certificate = certificate();
        let first = der(&certificate);
        assert_eq!(evidence_of(&first), Ok(None));
        // Lengths that DER writes in one, two and three bytes.
        for size in [0, 2, 0x7f, 0x80, 0xff, 0x100, 20_000, MAX_EVIDENCE] {
            let evidence = vec![b'e'; size];
            certificate.set_evidence(&evidence).unwrap();
            let now = der(&certificate);
            assert_eq!(evidence_of(&now), Ok(Some(evidence)));
            assert_eq!(hex(spki_sha256(&now).unwrap()), certificate.spki_sha256());
        }
        assert_eq!(spki_sha256(&first), spki_sha256(&der(&certificate)));
        let other = RatlsCertificate::generate([]).unwrap();
        assert_ne!(other.spki_sha256(), certificate.spki_sha256());
    }

    /// What is there no longer holds, and to leave it there would say that it does.
    #[test]
    fn evidence_that_is_too_large_is_refused_and_that_before_is_gone() {
        let certificate = certificate();
        certificate.set_evidence(b"{}").unwrap();
        let refused = certificate.set_evidence(&vec![b'e'; MAX_EVIDENCE + 1]);
        assert!(matches!(refused, Err(RatlsError::TooLarge { size }) if size == MAX_EVIDENCE + 1), "{refused:?}");
        assert_eq!(evidence_of(&der(&certificate)), Ok(None));
    }

    /// Firefox refuses the second of two certificates with one issuer and serial number.
    #[test]
    fn no_two_certificates_have_one_serial_number() {
        let serial = |der: &[u8]| {
            // Version 3, and then an INTEGER of 16 bytes.
            let before = b"\xa0\x03\x02\x01\x02\x02\x10";
            let at = der.windows(before.len()).position(|window| window == before).unwrap() + before.len();
            der[at..at + 16].to_vec()
        };
        let certificate = certificate();
        let first = der(&certificate);
        certificate.set_evidence(b"{}").unwrap();
        assert_ne!(serial(&first), serial(&der(&certificate)));
    }
    /// What others make of it: the dates, the names, the key and where the evidence is.
    #[test]
    fn openssl_reads_the_certificate_and_its_evidence() {
        let certificate = certificate();
        certificate.set_evidence(b"{\"format\":1}").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("leaf.der");
        std::fs::write(&file, der(&certificate)).unwrap();
        let openssl = |arguments: &[&str]| {
            let mut openssl = std::process::Command::new("openssl");
            let output = openssl.args(arguments).args(["-inform", "DER", "-in"]).arg(&file).output().ok()?;
            assert!(output.status.success(), "{output:?}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let Some(text) = openssl(&["x509", "-noout", "-text"]) else {
            eprintln!("skipped: openssl is not installed");
            return;
        };
        for expected in [
            "Subject: CN = D-Shield",
            "Not Before: Jan  1 00:00:00 2020 GMT",
            "Not After : Dec 31 23:59:59 9999 GMT",
            "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1",
            EVIDENCE_OID,
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!text.contains("CA:TRUE"), "{text}");
        let parsed = openssl(&["asn1parse"]).unwrap();
        let mut after = parsed.lines().skip_while(|line| !line.contains(EVIDENCE_OID));
        let value = after.nth(1).unwrap();
        // An OCTET STRING (04) of 12 bytes, in the extension's own.
        assert!(value.ends_with("[HEX DUMP]:040C7B22666F726D6174223A317D"), "{value}");
    }
}

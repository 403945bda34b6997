//! What a TLS certificate says of the agent behind it (RA-TLS): a certificate flows in, its key's hash and the evidence
//! that it carries flow out.
//!
//! Nothing here trusts the certificate: anybody can make one with anybody's evidence in it. A connection is the agent's when
//! the other side proved to have the certificate's key (the TLS handshake does), and the statement that the hardware vouches
//! for names that key: [`spki_sha256`] is its `tls_spki_sha256`.
use dshield_common::attestation::ratls::EVIDENCE_OID;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, OctetStringRef};
use x509_cert::der::{self, Decode, Encode};

const OID: ObjectIdentifier = ObjectIdentifier::new_unwrap(EVIDENCE_OID);

/// Why a certificate says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RatlsError {
    /// The other side's: it is no certificate.
    #[error("this is no X.509 certificate in DER: {0}")]
    Certificate(#[source] der::Error),
    /// The agent's: what is in the extension is not what D-Shield writes.
    #[error("the certificate's evidence is not an OCTET STRING: {0}; another version of D-Shield may have made it")]
    Evidence(#[source] der::Error),
    /// The agent's: which of them is meant nobody can say (RFC 5280, section 4.2, forbids it).
    #[error("the certificate carries evidence twice")]
    Twice,
}

/// The evidence document in a certificate (DER), if it carries one: bytes that nobody has checked.
///
/// # Errors
/// See [`RatlsError`].
pub fn evidence_of(certificate: &[u8]) -> Result<Option<Vec<u8>>, RatlsError> {
    let certificate = parse(certificate)?;
    let extensions = certificate.tbs_certificate().extensions().into_iter().flatten();
    let mut ours = extensions.filter(|extension| extension.extn_id == OID);
    let Some(extension) = ours.next() else { return Ok(None) };
    if ours.next().is_some() {
        return Err(RatlsError::Twice);
    }
    let evidence = <&OctetStringRef>::from_der(extension.extn_value.as_bytes()).map_err(RatlsError::Evidence)?;
    Ok(Some(evidence.as_bytes().to_vec()))
}

/// The SHA-256 of a certificate's `SubjectPublicKeyInfo` (DER).
///
/// # Errors
/// When it is no certificate.
pub fn spki_sha256(certificate: &[u8]) -> Result<[u8; 32], RatlsError> {
    let certificate = parse(certificate)?;
    // DER has one spelling: what was read is what is written.
    let spki = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(RatlsError::Certificate)?;
    Ok(Sha256::digest(spki).into())
}

fn parse(certificate: &[u8]) -> Result<Certificate, RatlsError> {
    Certificate::from_der(certificate).map_err(RatlsError::Certificate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::LazyLock;

    use dshield_common::attestation::ratls::EVIDENCE_OID_ARCS;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData};

    use super::*;

    fn certificate(key: &KeyPair, extensions: &[&[u8]]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let extension = |content: &&[u8]| CustomExtension::from_oid_content(&EVIDENCE_OID_ARCS, content.to_vec());
        params.custom_extensions = extensions.iter().map(extension).collect();
        params.self_signed(key).unwrap().der().to_vec()
    }

    static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| certificate(&KeyPair::generate().unwrap(), &[b"\x04\x02{}"]));

    #[test]
    fn the_evidence_is_found_where_there_is_one_and_only_one() {
        let key = KeyPair::generate().unwrap();
        let of = |extensions: &[&[u8]]| evidence_of(&certificate(&key, extensions));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[b"\x04\x02{}"]), Ok(Some(b"{}".to_vec())));
        assert_eq!(of(&[b"\x04\x02{}", b"\x04\x02{}"]), Err(RatlsError::Twice));
        for bad in [b"{}".as_slice(), b"", b"\x04\x03{}", b"\x04\x01{}", b"\x0c\x02{}"] {
            assert!(matches!(of(&[bad]), Err(RatlsError::Evidence(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_hash_is_that_of_the_key_and_not_of_what_the_certificate_says_besides() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let expected: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
            assert_eq!(spki_sha256(&certificate(&key, &[])), Ok(expected));
            assert_eq!(spki_sha256(&certificate(&key, &[b"\x04\x02{}"])), Ok(expected));
        }
        assert_ne!(spki_sha256(&GOOD), spki_sha256(&certificate(&KeyPair::generate().unwrap(), &[])));
    }

    #[test]
    fn what_is_no_certificate_or_more_than_one_is_refused() {
        let longer = [GOOD.as_slice(), b"\x00"].concat();
        for bad in [b"".as_slice(), b"\x30\x00", b"-----BEGIN CERTIFICATE-----", &GOOD[..GOOD.len() - 1], &longer] {
            assert!(matches!(evidence_of(bad), Err(RatlsError::Certificate(_))), "{bad:?}");
            assert!(matches!(spki_sha256(bad), Err(RatlsError::Certificate(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = (evidence_of(&bytes), spki_sha256(&bytes));
        }

        #[test]
        fn no_damage_to_a_certificate_makes_it_panic(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
            end in any::<proptest::sample::Index>(),
        ) {
            let mut bytes = GOOD.clone();
            for (at, byte) in damage {
                *at.get_mut(&mut bytes) = byte;
            }
            let _ = (evidence_of(&bytes), spki_sha256(&bytes));
            let cut = &GOOD[..end.index(GOOD.len())];
            prop_assert!(evidence_of(cut).is_err() && spki_sha256(cut).is_err());
        }
    }
}

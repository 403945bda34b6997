//! Whom an inspected connection trusts upstream: the usual anchors and the rule's own, and where the rule names keys,
//! those keys only.
use std::fmt;
use std::io;
use std::sync::Arc;

use dshield_common::policy::SpkiPin;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The anchors that browsers trust.
pub(super) fn usual_anchors() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// How to speak TLS to an upstream that must prove itself by the usual anchors or `anchors` (DER), and have a key of
/// `pins` unless that is empty.
pub(super) fn client_config(anchors: &[Vec<u8>], pins: &[SpkiPin], alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    let mut roots = usual_anchors();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = if pins.is_empty() {
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let verifier = PinnedVerifier::new(roots, pins.into(), provider)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_early_data = false;
    Ok(config)
}

/// The upstream proved its name, with a key that the rule does not name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("its certificate has the key {found}, which `pin_spki` does not name")]
struct WrongKey {
    found: SpkiPin,
}

/// The key that a handshake failed for, when it failed because of the key alone.
pub(super) fn wrong_key(error: &io::Error) -> Option<SpkiPin> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            why.downcast_ref().map(|WrongKey { found }| *found)
        }
        _ => None,
    }
}

/// Everything that [`WebPkiServerVerifier`] asks for, and then a pinned key (RFC 7469, section 2.6).
struct PinnedVerifier {
    chain: Arc<WebPkiServerVerifier>,
    pins: Arc<[SpkiPin]>,
}

impl PinnedVerifier {
    fn new(roots: RootCertStore, pins: Arc<[SpkiPin]>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { chain: chain.map_err(|error| Error::General(error.to_string()))?, pins })
    }
}

impl fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedVerifier").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let found = pin_of(end_entity)?;
        if self.pins.contains(&found) {
            return Ok(verified);
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongKey { found }))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn pin_of(certificate: &CertificateDer<'_>) -> Result<SpkiPin, Error> {
    Ok(SpkiPin::of(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn a_chain_that_proves_the_name_is_not_enough_where_keys_are_pinned() {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let anchor = ca.self_signed(&ca_key).unwrap().der().clone();
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap().der().clone();
        let pin = SpkiPin::of(&key.subject_public_key_info());
        let verify = |pins: &[SpkiPin], name: &'static str| {
            let mut roots = RootCertStore::empty();
            roots.add(anchor.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = PinnedVerifier::new(roots, pins.into(), provider).unwrap();
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).map_err(io::Error::other)
        };
        assert!(verify(&[[7; 32].into(), pin], "a.example").is_ok());
        assert_eq!(wrong_key(&verify(&[[7; 32].into()], "a.example").unwrap_err()), Some(pin));
        let wrong_name = verify(&[pin], "b.example").unwrap_err();
        assert_eq!(wrong_key(&wrong_name), None, "the right key does not make up for another name: {wrong_name}");
    }
}

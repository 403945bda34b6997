//! The certificate with evidence, in handshakes with the client of the command line.
use std::sync::Arc;

use dshield_common::attestation::ratls::MAX_EVIDENCE;
use dshield_verify::client::{Leaf, SpkiSha256, TlsError, Trust, connect};
use dshield_verify::ratls::{evidence_of, spki_sha256};
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::crypto::ring as provider;
use rustls::server::{ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::attest::RatlsCertificate;

/// What a client that believes `trust` makes of a server with this certificate.
async fn shake(
    server: Arc<dyn ResolvesServerCert>,
    version: &'static SupportedProtocolVersion,
    trust: Trust,
) -> Result<Leaf, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_cert_resolver(server)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let serving = tokio::spawn(async move { acceptor.accept(accepted).await.map(drop) });
    let name = ServerName::try_from("a.example").unwrap();
    let made = connect(stream, name, trust).await.map(|(_, leaf)| leaf);
    let _ = serving.await.unwrap();
    made
}

fn key_of(certificate: &RatlsCertificate) -> SpkiSha256 {
    certificate.spki_sha256().parse().unwrap()
}

/// The largest, too: libraries bound what they take.
#[tokio::test]
async fn the_certificate_of_a_connection_carries_the_evidence_of_its_time() {
    let server = Arc::new(RatlsCertificate::generate([]).unwrap());
    for version in [&TLS12, &TLS13] {
        for evidence in [b"{}".to_vec(), vec![b'e'; MAX_EVIDENCE]] {
            server.set_evidence(&evidence).unwrap();
            let Leaf(leaf) = shake(server.clone(), version, Trust::Key(key_of(&server))).await.unwrap();
            assert_eq!(evidence_of(&leaf), Ok(Some(evidence)));
            assert_eq!(dshield_common::hex::encode(&spki_sha256(&leaf).unwrap()), server.spki_sha256());
        }
    }
}

#[tokio::test]
async fn another_key_than_the_one_that_is_named_is_refused_and_none_is_the_webs() {
    let [server, other] = [(); 2].map(|()| Arc::new(RatlsCertificate::generate([]).unwrap()));
    for version in [&TLS12, &TLS13] {
        assert!(shake(server.clone(), version, Trust::Anybody).await.is_ok());
        let refused = shake(server.clone(), version, Trust::Key(key_of(&other))).await.unwrap_err();
        assert!(matches!(refused, TlsError::OtherKey(found) if found == key_of(&server)), "{refused:?}");
        let refused = shake(server.clone(), version, Trust::Web).await.unwrap_err();
        assert!(matches!(refused, TlsError::Untrusted(_)), "{refused:?}");
    }
}

/// Certificates are public: whoever shows one must have its key, whatever else is believed.
#[tokio::test]
async fn a_certificate_is_worth_nothing_to_who_has_not_its_key() {
    let [honest, thief] = [(); 2].map(|()| Arc::new(RatlsCertificate::generate([]).unwrap()));
    honest.set_evidence(b"{}").unwrap();
    let Leaf(shown) = shake(honest.clone(), &TLS13, Trust::Anybody).await.unwrap();
    let stolen = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![shown.into()], thief.signer())));
    for version in [&TLS12, &TLS13] {
        for trust in [Trust::Anybody, Trust::Key(key_of(&honest))] {
            let refused = shake(stolen.clone(), version, trust).await.unwrap_err();
            let bad = "BadSignature";
            assert!(matches!(&refused, TlsError::Broken(why) if format!("{why:?}").contains(bad)), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_neither_plain_http_nor_a_matter_of_trust() {
    let nobody = Arc::new(ResolvesServerCertUsingSni::new());
    let failed = shake(nobody, &TLS13, Trust::Anybody).await.unwrap_err();
    assert!(matches!(failed, TlsError::Broken(_)), "{failed:?}");
}

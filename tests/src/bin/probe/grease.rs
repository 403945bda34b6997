//! A TLS client that pretends to encrypt its hello (RFC 9849, section 6.2), as browsers do: nobody can decrypt what it
//! sends there, itself included.
use std::path::Path;
use std::sync::Arc;

use dshield_tests::client::{self, Error};
use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::hpke::{
    EncapsulatedSecret, Hpke, HpkeOpener, HpkePrivateKey, HpkePublicKey, HpkeSealer, HpkeSuite,
};
use rustls::internal::msgs::enums::{HpkeAead, HpkeKdf, HpkeKem};
use rustls::internal::msgs::handshake::HpkeSymmetricCipherSuite;
use tokio_rustls::TlsConnector;

/// As [`client::connector`], with the extension.
pub fn connector(bundle: &Path) -> Result<TlsConnector, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mode = EchMode::Grease(EchGreaseConfig::new(&Pretence, HpkePublicKey(vec![4; 65])));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_ech(mode)?
        .with_root_certificates(client::roots(bundle)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Encrypts nothing, for nobody.
#[derive(Debug)]
struct Pretence;

fn no<T>() -> Result<T, rustls::Error> {
    Err(rustls::Error::General("it only pretends".to_owned()))
}

impl Hpke for Pretence {
    fn seal(
        &self,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &HpkePublicKey,
    ) -> Result<(EncapsulatedSecret, Vec<u8>), rustls::Error> {
        no()
    }

    fn setup_sealer(
        &self,
        _: &[u8],
        _: &HpkePublicKey,
    ) -> Result<(EncapsulatedSecret, Box<dyn HpkeSealer>), rustls::Error> {
        // As long as a point of P-256.
        Ok((EncapsulatedSecret(vec![4; 65]), Box::new(Self)))
    }

    fn open(
        &self,
        _: &EncapsulatedSecret,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &HpkePrivateKey,
    ) -> Result<Vec<u8>, rustls::Error> {
        no()
    }

    fn setup_opener(
        &self,
        _: &EncapsulatedSecret,
        _: &[u8],
        _: &HpkePrivateKey,
    ) -> Result<Box<dyn HpkeOpener>, rustls::Error> {
        no()
    }

    fn generate_key_pair(&self) -> Result<(HpkePublicKey, HpkePrivateKey), rustls::Error> {
        no()
    }

    fn suite(&self) -> HpkeSuite {
        let sym = HpkeSymmetricCipherSuite { kdf_id: HpkeKdf::HKDF_SHA256, aead_id: HpkeAead::AES_128_GCM };
        HpkeSuite { kem: HpkeKem::DHKEM_P256_HKDF_SHA256, sym }
    }
}

impl HpkeSealer for Pretence {
    fn seal(&mut self, _: &[u8], _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        no()
    }
}

//! The certificates of one run, in a folder: one authority, a server's leaf, and the authority's key for those peers
//! that make leaves themselves.
use std::path::{Path, PathBuf};

use dshield_tests::client::Error;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// All keys are ECDSA P-256, as the agent's are.
#[derive(Debug)]
pub struct Pki {
    /// The authority's certificate, PEM.
    pub ca: PathBuf,
    /// The authority's key and certificate in one file, PEM.
    pub ca_with_key: PathBuf,
    /// The server's certificate and key, PEM.
    pub leaf: PathBuf,
    leaf_der: CertificateDer<'static>,
    leaf_key: KeyPair,
}

impl Pki {
    /// Makes everything for servers of these names.
    pub fn make(folder: &Path, names: &[&str]) -> Result<Self, Error> {
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "D-Shield bench CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&ca_key)?.pem();
        let ca_with_key = format!("{}{ca_pem}", ca_key.serialize_pem());
        let issuer = Issuer::new(params, ca_key);

        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&leaf_key, &issuer)?;

        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        Ok(Self {
            ca: file("ca.pem", &ca_pem)?,
            ca_with_key: file("ca-with-key.pem", &ca_with_key)?,
            leaf: file("leaf.pem", &format!("{}{}", leaf.pem(), leaf_key.serialize_pem()))?,
            leaf_der: leaf.der().clone(),
            leaf_key,
        })
    }

    /// The server's certificate and key, for rustls.
    pub fn identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der());
        (vec![self.leaf_der.clone()], key.into())
    }
}

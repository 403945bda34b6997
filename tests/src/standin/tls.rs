//! The stand-ins' identities: certificate authorities, what they issue, and servers that show it.
use std::sync::Arc;

use dshield_common::policy::SpkiPin;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate, its key and what it was made from.
#[derive(Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key: ECDSA P-256.
    pub key: KeyPair,
    params: CertificateParams,
}

impl Issued {
    /// An authority that signs itself and may sign everything, but for what `change` says.
    #[must_use]
    pub fn authority(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (key, mut params) = (new_key(), may_sign("D-Shield test upstream CA"));
        change(&mut params);
        let certificate = params.self_signed(&key).expect("the parameters are complete");
        Self { certificate, key, params }
    }

    /// An authority below this one, called `name`.
    #[must_use]
    pub fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = may_sign(name);
        change(&mut params);
        self.sign(params)
    }

    /// A server's certificate for these DNS names.
    #[must_use]
    pub fn leaf(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        let alternative = |name: &&str| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().expect("the names are ASCII")),
        };
        params.subject_alt_names = names.iter().map(alternative).collect();
        change(&mut params);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Self {
        params.use_authority_key_identifier_extension = true;
        let key = new_key();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("the parameters are complete");
        Self { certificate, key, params }
    }

    /// A server that shows this certificate, then `others`.
    #[must_use]
    pub fn server(&self, others: &[&Self]) -> Arc<ServerConfig> {
        let chain = [self].iter().chain(others).map(|issued| issued.certificate.der().clone()).collect();
        server_config(chain, PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }
}

/// A TLS server for HTTP/1.1 that shows `chain` whatever it is asked for. Whether the key belongs to it is not checked.
///
/// # Panics
/// The key is of a kind that ring does not know.
#[must_use]
pub fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'_>) -> Arc<ServerConfig> {
    let key = sign::any_supported_type(&key).expect("ring knows the key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Who a stand-in is: what a test and a server need of it.
pub(super) struct Identity {
    /// The authority.
    pub(super) ca_pem: String,
    /// The leaf's key, as a rule pins it.
    pub(super) spki_pin: String,
    /// A server with the leaf.
    pub(super) config: Arc<ServerConfig>,
}

/// An authority of its own, and a leaf for `names`, which may be addresses.
pub(super) fn identity(names: &[&str]) -> Identity {
    let authority = Issued::authority(|_| ());
    let leaf = authority.leaf(names, |_| ());
    let spki_pin = SpkiPin::of(&leaf.key.subject_public_key_info()).to_string();
    Identity { ca_pem: authority.certificate.pem(), spki_pin, config: leaf.server(&[]) }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the random source works")
}

fn may_sign(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

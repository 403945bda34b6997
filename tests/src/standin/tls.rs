//! The stand-in's identity: a certificate authority of its own and a leaf for the names it plays.
use std::sync::Arc;

use dshield_common::policy::SpkiPin;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;

/// Who it is: what a test and a server need of it.
pub(super) struct Identity {
    /// The authority.
    pub(super) ca_pem: String,
    /// The leaf's key, as a rule pins it.
    pub(super) spki_pin: String,
    /// A server with the leaf, for HTTP/1.1.
    pub(super) config: Arc<ServerConfig>,
}

/// Makes an authority and a leaf for `names`; a leaf that has `expired` was valid in the year 2020.
pub(super) fn identity(names: &[&str], expired: bool) -> Identity {
    let ca_key = KeyPair::generate().expect("the random source works");
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "D-Shield test upstream CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key).expect("the parameters are complete").pem();
    let issuer = Issuer::new(ca, ca_key);

    let leaf_key = KeyPair::generate().expect("the random source works");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut leaf = CertificateParams::new(names).expect("the names are host names");
    if expired {
        leaf.not_before = date_time_ymd(2020, 1, 1);
        leaf.not_after = date_time_ymd(2020, 12, 31);
    }
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("the issuer may sign");
    let spki_pin = SpkiPin::of(&leaf_key.subject_public_key_info()).to_string();
    let key = PrivatePkcs8KeyDer::from(leaf_key.serialize_der());

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .expect("the key belongs to the certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Identity { ca_pem, spki_pin, config: Arc::new(config) }
}

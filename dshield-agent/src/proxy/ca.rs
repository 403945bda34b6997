//! The inspection CA: made at boot, kept in memory, trusted by functions only. It signs one certificate
//! for each name or address that a function connects to, with that and no other. No key is ever written anywhere
//! ([`crate::secret`]).
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dshield_common::destination::Destination;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::secret::{self, P256Key};

/// The clock is the host's: it may jump, and instances may live long.
const SLACK: Duration = Duration::days(2);
const CA_LIFETIME: Duration = Duration::days(3650);
const LEAF_LIFETIME: Duration = Duration::days(30);
/// A certificate is replaced long before it ends.
const LEAF_RENEWAL: Duration = Duration::days(7);
const MAX_CACHED: usize = 1024;

/// The CA.
pub struct InspectionCa {
    issuer: Issuer<'static, P256Key>,
    pem: String,
}

/// One function's certificates: names that it makes up below a wildcard take no other's place.
#[derive(Default)]
pub(super) struct Leaves(Mutex<HashMap<Destination, (OffsetDateTime, Arc<ServerConfig>)>>);

/// A certificate could not be made: of this machine's random numbers, or a defect here.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct CaError(String);

impl InspectionCa {
    /// Makes a CA with a new key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate() -> Result<Self, CaError> {
        let key = P256Key::generate().map_err(error)?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("D-Shield inspection CA (this boot only)");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - SLACK;
        params.not_after = now + CA_LIFETIME;
        let certificate = params.self_signed(&key).map_err(error)?;
        Ok(Self { pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate, for the functions' trust bundle.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn make_config(&self, host: &Destination, now: OffsetDateTime) -> Result<ServerConfig, CaError> {
        let (key, signer) = secret::with_new_pkcs8(|pkcs8| {
            let signer = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8))).map_err(error)?;
            Ok((P256Key::from_pkcs8(pkcs8).map_err(error)?, signer))
        })
        .map_err(error)??;
        // An address becomes an iPAddress, a name a dNSName.
        let mut params = CertificateParams::new(vec![host.to_string()]).map_err(error)?;
        // A common name holds 64 characters at most; the name is in the subject alternative name.
        params.distinguished_name = name("D-Shield");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - SLACK;
        params.not_after = now + LEAF_LIFETIME;
        let certificate = params.signed_by(&key, &self.issuer).map_err(error)?;
        let certified = CertifiedKey::new(vec![certificate.into()], signer);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(error)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = ["h2", "http/1.1", "http/1.0"].map(|protocol| protocol.as_bytes().to_vec()).into();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl Leaves {
    /// How to speak TLS as `to`, for HTTP/1.1 or HTTP/2, without session tickets: a ticket would let a connection
    /// start without the checks of a full handshake.
    ///
    /// # Errors
    /// As [`InspectionCa::generate`].
    pub(super) fn server_config(&self, ca: &InspectionCa, to: &Destination) -> Result<Arc<ServerConfig>, CaError> {
        let now = OffsetDateTime::now_utc();
        if let Some((made, config)) = self.lock().get(to)
            && (now - *made).abs() < LEAF_RENEWAL
        {
            return Ok(config.clone());
        }
        // Not under the lock, which the other connections of the function would wait for. Two at once make two.
        let config = Arc::new(ca.make_config(to, now)?);
        let mut leaves = self.lock();
        if leaves.len() >= MAX_CACHED {
            leaves.clear();
        }
        leaves.insert(to.clone(), (now, config.clone()));
        Ok(config)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, (OffsetDateTime, Arc<ServerConfig>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl fmt::Debug for InspectionCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectionCa").finish_non_exhaustive()
    }
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn error(error: impl fmt::Display) -> CaError {
    CaError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is resumed starts without the checks of a full handshake; what comes early, before its log entry.
    #[test]
    fn nothing_can_be_resumed_and_no_early_data_is_taken() {
        let ca = InspectionCa::generate().unwrap();
        let to = Destination::Name(dshield_common::name::HostName::parse("a.example").unwrap());
        let config = Leaves::default().server_config(&ca, &to).unwrap();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
    }

    /// All functions shared one cache, and one that made names up emptied it for all.
    #[test]
    fn names_that_one_function_makes_up_cost_no_other_its_certificate() {
        let ca = InspectionCa::generate().unwrap();
        let [mine, others] = [(); 2].map(|()| Leaves::default());
        let to = |name: &str| Destination::Name(dshield_common::name::HostName::parse(name).unwrap());
        let kept = mine.server_config(&ca, &to("a.example")).unwrap();
        for number in 0..=MAX_CACHED {
            let _ = others.server_config(&ca, &to(&format!("n{number}.example"))).unwrap();
        }
        assert!(others.lock().len() <= MAX_CACHED);
        assert!(Arc::ptr_eq(&kept, &mine.server_config(&ca, &to("a.example")).unwrap()));
    }
}

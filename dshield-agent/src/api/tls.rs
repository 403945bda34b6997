//! How the API speaks TLS: 1.2 and 1.3 with the key that the statement names, HTTP/1.1 inside.
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio_rustls::TlsAcceptor;

use crate::attest::RatlsCertificate;

/// Nothing is resumed: each connection proves the key anew, and shows the certificate of its own time.
pub(super) fn acceptor(certificate: Arc<RatlsCertificate>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A session that is resumed proves no key and shows no certificate; what comes early can be sent again by anybody.
    #[test]
    fn nothing_can_be_resumed_and_no_early_data_is_taken() {
        let acceptor = acceptor(Arc::new(RatlsCertificate::generate([]).unwrap()));
        let config = acceptor.config();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
    }
}

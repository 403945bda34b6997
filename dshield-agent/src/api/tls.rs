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

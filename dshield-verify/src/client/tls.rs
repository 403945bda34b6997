//! TLS with an agent: a TCP stream and whom to believe flow in; out flow the TLS stream and the certificate that the other
//! side proved to have the key of.
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dshield_common::hex;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring as provider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For the whole handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The SHA-256 of a key's DER `SubjectPublicKeyInfo`, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpkiSha256([u8; 32]);

/// A text is no [`SpkiSha256`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is named by 64 hexadecimal digits, the SHA-256 of its SubjectPublicKeyInfo")]
pub struct SpkiSha256Error;

impl FromStr for SpkiSha256 {
    type Err = SpkiSha256Error;

    fn from_str(text: &str) -> Result<Self, SpkiSha256Error> {
        hex::decode_array(&text.to_ascii_lowercase()).map(Self).ok_or(SpkiSha256Error)
    }
}

impl fmt::Display for SpkiSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// Whose certificate is taken. The other side must prove to have its key in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// That with this key, whatever else is in it.
    Key(SpkiSha256),
    /// Anybody's: nobody is between two programs of one machine.
    Anybody,
    /// That of who proves the name, as web sites do.
    Web,
}

/// The certificate (DER) of the other side, which has proved to have its key. Nothing else of it is checked, unless the
/// trust was [`Trust::Web`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf(pub Vec<u8>);

/// Why there is no TLS.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// What came back is not TLS at all.
    NotTls,
    /// The key is another.
    OtherKey(SpkiSha256),
    /// The web's authorities do not vouch for it.
    Untrusted(Error),
    /// The handshake failed, or the connection ended.
    Broken(io::Error),
}

/// Makes a TLS connection of `stream`, for HTTP/1.1.
///
/// # Errors
/// The other side is not who `trust` asks for, does not speak TLS, or breaks off.
pub async fn connect(
    stream: TcpStream,
    name: ServerName<'static>,
    trust: Trust,
) -> Result<(TlsStream<TcpStream>, Leaf), TlsError> {
    let connector = TlsConnector::from(Arc::new(config(trust, rustls::ALL_VERSIONS)));
    let made = tokio::time::timeout(HANDSHAKE_TIME, connector.connect(name, stream)).await;
    let stream = made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| why(error, trust))?;
    // There is one, or the handshake would have failed.
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.to_vec());
    Ok((stream, Leaf(leaf.unwrap_or_default())))
}

fn config(trust: Trust, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let crypto = Arc::new(provider::default_provider());
    let algorithms = crypto.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(versions)
        .expect("ring has what TLS 1.2 and 1.3 need");
    let by_key = |key| Arc::new(ByKey { key, algorithms });
    let mut config = match trust {
        Trust::Key(key) => builder.dangerous().with_custom_certificate_verifier(by_key(Some(key))),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(by_key(None)),
        Trust::Web => builder.with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }),
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn why(error: io::Error, trust: Trust) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => TlsError::NotTls,
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) => match other.downcast_ref() {
            Some(WrongKey { found }) => TlsError::OtherKey(*found),
            None => TlsError::Broken(error),
        },
        Some(untrusted @ Error::InvalidCertificate(_)) if trust == Trust::Web => TlsError::Untrusted(untrusted.clone()),
        _ => TlsError::Broken(error),
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("its certificate has the key {found}")]
struct WrongKey {
    found: SpkiSha256,
}

/// Takes a certificate for its key alone, or any. That the other side has the key is for the handshake's signature to
/// show, which is checked here as everywhere.
#[derive(Debug)]
struct ByKey {
    key: Option<SpkiSha256>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ByKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The key as the reader has it that the signature is checked with.
        let spki = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let mut found = SpkiSha256([0; 32]);
        found.0.copy_from_slice(digest(&SHA256, &spki).as_ref());
        if self.key.is_none_or(|key| key == found) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongKey { found }))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_hexadecimal_digits_in_either_case() {
        let text = "0123456789abcdef".repeat(4);
        for given in [&text, &text.to_uppercase()] {
            assert_eq!(given.parse().map(|key: SpkiSha256| key.to_string()).as_ref(), Ok(&text));
        }
        for bad in ["", "00", &format!("{text}0"), &text.replace('f', "g"), &text.replace("01", "+1"), &"é".repeat(32)]
        {
            assert_eq!(bad.parse::<SpkiSha256>(), Err(SpkiSha256Error), "{bad}");
        }
    }
}

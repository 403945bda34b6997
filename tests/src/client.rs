//! HTTP/1.1 as a client: one request over a stream, and its blocking form for tests.
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Any failure below HTTP, as text: tests only print it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
    /// When each part of the body arrived, counted from sending the request, and its length.
    pub chunks: Vec<(Duration, usize)>,
}

impl Answer {
    /// The body as text, with `�` for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON. Panics with the body when it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("status {}: not JSON ({error}): {}", self.status, self.text()))
    }

    /// A header field, when there is one and it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends one request over `stream` and reads the answer to its end.
///
/// # Errors
/// When either side breaks HTTP or the connection.
pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = send(&mut sender, request).await;
    connection.abort();
    answer
}

/// Sends one request over a connection that stays open.
///
/// # Errors
/// See [`exchange`].
pub async fn send(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Error> {
    let started = Instant::now();
    let response = sender.send_request(request).await?;
    let (head, mut rest) = response.into_parts();
    let (mut body, mut chunks) = (Vec::new(), Vec::new());
    while let Some(frame) = rest.frame().await {
        if let Ok(data) = frame?.into_data() {
            chunks.push((started.elapsed(), data.len()));
            body.extend_from_slice(&data);
        }
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, chunks })
}

/// A blocking request without TLS.
///
/// # Errors
/// See [`exchange`]; also when nothing listens at `address` or the answer takes longer than `patience`.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
    patience: Duration,
) -> Result<Answer, Error> {
    let request = json(address, method, path, body)?;
    blocking(patience, async move { exchange(TcpStream::connect(address).await?, request).await })
}

/// A blocking request inside TLS, whatever the certificate; with the answer comes that certificate (DER), whose key the
/// other side has proved to have.
///
/// # Errors
/// See [`request`].
pub fn request_tls(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
    patience: Duration,
) -> Result<(Answer, Vec<u8>), Error> {
    let request = json(address, method, path, body)?;
    blocking(patience, async move {
        let stream = TcpStream::connect(address).await?;
        let stream = any_certificate()?.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.to_vec());
        Ok((exchange(stream, request).await?, leaf.ok_or("no certificate")?))
    })
}

fn json(address: SocketAddr, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/json");
    Ok(request.body(Full::new(body.into()))?)
}

fn blocking<T>(patience: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(patience, work).await? })
}

/// The anchors in this file (PEM).
///
/// # Errors
/// It cannot be read.
pub fn roots(bundle: &Path) -> Result<rustls::RootCertStore, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(bundle)?.collect::<Result<Vec<_>, _>>()?;
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

/// A TLS client for HTTP/1.1 that trusts the certificates in this PEM bundle and nothing else.
///
/// # Errors
/// When the bundle cannot be read.
pub fn connector(bundle: &Path) -> Result<TlsConnector, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(bundle)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A TLS client for HTTP/1.1 that takes any certificate whose key the other side has.
fn any_certificate() -> Result<TlsConnector, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.signature_verification_algorithms));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

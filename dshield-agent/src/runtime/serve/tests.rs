//! Hostile and absent-minded clients, in the clear and inside TLS.
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::routing::get;
use axum::{Extension, Router};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::attest::RatlsCertificate;

const PATIENCE: Duration = Duration::from_secs(60);
const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let certificate = RatlsCertificate::generate([]).unwrap();
    Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(certificate))).into()
}

/// Whom it speaks to is not these tests' concern.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn secure(address: SocketAddr) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(address: SocketAddr, tls: bool) -> Box<dyn Stream> {
    if tls { Box::new(secure(address).await) } else { Box::new(TcpStream::connect(address).await.unwrap()) }
}

async fn start_with(
    router: Router,
    limits: Limits,
    tls: bool,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, limits, tls.then(acceptor), shutdown));
    address
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

async fn start(limits: Limits, tls: bool) -> SocketAddr {
    start_with(hello(), limits, tls, std::future::pending()).await
}

/// That the only place is free again in time.
async fn answers(address: SocketAddr, tls: bool) {
    let asked = async {
        let mut next = connect(address, tls).await;
        next.write_all(HELLO).await.unwrap();
        let mut text = String::new();
        next.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = tokio::time::timeout(PATIENCE, asked).await.expect("the place was not given away");
    assert!(text.ends_with("hello"), "{text}");
}

/// It was told nothing more, and kept its place for ever.
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    for tls in [false, true] {
        let large = || async { vec![b'x'; 64 << 20] };
        let limits = Limits { connections: 1, head: PATIENCE, unread: Some(Duration::from_millis(500)) };
        let address = start_with(hello().route("/large", get(large)), limits, tls, std::future::pending()).await;
        let mut lazy = connect(address, tls).await;
        lazy.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        lazy.read_exact(&mut [0]).await.unwrap();
        answers(address, tls).await;
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_head_is_cut_off() {
    for tls in [false, true] {
        let address = start(Limits { connections: 1, head: Duration::from_millis(200), unread: None }, tls).await;
        let mut slow = connect(address, tls).await;
        slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        answers(address, tls).await;
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("200"));
    }
}

/// Nothing at all, the beginning of a ClientHello, and a record that says it is longer than what follows.
#[tokio::test]
async fn a_client_that_never_finishes_its_handshake_is_cut_off() {
    for begun in [b"".as_slice(), b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let address = start(Limits { connections: 1, head: Duration::from_millis(200), unread: None }, true).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(begun).await.unwrap();
        answers(address, true).await;
        let ended = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{begun:?} keeps its connection");
    }
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so_and_frees_its_place() {
    let address = start(Limits { connections: 1, head: PATIENCE, unread: None }, true).await;
    // More than the kernel keeps: who sends it notices a reset before it reads.
    let body = vec![b'x'; 32 << 20];
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    for request in [HELLO.to_vec(), b"\x80".to_vec(), [head, body].concat()] {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(&request).await.unwrap();
        let mut text = String::new();
        plain.read_to_string(&mut text).await.unwrap();
        let (head, told) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", told.len())), "{head}");
        assert_eq!(told, "this is the TLS port of D-Shield: use https://\n");
        drop(plain);
        answers(address, true).await;
    }
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_handshakes() {
    for tls in [false, true] {
        let (stop, stopped) = oneshot::channel::<()>();
        let limits = Limits { connections: 8, head: PATIENCE, unread: None };
        let address = start_with(hello(), limits, tls, async { drop(stopped.await) }).await;
        // First, so that it has been accepted when the next one is answered.
        let mut begun = TcpStream::connect(address).await.unwrap();
        begun.write_all(b"\x16\x03\x01").await.unwrap();
        let mut idle = connect(address, tls).await;
        idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        idle.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        drop(stop);
        let ended = async { (idle.read_to_end(&mut Vec::new()).await, begun.read_to_end(&mut Vec::new()).await) };
        let (idle, _) = tokio::time::timeout(GRACE * 4 / 5, ended).await.expect("they are open until they are cut off");
        // With close_notify: cut off inside TLS would be an error.
        idle.unwrap();
    }
}

/// Says when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// How a client leaves while its request is under way.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// The socket is closed: a process that ends, or is killed.
    Drop,
    /// It says that it sends no more (inside TLS with close_notify), and stays to read.
    ShutDown,
}

#[tokio::test]
async fn a_client_that_goes_away_during_its_request_ends_it() {
    for (tls, leave) in [(false, Leave::Drop), (true, Leave::Drop), (false, Leave::ShutDown), (true, Leave::ShutDown)] {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let peers = Arc::new(Mutex::new(Vec::<Peer>::new()));
        let kept = peers.clone();
        let slow = move |Extension(peer): Extension<Peer>| async move {
            let _dropped = Dropped(ended);
            kept.lock().unwrap().push(peer);
            let _ = begun.send(());
            std::future::pending::<()>().await;
        };
        let limits = Limits { connections: 1, head: PATIENCE, unread: None };
        let address = start_with(hello().route("/slow", get(slow)), limits, tls, std::future::pending()).await;
        let mut client = connect(address, tls).await;
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        begins.recv().await.unwrap();
        let peer = peers.lock().unwrap().pop().unwrap();
        assert!(peer.is_connected(), "{tls} {leave:?}");
        match leave {
            Leave::Drop => drop(client),
            Leave::ShutDown => client.shutdown().await.unwrap(),
        }
        let noticed = tokio::time::timeout(PATIENCE, ends.recv()).await;
        assert_eq!(noticed, Ok(Some(())), "tls: {tls}, {leave:?}");
        assert!(!peer.is_connected(), "tls: {tls}, {leave:?}");
        answers(address, tls).await;
    }
}

/// What a client sent before it closed lies there unread; it was taken for a sign of life.
#[tokio::test]
async fn bytes_that_nobody_has_read_do_not_hide_that_the_client_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let peer = Peer(Arc::new(accepted.as_fd().try_clone_to_owned().unwrap()));
    // An alert: close_notify.
    client.write_all(b"\x15\x03\x03\x00\x02\x01\x00").await.unwrap();
    accepted.readable().await.unwrap();
    assert!(peer.is_connected());
    client.shutdown().await.unwrap();
    let gone = async {
        while peer.is_connected() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it counts as connected");
}

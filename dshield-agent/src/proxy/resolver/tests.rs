//! The resolver against name servers of the test's own: over UDP, over TLS and over HTTPS.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

const SERVER: &str = "dns.example";

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// `two.example` has an address of each family, `four.example` an IPv4 address, `brief.example` one that is good for no
/// time, and the rest is not there. Of
/// `half.example` nobody says anything about IPv6.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let name = query.name().to_ascii();
    let data = match (name.as_str(), query.query_type()) {
        ("half.example.", RecordType::AAAA) => return None,
        ("two.example.", RecordType::AAAA) => Some(RData::AAAA(AAAA("2001:db8::2".parse().unwrap()))),
        ("two.example." | "four.example." | "half.example." | "brief.example.", RecordType::A) => {
            Some(RData::A(A(Ipv4Addr::new(192, 0, 2, 2))))
        }
        _ => None,
    };
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    let known =
        ["two.example.", "four.example.", "half.example.", "brief.example.", "none.example."].contains(&name.as_str());
    reply.metadata.response_code = if known { ResponseCode::NoError } else { ResponseCode::NXDomain };
    reply.add_query(query.clone());
    let lifetime = if name == "brief.example." { 0 } else { 60 };
    reply.answers.extend(data.map(|data| Record::from_rdata(query.name().clone(), lifetime, data)));
    Some(reply.to_vec().unwrap())
}

/// Accepts TLS connections with a certificate for [`SERVER`]; its own anchor beside it.
async fn encrypted(alpn: &[&[u8]]) -> (TcpListener, TlsAcceptor, RootCertStore) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![SERVER.to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key.into());
    let mut config = config.unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener, TlsAcceptor::from(Arc::new(config)), roots)
}

fn serve<F>(listener: TcpListener, tls: TlsAcceptor, handle: impl Fn(TlsStream<TcpStream>) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate ends here.
            if let Ok(stream) = tls.accept(stream).await {
                tokio::spawn(handle(stream));
            }
        }
    });
}

async fn over_tls(mut stream: TlsStream<TcpStream>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await.unwrap();
        if let Some(reply) = answer(&question) {
            stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

async fn over_https(stream: TlsStream<TcpStream>, asked: Arc<AtomicUsize>) {
    use http_body_util::{BodyExt, Full};
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let asked = asked.clone();
        async move {
            assert_eq!((request.uri().path(), request.method()), ("/q", &http::Method::POST));
            assert_eq!(request.uri().host(), Some(SERVER));
            asked.fetch_add(1, Ordering::Relaxed);
            let question = request.into_body().collect().await.unwrap().to_bytes();
            let Some(reply) = answer(&question) else { std::future::pending().await };
            let response = http::Response::builder().header("content-type", "application/dns-message");
            Ok::<_, std::convert::Infallible>(response.body(Full::new(bytes::Bytes::from(reply))).unwrap())
        }
    });
    let executor = hyper_util::rt::TokioExecutor::new();
    let _ = hyper::server::conn::http2::Builder::new(executor)
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
        .await;
}

async fn texts(resolver: &Resolver, name: &str) -> Result<Vec<String>, ResolveError> {
    let found = resolver.addresses(&host(name)).await?;
    let mut texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    texts.sort();
    Ok(texts)
}

/// Long enough for the second family on any machine: only where it never answers is the usual delay what is looked at.
const UNHURRIED: Duration = Duration::from_secs(5);

async fn assert_answers(resolver: &mut Resolver) {
    resolver.delay = UNHURRIED;
    assert_eq!(texts(resolver, "two.example").await.unwrap(), ["192.0.2.2", "2001:db8::2"]);
    assert_eq!(texts(resolver, "four.example").await.unwrap(), ["192.0.2.2"]);
    resolver.delay = RESOLUTION_DELAY;
    assert_eq!(texts(resolver, "half.example").await.unwrap(), ["192.0.2.2"], "the other family is not waited for");
    resolver.delay = UNHURRIED;
    assert!(matches!(texts(resolver, "none.example").await, Err(ResolveError::NoAddress)));
    assert!(matches!(texts(resolver, "gone.example").await, Err(ResolveError::NoSuchName)));
}

#[tokio::test]
async fn over_tls_a_server_that_proves_its_name_is_asked() {
    let (listener, tls, roots) = encrypted(&[]).await;
    let address = listener.local_addr().unwrap();
    serve(listener, tls, over_tls);
    let from = |name: &str| format!("tls://{address}#{name}").parse().unwrap();
    assert_answers(&mut Resolver::with_roots(&from(SERVER), roots.clone()).unwrap()).await;
    let other = Resolver::with_roots(&from("other.example"), roots).unwrap();
    assert!(matches!(texts(&other, "two.example").await, Err(ResolveError::Server(_))), "another name");
    let distrusted = Resolver::new(&from(SERVER)).unwrap();
    assert!(matches!(texts(&distrusted, "two.example").await, Err(ResolveError::Server(_))), "an unknown anchor");
}

#[tokio::test]
async fn over_https_a_server_that_proves_its_name_is_asked_and_answers_are_kept() {
    let (listener, tls, roots) = encrypted(&[b"h2"]).await;
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    serve(listener, tls, move |stream| over_https(stream, counted.clone()));
    let from = |name: &str| format!("https://{address}/q#{name}").parse().unwrap();
    let mut resolver = Resolver::with_roots(&from(SERVER), roots.clone()).unwrap();
    assert_answers(&mut resolver).await;
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(texts(&resolver, "two.example").await.unwrap().len(), 2);
    assert!(texts(&resolver, "gone.example").await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), before, "both answers were kept");
    let other = Resolver::with_roots(&from("other.example"), roots).unwrap();
    assert!(texts(&other, "two.example").await.is_err(), "another name");
    assert_eq!(asked.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn a_name_server_that_is_not_there_is_an_error_that_says_so() {
    // Its port is taken, and nobody listens.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = nobody.local_addr().unwrap();
    let resolver = Resolver::new(&format!("tls://{closed}#{SERVER}").parse().unwrap()).unwrap();
    assert!(matches!(texts(&resolver, "two.example").await, Err(ResolveError::Server(_))));
}

/// The machine's files, in a folder of the test's own.
fn system(hosts: &str, resolv_conf: &str) -> (TempDir, Resolver) {
    let folder = TempDir::new().unwrap();
    let [hosts_file, conf_file] = ["hosts", "resolv.conf"].map(|name| folder.path().join(name));
    fs::write(&hosts_file, hosts).unwrap();
    fs::write(&conf_file, resolv_conf).unwrap();
    let mut resolver = Resolver::of(Source::System(Box::new(System::with_files(hosts_file, conf_file))));
    resolver.delay = UNHURRIED;
    (folder, resolver)
}

/// Port 53 of a loopback address that no other test has, and how often it was asked for an IPv4 address.
async fn name_server(last: u8) -> Option<Arc<AtomicUsize>> {
    let at = SocketAddr::from((Ipv4Addr::new(127, 92, 54, last), 53));
    let socket = match tokio::net::UdpSocket::bind(at).await {
        Ok(socket) => socket,
        Err(error) => {
            println!("skipped: {at}: {error}");
            return None;
        }
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 1232];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let question = Message::from_vec(&bytes[..length]).unwrap();
            counted.fetch_add((question.queries[0].query_type() == RecordType::A).into(), Ordering::Relaxed);
            if let Some(reply) = answer(&bytes[..length]) {
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    Some(asked)
}

#[tokio::test]
async fn the_machines_hosts_come_first_and_its_search_list_has_no_part() {
    let Some(asked) = name_server(1).await else { return };
    let conf = "search example\nnameserver 127.92.54.1\noptions timeout:5 attempts:1\n";
    let (_folder, mut resolver) = system("192.0.2.9 own.example OTHER.example # both\n::9 own.example\n", conf);
    assert_eq!(texts(&resolver, "own.example").await.unwrap(), ["192.0.2.9", "::9"]);
    assert_eq!(texts(&resolver, "other.example").await.unwrap(), ["192.0.2.9"]);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_answers(&mut resolver).await;
    assert!(matches!(texts(&resolver, "two").await, Err(ResolveError::NoSuchName)), "not two.example");
}

/// With each connection another address: what DNS rebinding is made of.
#[tokio::test]
async fn an_answer_that_says_it_is_good_for_no_time_is_kept_for_a_few_seconds() {
    let Some(asked) = name_server(3).await else { return };
    let (_folder, resolver) = system("", "nameserver 127.92.54.3\noptions timeout:1 attempts:1\n");
    let ask = async || texts(&resolver, "brief.example").await.unwrap();
    let since = std::time::Instant::now();
    assert_eq!(ask().await, ["192.0.2.2"]);
    let addresses = asked.load(Ordering::Relaxed);
    while since.elapsed() < SHORTEST / 2 {
        assert_eq!(ask().await, ["192.0.2.2"]);
        tokio::time::sleep(SHORTEST / 20).await;
    }
    if since.elapsed() < SHORTEST {
        assert_eq!(asked.load(Ordering::Relaxed), addresses);
    }
    let again = async {
        while asked.load(Ordering::Relaxed) == addresses {
            ask().await;
            tokio::time::sleep(SHORTEST / 20).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("it is not kept for good");
}

#[tokio::test]
async fn both_files_are_read_again_when_they_change() {
    let Some(_asked) = name_server(2).await else { return };
    let (folder, resolver) = system("", "# nobody\n");
    let error = texts(&resolver, "two.example").await.unwrap_err();
    assert!(matches!(&error, ResolveError::Configuration(text) if text.contains("resolv.conf")), "{error}");
    fs::write(folder.path().join("resolv.conf"), "nameserver 127.92.54.2\n").unwrap();
    fs::write(folder.path().join("hosts"), "192.0.2.7 own.example\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(texts(&resolver, "two.example").await.unwrap().len(), 2);
    assert_eq!(texts(&resolver, "own.example").await.unwrap(), ["192.0.2.7"]);
    fs::remove_file(folder.path().join("resolv.conf")).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(matches!(texts(&resolver, "two.example").await, Err(ResolveError::Configuration(_))));
}

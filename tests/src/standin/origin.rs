//! An upstream that keeps every byte it gets after decryption, and reads requests with a parser that believes nothing.
//!
//! Connections flow in; each complete request is answered with `200` and its target as the body. [`Origin::arrived`]
//! says what came: a connection that asks for something unclear is recorded as such and closed.
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::strict::{self, Fault, Plain};
use crate::background::Background;

/// Something that an [`Origin`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A TCP connection.
    Connection,
    /// A whole request in plain form.
    Request(Plain),
    /// Bytes that are no request in plain form: what is wrong, and all of them.
    NotPlain(String, Vec<u8>),
    /// A request whose connection ended before it was whole.
    BrokenOff(Vec<u8>),
}

impl Arrival {
    /// True when bytes in it are `text`.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        match self {
            Self::Connection => false,
            Self::Request(plain) => plain.target.contains(text) || has(&plain.body),
            Self::NotPlain(_, bytes) | Self::BrokenOff(bytes) => has(bytes),
        }
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("a connection"),
            Self::Request(plain) => {
                write!(f, "{} {} {:?} + {} bytes", plain.method, plain.target, plain.fields, plain.body.len())
            }
            Self::NotPlain(why, bytes) => write!(f, "not plain ({why}): {}", bytes.escape_ascii()),
            Self::BrokenOff(bytes) => write!(f, "broken off: {}", bytes.escape_ascii()),
        }
    }
}

type Record = Arc<Mutex<Vec<Arrival>>>;

/// A running origin; it stops when dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    record: Record,
    _server: Background,
}

impl Origin {
    /// Listens on a free port of 127.0.0.1, with TLS where there is a configuration for it.
    #[must_use]
    pub fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let record = Record::default();
        let (tls, written) = (tls.map(TlsAcceptor::from), Arc::clone(&record));
        let server = Background::spawn("origin", move || accept(listener, tls, written));
        Self { addr, record, _server: server }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything that arrived, in order of its end.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrival> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn note(record: &Record, arrival: Arrival) {
    record.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, record: Record) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this process");
    while let Ok((stream, _)) = listener.accept().await {
        note(&record, Arrival::Connection);
        let (tls, record) = (tls.clone(), record.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    speak(stream, &record).await;
                }
                None => speak(stream, &record).await,
            }
        });
    }
}

async fn speak(mut stream: impl AsyncRead + AsyncWrite + Unpin, record: &Record) {
    let mut bytes = Vec::new();
    loop {
        match strict::request(&bytes) {
            Ok((plain, used)) => {
                bytes.drain(..used);
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", plain.target.len(), plain.target);
                note(record, Arrival::Request(plain));
                if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Err(Fault::Incomplete) => {
                if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                    if !bytes.is_empty() {
                        note(record, Arrival::BrokenOff(bytes));
                    }
                    return;
                }
            }
            Err(Fault::NotPlain(why)) => return note(record, Arrival::NotPlain(why, bytes)),
        }
    }
}

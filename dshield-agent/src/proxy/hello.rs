//! The ClientHello: read whole, across records and segments, before anything is decided.
//!
//! Read here and not by the TLS library, because a hello that is passed through must be judged by everything that its
//! server will read: the name, and whether there is another name behind it that only the server can decrypt.
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dshield_common::name::HostName;
use tokio::io::{AsyncRead, AsyncReadExt};

pub(super) use self::again::{OtherHello, SameHello};

mod again;

/// A hello larger than this is refused; the largest real ones, with post-quantum keys, stay below 4 KiB.
const MAX_BYTES: usize = 64 << 10;
/// How long a client may take to send it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// RFC 8446, section 5.1: a record's header, its content type, and the most that it holds.
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const MAX_RECORD: usize = 1 << 14;
/// RFC 8446, section 4: a message's header, and the type of this one.
const MESSAGE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;

/// RFC 6066, section 3.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// RFC 9849: Encrypted Client Hello; and those of its drafts that servers have spoken, ESNI first.
const ENCRYPTED_CLIENT_HELLO: [u16; 7] = [0xfe0d, 0xffce, 0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c];

/// What a client said first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// The name it wants (RFC 6066).
    pub(super) server_name: Option<HostName>,
    /// It carries an encrypted hello, which may ask for another name; or pretends to.
    pub(super) encrypted: bool,
}

/// Why there is no usable hello. The function is at fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the client sent no TLS ClientHello ({0})")]
    NotTls(&'static str),
    #[error("the ClientHello names a server that is no host name")]
    BadServerName,
    #[error("the client sent no whole ClientHello in {} s and {} KiB", TIMEOUT.as_secs(), MAX_BYTES >> 10)]
    Incomplete,
    #[error("the connection ended: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    /// The stable word for the log.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotTls(_) => "not_tls",
            Self::BadServerName => "sni_invalid",
            Self::Incomplete => "hello_incomplete",
            Self::Io(_) => "connection_ended",
        }
    }
}

/// Reads a ClientHello from `stream`: what it says, and every byte that was read, to be sent on or parsed again.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Hello, Bytes), HelloError> {
    read_within(stream, TIMEOUT).await
}

async fn read_within(stream: &mut (impl AsyncRead + Unpin), time: Duration) -> Result<(Hello, Bytes), HelloError> {
    tokio::time::timeout(time, read_hello(stream)).await.unwrap_or(Err(HelloError::Incomplete))
}

async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Hello, Bytes), HelloError> {
    let mut bytes = BytesMut::with_capacity(4096);
    let mut records = Records::default();
    loop {
        if bytes.len() >= MAX_BYTES {
            return Err(HelloError::Incomplete);
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a ClientHello");
            return Err(HelloError::Io(ended));
        }
        if let Some(message) = records.message(&bytes)? {
            return Ok((parse(message)?, bytes.freeze()));
        }
    }
}

/// Puts the first handshake message together from its records.
#[derive(Debug, Default)]
struct Records {
    /// So many bytes of the connection are in `message` already.
    taken: usize,
    message: Vec<u8>,
}

impl Records {
    /// The message, without its header, once `bytes`, the connection from its beginning, hold all of it.
    fn message(&mut self, bytes: &[u8]) -> Result<Option<&[u8]>, HelloError> {
        while let Some((header, rest)) = bytes[self.taken..].split_first_chunk::<RECORD_HEADER>() {
            let [kind, major, _minor, high, low] = *header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            if kind != HANDSHAKE || major != 3 {
                return Err(HelloError::NotTls("no handshake record"));
            }
            if length == 0 || length > MAX_RECORD {
                return Err(HelloError::NotTls("a record of no possible length"));
            }
            let Some(fragment) = rest.get(..length) else { break };
            self.message.extend_from_slice(fragment);
            self.taken += RECORD_HEADER + length;
            if self.whole()?.is_some() {
                break;
            }
        }
        // What a first byte gives away need not wait for the rest.
        if bytes[self.taken..].first().is_some_and(|kind| *kind != HANDSHAKE) && self.message.is_empty() {
            return Err(HelloError::NotTls("no handshake record"));
        }
        let whole = self.whole()?;
        Ok(whole.map(|end| &self.message[MESSAGE_HEADER..end]))
    }

    /// Where the message ends, when it is whole. Nothing may come behind it: the client waits for an answer.
    fn whole(&self) -> Result<Option<usize>, HelloError> {
        let Some([kind, high, middle, low]) = self.message.first_chunk::<MESSAGE_HEADER>() else { return Ok(None) };
        if *kind != CLIENT_HELLO {
            return Err(HelloError::NotTls("another handshake message"));
        }
        let end = MESSAGE_HEADER + u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        if end > MAX_BYTES {
            return Err(HelloError::Incomplete);
        }
        if self.message.len() > end {
            return Err(HelloError::NotTls("something behind the hello in its record"));
        }
        Ok((self.message.len() == end).then_some(end))
    }
}

/// Reads a ClientHello's body (RFC 8446, section 4.1.2; RFC 5246, section 7.4.1.2).
fn parse(message: &[u8]) -> Result<Hello, HelloError> {
    let mut extensions = extensions(Reader(message)).ok_or(HelloError::NotTls("cut short"))?;
    let mut seen = Vec::new();
    let mut found = Hello { server_name: None, encrypted: false };
    while !extensions.is_empty() {
        let (kind, content) = extensions.extension().ok_or(HelloError::NotTls("an extension that is cut short"))?;
        if seen.contains(&kind) {
            return Err(HelloError::NotTls("an extension twice"));
        }
        seen.push(kind);
        match kind {
            SERVER_NAME => found.server_name = Some(server_name(content)?),
            kind if ENCRYPTED_CLIENT_HELLO.contains(&kind) => found.encrypted = true,
            _ => {}
        }
    }
    Ok(found)
}

/// What stands behind the fixed fields; TLS 1.2 may have nothing there.
fn extensions(mut hello: Reader<'_>) -> Option<Reader<'_>> {
    let _version = hello.take(2)?;
    let _random = hello.take(32)?;
    let _session_id = hello.vector8()?;
    let _cipher_suites = hello.vector16()?;
    let _compression = hello.vector8()?;
    if hello.is_empty() {
        return Some(hello);
    }
    hello.vector16().filter(|_| hello.is_empty())
}

/// RFC 6066, section 3: a list, in which exactly one host name may be.
fn server_name(content: Reader<'_>) -> Result<HostName, HelloError> {
    let name = one_host_name(content).ok_or(HelloError::BadServerName)?;
    HostName::from_bytes(name).map_err(|_| HelloError::BadServerName)
}

fn one_host_name(mut content: Reader<'_>) -> Option<&[u8]> {
    let mut list = content.vector16()?;
    let kind = list.take(1)?;
    let name = list.vector16()?;
    (kind == [HOST_NAME] && list.is_empty() && content.is_empty()).then_some(name.0)
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = usize::from(self.take(1)?[0]);
        self.take(length).map(Self)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = usize::from(self.number()?);
        self.take(length).map(Self)
    }

    fn extension(&mut self) -> Option<(u16, Self)> {
        Some((self.number()?, self.vector16()?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use rustls_pki_types::ServerName;

    use super::*;

    /// What rustls says first to this name.
    pub(super) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of so many bytes.
    pub(super) fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
        let records = bytes[RECORD_HEADER..].chunks(size);
        records.flat_map(|part| [&[HANDSHAKE, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat()).collect()
    }

    /// The same hello with one more extension at its end.
    pub(super) fn with_extension(bytes: &[u8], kind: u16, content: &[u8]) -> Vec<u8> {
        let mut message = bytes[RECORD_HEADER + MESSAGE_HEADER..].to_vec();
        let extension =
            [&kind.to_be_bytes()[..], &u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat();
        let session = usize::from(message[34]);
        let suites = 35 + session;
        let compression = suites + 2 + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
        let at = compression + 1 + usize::from(message[compression]);
        message.extend(&extension);
        let length = u16::try_from(message.len() - at - 2).unwrap();
        message[at..at + 2].copy_from_slice(&length.to_be_bytes());
        let body = u32::try_from(message.len()).unwrap().to_be_bytes();
        let whole = [&[CLIENT_HELLO, body[1], body[2], body[3]], &message[..]].concat();
        let parts = whole.chunks(MAX_RECORD);
        let record =
            |part: &[u8]| [&[HANDSHAKE, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
        parts.flat_map(record).collect()
    }

    async fn read_all(mut bytes: &[u8]) -> Result<(Hello, Bytes), HelloError> {
        read(&mut bytes).await
    }

    #[tokio::test]
    async fn the_name_is_found_in_any_cut() {
        let plain = hello("api.example.com");
        for bytes in [plain.clone(), in_records(&plain, 1), in_records(&plain, 7), in_records(&plain, 255)] {
            let (hello, read) = read_all(&bytes).await.unwrap();
            assert_eq!(hello.server_name.unwrap().as_str(), "api.example.com");
            assert!(!hello.encrypted);
            assert_eq!(read, bytes);
        }
    }

    #[tokio::test]
    async fn a_name_behind_three_kilobytes_is_found_in_segments_of_one_byte() {
        let bytes = with_extension(&hello("192.0.2.1"), 0xabcd, &[7; 3000]);
        let name = b"\0\x10\0\0\x0dlate.example\0";
        let bytes = with_extension(&bytes, SERVER_NAME, &name[..name.len() - 1]);
        assert!(read_all(&bytes).await.is_err(), "the list is longer than its name");
        let bytes = with_extension(
            &with_extension(&hello("192.0.2.1"), 0xabcd, &[7; 3000]),
            SERVER_NAME,
            b"\0\x0f\0\0\x0clate.example",
        );
        let (mut client, mut server) = tokio::io::duplex(1);
        let sent = bytes.clone();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut client, &sent).await });
        let (hello, read) = read(&mut server).await.unwrap();
        assert_eq!(hello.server_name.unwrap().as_str(), "late.example");
        assert_eq!(read, bytes);
    }

    #[tokio::test]
    async fn an_encrypted_hello_is_seen_and_one_without_a_name_too() {
        for kind in [0xfe0d, 0xfe0a, 0xffce] {
            let bytes = with_extension(&hello("outer.example"), kind, &[0; 200]);
            assert!(read_all(&bytes).await.unwrap().0.encrypted, "{kind:x}");
        }
        assert_eq!(read_all(&hello("192.0.2.1")).await.unwrap().0, Hello { server_name: None, encrypted: false });
    }

    #[tokio::test]
    async fn what_could_be_read_in_two_ways_is_refused() {
        let plain = hello("a.example");
        let twice = with_extension(&plain, SERVER_NAME, b"\0\x0c\0\0\x09b.example");
        let trailing = [&plain[..], &[0; 4]].concat();
        let mut longer = plain.clone();
        let length = u16::from_be_bytes([longer[3], longer[4]]) + 1;
        longer[3..5].copy_from_slice(&length.to_be_bytes());
        longer.push(0);
        assert!(matches!(read_all(&twice).await, Err(HelloError::NotTls("an extension twice"))));
        assert!(matches!(read_all(&longer).await, Err(HelloError::NotTls(_))));
        assert!(read_all(&trailing).await.is_ok(), "the next record is the server's to judge");
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"SSH-2.0-x", &[22, 2, 0, 0, 4], &[22, 3, 1, 0, 0], &[0x80, 46, 1]]
        {
            assert!(matches!(read_all(bytes).await, Err(HelloError::NotTls(_))), "{bytes:?}");
        }
        for name in [&b"\0\x05\0\0\x02a\0"[..], b"\0\x05\x01\0\x02ab", b"\0\x0a\0\0\x02ab\0\0\x02cd", b"", b"\0\0"] {
            let bytes = with_extension(&hello("192.0.2.1"), SERVER_NAME, name);
            assert!(matches!(read_all(&bytes).await, Err(HelloError::BadServerName)), "{name:?}");
        }
    }

    #[tokio::test]
    async fn a_hello_beyond_the_limit_is_refused_before_it_is_whole() {
        let mut bytes = hello("a.example");
        bytes[6] = 2;
        assert!(matches!(read_all(&bytes).await, Err(HelloError::Incomplete)));
        assert!(matches!(read_all(&hello("a.example")[..40]).await, Err(HelloError::Io(_))));
    }

    #[tokio::test]
    async fn a_hello_that_does_not_come_whole_in_time_is_refused_however_it_dribbles() {
        let bytes = hello("a.example");
        let (mut client, mut server) = tokio::io::duplex(1);
        let dribble = tokio::spawn(async move {
            for byte in &bytes[..bytes.len() - 1] {
                tokio::io::AsyncWriteExt::write_all(&mut client, &[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await
        });
        let read = read_within(&mut server, Duration::from_millis(100)).await;
        assert_eq!(read.unwrap_err().reason(), "hello_incomplete");
        dribble.abort();
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_rustls_reads_the_same_name(at in 0_usize..300, with in any::<u8>()) {
            let mut bytes = hello("api.example.com");
            let at = at % bytes.len();
            bytes[at] = with;
            let mut acceptor = rustls::server::Acceptor::default();
            let _ = acceptor.read_tls(&mut &bytes[..]);
            let mut records = Records::default();
            if let Ok(Some(message)) = records.message(&bytes)
                && let Ok(hello) = parse(message)
                && let Ok(Some(accepted)) = acceptor.accept()
            {
                let theirs = accepted.client_hello().server_name().and_then(|name| HostName::parse(name).ok());
                prop_assert_eq!(hello.server_name, theirs);
            }
        }
    }
}

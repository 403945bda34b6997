//! A small HTTP/1.1 client for an agent's API: one connection per request, inside TLS or in the clear.
//!
//! A URL and whom to believe flow in; responses flow out, each with the certificate of the connection that it came by.
//!
//! * `tls`: the handshake, and whose certificate is taken
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use self::tls::{Leaf, SpkiSha256, SpkiSha256Error, TlsError, Trust, connect};

mod tls;

/// Where the agent listens unless told otherwise, whatever it speaks there: `dshield run` TLS, `dshield dev` plain HTTP.
pub const DEFAULT_URL: &str = "127.0.0.1:8080";
/// An agent that does not even accept a connection in this time is not there.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The caller's.
    #[error(
        "{0} is not a URL of the form https://HOST:PORT or http://HOST:PORT, nor HOST:PORT of this machine; give the agent's address with --url or DSHIELD_URL"
    )]
    Url(String),
    /// The caller's: without TLS there is no key to compare.
    #[error("--tls-spki or DSHIELD_TLS_SPKI names a TLS key, and {0} is without TLS; use https://")]
    KeyWithoutTls(String),
    /// Nobody listens there.
    #[error(
        "no agent answers at {url} ({cause}); start one with `dshield run` or `dshield dev`, or give its address with --url or DSHIELD_URL"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The caller's: the agent there speaks plain HTTP, or what listens is none.
    #[error("what answers at {0} does not speak TLS; use http:// where `dshield dev` or --tls off was meant")]
    NotTls(String),
    /// The caller's: the agent there speaks TLS.
    #[error("the agent at {0} speaks TLS; use https://")]
    OnlyTls(String),
    /// Not the agent that was checked: another one, or the same after a restart.
    #[error(
        "the TLS key at {url} is {found}, not the one that --tls-spki or DSHIELD_TLS_SPKI names; an agent makes a new one at each start: check it again with `dshield-verify {url}`"
    )]
    OtherKey {
        /// Where.
        url: String,
        /// Whose certificate was shown.
        found: SpkiSha256,
    },
    /// Nobody vouches for the certificate: an agent makes its own.
    #[error(
        "no authority of the web vouches for the certificate at {url} ({cause}), and an agent makes its own: check it with `dshield-verify {url}`, and give its key with --tls-spki or DSHIELD_TLS_SPKI"
    )]
    Untrusted {
        /// Where.
        url: String,
        /// What is wrong.
        cause: rustls::Error,
    },
    /// The TLS handshake failed.
    #[error("no TLS with the agent at {url}: {cause}")]
    Tls {
        /// With whom.
        url: String,
        /// What was noticed.
        cause: io::Error,
    },
    /// The connection ended, or something else than an HTTP server listens there.
    #[error("the agent at {url} broke off: {cause}; its own output may say why")]
    Broken {
        /// Who broke off.
        url: String,
        /// What was noticed.
        cause: hyper::Error,
    },
}

/// An agent's API.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    host: ServerName<'static>,
    authority: String,
    /// Without a slash at its end.
    base: String,
    speaks: Speaks,
    key: Option<SpkiSha256>,
    /// Whether any certificate is taken, whoever shows it.
    unjudged: bool,
}

#[derive(Clone, Debug)]
enum Speaks {
    Http,
    Https,
    /// TLS, or plain HTTP once that was found not to be TLS. Of this machine only: from afar, whoever is between could
    /// choose.
    Whichever {
        plain: Arc<OnceLock<()>>,
    },
}

/// Whether `text` is meant as an agent's URL, where a file could be meant too.
#[must_use]
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

impl Client {
    /// The API at an `http://` or `https://` URL, or at an address of this machine without either; with `key`, only where
    /// TLS proves that key.
    ///
    /// # Errors
    /// When the URL is not of that form, or without TLS although there is a key.
    pub fn new(url: &str, key: Option<SpkiSha256>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong());
        }
        let host = ServerName::try_from(authority.host().trim_matches(['[', ']']).to_owned()).map_err(|_| wrong())?;
        let speaks = match uri.scheme_str() {
            Some("https") if whole == url => Speaks::Https,
            Some("https") if is_this_machine(&host) => match key {
                Some(_) => Speaks::Https,
                None => Speaks::Whichever { plain: Arc::default() },
            },
            Some("http") if key.is_some() => return Err(ClientError::KeyWithoutTls(url.to_owned())),
            Some("http") => Speaks::Http,
            _ => return Err(wrong()),
        };
        let port = authority.port_u16().unwrap_or(if matches!(speaks, Speaks::Http) { 80 } else { 443 });
        Ok(Self {
            url: url.to_owned(),
            host,
            authority: format!("{}:{port}", authority.host()),
            base: uri.path().trim_end_matches('/').to_owned(),
            speaks,
            key,
            unjudged: false,
        })
    }

    /// The API at an `http://` or `https://` URL, whoever answers there: for whoever judges the answers, and looks at the
    /// certificate ([`Leaf`]) that came with them.
    ///
    /// # Errors
    /// When the URL is not of that form.
    pub fn unjudged(url: &str) -> Result<Self, ClientError> {
        if !is_url(url) {
            return Err(ClientError::Url(url.to_owned()));
        }
        Ok(Self { unjudged: true, ..Self::new(url, None)? })
    }

    /// A service of the web at an `https://` URL, which must prove its name even if that is this machine's.
    ///
    /// # Errors
    /// When the URL is not of that form.
    pub fn of_the_web(url: &str) -> Result<Self, ClientError> {
        if !url.starts_with("https://") {
            return Err(ClientError::Url(url.to_owned()));
        }
        Self::new(url, None)
    }

    /// Sends a request; `path` includes the query. The response's body comes as it arrives. A response that came inside TLS
    /// has the other side's certificate among its extensions ([`Leaf`]).
    ///
    /// # Errors
    /// When there is no answer. An answer of any status is a success here, but for that of a TLS port to plain HTTP.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(method, path, body)?;
        let (stream, peer) = self.dial().await?;
        let plain = match &self.speaks {
            Speaks::Http => return self.in_the_clear(stream, request).await,
            Speaks::Https => None,
            Speaks::Whichever { plain } if plain.get().is_some() => return self.in_the_clear(stream, request).await,
            Speaks::Whichever { plain } => Some(plain).filter(|_| peer.ip().is_loopback()),
        };
        let trust = match self.key {
            Some(key) => Trust::Key(key),
            None if self.unjudged => Trust::Anybody,
            // What a name of this machine means is for its own files to say: they may be wrong.
            None if is_this_machine(&self.host) && peer.ip().is_loopback() => Trust::Anybody,
            None => Trust::Web,
        };
        match (tls::connect(stream, self.host.clone(), trust).await, plain) {
            (Ok((stream, leaf)), _) => {
                let mut response = self.exchange(stream, request).await?;
                response.extensions_mut().insert(leaf);
                Ok(response)
            }
            (Err(TlsError::NotTls), Some(plain)) => {
                let _ = plain.set(());
                let (stream, _) = self.dial().await?;
                self.in_the_clear(stream, request).await
            }
            (Err(error), _) => Err(self.without_tls(error)),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().map_err(|_| ClientError::Url(self.url.clone()))?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.authority).map_err(|_| ClientError::Url(self.url.clone()))?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("dshield/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    async fn dial(&self) -> Result<(TcpStream, SocketAddr), ClientError> {
        let unreachable = |cause| ClientError::Unreachable { url: self.url.clone(), cause };
        let stream = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        let peer = stream.peer_addr().map_err(unreachable)?;
        Ok((stream, peer))
    }

    async fn in_the_clear(
        &self,
        stream: TcpStream,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let response = self.exchange(stream, request).await?;
        if response.status() == StatusCode::BAD_REQUEST && response.headers().contains_key("x-dshield-tls") {
            return Err(ClientError::OnlyTls(self.url.clone()));
        }
        Ok(response)
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let broken = |cause| self.broken(cause);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the response; its errors are the request's too.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }

    fn without_tls(&self, error: TlsError) -> ClientError {
        let url = self.url.clone();
        match error {
            TlsError::NotTls => ClientError::NotTls(url),
            TlsError::OtherKey(found) => ClientError::OtherKey { url, found },
            TlsError::Untrusted(cause) => ClientError::Untrusted { url, cause },
            TlsError::Broken(cause) => ClientError::Tls { url, cause },
        }
    }

    /// The whole body of a response.
    ///
    /// # Errors
    /// When the connection ends before the body does.
    pub async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = response.into_body().collect().await.map_err(|cause| self.broken(cause))?;
        Ok(body.to_bytes())
    }

    /// The body of a response, where it has at most `most` bytes; nothing where it has more.
    ///
    /// # Errors
    /// When the connection ends before the body does.
    pub async fn body_of_at_most(
        &self,
        response: Response<Incoming>,
        most: usize,
    ) -> Result<Option<Bytes>, ClientError> {
        match Limited::new(response.into_body(), most).collect().await {
            Ok(body) => Ok(Some(body.to_bytes())),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(cause) => Err(self.broken(*cause)),
                // The only other one: it is too long.
                Err(_) => Ok(None),
            },
        }
    }

    /// The connection ended too early.
    #[must_use]
    pub fn broken(&self, cause: hyper::Error) -> ClientError {
        ClientError::Broken { url: self.url.clone(), cause }
    }
}

fn is_this_machine(host: &ServerName<'_>) -> bool {
    match host {
        ServerName::IpAddress(address) => IpAddr::from(*address).is_loopback(),
        ServerName::DnsName(name) => name.as_ref().eq_ignore_ascii_case("localhost"),
        _ => false,
    }
}

/// `text` as one segment of a path.
#[must_use]
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// `text` without what could make a terminal, or a reader, see something else: control characters and the
/// characters that change the direction of text are shown as escapes.
#[must_use]
pub fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) { clean.extend(c.escape_unicode()) } else { clean.push(c) }
    }
    clean
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_http_and_addresses_of_this_machine_are_taken() {
        let authority = |url: &str| Client::new(url, None).unwrap().authority;
        assert_eq!(authority("http://localhost/x/"), "localhost:80");
        assert_eq!(authority("https://localhost"), "localhost:443");
        assert_eq!(authority("https://[::1]:8080"), "[::1]:8080");
        for url in [DEFAULT_URL, "localhost:8080", "[::1]:8080", "127.9.9.9:1"] {
            assert_eq!(authority(url), url);
            assert!(matches!(Client::new(url, None).unwrap().speaks, Speaks::Whichever { .. }));
        }
        for url in ["", "http://", "https://u:p@h", "http://h/?q", "ftp://h", "a.example:8080", "192.0.2.1:8080", "/x"]
        {
            assert!(Client::new(url, None).is_err(), "{url}");
        }
    }

    #[test]
    fn whoever_names_a_key_never_speaks_in_the_clear() {
        let key = Some("00".repeat(32).parse().unwrap());
        let refused = Client::new("http://127.0.0.1:8080", key).unwrap_err();
        assert!(refused.to_string().contains("use https://"), "{refused}");
        for url in ["https://a.example", DEFAULT_URL] {
            assert!(matches!(Client::new(url, key).unwrap().speaks, Speaks::Https), "{url}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        assert_eq!(encode_segment("a/../b?c#d é"), "a%2F..%2Fb%3Fc%23d%20%C3%A9");
    }

    #[test]
    fn what_a_function_chose_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d é");
    }
}

//! A small HTTP/1.1 client for the agent's own API: one connection per request, `http://` only.
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// An agent that does not even accept a connection in this time is not there.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The caller's.
    #[error("{0} is not a URL of the form http://HOST:PORT; give the agent's address with --url or DSHIELD_URL")]
    Url(String),
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
    authority: String,
    /// Without a slash at its end.
    base: String,
}

impl Client {
    /// The API at an `http://` URL.
    ///
    /// # Errors
    /// When the URL is not of that form.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self {
            url: url.to_owned(),
            authority: format!("{}:{port}", authority.host()),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a request; `path` includes the query. The response's body comes as it arrives.
    ///
    /// # Errors
    /// When there is no answer. An answer of any status is a success here.
    pub async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |cause| ClientError::Unreachable { url: self.url.clone(), cause };
        let stream = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(&self.authority))
            .await
            .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        let broken = |cause| self.broken(cause);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the response; its errors are the request's too.
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().map_err(|_| ClientError::Url(self.url.clone()))?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.authority).map_err(|_| ClientError::Url(self.url.clone()))?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("dshield/", env!("CARGO_PKG_VERSION"))));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sender.send_request(request).await.map_err(broken)
    }

    /// The whole body of a response.
    ///
    /// # Errors
    /// When the connection ends before the body does.
    pub async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = response.into_body().collect().await.map_err(|cause| self.broken(cause))?;
        Ok(body.to_bytes())
    }

    /// The connection ended too early.
    #[must_use]
    pub fn broken(&self, cause: hyper::Error) -> ClientError {
        ClientError::Broken { url: self.url.clone(), cause }
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
    fn only_http_urls_are_taken() {
        assert_eq!(Client::new("http://localhost/x/").unwrap().authority, "localhost:80");
        assert_eq!(Client::new("http://[::1]:8080").unwrap().authority, "[::1]:8080");
        for url in ["https://localhost", "localhost:8080", "", "http://", "http://u:p@h", "http://h/?q"] {
            assert!(Client::new(url).is_err(), "{url}");
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

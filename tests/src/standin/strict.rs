//! HTTP/1.1 requests in their one plain form (RFC 9112): bytes flow in; a request, or what is wrong, flows out.
//!
//! Not a parser to copy: it refuses much that is legal, because the proxy sends nothing that is not plain, and shares
//! no line with the parsers that the proxy is made of.

/// A request as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The method.
    pub method: String,
    /// The request target, in origin form.
    pub target: String,
    /// Header fields in order, names in lower case.
    pub fields: Fields,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
}

impl Plain {
    /// The value of the field `name` (lower case).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }
}

/// Names in lower case, and values.
pub type Fields = Vec<(String, String)>;

/// Why bytes are no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is well formed as far as it goes.
    Incomplete,
    /// It is not plain: what is wrong.
    NotPlain(String),
}

fn fault<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::NotPlain(what.into()))
}

/// Reads the first request of `bytes`, and how many of them are its own.
///
/// # Errors
/// See [`Fault`].
pub fn request(bytes: &[u8]) -> Result<(Plain, usize), Fault> {
    let mut rest = Rest { bytes, at: 0 };
    let line = rest.line()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next().unwrap_or_default(), words.next(), words.next());
    let (Some(target), Some("HTTP/1.1"), None) = (target, version, words.next()) else {
        return fault(format!("the request line {line:?}"));
    };
    if !is_token(method) || !target.starts_with('/') || !target.bytes().all(|byte| matches!(byte, b'!'..=b'~')) {
        return fault(format!("the request line {line:?}"));
    }
    let mut plain = Plain {
        method: method.into(),
        target: target.into(),
        fields: rest.fields()?,
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let all = |name: &str| -> Vec<String> {
        plain.fields.iter().filter(|field| field.0 == name).map(|field| field.1.clone()).collect()
    };
    if all("host").len() != 1 {
        return fault(format!("the hosts {:?}", all("host")));
    }
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => match length.parse() {
            Ok(length) => plain.body = rest.take(length)?.to_vec(),
            Err(_) => return fault(format!("content-length {length:?}")),
        },
        ([], [coding]) if coding == "chunked" => (plain.body, plain.trailers) = rest.chunks()?,
        (lengths, codings) => return fault(format!("content-length {lengths:?} with transfer-encoding {codings:?}")),
    }
    Ok((plain, rest.at))
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let left = &self.bytes[self.at..];
        let taken = left.get(..length).ok_or(Fault::Incomplete)?;
        self.at += length;
        Ok(taken)
    }

    /// Up to CRLF, which is not part of it; each byte one character.
    fn line(&mut self) -> Result<String, Fault> {
        let left = &self.bytes[self.at..];
        let Some(length) = left.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') else {
            return Err(Fault::Incomplete);
        };
        match left.get(length..length + 2) {
            Some(b"\r\n") => {}
            None if left[length] == b'\r' => return Err(Fault::Incomplete),
            _ => return fault(format!("a control character in {:?}", String::from_utf8_lossy(left))),
        }
        self.at += length + 2;
        Ok(left[..length].iter().map(|byte| char::from(*byte)).collect())
    }

    fn fields(&mut self) -> Result<Fields, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            match line.split_once(':') {
                Some((name, value)) if is_token(name) => {
                    fields.push((name.to_ascii_lowercase(), value.strip_prefix(' ').unwrap_or(value).to_owned()));
                }
                _ => return fault(format!("the field line {line:?}")),
            }
        }
    }

    fn chunks(&mut self) -> Result<(Vec<u8>, Fields), Fault> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() || line.len() > 8 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return fault(format!("the chunk size {line:?}"));
            }
            let size = usize::from_str_radix(&line, 16).or_else(|_| fault("a chunk size out of range"))?;
            if size == 0 {
                return Ok((body, self.fields()?));
            }
            body.extend_from_slice(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return fault("a chunk without CRLF at its end");
            }
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_form_is_read() {
        let text = "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
        let (plain, used) = request(text.as_bytes()).unwrap();
        assert_eq!((plain.method.as_str(), plain.target.as_str(), &plain.body[..]), ("POST", "/a?b", &b"hi"[..]));
        assert_eq!((plain.field("host"), used), (Some("h"), text.len()));
        let chunked = "PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\nGET";
        let (plain, used) = request(chunked.as_bytes()).unwrap();
        assert_eq!((&plain.body[..], used), (&b"hi"[..], chunked.len() - 3));
        assert_eq!(plain.trailers, [("x".to_owned(), "y".to_owned())]);
    }

    #[test]
    fn every_beginning_of_a_request_is_incomplete() {
        let text = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(request(&text[..length]), Err(Fault::Incomplete), "{length}");
        }
    }

    #[test]
    fn what_is_not_plain_is_named() {
        for text in [
            "GET / HTTP/1.0\r\nhost: h\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nx : y\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nx: y\r\n z\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\nx",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        ] {
            assert!(matches!(request(text.as_bytes()), Err(Fault::NotPlain(_))), "{text:?}");
        }
    }
}

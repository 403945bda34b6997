//! Where each HTTP/1.1 message ends, read in the one way that every reader agrees with.
//!
//! The bytes that a function sends flow in, in pieces; out comes where heads end and how long bodies are, or the first
//! [`Violation`]. This stands before the HTTP library: what could be read in two ways (request smuggling, RFC 9112,
//! section 11.2) never reaches it. Stricter than the RFC: what it lets a recipient repair is refused here.
use std::error::Error;
use std::io;
use std::ops::Range;

use ::http::HeaderName;
use memchr::{memchr, memmem};

/// The largest request head: what each of an instance's connections may hold in the agent's memory.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// The most header fields of a request.
pub(super) const MAX_FIELDS: usize = 128;
/// Sixteen hexadecimal digits are 2⁶⁴; nobody sends such a chunk.
const MAX_SIZE_DIGITS: usize = 15;
/// The largest trailer section.
const MAX_TRAILERS: usize = 8 << 10;

/// Why the bytes are no message that can be read in one way only. The function is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Violation {
    #[error("a line that does not end with CR LF")]
    LineEnd,
    #[error("a request line that is not `METHOD target HTTP/1.1`")]
    RequestLine,
    #[error("HTTP/2 without TLS")]
    Http2,
    #[error("a header line without a name and a colon right behind it")]
    FieldName,
    #[error("a header line that continues the one before")]
    Folded,
    #[error("a control character in a header")]
    FieldValue,
    #[error("more than {MAX_FIELDS} header lines")]
    TooManyFields,
    #[error("a request head of more than {} KiB", MAX_HEAD >> 10)]
    HeadTooLarge,
    #[error("not exactly one Host header")]
    Host,
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    #[error("a Content-Length that is not one plain number")]
    ContentLength,
    #[error("a Transfer-Encoding that is not exactly `chunked`")]
    TransferEncoding,
    #[error("a chunk that does not begin with its size in hexadecimal digits alone")]
    ChunkSize,
    #[error("a chunk that does not end where its size says")]
    ChunkEnd,
    #[error("a trailer `{0}` that belongs into the head")]
    Trailer(&'static str),
    #[error("trailers of more than {} KiB", MAX_TRAILERS >> 10)]
    TrailersTooLarge,
    #[error("a head that took more than {} s", super::guard::HEAD_TIME.as_secs())]
    TooSlow,
}

impl Violation {
    /// The violation that caused an error of the HTTP library.
    pub(super) fn behind(error: &hyper::Error) -> Option<Self> {
        let io: &io::Error = error.source()?.downcast_ref()?;
        io.get_ref()?.downcast_ref().copied()
    }
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; 0 where the request has none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What a request's head says about the bytes that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Head<'b> {
    pub(in crate::proxy) method: &'b [u8],
    pub(in crate::proxy) target: &'b [u8],
    /// What the Host field says.
    pub(in crate::proxy) host: Option<&'b [u8]>,
    pub(super) framing: Framing,
    /// It asks for another protocol on this connection.
    pub(super) upgrade: bool,
}

/// The end of the head in `bytes`, behind its empty line; `searched` bytes of it were looked at before.
pub(in crate::proxy) fn head_end(bytes: &[u8], searched: usize) -> Result<Option<usize>, Violation> {
    // The end may have begun in what was looked at.
    let from = searched.saturating_sub(3);
    let end = memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4);
    let length = end.unwrap_or(bytes.len());
    if length > MAX_HEAD {
        return Err(Violation::HeadTooLarge);
    }
    if end.is_none() {
        if bytes.starts_with(b"PRI * HTTP/2.0\r\n") {
            return Err(Violation::Http2);
        }
        // Whoever sends bare line ends would wait for an answer until the time is over.
        line_ends(&bytes[from..])?;
    }
    Ok(end)
}

/// Each LF has a CR before it, unless that came in an earlier piece.
fn line_ends(bytes: &[u8]) -> Result<(), Violation> {
    let bare = memchr::memchr_iter(b'\n', bytes).any(|at| at > 0 && bytes[at - 1] != b'\r');
    if bare { Err(Violation::LineEnd) } else { Ok(()) }
}

/// Reads a whole head, its empty line included.
pub(in crate::proxy) fn head(bytes: &[u8]) -> Result<Head<'_>, Violation> {
    let mut lines = Lines(bytes);
    let request_line = RequestLine::read(lines.next().unwrap_or(Err(Violation::RequestLine))?)?;
    let mut fields = Fields::default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        fields.take(line)?;
    }
    fields.finish(&request_line)
}

/// Lines that end with CR LF; anything else is a violation.
struct Lines<'b>(&'b [u8]);

impl<'b> Iterator for Lines<'b> {
    type Item = Result<&'b [u8], Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = memchr(b'\n', self.0)?;
        let Some(line) = self.0[..end].strip_suffix(b"\r") else { return Some(Err(Violation::LineEnd)) };
        self.0 = &self.0[end + 1..];
        Some(if memchr(b'\r', line).is_some() { Err(Violation::LineEnd) } else { Ok(line) })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Minor {
    Zero,
    One,
}

/// RFC 9112, section 3: exactly one space between the parts.
struct RequestLine<'b> {
    method: &'b [u8],
    target: &'b [u8],
    minor: Minor,
}

impl<'b> RequestLine<'b> {
    fn read(line: &'b [u8]) -> Result<Self, Violation> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Violation::RequestLine);
        };
        let minor = match version {
            b"HTTP/1.1" => Minor::One,
            b"HTTP/1.0" => Minor::Zero,
            b"HTTP/2.0" => return Err(Violation::Http2),
            _ => return Err(Violation::RequestLine),
        };
        let in_target = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
        if method.is_empty() || !method.iter().all(is_token) || target.is_empty() || !target.iter().all(in_target) {
            return Err(Violation::RequestLine);
        }
        Ok(Self { method, target, minor })
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// A header line's name and value, without the white space around the value.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Folded);
    }
    let colon = memchr(b':', line).ok_or(Violation::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Violation::FieldName);
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Violation::FieldValue);
    }
    Ok((name, value.trim_ascii()))
}

/// What the header lines say about framing.
#[derive(Default)]
struct Fields<'b> {
    count: usize,
    host: Option<&'b [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl<'b> Fields<'b> {
    fn take(&mut self, line: &'b [u8]) -> Result<(), Violation> {
        let (name, value) = field(line)?;
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(Violation::TooManyFields);
        }
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.replace(value).is_some() {
                return Err(Violation::Host);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.replace(content_length(value)?).is_some() {
                return Err(Violation::ContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    fn finish(self, line: &RequestLine<'b>) -> Result<Head<'b>, Violation> {
        let RequestLine { method, target, minor } = *line;
        if self.host.is_none() && minor == Minor::One {
            return Err(Violation::Host);
        }
        let framing = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Violation::TwoLengths),
            // RFC 9112, section 6.1: a version that does not know it cannot mean it.
            (None, true) if minor == Minor::Zero => return Err(Violation::TransferEncoding),
            (None, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        };
        // No body could be told from the tunnel that some readers expect behind it.
        if method == b"CONNECT" && framing != Framing::Length(0) {
            return Err(Violation::TwoLengths);
        }
        Ok(Head { method, target, host: self.host, framing, upgrade: self.upgrade })
    }
}

/// RFC 9110, section 8.6, without the list of equal values that it lets a recipient accept.
fn content_length(value: &[u8]) -> Result<u64, Violation> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    let number = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
    number.filter(|length| *length < u64::MAX >> 1).ok_or(Violation::ContentLength)
}

/// Follows a chunked body (RFC 9112, section 7.1). Chunk extensions, which nobody uses, are refused.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// So many digits of this size.
    Size(usize, u64),
    /// The LF behind a size.
    SizeEnd(u64),
    /// So many bytes of the chunk.
    Data(u64),
    /// The CR behind the chunk; the LF.
    DataEnd,
    DataEnded,
    Trailers,
    Done,
}

impl Default for At {
    fn default() -> Self {
        Self::Size(0, 0)
    }
}

impl Chunks {
    /// Follows `bytes`: how many of them belong to the body, when it ends in them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.step(&bytes[taken..])?;
            if matches!(self.at, At::Done) {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let byte = bytes[0];
        self.at = match self.at {
            At::Size(digits, size) => match (char::from(byte).to_digit(16), byte) {
                (Some(digit), _) if digits < MAX_SIZE_DIGITS => At::Size(digits + 1, size << 4 | u64::from(digit)),
                (None, b'\r') if digits > 0 => At::SizeEnd(size),
                _ => return Err(Violation::ChunkSize),
            },
            At::SizeEnd(size) => match (byte, size) {
                (b'\n', 0) => At::Trailers,
                (b'\n', size) => At::Data(size),
                _ => return Err(Violation::ChunkSize),
            },
            At::Data(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = if taken == left { At::DataEnd } else { At::Data(left - taken) };
                return Ok(usize::try_from(taken).unwrap_or(bytes.len()));
            }
            At::DataEnd if byte == b'\r' => At::DataEnded,
            At::DataEnded if byte == b'\n' => At::Size(0, 0),
            At::DataEnd | At::DataEnded => return Err(Violation::ChunkEnd),
            At::Trailers => return self.trailers(bytes),
            At::Done => At::Done,
        };
        Ok(1)
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let line = memchr(b'\n', bytes).map(|end| end + 1);
        let taken = line.unwrap_or(bytes.len());
        self.trailers.extend_from_slice(&bytes[..taken]);
        if self.trailers.len() > MAX_TRAILERS {
            return Err(Violation::TrailersTooLarge);
        }
        if line.is_some() {
            let last = self.last_line();
            let last = self.trailers[last].strip_suffix(b"\r\n").ok_or(Violation::LineEnd)?;
            if last.is_empty() {
                self.at = At::Done;
            } else {
                trailer(last)?;
            }
        }
        Ok(taken)
    }

    fn last_line(&self) -> Range<usize> {
        let whole = self.trailers.len();
        let before = &self.trailers[..whole - 1];
        memchr::memrchr(b'\n', before).map_or(0, |at| at + 1)..whole
    }
}

/// RFC 9110, section 6.5.1: what decides about a message stands in front of it.
const NOT_IN_TRAILERS: [&str; 20] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "content-encoding",
    "content-type",
    "content-range",
    "expect",
    "keep-alive",
    "proxy-connection",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Whether a trailer of this name may pass.
pub(super) fn is_trailer(name: &HeaderName) -> bool {
    forbidden_trailer(name.as_str().as_bytes()).is_none()
}

fn forbidden_trailer(name: &[u8]) -> Option<&'static str> {
    NOT_IN_TRAILERS.into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn trailer(line: &[u8]) -> Result<(), Violation> {
    if memchr(b'\r', line).is_some() {
        return Err(Violation::LineEnd);
    }
    let (name, _) = field(line)?;
    forbidden_trailer(name).map_or(Ok(()), |name| Err(Violation::Trailer(name)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(fields: &str) -> Result<(Framing, bool), Violation> {
        let text = format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        head(text.as_bytes()).map(|head| (head.framing, head.upgrade))
    }

    #[test]
    fn plain_heads_are_read() {
        assert_eq!(of(""), Ok((Framing::Length(0), false)));
        assert_eq!(of("Content-Length: 5\r\n"), Ok((Framing::Length(5), false)));
        assert_eq!(of("content-length:5\t\r\n"), Ok((Framing::Length(5), false)));
        assert_eq!(of("Transfer-Encoding: Chunked\r\n"), Ok((Framing::Chunked, false)));
        assert_eq!(of("Upgrade: websocket\r\n"), Ok((Framing::Length(0), true)));
        assert_eq!(of("X-Empty:\r\nX-Latin: caf\u{e9}\r\n"), Ok((Framing::Length(0), false)));
        let old = head(b"GET /a?b HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((old.method, old.target, old.host), (&b"GET"[..], &b"/a?b"[..], None));
    }

    #[test]
    fn what_readers_repair_differently_is_refused() {
        use Violation as V;
        for (fields, violation) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", V::TwoLengths),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", V::TwoLengths),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", V::ContentLength),
            ("Content-Length: 5, 5\r\n", V::ContentLength),
            ("Content-Length: +5\r\n", V::ContentLength),
            ("Content-Length: -5\r\n", V::ContentLength),
            ("Content-Length: 0x5\r\n", V::ContentLength),
            ("Content-Length: 5 5\r\n", V::ContentLength),
            ("Content-Length:\r\n", V::ContentLength),
            ("Content-Length: 99999999999999999999\r\n", V::ContentLength),
            ("Content-Length: \u{ff15}\r\n", V::ContentLength),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", V::TransferEncoding),
            ("Transfer-Encoding: chunked, identity\r\n", V::TransferEncoding),
            ("Transfer-Encoding: identity\r\n", V::TransferEncoding),
            ("Transfer-Encoding: xchunked\r\n", V::TransferEncoding),
            ("Transfer-Encoding: \"chunked\"\r\n", V::TransferEncoding),
            ("Transfer-Encoding:\r\n", V::TransferEncoding),
            ("Transfer-Encoding: chunked\x0b\r\n", V::FieldValue),
            ("Transfer-Encoding : chunked\r\n", V::FieldName),
            ("Transfer_Encoding chunked\r\n", V::FieldName),
            (": x\r\n", V::FieldName),
            ("X Y: z\r\n", V::FieldName),
            ("X\0: z\r\n", V::FieldName),
            ("X: a\r\n b\r\n", V::Folded),
            ("X: a\r\n\tb\r\n", V::Folded),
            ("X: a\0b\r\n", V::FieldValue),
            ("X: a\x7f\r\n", V::FieldValue),
            ("X: a\nY: b\r\n", V::LineEnd),
            ("X: a\rY: b\r\n", V::LineEnd),
            ("X: a\r\r\n", V::LineEnd),
            ("Host: a.example\r\n", V::Host),
            ("Host: b.example\r\n", V::Host),
        ] {
            assert_eq!(of(fields), Err(violation), "{fields:?}");
        }
        assert_eq!(of(&"X: y\r\n".repeat(MAX_FIELDS)), Err(Violation::TooManyFields));
    }

    #[test]
    fn a_request_line_has_one_form() {
        let with = |line: &str| head(format!("{line}\r\nHost: a.example\r\n\r\n").as_bytes()).map(|_| ());
        for good in
            ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1", "M-SEARCH /%20?a=b HTTP/1.1", "GET http://a.example/ HTTP/1.1"]
        {
            assert_eq!(with(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "GET /",
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /#a HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/3.0",
            "GET / HTTP/01.1",
            "G@T / HTTP/1.1",
        ] {
            assert_eq!(with(bad), Err(Violation::RequestLine), "{bad}");
        }
        assert_eq!(with("PRI * HTTP/2.0"), Err(Violation::Http2));
        assert_eq!(head(b"GET / HTTP/1.1\r\n\r\n"), Err(Violation::Host));
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(old), Err(Violation::TransferEncoding));
    }

    #[test]
    fn the_end_of_a_head_is_found_in_any_cut_and_bare_line_ends_at_once() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut searched = 0;
        let end = bytes.len() - b"rest".len();
        for length in 0..=end {
            let expected = (length == end).then_some(end);
            assert_eq!(head_end(&bytes[..length], searched), Ok(expected), "{length}");
            searched = length;
        }
        assert_eq!(head_end(b"GET / HTTP/1.1\nHost: a\n\n", 0), Err(Violation::LineEnd));
        assert_eq!(head_end(b"PRI * HTTP/2.0\r\n", 0), Err(Violation::Http2));
        assert_eq!(head_end(&[b'a'; MAX_HEAD + 1], 0), Err(Violation::HeadTooLarge));
    }

    fn chunks(bytes: &str) -> Result<Option<usize>, Violation> {
        Chunks::default().feed(bytes.as_bytes())
    }

    #[test]
    fn a_chunked_body_ends_where_every_reader_sees_it_end() {
        assert_eq!(chunks("0\r\n\r\nGET"), Ok(Some(5)));
        assert_eq!(chunks("5\r\nhello\r\n0\r\n\r\n"), Ok(Some(15)));
        assert_eq!(chunks("00a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nrest"), Ok(Some(32)));
        assert_eq!(chunks("5\r\nhel"), Ok(None));
        use Violation as V;
        for (bytes, violation) in [
            (" 5\r\nhello\r\n", V::ChunkSize),
            ("5 \r\nhello\r\n", V::ChunkSize),
            ("+5\r\nhello\r\n", V::ChunkSize),
            ("-5\r\nhello\r\n", V::ChunkSize),
            ("0x5\r\nhello\r\n", V::ChunkSize),
            ("\r\nhello\r\n", V::ChunkSize),
            ("5\nhello\r\n", V::ChunkSize),
            ("5\r\r\nhello", V::ChunkSize),
            ("5;a=b\r\nhello\r\n", V::ChunkSize),
            ("10000000000000005\r\nhello\r\n", V::ChunkSize),
            ("5\r\nhello0\r\n\r\n", V::ChunkEnd),
            ("5\r\nhello\n0\r\n\r\n", V::ChunkEnd),
            ("0\r\nX: a\n\r\n", V::LineEnd),
            ("0\r\nno colon\r\n\r\n", V::FieldName),
            ("0\r\nX: a\r\n b\r\n\r\n", V::Folded),
            ("0\r\nHost: b\r\n\r\n", V::Trailer("host")),
            ("0\r\nCONTENT-LENGTH: 5\r\n\r\n", V::Trailer("content-length")),
            ("0\r\nTransfer-Encoding: chunked\r\n\r\n", V::Trailer("transfer-encoding")),
            ("0\r\nAuthorization: x\r\n\r\n", V::Trailer("authorization")),
        ] {
            assert_eq!(chunks(bytes), Err(violation), "{bytes:?}");
        }
        assert_eq!(chunks(&format!("0\r\n{}", "X: y\r\n".repeat(2000))), Err(Violation::TrailersTooLarge));
    }

    proptest! {
        #[test]
        fn a_body_is_followed_alike_in_any_cut(parts in proptest::collection::vec("[a-z]{1,40}", 0..6), cut in 1_usize..20) {
            let mut text: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
            text.push_str("0\r\nX-A: b\r\n\r\n");
            let mut follower = Chunks::default();
            let mut fed = 0;
            for piece in text.as_bytes().chunks(cut) {
                let ended = follower.feed(piece).unwrap();
                fed += piece.len();
                prop_assert_eq!(ended.is_some(), fed == text.len());
            }
        }

        #[test]
        fn hostile_bytes_never_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = head_end(&bytes, 0);
            let _ = head(&bytes);
            let _ = Chunks::default().feed(&bytes);
        }

        /// Where the guard sees a plain request, the library behind it sees the same one.
        #[test]
        fn the_library_reads_the_same_head(fields in proptest::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,12}"), 0..5)) {
            let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let text = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            if head(text.as_bytes()).is_ok() {
                let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
                let mut theirs = httparse::Request::new(&mut storage);
                prop_assert_eq!(theirs.parse(text.as_bytes()), Ok(httparse::Status::Complete(text.len())));
                prop_assert_eq!((theirs.method, theirs.path), (Some("GET"), Some("/x")));
            }
        }
    }
}

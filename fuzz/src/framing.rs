//! What a function sends over HTTP/1.1, before any library reads it.
use dshield_agent::proxy::fuzz;
use httparse::{EMPTY_HEADER, Status};

use crate::with_timers;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a HTTP/1.1\r\n",
    "Host: a\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Upgrade: x\r\n",
    "\r\n\r\n",
    "\r\n",
    "\n",
    "\r",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5",
    ";a=b",
    " ",
    "\t",
    "\0",
    ":",
    "HTTP/1.0\r\n",
    "PRI * HTTP/2.0\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "chunked",
    "hello",
    "X: y\r\n",
];

/// What is given on begins the same in any cut, and is whole messages for a reader that is lenient about where they end.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let given = |size| with_timers(async { fuzz::given_on(input, size) });
    let whole = given(usize::MAX);
    for size in [1, 5] {
        let cut = given(size);
        // A chunk that is wrong takes the piece that it came in with it.
        let common = whole.len().min(cut.len());
        assert_eq!(whole[..common].escape_ascii().to_string(), cut[..common].escape_ascii().to_string());
    }
    read(&whole);
}

/// Reads messages as httparse does, which the HTTP library is built on, up to the last one.
fn read(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut fields = [EMPTY_HEADER; 256];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(bytes) {
            Ok(Status::Complete(head)) => head,
            other => panic!("{other:?} in what was given on: {}", bytes.escape_ascii()),
        };
        let value = |name: &str| {
            let field = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            field.map(|field| field.value)
        };
        let rest = &bytes[head..];
        let length = if value("transfer-encoding").is_some() {
            chunks(rest)
        } else {
            let number = |value| std::str::from_utf8(value).ok()?.trim().parse().ok();
            value("content-length").map_or(Some(0), number)
        };
        // A body that is not whole is the last thing that was given on.
        let Some(rest) = length.and_then(|length: usize| rest.get(length..)) else { return };
        bytes = rest;
    }
}

/// How long a chunked body is, when it is whole.
fn chunks(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(Status::Complete((line, size))) = httparse::parse_chunk_size(body.get(at..)?) else { return None };
        at += line;
        if size == 0 {
            break;
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
    }
    let mut fields = [EMPTY_HEADER; 64];
    match httparse::parse_headers(body.get(at..)?, &mut fields) {
        Ok(Status::Complete((trailers, _))) => Some(at + trailers),
        _ => None,
    }
}

//! The table: Python for the bytes, in the words of `frames.py`, and what is to come of them.

/// What is to come of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The connection ends with an error.
    Connection,
    /// The stream ends with an error or an answer that refuses; the connection goes on.
    Stream,
    /// One of both.
    Either,
    /// An answer, and one request upstream with this method and body.
    Answer(&'static str, &'static str),
}

/// A name, the bytes behind the preface and an empty SETTINGS, and what is to come of them.
pub type Row = (&'static str, &'static str, Wanted);

use Wanted::{Answer, Connection, Either, Stream};

/// Rows of frames in order and of no fault: what shows that the others are refused for theirs.
pub const GOOD: &[Row] = &[
    ("a plain request", "request(1)", Answer("GET", "")),
    (
        "a body",
        "request(1, ('content-length', '5'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b'hello')",
        Answer("POST", "hello"),
    ),
    (
        "a body in pieces, without its length",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, 0, 1, b'he') + frame(DATA, END_STREAM, 1, b'llo')",
        Answer("POST", "hello"),
    ),
    (
        "padding",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM | PADDED, 1, b'\\x03hello\\0\\0\\0')",
        Answer("POST", "hello"),
    ),
    (
        "a head in pieces",
        "(lambda b: frame(HEADERS, END_STREAM, 1, b[:9]) + frame(CONTINUATION, 0, 1, b[9:20]) + frame(CONTINUATION, END_HEADERS, 1, b[20:]))(block(*pseudo()))",
        Answer("GET", ""),
    ),
    ("a frame of a type that nobody knows", "frame(0x42, 255, 1, b'x' * 99) + request(1)", Answer("GET", "")),
    ("a setting that nobody knows", "settings((0x4242, 7)) + request(1)", Answer("GET", "")),
    (
        "priorities in a circle",
        "frame(PRIORITY, 0, 3, b'\\0\\0\\0\\x05\\0') + frame(PRIORITY, 0, 5, b'\\0\\0\\0\\x03\\0') + request(1)",
        Answer("GET", ""),
    ),
    ("Host in place of :authority", "request(1, ('host', event['host']), authority=None)", Answer("GET", "")),
    ("the same Host beside :authority", "request(1, ('host', event['host']))", Answer("GET", "")),
    ("TE: trailers", "request(1, ('te', 'trailers'))", Answer("GET", "")),
    ("a cookie in two fields", "request(1, ('cookie', 'a=b'), ('cookie', 'c=d'))", Answer("GET", "")),
    (
        "trailers",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, 0, 1, b'hello') + frame(HEADERS, END_STREAM | END_HEADERS, 1, block(('x-sum', '1')))",
        Answer("POST", "hello"),
    ),
];

/// Frames.
pub const FRAMES: &[Row] = &[
    ("a frame beyond the largest", "frame(DATA, 0, 1, b'x' * 16385)", Connection),
    ("a length that says 16 MiB", "frame(HEADERS, 5, 1, b'', length=0xffffff)", Connection),
    ("SETTINGS of 5 bytes", "frame(SETTINGS, 0, 0, b'12345')", Connection),
    ("an acknowledgement with a setting", "frame(SETTINGS, ACK, 0, b'\\0\\x02\\0\\0\\0\\0')", Connection),
    ("SETTINGS on a stream", "frame(SETTINGS, 0, 1, b'')", Connection),
    ("ENABLE_PUSH of 2", "settings((2, 2))", Connection),
    ("a window beyond 2^31 - 1", "settings((4, 1 << 31))", Connection),
    ("a largest frame of 16383", "settings((5, 16383))", Connection),
    ("a largest frame of 2^24", "settings((5, 1 << 24))", Connection),
    ("HEADERS on stream 0", "request(0)", Connection),
    ("an even stream", "request(2)", Connection),
    ("a stream below the last", "request(5) + request(3)", Connection),
    ("a stream that has ended", "request(1) + request(1)", Either),
    ("DATA on stream 0", "frame(DATA, 0, 0, b'x')", Connection),
    ("DATA on a stream that nobody opened", "frame(DATA, 0, 1, b'x')", Connection),
    ("CONTINUATION without HEADERS", "frame(CONTINUATION, END_HEADERS, 1, block(*pseudo()))", Connection),
    (
        "PING within a head",
        "frame(HEADERS, END_STREAM, 1, block(*pseudo())) + frame(PING, 0, 0, b'12345678')",
        Connection,
    ),
    ("DATA within a head", "frame(HEADERS, 0, 1, block(*pseudo())) + frame(DATA, END_STREAM, 1, b'x')", Connection),
    (
        "another stream's CONTINUATION",
        "frame(HEADERS, END_STREAM, 1, block(*pseudo())) + frame(CONTINUATION, END_HEADERS, 3, b'')",
        Connection,
    ),
    (
        "a frame that nobody knows within a head",
        "frame(HEADERS, END_STREAM, 1, block(*pseudo())) + frame(0x42, 0, 1, b'')",
        Connection,
    ),
    ("PING of 7 bytes", "frame(PING, 0, 0, b'1234567')", Connection),
    ("PING on a stream", "frame(PING, 0, 1, b'12345678')", Connection),
    ("a window that grows by 0", "frame(WINDOW_UPDATE, 0, 0, bytes(4))", Connection),
    ("a window of 3 bytes", "frame(WINDOW_UPDATE, 0, 0, bytes(3))", Connection),
    (
        "a stream's window that grows by 0",
        "request(1, method='POST', flags=END_HEADERS) + frame(WINDOW_UPDATE, 0, 1, bytes(4))",
        Either,
    ),
    ("a window beyond its limit", "frame(WINDOW_UPDATE, 0, 0, b'\\x7f\\xff\\xff\\xff')", Connection),
    (
        "a stream's window beyond its limit",
        "request(1, method='POST', flags=END_HEADERS) + frame(WINDOW_UPDATE, 0, 1, b'\\x7f\\xff\\xff\\xff')",
        Either,
    ),
    ("the window of a stream that nobody opened", "frame(WINDOW_UPDATE, 0, 1, b'\\0\\0\\0\\x01')", Connection),
    ("PRIORITY of 4 bytes", "request(1, method='POST', flags=END_HEADERS) + frame(PRIORITY, 0, 1, bytes(4))", Either),
    ("PRIORITY on stream 0", "frame(PRIORITY, 0, 0, bytes(5))", Connection),
    (
        "a stream that depends on itself",
        "frame(HEADERS, END_STREAM | END_HEADERS | WITH_PRIORITY, 1, b'\\0\\0\\0\\x01\\x10' + block(*pseudo()))",
        Either,
    ),
    ("RST_STREAM on stream 0", "frame(RST_STREAM, 0, 0, bytes(4))", Connection),
    ("RST_STREAM of a stream that nobody opened", "frame(RST_STREAM, 0, 1, bytes(4))", Connection),
    (
        "RST_STREAM of 3 bytes",
        "request(1, method='POST', flags=END_HEADERS) + frame(RST_STREAM, 0, 1, bytes(3))",
        Connection,
    ),
    (
        "PUSH_PROMISE by a client",
        "frame(PUSH_PROMISE, END_HEADERS, 1, b'\\0\\0\\0\\x02' + block(*pseudo()))",
        Connection,
    ),
    ("GOAWAY on a stream", "frame(GOAWAY, 0, 1, bytes(8))", Connection),
    (
        "more padding than frame",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM | PADDED, 1, b'\\x09x')",
        Connection,
    ),
    ("DATA behind the end", "request(1) + frame(DATA, END_STREAM, 1, b'x')", Either),
    (
        "DATA beyond the window",
        "request(1, method='POST', path='/slow' + event['path'], flags=END_HEADERS) + frame(DATA, 0, 1, b'x' * 16384) * 4096",
        Either,
    ),
];

/// Header blocks.
pub const BLOCKS: &[Row] = &[
    ("index 0", "frame(HEADERS, 5, 1, b'\\x80')", Connection),
    ("an index beyond the tables", "frame(HEADERS, 5, 1, b'\\xff\\xff\\x0f')", Connection),
    ("an integer without an end", "frame(HEADERS, 5, 1, b'\\xff' + b'\\xff' * 20)", Connection),
    ("a block that is cut short", "frame(HEADERS, 5, 1, block(*pseudo())[:-3])", Connection),
    ("a Huffman string that is none", "frame(HEADERS, 5, 1, b'\\x00\\x81\\xff\\x01x')", Connection),
    ("a table beyond its limit", "frame(HEADERS, 5, 1, b'\\x3f\\xff\\xff\\x0f' + block(*pseudo()))", Connection),
    ("a bomb", "frame(HEADERS, 5, 1, block(*pseudo()) + literal('x', 'y' * 4000, 0x40) + b'\\xbe' * 12000)", Either),
    (
        "a value of 100 KB",
        "(lambda b: frame(HEADERS, END_STREAM, 1, b[:16000]) + b''.join(frame(CONTINUATION, 0, 1, b[at:at + 16000]) for at in range(16000, len(b), 16000)) + frame(CONTINUATION, END_HEADERS, 1, b''))(block(*pseudo(), ('x', 'y' * 100000)))",
        Either,
    ),
    ("2000 fields", "frame(HEADERS, 5, 1, block(*pseudo(), *[('x', 'y')] * 2000))", Either),
];

/// Fields. Nothing of these is a request (RFC 9113, section 8.1.1).
pub const FIELDS: &[Row] = &[
    ("a name in capitals", "request(1, ('X-Upper', 'a'))", Either),
    ("a name with a space", "request(1, ('x y', 'a'))", Either),
    ("a name with a colon", "request(1, ('x:y', 'a'))", Either),
    ("a name with NUL", "request(1, ('x\\0', 'a'))", Either),
    ("a name with CR LF", "request(1, ('x\\r\\ny', 'a'))", Either),
    ("no name", "request(1, ('', 'a'))", Either),
    ("a value with CR LF", "request(1, ('x', 'a\\r\\nhost: attacker.example'))", Either),
    ("a value with LF", "request(1, ('x', 'a\\nb'))", Either),
    ("a value with NUL", "request(1, ('x', 'a\\0b'))", Either),
    (
        "a pseudo-field behind a field",
        "frame(HEADERS, 5, 1, block(*pseudo(path=None), ('x', 'y'), (':path', event['path'])))",
        Stream,
    ),
    ("two methods", "request(1, (':method', 'GET'))", Stream),
    ("two methods at the beginning", "frame(HEADERS, 5, 1, block((':method', 'GET'), *pseudo()))", Stream),
    ("two paths", "frame(HEADERS, 5, 1, block((':path', '/smuggled/'), *pseudo()))", Stream),
    ("two authorities", "frame(HEADERS, 5, 1, block((':authority', 'attacker.example'), *pseudo()))", Stream),
    ("no path", "request(1, path=None)", Stream),
    ("an empty path", "request(1, path='')", Stream),
    ("no method", "frame(HEADERS, 5, 1, block(*pseudo()[1:]))", Stream),
    ("no scheme", "request(1, scheme=None)", Stream),
    ("another scheme", "request(1, scheme='http')", Stream),
    ("a scheme that nobody knows", "request(1, scheme='ftp')", Stream),
    ("a pseudo-field that nobody knows", "frame(HEADERS, 5, 1, block((':x', 'y'), *pseudo()))", Either),
    ("a pseudo-field of answers", "frame(HEADERS, 5, 1, block((':status', '200'), *pseudo()))", Stream),
    ("no authority", "request(1, authority=None)", Stream),
    ("another authority", "request(1, authority='attacker.example')", Stream),
    ("an authority with a user", "request(1, authority=event['host'] + '@attacker.example')", Stream),
    ("an authority with another port", "request(1, authority=event['host'] + ':8443')", Stream),
    ("another Host beside :authority", "request(1, ('host', 'attacker.example'))", Stream),
    ("two Hosts beside :authority", "request(1, ('host', event['host']), ('host', 'attacker.example'))", Stream),
    ("two Hosts", "request(1, ('host', event['host']), ('host', event['host']), authority=None)", Stream),
    ("a path without a slash", "request(1, path='row')", Stream),
    ("a path with a space", "request(1, path=event['path'] + ' HTTP/1.1')", Stream),
    ("a path with CR LF", "request(1, path=event['path'] + '\\r\\nx: y')", Stream),
    ("an absolute path", "request(1, path='https://attacker.example' + event['path'])", Stream),
    ("a path that no rule allows", "request(1, path='/smuggled/')", Stream),
    ("a method that no rule allows", "request(1, method='DELETE')", Stream),
    ("a method with a space", "request(1, method='GET /smuggled/')", Either),
    ("a method override", "request(1, ('x-http-method-override', 'DELETE'))", Stream),
    ("Connection", "request(1, ('connection', 'x'))", Stream),
    ("Keep-Alive", "request(1, ('keep-alive', 'timeout=5'))", Stream),
    ("Proxy-Connection", "request(1, ('proxy-connection', 'keep-alive'))", Stream),
    ("Transfer-Encoding", "request(1, ('transfer-encoding', 'chunked'))", Stream),
    ("Upgrade", "request(1, ('upgrade', 'websocket'))", Stream),
    ("TE: gzip", "request(1, ('te', 'gzip'))", Stream),
    ("CONNECT", "request(1, method='CONNECT', scheme=None, path=None)", Stream),
    ("CONNECT with a path", "request(1, method='CONNECT')", Stream),
    ("CONNECT for another protocol", "request(1, method='CONNECT', protocol='websocket')", Stream),
    (
        "a length beyond the body",
        "request(1, ('content-length', '50'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b'hello')",
        Stream,
    ),
    (
        "a length below the body",
        "request(1, ('content-length', '2'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b'hello')",
        Stream,
    ),
    ("a length without a body", "request(1, ('content-length', '5'), method='POST')", Stream),
    (
        "two lengths",
        "request(1, ('content-length', '5'), ('content-length', '50'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b'hello')",
        Stream,
    ),
    (
        "a length that is no number",
        "request(1, ('content-length', '+5'), method='POST', flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b'hello')",
        Stream,
    ),
    (
        "trailers that do not end the stream",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, 0, 1, b'hello') + frame(HEADERS, END_HEADERS, 1, block(('x', 'y')))",
        Either,
    ),
    // Malformed, and the HTTP library lets it pass; the field goes nowhere.
    (
        "trailers with a path",
        "request(1, method='POST', flags=END_HEADERS) + frame(DATA, 0, 1, b'hello') + frame(HEADERS, 5, 1, block((':path', '/smuggled/')))",
        Answer("POST", "hello"),
    ),
];

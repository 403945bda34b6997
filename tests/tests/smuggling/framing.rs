//! Where a request ends: lengths, codings, chunks, trailers.
use super::rows::{GET, HIDDEN, Rows, chunked, get, post};

/// Adds the rows.
pub fn add(rows: &mut Rows) {
    good(rows);
    both_framings(rows);
    codings(rows);
    lengths(rows);
    chunks(rows);
    trailers(rows);
}

/// What shows that a row that is refused would have arrived without its fault.
fn good(rows: &mut Rows) {
    rows.clean("a plain GET", get(""), "GET", "");
    rows.clean("a body with a length", post("Content-Length: 5\r\n", "hello"), "POST", "hello");
    rows.clean("a body in chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), "POST", "hello");
    rows.clean("the body of a GET", get("Content-Length: 5\r\n") + "hello", "GET", "hello");
    rows.clean("an empty body with a length", post("Content-Length: 0\r\n", ""), "POST", "");
    rows.clean("a request inside a body", post("Content-Length: 14\r\n", "GET / HTTP/1.1"), "POST", "GET / HTTP/1.1");
    rows.clean("a chunk size in capitals", chunked("A\r\n0123456789\r\n0\r\n\r\n"), "POST", "0123456789");
    rows.clean("Expect: 100-continue", post("Content-Length: 5\r\nExpect: 100-continue\r\n", "hello"), "POST", "hello");
    rows.either("another expectation", post("Content-Length: 5\r\nExpect: tea\r\n", "hello"), "POST", "hello");
}

fn both_framings(rows: &mut Rows) {
    let (length, coding) = ("Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n");
    let body = format!("0\r\n\r\n{HIDDEN}");
    rows.refused("a length, then chunks", post(&format!("{length}{coding}"), &body));
    rows.refused("chunks, then a length", post(&format!("{coding}{length}"), &body));
    let whole = format!("Content-Length: 5\r\n{coding}");
    rows.refused("a length that is that of the chunks", post(&whole, "0\r\n\r\n"));
    let zero = format!("Content-Length: 0\r\n{coding}");
    rows.refused("a length of 0, and chunks", post(&zero, &body));
    let identity = format!("{length}Transfer-Encoding: identity\r\n");
    rows.refused("a length, and identity", post(&identity, "0\r\n\r\n"));
    let get = format!("{GET}{length}{coding}\r\n{body}");
    rows.refused("both in a GET", get);
}

fn codings(rows: &mut Rows) {
    let body = format!("0\r\n\r\n{HIDDEN}");
    let mut refused = |name, fields: &str| {
        rows.refused(name, post(fields, &body));
    };
    refused("chunked, identity", "Transfer-Encoding: chunked, identity\r\n");
    refused("identity, chunked", "Transfer-Encoding: identity, chunked\r\n");
    refused("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n");
    refused("chunked, chunked", "Transfer-Encoding: chunked, chunked\r\n");
    refused("xchunked", "Transfer-Encoding: xchunked\r\n");
    refused("chunkedx", "Transfer-Encoding: chunkedx\r\n");
    refused("quoted", "Transfer-Encoding: \"chunked\"\r\n");
    refused("with a parameter", "Transfer-Encoding: chunked;a=b\r\n");
    refused("with a comma", "Transfer-Encoding: chunked,\r\n");
    refused("no coding", "Transfer-Encoding:\r\n");
    refused("identity alone", "Transfer-Encoding: identity\r\n");
    refused("gzip alone", "Transfer-Encoding: gzip\r\n");
    refused("with a vertical tab", "Transfer-Encoding: chunked\x0b\r\n");
    refused("after a form feed", "Transfer-Encoding: \x0cchunked\r\n");
    refused("after 0xff", "Transfer-Encoding: \u{ff}chunked\r\n");
    refused("two fields, the same", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    refused("two fields, identity last", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n");
    refused("two fields, identity first", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n");
    refused("two fields, apart", "Transfer-Encoding: chunked\r\nX: y\r\nTransfer-encoding: cow\r\n");
    refused("a space before the colon", "Transfer-Encoding : chunked\r\n");
    refused("in a continued line", "Transfer-Encoding:\r\n chunked\r\n");
    refused("in another field's continued line", "X: y\r\n Transfer-Encoding: chunked\r\n");
    refused("behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\n");
    refused("behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\n");
    for (name, fields) in [
        ("in capitals", "Transfer-Encoding: CHUNKED\r\n"),
        ("after more spaces", "Transfer-Encoding:   chunked\r\n"),
        ("after a tab", "Transfer-Encoding:\tchunked\r\n"),
        ("with a space behind it", "Transfer-Encoding: chunked \r\n"),
        ("after no space", "Transfer-Encoding:chunked\r\n"),
    ] {
        rows.either(name, post(fields, "5\r\nhello\r\n0\r\n\r\n"), "POST", "hello");
    }
    rows.refused("HTTP/1.0 with chunks", chunked(&body).replacen("HTTP/1.1", "HTTP/1.0", 1));
}

fn lengths(rows: &mut Rows) {
    for (name, value) in [
        ("a length with a plus", "+5"),
        ("a length with a minus", "-5"),
        ("a length below zero", "-0"),
        ("a length as a list", "5,5"),
        ("a length as a list with a space", "5, 5"),
        ("a length in hex", "0x5"),
        ("a length with a fraction", "5.0"),
        ("a length with an exponent", "5e0"),
        ("a length with a space inside", "0 5"),
        ("a length with an underscore", "0_5"),
        ("a length of Arabic digits", "\u{d9}\u{a5}"),
        ("an empty length", ""),
        ("no number", "five"),
        ("a length in quotes", "\"5\""),
        ("a length with a semicolon", "5;"),
        ("a length of 2^64 - 1", "18446744073709551615"),
        ("a length of 2^64", "18446744073709551616"),
        ("a length of 2^64 + 5", "18446744073709551621"),
        ("a length of 99 digits", &"9".repeat(99)),
    ] {
        rows.refused(name, post(&format!("Content-Length: {value}\r\n"), "hello"));
    }
    let twice = |first: &str, second: &str| {
        post(&format!("Content-Length: {first}\r\nContent-Length: {second}\r\n"), &format!("hello{HIDDEN}"))
    };
    rows.refused("two lengths, the same", twice("5", "5"));
    rows.refused("two lengths, the first shorter", twice("5", "50"));
    rows.refused("two lengths, the first longer", twice("50", "5"));
    rows.refused("two lengths, one empty", twice("5", ""));
    rows.refused("a space before the colon of a length", post("Content-Length : 5\r\n", "hello"));
    rows.either("a length with spaces around it", post("Content-Length:   5  \r\n", "hello"), "POST", "hello");
    rows.either("a length with zeros before it", post("Content-Length: 0005\r\n", "hello"), "POST", "hello");
}

fn chunks(rows: &mut Rows) {
    let mut refused = |name, body: &str| {
        rows.refused(name, chunked(&format!("{body}0\r\n\r\n{HIDDEN}")));
    };
    refused("a chunk size behind a space", " 5\r\nhello\r\n");
    refused("a chunk size before a space", "5 \r\nhello\r\n");
    refused("a chunk size before a tab", "5\t\r\nhello\r\n");
    refused("a chunk size with a plus", "+5\r\nhello\r\n");
    refused("a chunk size with a minus", "-5\r\nhello\r\n");
    refused("a chunk size with 0x", "0x5\r\nhello\r\n");
    refused("a chunk size with an underscore", "0_5\r\nhello\r\n");
    refused("a chunk size of 17 digits", "10000000000000005\r\nhello\r\n");
    refused("a chunk size of 16 digits, all f", "ffffffffffffffff\r\nhello\r\n");
    refused("a chunk size behind 4000 zeros", &format!("{}5\r\nhello\r\n", "0".repeat(4000)));
    refused("no chunk size", "\r\nhello\r\n");
    refused("a chunk size that is no number", "g\r\nhello\r\n");
    refused("a chunk longer than its size", "5\r\nhello!\r\n");
    refused("a chunk without CRLF behind it", "5\r\nhello");
    refused("a chunk with LF behind it", "5\r\nhello\n");
    refused("a chunk with CR behind it", "5\r\nhello\r");
    refused("a chunk size with LF", "5\nhello\r\n");
    refused("a chunk size with CR", "5\rhello\r\n");
    refused("a chunk size with CR CR LF", "5\r\r\nhello\r\n");
    refused("a chunk size with NUL", "5\0\r\nhello\r\n");
    refused("a chunk extension", "5;name=value\r\nhello\r\n");
    refused("a chunk extension without a name", "5;\r\nhello\r\n");
    refused("a chunk extension with LF", "5;a\nhello\r\n");
    refused("a chunk extension in quotes with CRLF", "5;a=\"\r\n\"\r\nhello\r\n");
    refused("a chunk extension of 64 KiB", &format!("5;{}\r\nhello\r\n", "a".repeat(64 << 10)));
    rows.refused("a last chunk with LF", chunked(&format!("5\r\nhello\r\n0\n\n{HIDDEN}")));
    rows.refused("a last chunk with an extension", chunked(&format!("5\r\nhello\r\n0;a\r\n\r\n{HIDDEN}")));
    rows.either("a last chunk of many zeros", chunked("5\r\nhello\r\n0000\r\n\r\n"), "POST", "hello");
}

fn trailers(rows: &mut Rows) {
    for (name, trailer) in [
        ("a trailer with a host", "Host: attacker.example"),
        ("a trailer with a length", "Content-Length: 5"),
        ("a trailer with a coding", "Transfer-Encoding: chunked"),
        ("a trailer with a credential", "Authorization: Bearer x"),
        ("a trailer with Connection", "Connection: keep-alive"),
        ("a trailer without a colon", "no colon"),
        ("a trailer with a space before the colon", "X : y"),
        ("a continued trailer", "X: y\r\n z"),
        ("a trailer with NUL", "X: \0"),
    ] {
        rows.refused(name, chunked(&format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n")));
    }
    rows.refused("a trailer behind LF", chunked("5\r\nhello\r\n0\r\nX: y\nHost: a\r\n\r\n"));
    let many = "X: y\r\n".repeat(20_000);
    rows.refused("trailers of 120 KB", chunked(&format!("5\r\nhello\r\n0\r\n{many}\r\n")));
    rows.either("a trailer that says nothing", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), "POST", "hello");
}

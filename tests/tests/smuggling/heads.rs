//! What a head says: lines, fields, targets, hosts, and requests behind requests.
use super::rows::{Check, GET, HIDDEN, Rows, Wanted, get, post};

/// Adds the rows.
pub fn add(rows: &mut Rows) {
    lines(rows);
    fields(rows);
    request_lines(rows);
    authorities(rows);
    pipelines(rows);
    semantics(rows);
}

fn lines(rows: &mut Rows) {
    let mut refused = |name, text: String| {
        rows.refused(name, text);
    };
    refused("LF behind the request line", get("").replacen("1.1\r\n", "1.1\n", 1));
    refused("LF behind a field", get("X: y\nZ: z\r\n"));
    refused("LF behind the head", format!("{GET}\n"));
    refused("LF everywhere", get("X: y\r\n").replace("\r\n", "\n"));
    refused("CR behind the request line", get("").replacen("1.1\r\n", "1.1\r", 1));
    refused("CR in a value", get("X: a\rb\r\n"));
    refused("CR CR LF behind a field", get("X: a\r\r\n"));
    refused("CR in a name", get("X\rY: a\r\n"));
    refused("a continued line", get("X: a\r\n b\r\n"));
    refused("a continued line with a tab", get("X: a\r\n\tb\r\n"));
    refused("a continued line that hides a host", get("X: a\r\n Host: attacker.example\r\n"));
    refused("a first field that is continued", "GET {t} HTTP/1.1\r\n X: y\r\nHost: {h}\r\n\r\n".into());
    refused("a line of spaces", get("X: a\r\n   \r\n"));
    refused("spaces before the request line", format!("  {}", get("")));
    refused("a tab before the request line", format!("\t{}", get("")));
    refused("LF before the request line", format!("\n{}", get("")));
    rows.either("CRLF before the request line", format!("\r\n{}", get("")), "GET", "");
    rows.either("CRLF twice before the request line", format!("\r\n\r\n{}", get("")), "GET", "");
}

fn fields(rows: &mut Rows) {
    for (name, line) in [
        ("NUL in a value", "X: a\0b"),
        ("NUL in a name", "X\0Y: a"),
        ("a control character in a value", "X: a\x01b"),
        ("DEL in a value", "X: a\x7fb"),
        ("a control character in a name", "X\x01: a"),
        ("a space before the colon", "X : a"),
        ("a tab before the colon", "X\t: a"),
        ("a space in a name", "X Y: a"),
        ("no colon", "X"),
        ("no name", ": a"),
        ("no name and no value", ":"),
        ("a name in brackets", "[X]: a"),
        ("a name that is no ASCII", "X\u{ff}: a"),
        ("a host with a space before the colon", "Host : attacker.example"),
    ] {
        rows.refused(name, get(&format!("{line}\r\n")));
    }
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    rows.refused("202 fields", get(&many));
    let fits: String = (0..127).map(|number| format!("X-{number}: y\r\n")).collect();
    rows.clean("128 fields", get(&fits), "GET", "");
    rows.refused("129 fields", get(&format!("{fits}X: y\r\n")));
    rows.refused("a value of 200 KB", get(&format!("X: {}\r\n", "y".repeat(200_000))));
    rows.refused("a name of 200 KB", get(&format!("{}: y\r\n", "x".repeat(200_000))));
    rows.refused("a head of 100 KB", get(&format!("X: {}\r\n", "y".repeat(900)).repeat(110)));
    let query = format!("GET {{t}}?{} HTTP/1.1\r\nHost: {{h}}\r\n\r\n", "q".repeat(200_000));
    rows.refused("a query of 200 KB", query);
    rows.either("a value that is no ASCII", get("X: \u{e4}\r\n"), "GET", "");
    rows.either("an empty value", get("X:\r\n"), "GET", "");
}

fn request_lines(rows: &mut Rows) {
    let line = |line: &str| format!("{line}\r\nHost: {{h}}\r\n\r\n");
    for (name, text) in [
        ("two spaces before the target", "GET  {t} HTTP/1.1"),
        ("two spaces behind the target", "GET {t}  HTTP/1.1"),
        ("a space behind the version", "GET {t} HTTP/1.1 "),
        ("a tab for a space", "GET\t{t}\tHTTP/1.1"),
        ("a space in the target", "GET {t}a b HTTP/1.1"),
        ("a tab in the target", "GET {t}a\tb HTTP/1.1"),
        ("NUL in the target", "GET {t}a\0b HTTP/1.1"),
        ("another request in the target", "GET {t} HTTP/1.1 {s} HTTP/1.1"),
        ("bytes that are no ASCII in the target", "GET {t}\u{e4} HTTP/1.1"),
        ("a backslash before the target", "GET \\{t} HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("no version", "GET {t}"),
        ("half a version", "GET {t} HTTP/1"),
        ("version 1.2", "GET {t} HTTP/1.2"),
        ("version 2.0", "GET {t} HTTP/2.0"),
        ("version 0.9", "GET {t} HTTP/0.9"),
        ("version 01.1", "GET {t} HTTP/01.1"),
        ("a version in small letters", "GET {t} http/1.1"),
        ("another protocol", "GET {t} HTTPS/1.1"),
        ("no method", " {t} HTTP/1.1"),
        ("a method in brackets", "G[T {t} HTTP/1.1"),
        ("a method with NUL", "G\0T {t} HTTP/1.1"),
    ] {
        rows.refused(name, line(text));
    }
    rows.refused("HTTP/0.9", "GET {t}\r\n");
    rows.refused("a response", "HTTP/1.1 200 OK\r\nHost: {h}\r\nContent-Length: 0\r\n\r\n");
    let preface = format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{HIDDEN}");
    rows.add("the preface of HTTP/2, then HTTP/1.1", preface, Wanted::Closed);
    rows.denied("a method in small letters", line("get {t} HTTP/1.1"));
    rows.denied("no slash before the target", line("GET row HTTP/1.1"));
    rows.denied("CONNECT", line("CONNECT {h}:80 HTTP/1.1"));
    rows.denied("CONNECT to a path", line("CONNECT {t} HTTP/1.1"));
    rows.denied("CONNECT to another host", "CONNECT attacker.example:443 HTTP/1.1\r\nHost: {h}\r\n\r\n");
    rows.denied("an authority as the target of a GET", line("GET {h}:80 HTTP/1.1"));
    rows.denied("an asterisk as the target of a GET", line("GET * HTTP/1.1"));
    rows.denied("an asterisk as the target of OPTIONS", line("OPTIONS * HTTP/1.1"));
    rows.either("a fragment in the target", line("GET {t}a#b HTTP/1.1"), "GET", "");
    rows.either("an absolute target", line("GET {a}{t} HTTP/1.1"), "GET", "");
    rows.either("HTTP/1.0", line("GET {t} HTTP/1.0"), "GET", "");
}

fn authorities(rows: &mut Rows) {
    let hosts = |lines: &str| format!("GET {{t}} HTTP/1.1\r\n{lines}\r\n");
    rows.denied("no host", hosts(""));
    rows.denied("no host in HTTP/1.0", "GET {t} HTTP/1.0\r\n\r\n");
    rows.refused("two hosts, the same", hosts("Host: {h}\r\nHost: {h}\r\n"));
    rows.refused("two hosts, another first", hosts("Host: attacker.example\r\nHost: {h}\r\n"));
    rows.refused("two hosts, another last", hosts("Host: {h}\r\nX: y\r\nhost: attacker.example\r\n"));
    for (name, host) in [
        ("another host", "attacker.example"),
        ("an empty host", ""),
        ("a host with a user", "user@{h}"),
        ("a host as a user", "{h}@attacker.example"),
        ("a host with a user and a port", "{h}:80@attacker.example"),
        ("a host with a path", "{h}/path"),
        ("a host with a query", "{h}?q"),
        ("a host with a fragment", "{h}#f"),
        ("a host with a space", "{h} attacker.example"),
        ("a list of hosts", "{h}, attacker.example"),
        ("a host with an empty port", "{h}:"),
        ("a host with port 0", "{h}:0"),
        ("a host with port 65536", "{h}:65536"),
        ("a host with another port", "{h}:8080"),
        ("a host with port +80", "{h}:+80"),
        ("a host with a port that is none", "{h}:http"),
        ("a host with two ports", "{h}:80:80"),
        ("a host with a scheme", "http://{h}"),
        ("a host in percents", "%75pstream.example"),
        ("a host with a backslash", "{h}\\attacker.example"),
        ("a host in brackets", "[{h}]"),
        ("an address", "127.0.0.1"),
        ("a subdomain", "a.{h}"),
        ("two dots behind the host", "{h}.."),
    ] {
        rows.denied(name, hosts(&format!("Host: {host}\r\n")));
    }
    rows.denied("an absolute target with another host", "GET http://attacker.example{t} HTTP/1.1\r\nHost: {h}\r\n\r\n");
    rows.denied("a host that is not the absolute target's", "GET {a}{t} HTTP/1.1\r\nHost: attacker.example\r\n\r\n");
    rows.denied("an absolute target with a user", "GET http://{h}@attacker.example{t} HTTP/1.1\r\nHost: {h}\r\n\r\n");
    rows.denied("an absolute target with another scheme", "GET ftp://{h}{t} HTTP/1.1\r\nHost: {h}\r\n\r\n");
    rows.denied("an absolute target without a host", "GET http://{t} HTTP/1.1\r\nHost: {h}\r\n\r\n");
    rows.either("a host in capitals", hosts("Host: UPSTREAM.example\r\n"), "GET", "");
    rows.either("a host with a dot behind it", hosts("Host: {h}.\r\n"), "GET", "");
    rows.either("a host with spaces around it", hosts("Host:   {h}  \r\n"), "GET", "");
}

fn pipelines(rows: &mut Rows) {
    let mut second = |name, text: &str, wanted| rows.add(name, get("") + text, wanted);
    let both = "POST {s} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    second("two framings behind a good request", both, Wanted::Refused(1));
    second("no request behind a good one", "\u{16}\u{3}\u{1}\0\0 no request\r\n\r\n", Wanted::Refused(1));
    let brew = "BREW {s} HTTP/1.1\r\nHost: {h}\r\n\r\n";
    second("a forbidden method behind a good request", brew, Wanted::Denied(1));
    let host = "GET {s} HTTP/1.1\r\nHost: attacker.example\r\n\r\n";
    second("another host behind a good request", host, Wanted::Denied(1));
    rows.clean("a request behind Connection: close", get("Connection: close\r\n") + HIDDEN, "GET", "");
    rows.clean("a request behind Connection: Close, x", get("Connection: Close, x\r\n") + HIDDEN, "GET", "");
}

fn semantics(rows: &mut Rows) {
    for (name, field) in [
        ("X-HTTP-Method-Override", "X-HTTP-Method-Override: DELETE\r\n"),
        ("X-HTTP-Method", "X-HTTP-Method: DELETE\r\n"),
        ("X-Method-Override", "x-method-override: DELETE\r\n"),
    ] {
        rows.denied(name, post(&format!("{field}Content-Length: 0\r\n"), ""));
    }
    let query = "POST {t}?_method=DELETE HTTP/1.1\r\nHost: {h}\r\nContent-Length: 0\r\n\r\n";
    rows.denied("_method in the query", query);

    let mut without = |name, fields: &str, without| {
        rows.add(name, get(fields), Wanted::Either(Check { method: "GET", body: "", without }));
    };
    let settings = "HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let named = format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}");
    without("an upgrade to h2c", &named, "upgrade");
    without(
        "an upgrade to h2c that does not name its settings",
        &format!("Upgrade: h2c\r\n{settings}"),
        "http2-settings",
    );
    without("TE: gzip", "TE: gzip\r\nConnection: TE\r\n", "te");
    without("a field named by Connection", "Connection: X-Own, keep-alive\r\nX-Own: y\r\n", "x-own");
    without("Keep-Alive", "Keep-Alive: timeout=5\r\n", "keep-alive");
    without("Proxy-Authorization", "Proxy-Authorization: Basic eDp5\r\n", "proxy-authorization");
    without("Connection: host", "Connection: host\r\n", "connection");
    without("Connection: content-length", "Connection: content-length\r\nContent-Length: 0\r\n", "connection");
    without("Connection: transfer-encoding", "Connection: transfer-encoding\r\n", "connection");
    rows.clean("TE: trailers", get("TE: trailers\r\nConnection: TE\r\n"), "GET", "");
}

//! What a row of the corpus is: what is sent, and what is to come of it.
use dshield_tests::standin::strict::Plain;

/// The allowed name.
pub const HOST: &str = "upstream.example";
/// Where no rule leads: the path of every request that is hidden in another.
pub const FORBIDDEN: &str = "/smuggled/";

/// What is to come of a row.
pub enum Wanted {
    /// A status that says no after this many good requests, the connection closed, no other request upstream.
    Refused(usize),
    /// A status that says no after this many good requests, no other request upstream. The framing was clear, so the
    /// connection may go on.
    Denied(usize),
    /// Closed, with whatever answer but a good one, and nothing upstream.
    Closed,
    /// One request upstream, in plain form and as it is checked.
    Clean(Check),
    /// Refused, or one request that is as it is checked: both readings of the standard are safe.
    Either(Check),
}

/// What the upstream is to get.
pub struct Check {
    pub method: &'static str,
    pub body: &'static str,
    /// A field that must not arrive.
    pub without: &'static str,
}

impl Check {
    /// What is not as it should be. The target is looked at by whoever finds the row's requests.
    pub fn problem(&self, plain: &Plain) -> Option<String> {
        let body = String::from_utf8_lossy(&plain.body);
        let right = plain.method == self.method
            && body == self.body
            && matches!(plain.field("host"), Some(HOST))
            && (self.without.is_empty() || plain.field(self.without).is_none());
        (!right).then(|| format!("the upstream got {} {:?} with the body {body:?}", plain.method, plain.fields))
    }
}

/// One row.
pub struct Row {
    pub name: &'static str,
    text: String,
    pub wanted: Wanted,
    number: usize,
}

impl Row {
    /// What is sent, each character one byte. `{t}` is its target, `{s}` the smuggled one, `{h}` the host; `{a}` is
    /// the beginning of an absolute target.
    pub fn bytes(&self, tls: bool) -> String {
        let absolute = format!("{}://{HOST}", if tls { "https" } else { "http" });
        let smuggled = format!("{FORBIDDEN}{}", self.number);
        let text = self.text.replace("{t}", &self.target()).replace("{s}", &smuggled);
        text.replace("{h}", HOST).replace("{a}", &absolute)
    }

    /// The path of its request, which is its own and ends with a slash so that no other begins with it.
    pub fn target(&self) -> String {
        format!("/row/{}/", self.number)
    }

    /// The path of the request that follows it.
    pub fn after(&self) -> String {
        format!("{}after", self.target())
    }
}

/// Collects rows.
pub struct Rows(pub Vec<Row>);

impl Rows {
    pub fn add(&mut self, name: &'static str, text: String, wanted: Wanted) {
        let number = self.0.len();
        self.0.push(Row { name, text, wanted, number });
    }

    pub fn refused(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(name, text.into(), Wanted::Refused(0));
    }

    pub fn denied(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(name, text.into(), Wanted::Denied(0));
    }

    pub fn clean(&mut self, name: &'static str, text: impl Into<String>, method: &'static str, body: &'static str) {
        self.add(name, text.into(), Wanted::Clean(Check { method, body, without: "" }));
    }

    pub fn either(&mut self, name: &'static str, text: impl Into<String>, method: &'static str, body: &'static str) {
        self.add(name, text.into(), Wanted::Either(Check { method, body, without: "" }));
    }
}

/// A GET without its end.
pub const GET: &str = "GET {t} HTTP/1.1\r\nHost: {h}\r\n";
/// A request that hides in another.
pub const HIDDEN: &str = "GET {s} HTTP/1.1\r\nHost: {h}\r\n\r\n";

/// A GET with these field lines, each with its end.
pub fn get(fields: &str) -> String {
    format!("{GET}{fields}\r\n")
}

/// A POST with these field lines, and what follows its head.
pub fn post(fields: &str, rest: &str) -> String {
    format!("POST {{t}} HTTP/1.1\r\nHost: {{h}}\r\n{fields}\r\n{rest}")
}

/// A POST whose body is in chunks.
pub fn chunked(rest: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", rest)
}

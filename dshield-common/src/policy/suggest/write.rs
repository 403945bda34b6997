//! Drafts as TOML. The only place that writes text from a log into it: no character of it can end a string or a comment.
use std::fmt::Write as _;

use super::draft::{Draft, Drafted, Shape};
use super::seen::{Note, Seen};
use crate::policy::path::PathPattern;

/// The longest text of a comment, in characters: what a function can write into a log is longer than anyone reads.
const LONGEST_COMMENT: usize = 400;

/// TOML in the making.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// A blank line.
    pub(super) fn gap(&mut self) {
        self.0.push('\n');
    }

    /// One line that says `text`, whatever is in it.
    pub(super) fn comment(&mut self, text: &str) {
        self.0.push_str("# ");
        for c in text.chars().take(LONGEST_COMMENT) {
            if c == ' ' || c.is_ascii_graphic() { self.0.push(c) } else { self.0.extend(c.escape_default()) }
        }
        if text.chars().nth(LONGEST_COMMENT).is_some() {
            self.0.push_str(" ...");
        }
        self.gap();
    }

    /// What is missing for one function, and what cannot be had.
    pub(super) fn function(&mut self, drafted: &Drafted, seen: &Seen) {
        for draft in &drafted.rules {
            self.gap();
            self.rule(draft);
        }
        if !drafted.changes.is_empty() {
            self.gap();
            self.comment("In the rules that are there:");
            drafted.changes.iter().for_each(|change| self.comment(&format!("* {change}")));
        }
        if seen.only_counted > 0 {
            self.gap();
            self.comment(&format!(
                "{} more refusals were only counted, and may need rules of their own: run the function again with these.",
                seen.only_counted
            ));
        }
        if !seen.notes.is_empty() {
            self.gap();
            self.comment("Refused too, and no rule that is made from a log changes it:");
            seen.notes.iter().for_each(|(note, times)| self.comment(&format!("* {}", note.in_words(*times))));
        }
    }

    fn rule(&mut self, draft: &Draft) {
        let Draft { host, ports, way, shape, name_only, beside } = draft;
        if *name_only {
            self.comment("Only the name was asked for: port 443 is a guess, and methods and paths are not known.");
        }
        if *beside {
            self.comment("There is a rule for this host; those for one port must agree. --policy FILE looks at it.");
        }
        if way.protocol == "tcp" {
            self.comment("Nobody looks inside: whatever is sent there leaves.");
        } else if way.tls == "none" {
            self.comment("In the clear: anyone on the way can read and answer.");
        }
        let knows_requests = !shape.methods.is_empty();
        if !knows_requests && !name_only && way.protocol != "tcp" && way.tls != "passthrough" {
            self.comment("No request was seen: methods and paths are not known, so any is allowed.");
        }
        self.0.push_str("[[function.egress]]\n");
        self.field("host", &string(host));
        self.field("ports", &list(ports));
        if way.tls != "inspect" {
            self.field("tls", &string(way.tls));
        }
        if way.protocol != "http" {
            self.field("protocol", &string(way.protocol));
        }
        if knows_requests {
            self.requests(shape);
        }
        for (name, values) in [("resolve", &way.resolve), ("pin_spki", &way.pin_spki)] {
            if !values.is_empty() {
                self.field(name, &list(values.iter().map(|value| string(value))));
            }
        }
    }

    fn requests(&mut self, shape: &Shape) {
        self.field("methods", &list(shape.methods.iter().map(|method| string(method))));
        for path in &shape.paths {
            if let Some(prefix) = varying(path) {
                let (path, prefix) = (string(path), string(&prefix));
                self.comment(&format!("{path} seems to hold an id; if it varies, {prefix} means all of them."));
            }
        }
        self.field("paths", &list(shape.paths.iter().map(|path| string(path))));
        if shape.upgrade {
            self.comment("The connection becomes another protocol (WebSocket): what is sent then is not judged.");
            self.field("upgrade", "true");
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "{name} = {value}");
    }
}

impl Note {
    fn in_words(&self, times: u64) -> String {
        let Self { reason, host, advice } = self;
        let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
        let host = host.as_ref().map(|host| format!(", {host}")).unwrap_or_default();
        let advice = advice.as_ref().map(|advice| format!(": {advice}")).unwrap_or_default();
        format!("{times} {reason}{host}{advice}")
    }
}

fn list(values: impl IntoIterator<Item = impl ToString>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("[{}]", values.join(", "))
}

/// A TOML basic string of ASCII alone.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' ' => out.push(c),
            c if c.is_ascii_graphic() => out.push(c),
            // Writing into a String cannot fail.
            c => drop(write!(out, "\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// The prefix before the first segment that looks like an id, as a pattern.
fn varying(path: &str) -> Option<String> {
    let mut start = 1;
    for segment in path.strip_prefix('/')?.split('/') {
        if is_id(segment) {
            let prefix = format!("{}*", path.get(..start)?);
            return PathPattern::parse(&prefix).is_ok().then_some(prefix);
        }
        start += segment.len() + 1;
    }
    None
}

/// A number, a UUID, a hash or a token: what one request has and the next has not.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let letters = segment.bytes().filter(u8::is_ascii_alphabetic).count();
    let others = segment.len() - digits - letters;
    let hex = segment.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let token = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
    digits > 0 && ((letters == 0 && others == 0) || (hex && segment.len() >= 8) || (token && segment.len() >= 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_a_path_is_offered_as_a_prefix() {
        for (path, prefix) in [
            ("/v1/users/4711", Some("/v1/users/*")),
            ("/v1/users/4711/mail", Some("/v1/users/*")),
            ("/o/123e4567-e89b-12d3-a456-426614174000", Some("/o/*")),
            ("/f/file_011CNha8iCJcU1wXNR6q4V8w", Some("/f/*")),
            ("/v1/messages", None),
            ("/", None),
            ("/2015-03-31x/functions", None),
        ] {
            assert_eq!(varying(path).as_deref(), prefix, "{path}");
        }
    }

    #[test]
    fn no_text_ends_its_string_or_its_comment() {
        assert_eq!(string("a\"b\\c\nd\u{7f}é"), "\"a\\\"b\\\\c\\U0000000Ad\\U0000007F\\U000000E9\"");
        let mut text = Text::default();
        text.comment("a\n[policy]\r\u{85}\u{2028}é");
        assert_eq!(text.into_string(), "# a\\n[policy]\\r\\u{85}\\u{2028}\\u{e9}\n");
    }
}

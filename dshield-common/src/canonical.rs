//! Canonical JSON (RFC 8785, "JCS") and SHA-256: one value, one text, one hash.
//!
//! What is hashed or signed flows in as a serialisable value; the only text that stands for it flows out.
//! Numbers are integers between −(2⁵³−1) and 2⁵³−1 (I-JSON, RFC 7493), which every reader of JSON reads alike;
//! fractions and larger integers are refused rather than rounded, so write those as strings.
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The largest integer, in either direction, that canonical JSON may hold: 2⁵³ − 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The canonical text of `value`.
///
/// # Errors
/// When it holds a number other than an integer within ±[`MAX_SAFE_INTEGER`], or cannot be turned into JSON at all.
/// A NaN or an infinity is `null` to `serde_json` and so never seen here: keep floats out of canonical types.
pub fn to_canonical_json<T: Serialize + ?Sized>(value: &T) -> Result<String, CanonicalError> {
    canonical_text(&serde_json::to_value(value).map_err(CanonicalError::NotJson)?)
}

/// [`to_canonical_json`] of what is JSON already.
///
/// # Errors
/// When it holds a number other than an integer within ±[`MAX_SAFE_INTEGER`].
pub fn canonical_text(value: &Value) -> Result<String, CanonicalError> {
    let mut out = String::with_capacity(512);
    write_value(value, &mut out)?;
    Ok(out)
}

/// Why a value has no canonical form. The fault is that of the code which chose the type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalError {
    /// A fraction, or an integer that not every reader can hold.
    #[error("canonical JSON holds integers within ±(2^53−1) only, not {0}; write it as a string")]
    Number(serde_json::Number),
    /// Serialisation failed, such as a map whose keys are not strings.
    #[error("the value cannot be written as JSON: {0}")]
    NotJson(#[source] serde_json::Error),
}

/// A SHA-256, shown as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A hash that was computed elsewhere, over what is too large to be held at once.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Sha256Digest {
    /// A hash that somebody else took.
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The SHA-256 of `bytes` in lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256Digest::of(bytes).to_string()
}

fn write_value(value: &Value, out: &mut String) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number, out)?,
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(item, out)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
            // UTF-16 code units, not code points: U+10000 and above sort before U+E000 (RFC 8785, 3.2.3). The map has
            // them by code point, which is the same for ASCII.
            if !members.iter().all(|(key, _)| key.is_ascii()) || !members.is_sorted_by_key(|(key, _)| *key) {
                members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            }
            out.push('{');
            for (index, (key, item)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write_value(item, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn write_number(number: &serde_json::Number, out: &mut String) -> Result<(), CanonicalError> {
    let magnitude = match (number.as_u64(), number.as_i64()) {
        (Some(positive), _) => positive,
        (None, Some(negative)) => negative.unsigned_abs(),
        (None, None) => return Err(CanonicalError::Number(number.clone())),
    };
    if magnitude > MAX_SAFE_INTEGER {
        return Err(CanonicalError::Number(number.clone()));
    }
    out.push_str(&number.to_string());
    Ok(())
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    // Nearly all of nearly every text is copied in one piece.
    while let Some(at) = rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        let (plain, escaped) = rest.split_at(at);
        out.push_str(plain);
        match escaped.as_bytes()[0] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
        // What is escaped is one byte long.
        rest = &escaped[1..];
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical(json: &str) -> String {
        let value: Value = serde_json::from_str(json).unwrap();
        to_canonical_json(&value).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_in_rfc_8785_section_3_2_2() {
        let input = r#"{"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#;
        let want = r#"{"literals":[null,true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        assert_eq!(canonical(input), want);
    }

    #[test]
    fn keys_are_sorted_as_in_rfc_8785_section_3_2_3() {
        let input = r#"{
            "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"
        }"#;
        let want = "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\
            \"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}";
        assert_eq!(canonical(input), want);
    }

    #[test]
    fn every_control_character_has_its_one_escape() {
        let text: String = (0u8..=0x20).chain([0x7f]).map(char::from).collect();
        let want = "\"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f\
            \\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f \u{7f}\"";
        assert_eq!(to_canonical_json(&text).unwrap(), want);
    }

    #[test]
    fn integers_end_where_a_double_stops_being_exact() {
        assert_eq!(to_canonical_json(&json!([0, -1, MAX_SAFE_INTEGER])).unwrap(), "[0,-1,9007199254740991]");
        assert_eq!(to_canonical_json(&-9_007_199_254_740_991_i64).unwrap(), "-9007199254740991");
        for value in [json!(MAX_SAFE_INTEGER + 1), json!(i64::MIN), json!(u64::MAX), json!(1.5), json!({"a": [1e300]})]
        {
            assert!(matches!(to_canonical_json(&value), Err(CanonicalError::Number(_))), "{value}");
        }
    }

    #[test]
    fn sha256_matches_the_known_answers() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256_hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    fn values() -> impl Strategy<Value = Value> {
        let safe = -9_007_199_254_740_991_i64..=9_007_199_254_740_991;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            safe.prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_canonical_text_means_the_value_and_is_its_own_canonical_text(value in values()) {
            let text = to_canonical_json(&value).unwrap();
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &value);
            prop_assert_eq!(to_canonical_json(&read).unwrap(), text);
        }
    }
}

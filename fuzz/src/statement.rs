//! Statements as anybody may write them.
use dshield_common::attestation::{ReportData, Statement};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\"type\":\"dshield.statement/v1\"",
    "\"nonce\":null,",
    "\"boot_id\":\"\",",
    "\"functions\":[]",
    "{\"code_sha256\":\"\",\"name\":\"\"},",
    "\"size\":9007199254740991",
    "\"size\":9007199254740992",
    "18446744073709551615",
    "-0",
    "1e3",
    "1.0",
    "\\u0061",
    "\\ud800",
    "\u{e9}",
    "\u{ff61}",
    "\u{1f600}",
    " ",
    "null",
];

/// A statement has one text; every reader takes it for the same, and its report data stands for no other.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Statement::parse(text) {
        Ok(statement) => {
            assert_eq!(statement.canonical(), text, "two texts of one statement");
            assert_ne!(ReportData::of(text).as_bytes(), ReportData::of(&format!("{text}\n")).as_bytes());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // What another reader of JSON makes of it is the same statement, or none.
    if let Ok(statement) = serde_json::from_str::<Statement>(text)
        && let Ok(canonical) = dshield_common::canonical::to_canonical_json(&statement)
        && let Ok(read) = Statement::parse(&canonical)
    {
        assert_eq!(read, statement);
    }
}

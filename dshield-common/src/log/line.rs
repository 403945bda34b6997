//! A signed entry as one line of NDJSON.
//!
//! `{"seq":7,"entry":{…},"signature":"<base64>"}`: always in this order and without blanks between the three
//! members, so that the bytes between `"entry":` and `,"signature":` are exactly the ones that were signed.
//! A reader may cut them out with string operations, or parse the line as JSON and make `entry` canonical again.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::entry::Entry;

const SEQ: &str = "{\"seq\":";
const ENTRY: &str = ",\"entry\":";
const SIGNATURE: &str = ",\"signature\":\"";
const END: &str = "\"}";

/// An entry's canonical text, its number and the signature over its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// The number under which it was published; [`Entry::seq`] has to say the same.
    pub seq: u64,
    /// The canonical JSON of the [`Entry`]: the bytes that were signed.
    pub entry: String,
    /// ECDSA P-256 with SHA-256 over `entry`, in ASN.1 DER.
    pub signature: Vec<u8>,
}

impl SignedEntry {
    /// The line, without its line end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let Self { seq, entry, signature } = self;
        let signature = STANDARD.encode(signature);
        format!("{SEQ}{seq}{ENTRY}{entry}{SIGNATURE}{signature}{END}")
    }

    /// Takes a line apart. Says nothing about whether `entry` is JSON or the signature is right.
    ///
    /// # Errors
    /// When the line does not have the one form that [`Self::to_line`] writes.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let rest = line.strip_prefix(SEQ).ok_or(LineError::Form)?;
        let (seq, rest) = rest.split_once(ENTRY).ok_or(LineError::Form)?;
        let rest = rest.strip_suffix(END).ok_or(LineError::Form)?;
        // The last one: base64 has no quotes, while an entry might hold a member of that name.
        let (entry, signature) = rest.rsplit_once(SIGNATURE).ok_or(LineError::Form)?;
        let number: u64 = seq.parse().map_err(|_| LineError::Seq)?;
        if number.to_string() != seq {
            return Err(LineError::Seq);
        }
        let signature = STANDARD.decode(signature).map_err(|_| LineError::Signature)?;
        Ok(Self { seq: number, entry: entry.to_owned(), signature })
    }

    /// The entry as a type, for showing it.
    ///
    /// # Errors
    /// When `entry` is not an entry that this build knows: garbage, or a kind that a newer agent wrote.
    pub fn decode(&self) -> Result<Entry, serde_json::Error> {
        serde_json::from_str(&self.entry)
    }
}

/// Why a line is not a signed entry. The fault is that of whoever sent the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Not the three members in their order, or blanks between them.
    #[error("the line does not have the form {{\"seq\":…,\"entry\":{{…}},\"signature\":\"…\"}}")]
    Form,
    /// `seq` is not a plain decimal number below 2⁶⁴.
    #[error("\"seq\" is not a plain decimal number")]
    Seq,
    /// `signature` is not base64.
    #[error("\"signature\" is not padded base64")]
    Signature,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn line(entry: &str) -> SignedEntry {
        SignedEntry { seq: 7, entry: entry.to_owned(), signature: vec![0x30, 0x01, 0xff] }
    }

    #[test]
    fn a_line_holds_exactly_the_bytes_of_the_entry() {
        let signed = line(r#"{"kind":"tamper","seq":7}"#);
        let text = signed.to_line();
        let expected = r#"{"seq":7,"entry":{"kind":"tamper","seq":7},"signature":"MAH/"}"#;
        assert_eq!(text, expected);
        assert_eq!(SignedEntry::parse(&text), Ok(signed));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["entry"]["kind"], "tamper");
    }

    #[test]
    fn an_entry_with_a_member_called_signature_is_cut_at_the_real_one() {
        let signed = line(r#"{"a":1,"signature":"MAH/"}"#);
        assert_eq!(SignedEntry::parse(&signed.to_line()), Ok(signed));
    }

    #[test]
    fn every_other_form_is_refused() {
        for (text, why) in [
            ("", LineError::Form),
            (r#"{"seq":7}"#, LineError::Form),
            (r#"{"seq": 7,"entry":{},"signature":""}"#, LineError::Seq),
            (r#"{"seq":07,"entry":{},"signature":""}"#, LineError::Seq),
            (r#"{"seq":+7,"entry":{},"signature":""}"#, LineError::Seq),
            (r#"{"seq":-7,"entry":{},"signature":""}"#, LineError::Seq),
            (r#"{"seq":18446744073709551616,"entry":{},"signature":""}"#, LineError::Seq),
            (r#"{"seq":7,"entry":{},"signature":"MAH"}"#, LineError::Signature),
            (r#"{"seq":7,"entry":{},"signature":""} "#, LineError::Form),
        ] {
            assert_eq!(SignedEntry::parse(text), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_or_refused_without_panic(text in ".*") {
            let _ = SignedEntry::parse(&text);
        }

        #[test]
        fn what_is_parsed_is_written_back_alike(seq: u64, entry in ".*", signature: Vec<u8>) {
            let signed = SignedEntry { seq, entry, signature };
            prop_assert_eq!(SignedEntry::parse(&signed.to_line()), Ok(signed));
        }
    }
}

//! TDX quotes that anybody may have made of a genuine one.
use dshield_common::hex;
use dshield_verify::quote::{QuoteError, Registers, Root, VerifiedQuote, top_certificate};

use crate::deployment::{NOW, SIGNED, deployment};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\u{4}\0\u{2}\0",
    "\u{5}\0\u{2}\0",
    "\u{3}\0\u{2}\0",
    "\u{81}\0\0\0",
    "\0\0\0\0",
    "\u{1}\0",
    "\u{5}\0",
    "\u{6}\0",
    "\u{7f}\u{7f}\u{7f}\u{7f}",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "MII",
    "\n",
];

/// What verifies has the header and the report of a quote that the platform signed, and shows its registers; under Intel's
/// root nothing of it does.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = looked_at(text);
    }
    let text = hex::encode(input);
    let registers = looked_at(&text);
    let known = deployment();
    let collateral = known.evidence.collateral.as_ref().expect("there is some");
    match VerifiedQuote::verify(&text, collateral, &known.options.root, NOW) {
        Ok(verified) => {
            assert!(is_signed(input), "a quote verifies that nobody signed");
            assert_eq!(registers.as_ref(), Ok(&verified.registers()), "what is shown is not what was verified");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(VerifiedQuote::verify(&text, collateral, &Root::Intel, NOW).is_err(), "Intel signed no such quote");
}

/// Whether header and report are those of a quote that the machine made.
fn is_signed(quote: &[u8]) -> bool {
    let known = deployment();
    let made = [known.evidence.quote.as_ref(), Some(&known.debug_quote), Some(&known.other_quote)];
    let mut made = made.into_iter().flatten().filter_map(|made| hex::decode(made));
    made.any(|made| quote.get(..SIGNED) == made.get(..SIGNED))
}

/// What is shown of a quote without anybody's signature.
fn looked_at(text: &str) -> Result<Registers, QuoteError> {
    let _ = top_certificate(text);
    let registers = Registers::unverified(text);
    assert!(registers.as_ref().err().is_none_or(|error| !error.to_string().is_empty()));
    registers
}

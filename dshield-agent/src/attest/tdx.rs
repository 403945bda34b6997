//! What an agent looks at in a TDX quote before it hands it on: is it one, and is it over what was asked for.
//!
//! A quote's bytes flow in; its [`Body`] flows out. Whether Intel signed it is the verifier's concern.
//!
//! Layout (Intel TDX DCAP Quoting Library API, appendix A.3; integers are little-endian): a header of 48 bytes, in
//! version 5 then the body's type and size, the body, the length of the signature data, the signature data.
use dshield_common::attestation::ReportData;

use super::quoter::QuoteError;

/// `tee_type` of TDX.
const TDX: u32 = 0x81;
const HEADER: usize = 48;
/// Body of a TD 1.0, the only one in version 4.
const TD10: usize = 584;
/// The bodies of version 5 by their type: TD 1.0, TD 1.5, TD 1.5 with its extension.
const BODIES: [(u16, usize); 3] = [(2, TD10), (3, 648), (4, 885)];
/// Where RTMR0 is in a body; the others follow.
const RTMR0: usize = 328;
const REPORT_DATA: usize = 520;

/// The TD report in a quote. What is read from it is where it is in all versions.
#[derive(Clone, Copy, Debug)]
pub struct Body<'q>(&'q [u8]);

impl<'q> Body<'q> {
    /// Finds it.
    ///
    /// # Errors
    /// These bytes are no whole TDX quote of version 4 or 5.
    pub fn of(quote: &'q [u8]) -> Result<Self, QuoteError> {
        let mut rest = quote;
        let header = take(&mut rest, HEADER, quote)?;
        let (version, tee_type) = (u16_at(header, 0), u32_at(header, 4));
        if tee_type != TDX {
            return Err(QuoteError::NotAQuote(format!("it is of TEE type {tee_type:#x}, TDX is {TDX:#x}")));
        }
        let length = match version {
            4 => TD10,
            5 => {
                let described = take(&mut rest, 6, quote)?;
                let (kind, size) = (u16_at(described, 0), u32_at(described, 2));
                let known =
                    BODIES.iter().find(|(known, length)| *known == kind && usize::try_from(size) == Ok(*length));
                let unknown = || QuoteError::NotAQuote(format!("its body is of type {kind} and has {size} bytes"));
                known.ok_or_else(unknown)?.1
            }
            _ => return Err(QuoteError::NotAQuote(format!("it is of version {version}, this agent knows 4 and 5"))),
        };
        let body = take(&mut rest, length, quote)?;
        let signature = u32_at(take(&mut rest, 4, quote)?, 0);
        take(&mut rest, usize::try_from(signature).unwrap_or(usize::MAX), quote)?;
        Ok(Self(body))
    }

    /// The 64 bytes that the quote's maker chose.
    #[must_use]
    pub fn report_data(self) -> &'q [u8] {
        &self.0[REPORT_DATA..REPORT_DATA + 64]
    }

    /// RTMR3.
    #[must_use]
    pub fn rtmr3(self) -> &'q [u8] {
        &self.0[RTMR0 + 3 * 48..RTMR0 + 4 * 48]
    }
}

/// The body of a quote that is over `asked` and nothing else.
///
/// # Errors
/// It is no TDX quote, or over other report data: then it must not be handed on.
pub fn check<'q>(quote: &'q [u8], asked: &ReportData) -> Result<Body<'q>, QuoteError> {
    let body = Body::of(quote)?;
    if body.report_data() == asked.as_bytes() { Ok(body) } else { Err(QuoteError::OtherReportData) }
}

/// Cuts so many bytes off the front of `rest`.
fn take<'q>(rest: &mut &'q [u8], count: usize, quote: &[u8]) -> Result<&'q [u8], QuoteError> {
    let short = || QuoteError::NotAQuote(format!("it ends after {} bytes, in the middle", quote.len()));
    let (taken, left) = rest.split_at_checked(count).ok_or_else(short)?;
    *rest = left;
    Ok(taken)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_tests::tsm::{QuoteShape, quote};

    use super::*;

    const SHAPES: [QuoteShape; 4] = [QuoteShape::V4, QuoteShape::V5Td10, QuoteShape::V5Td15, QuoteShape::V5Td15Ex];

    fn asked() -> ReportData {
        ReportData::of("a statement")
    }

    #[test]
    fn each_kind_of_tdx_quote_shows_its_report_data_and_rtmr3() {
        let rtmr3 = [7; 48];
        for shape in SHAPES {
            let quote = quote(shape, asked().as_bytes(), &rtmr3);
            let body = check(&quote, &asked()).unwrap();
            assert_eq!((body.report_data(), body.rtmr3()), (&asked().as_bytes()[..], &rtmr3[..]), "{shape:?}");
        }
    }

    #[test]
    fn a_quote_over_other_report_data_is_refused() {
        for shape in SHAPES {
            for changed in [0, 63] {
                let mut other = *asked().as_bytes();
                other[changed] ^= 1;
                let quote = quote(shape, &other, &[0; 48]);
                assert!(matches!(check(&quote, &asked()), Err(QuoteError::OtherReportData)), "{shape:?}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_quote() {
        for shape in SHAPES {
            let quote = quote(shape, asked().as_bytes(), &[0; 48]);
            for length in 0..quote.len() {
                let error = check(&quote[..length], &asked()).unwrap_err();
                assert!(matches!(error, QuoteError::NotAQuote(_)), "{shape:?} {length}: {error}");
            }
            // The kernel hands out what the host wrote, which may be padded.
            assert!(check(&[&quote[..], &[0; 16]].concat(), &asked()).is_ok());
        }
    }

    #[test]
    fn other_quotes_are_named_by_what_they_are() {
        let good = quote(QuoteShape::V5Td15, asked().as_bytes(), &[0; 48]);
        for (at, value, why) in
            [(0, 3, "version 3"), (4, 0, "TEE type 0x0"), (48, 9, "type 9 and has 648"), (50, 9, "has 521 bytes")]
        {
            let mut bad = good.clone();
            bad[at] = value;
            let error = check(&bad, &asked()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}: {why}");
        }
    }
}

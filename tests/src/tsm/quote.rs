//! Bytes in the form of a TDX quote that nobody signed: right for whoever looks at its report data, wrong for whoever
//! checks its signature.

/// Which layout (Intel TDX DCAP Quoting Library API, appendix A.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteShape {
    /// Version 4.
    V4,
    /// Version 5 with the body of a TD 1.0.
    V5Td10,
    /// Version 5 with the body of a TD 1.5.
    V5Td15,
    /// Version 5 with the body of a TD 1.5 and its extension.
    V5Td15Ex,
}

/// A quote over this report data by a machine whose RTMR3 has this value.
#[must_use]
pub fn quote(shape: QuoteShape, report_data: &[u8; 64], rtmr3: &[u8; 48]) -> Vec<u8> {
    let (version, described) = match shape {
        QuoteShape::V4 => (4_u16, None),
        QuoteShape::V5Td10 => (5, Some((2_u16, 584_u32))),
        QuoteShape::V5Td15 => (5, Some((3, 648))),
        QuoteShape::V5Td15Ex => (5, Some((4, 885))),
    };
    let mut quote = vec![0; 48];
    quote[..2].copy_from_slice(&version.to_le_bytes());
    quote[2] = 2;
    quote[4] = 0x81;
    let size = described.map_or(584, |(_, size)| size);
    if let Some((kind, size)) = described {
        quote.extend(kind.to_le_bytes());
        quote.extend(size.to_le_bytes());
    }
    // What stands elsewhere in it differs from zeros, so that a reader at the wrong place is found out.
    let mut body = vec![0x5a; size as usize];
    body[472..520].copy_from_slice(rtmr3);
    body[520..584].copy_from_slice(report_data);
    quote.extend(body);
    quote.extend(128_u32.to_le_bytes());
    quote.extend([0x77; 128]);
    quote
}

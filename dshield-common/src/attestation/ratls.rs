//! Evidence inside a TLS certificate (RA-TLS): under which identifier, in which form, and how large.
//!
//! The extension's value is, as RFC 5280 (section 4.2) wants it, something in DER: an OCTET STRING whose bytes are an
//! [`Evidence`](super::Evidence) document, exactly as `GET /v1/attestation` gives it. It is not critical: who does not know
//! it sees an ordinary certificate that its maker signed.

/// The extension's object identifier.
///
/// It stands for the UUID `be3c417a-26f4-452d-b076-c3b88d7bafa4`, below the arc that Microsoft keeps for identifiers made
/// of anybody's UUID (`aaaabbbb-cccc-dddd-eeee-ffffffgggggg` is `1.2.840.113556.1.8000.2554.A.B.C.D.E.F.G`; "Obtaining an
/// Object Identifier from Microsoft"). ITU-T X.667 has such an arc too, `2.25`, with the whole UUID as one number of 128
/// bits: certificates with that cannot be read in Go (golang/go#30757), where a client would refuse the connection, nor by
/// several other libraries.
pub const EVIDENCE_OID: &str = "1.2.840.113556.1.8000.2554.48700.16762.9972.17709.45174.12826765.8105892";

/// [`EVIDENCE_OID`], number by number.
pub const EVIDENCE_OID_ARCS: [u64; 14] =
    [1, 2, 840, 113_556, 1, 8000, 2554, 48_700, 16_762, 9972, 17_709, 45_174, 12_826_765, 8_105_892];

/// The largest evidence, in bytes, that goes into a certificate.
///
/// rustls and older versions of Go take handshake messages of 64 KiB, OpenSSL chains of 100 KiB
/// (`SSL_CTX_set_max_cert_list`); this leaves room for the rest of the certificate. Java takes 32 KiB unless
/// `jdk.tls.maxHandshakeMessageSize` says more.
pub const MAX_EVIDENCE: usize = 48 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identifier_is_the_uuids_in_both_forms() {
        let uuid = "be3c417a-26f4-452d-b076-c3b88d7bafa4".replace('-', "");
        let chunks = [0..4, 4..8, 8..12, 12..16, 16..20, 20..26, 26..32].map(|chunk| &uuid[chunk]);
        let arcs = chunks.map(|chunk| u64::from_str_radix(chunk, 16).unwrap_or_default());
        assert_eq!(EVIDENCE_OID_ARCS[7..], arcs);
        assert_eq!(EVIDENCE_OID_ARCS.map(|arc| arc.to_string()).join("."), EVIDENCE_OID);
    }
}

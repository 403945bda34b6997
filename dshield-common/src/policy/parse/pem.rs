//! Certificates out of a PEM file (RFC 7468), as DER. What they say is for the TLS library to judge.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Every certificate of a PEM file, in its order; at least one. Other blocks and text between blocks are skipped.
///
/// # Errors
/// In words that follow the file's name.
pub(super) fn certificates(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text =
        std::str::from_utf8(file).map_err(|_| "is not PEM; convert it with `openssl x509 -inform der`".to_owned())?;
    let mut certificates = Vec::new();
    let mut block: Option<String> = None;
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        match (line, &mut block) {
            (BEGIN, None) => block = Some(String::new()),
            (BEGIN, Some(_)) => {
                return Err(format!("begins a certificate inside another at its line {number}"));
            }
            (END, Some(base64)) => {
                let der = STANDARD.decode(base64.as_bytes()).ok().filter(|der| is_one_sequence(der));
                certificates
                    .push(der.ok_or_else(|| format!("has a damaged certificate that ends at its line {number}"))?);
                block = None;
            }
            (END, None) => {
                return Err(format!("ends a certificate that never began at its line {number}"));
            }
            (line, Some(base64)) => base64.push_str(line),
            (_, None) => {}
        }
    }
    if block.is_some() {
        return Err("ends inside a certificate".to_owned());
    }
    if certificates.is_empty() {
        return Err(format!("holds no certificate (a block that begins with {BEGIN})"));
    }
    Ok(certificates)
}

/// True when `der` is exactly one ASN.1 SEQUENCE with a definite, minimal length: whole, and nothing after it.
fn is_one_sequence(der: &[u8]) -> bool {
    let [0x30, length, rest @ ..] = der else {
        return false;
    };
    if *length < 0x80 {
        return rest.len() == usize::from(*length);
    }
    let count = usize::from(length & 0x7f);
    if !(1..=4).contains(&count) || rest.len() < count {
        return false;
    }
    let (digits, body) = rest.split_at(count);
    let length = digits.iter().fold(0u64, |length, digit| length << 8 | u64::from(*digit));
    digits[0] != 0 && length >= 0x80 && u64::try_from(body.len()) == Ok(length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(der: &[u8]) -> String {
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der))
    }

    #[test]
    fn all_certificates_of_a_file_are_found_and_the_rest_skipped() {
        let one = [0x30, 0x03, 1, 2, 3];
        let mut two = vec![0x30, 0x81, 0x80];
        two.extend([7; 0x80]);
        let file = format!(
            "subject=x\r\n{}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{}",
            pem(&one).replace('\n', "\r\n"),
            pem(&two)
        );
        assert_eq!(certificates(file.as_bytes()), Ok(vec![one.to_vec(), two]));
    }

    #[test]
    fn a_file_that_is_not_wholly_certificates_is_refused_with_the_reason() {
        for (file, reason) in [
            (String::new(), "holds no certificate"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(), "holds no certificate"),
            (format!("{BEGIN}\nMAA=\n"), "ends inside a certificate"),
            (format!("{BEGIN}\n{BEGIN}\n"), "inside another at its line 2"),
            (format!("{END}\n"), "never began at its line 1"),
            (format!("{BEGIN}\n!!!!\n{END}\n"), "damaged certificate that ends at its line 3"),
            (pem(&[]), "damaged"),
            (pem(&[0x30, 3, 1, 2]), "damaged"),
            (pem(&[0x30, 1, 1, 2]), "damaged"),
            (pem(&[0x30, 0x81, 1, 1]), "damaged"),
            (pem(&[0x30, 0x80, 0, 0]), "damaged"),
            (pem(&[0x02, 1, 1]), "damaged"),
        ] {
            let error = certificates(file.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error} / {reason}");
        }
        assert!(certificates(&[0x30, 0x82, 0xff, 0xff]).unwrap_err().contains("-inform der"));
    }

    proptest! {
        #[test]
        fn reading_never_panics(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = certificates(&der);
            if let Ok(read) = certificates(pem(&der).as_bytes()) {
                prop_assert_eq!(read, vec![der]);
            }
        }
    }
}

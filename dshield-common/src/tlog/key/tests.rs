#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::tlog::tests::{TestSigner, mutated};

/// The example of C2SP signed-note.
const EXAMPLE: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

/// The public key of Sigstore's first transparency log.
const REKOR: &str = "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW\
    5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=";

fn all() -> [TestSigner; 3] {
    [TestSigner::ed25519(1), TestSigner::ecdsa_p256(1), TestSigner::witness(1)]
}

#[test]
fn the_example_of_the_specification_and_rekors_key_have_the_ids_they_say() {
    let example = VerifierKey::parse(EXAMPLE).unwrap();
    assert_eq!((example.name().as_str(), example.id().get()), ("example.com/foo", 0x530d_903a));
    assert_eq!(example.signature_type(), SignatureType::Ed25519);
    let rekor = VerifierKey::parse(REKOR).unwrap();
    assert_eq!(rekor.id().to_string(), "c0d23d6a");
    assert_eq!(rekor.signature_type(), SignatureType::EcdsaP256);
    // The name takes no part in the ID of an ECDSA key, but in those of the others.
    let renamed = VerifierKey::ecdsa_p256("another.example".parse().unwrap(), rekor.public_key()).unwrap();
    assert_eq!(renamed.id(), rekor.id());
    let public = example.public_key().try_into().unwrap();
    assert_ne!(VerifierKey::ed25519("another.example".parse().unwrap(), public).unwrap().id(), example.id());
    assert_ne!(VerifierKey::cosignature_v1(example.name().clone(), public).unwrap().id(), example.id());
}

#[test]
fn a_vkey_is_written_as_it_was_read() {
    for vkey in [EXAMPLE, REKOR] {
        assert_eq!(VerifierKey::parse(vkey).unwrap().to_string(), vkey);
    }
    for signer in all() {
        let key = signer.key("example.com/log");
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

#[test]
fn every_other_spelling_of_a_vkey_is_refused() {
    let (name_and_id, base64) = EXAMPLE.rsplit_once('+').unwrap();
    let with_type = |kind: u8, key: &[u8]| format!("{name_and_id}+{}", to_base64([&[kind], key].concat()));
    let public = VerifierKey::parse(EXAMPLE).unwrap().public_key().to_owned();
    let computed = KeyId::new(0x530d_903a);
    for (vkey, why) in [
        (String::new(), KeyError::Form),
        ("example.com/foo".to_owned(), KeyError::Form),
        (name_and_id.to_owned(), KeyError::Form),
        (format!("+530d903a+{base64}"), KeyError::Name),
        (format!("example.com foo+530d903a+{base64}"), KeyError::Name),
        (format!("{name_and_id}+"), KeyError::Base64),
        (format!("{EXAMPLE}="), KeyError::Base64),
        (format!("{EXAMPLE} "), KeyError::Base64),
        (EXAMPLE.replace("530d903a", "530D903A"), KeyError::Id { computed }),
        (EXAMPLE.replace("530d903a", "530d903b"), KeyError::Id { computed }),
        (EXAMPLE.replace("530d903a", "0530d903a"), KeyError::Id { computed }),
        (with_type(0x01, &public[..31]), KeyError::Ed25519Key),
        (with_type(0x01, &[public.as_slice(), &[0]].concat()), KeyError::Ed25519Key),
        (with_type(0x01, &[]), KeyError::Ed25519Key),
        (with_type(0x02, &public), KeyError::EcdsaKey),
        (with_type(0x05, &public), KeyError::Type(0x05)),
        (with_type(0x06, &public), KeyError::Type(0x06)),
        (with_type(0xff, &public), KeyError::Type(0xff)),
    ] {
        assert_eq!(VerifierKey::parse(&vkey), Err(why), "{vkey}");
    }
    // The same key for cosignatures has another ID.
    assert!(matches!(VerifierKey::parse(&with_type(0x04, &public)), Err(KeyError::Id { .. })));
}

#[test]
fn names_that_break_lines_of_signatures_are_refused() {
    for name in ["", " ", "a b", "a+b", "a\nb", "a\u{1}", "a\u{1f}", "a\u{a0}b", "a\u{2003}b", "a\u{3000}", "a\u{85}b"]
    {
        assert_eq!(name.parse::<KeyName>(), Err(KeyError::Name), "{name:?}");
    }
    for name in ["a", "example.com/log", "päivä.example", "—", "a=b", "oid/1.3.6.1"] {
        assert_eq!(name.parse::<KeyName>().unwrap().as_str(), name);
    }
}

#[test]
fn keys_for_which_anybody_can_sign_are_refused() {
    let name = || "example.com/log".parse().unwrap();
    // The neutral element, and a point of order 8.
    let neutral = std::array::from_fn(|at| u8::from(at == 0));
    let of_order_8 = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    for key in [neutral, [0; 32], of_order_8, std::array::from_fn(|at| if at == 0 { 2 } else { 0 })] {
        assert_eq!(VerifierKey::ed25519(name(), &key), Err(KeyError::Ed25519Key));
        assert_eq!(VerifierKey::cosignature_v1(name(), &key), Err(KeyError::Ed25519Key));
    }
}

#[test]
fn an_ecdsa_key_has_one_encoding() {
    let name = || "example.com/log".parse().unwrap();
    let key = VerifierKey::parse(REKOR).unwrap();
    let spki = key.public_key();
    assert_eq!(VerifierKey::ecdsa_p256(name(), spki).unwrap().public_key(), spki);
    let point = ecdsa::VerifyingKey::from_public_key_der(spki).unwrap().to_encoded_point(true);
    // The same point, compressed: shorter by 32 bytes in the two outer lengths too.
    let mut compressed = spki[..26].to_vec();
    compressed[1] -= 32;
    compressed[24] -= 32;
    compressed.extend_from_slice(point.as_bytes());
    let of_p384 = [
        0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
        0x00, 0x22, 0x03, 0x62, 0x00, 0x04,
    ];
    let of_p384 = [of_p384.as_slice(), &[1; 96]].concat();
    let mut off_the_curve = spki.to_vec();
    *off_the_curve.last_mut().unwrap() ^= 1;
    let longer = [spki, &[0]].concat();
    for bad in [&compressed, &of_p384, &off_the_curve, &longer, &spki[1..].to_vec(), &spki[26..].to_vec(), &vec![]] {
        assert_eq!(VerifierKey::ecdsa_p256(name(), bad), Err(KeyError::EcdsaKey), "{bad:02x?}");
    }
}

#[test]
fn a_signature_is_for_one_text_and_one_key() {
    let text = "text\n";
    for (at, signer) in all().iter().enumerate() {
        let key = signer.key("example.com/log");
        let signature = signer.sign_at("example.com/log", text, 5).signature;
        let time = (key.signature_type() == SignatureType::CosignatureV1).then_some(5);
        assert_eq!(key.verify(text, &signature), Ok(time));
        assert_eq!(key.verify("text", &signature), Err(BadSignature));
        assert_eq!(key.verify("texs\n", &signature), Err(BadSignature));
        for length in 0..signature.len() {
            assert_eq!(key.verify(text, &signature[..length]), Err(BadSignature));
        }
        assert_eq!(key.verify(text, &[signature.as_slice(), &[0]].concat()), Err(BadSignature));
        for other in [TestSigner::ed25519(9), TestSigner::ecdsa_p256(9), TestSigner::witness(9)] {
            assert_eq!(other.key("example.com/log").verify(text, &signature), Err(BadSignature));
        }
        // The same private key signs for its own type only.
        for (other, signer) in all().iter().enumerate().filter(|(other, _)| *other != at) {
            assert_eq!(signer.key("example.com/log").verify(text, &signature), Err(BadSignature), "{at} as {other}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_signature_is_seen() {
    let text = "text\n";
    for signer in all() {
        let key = signer.key("example.com/log");
        let signature = signer.sign("example.com/log", text).signature;
        for at in 0..signature.len() {
            let mut flipped = signature.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(key.verify(text, &flipped), Err(BadSignature), "byte {at}");
        }
    }
}

#[test]
fn an_ecdsa_signature_is_strict_der() {
    let signer = TestSigner::ecdsa_p256(1);
    let key = signer.key("example.com/log");
    let signature = signer.sign("example.com/log", "text\n").signature;
    let fixed = ecdsa::Signature::from_der(&signature).unwrap().to_bytes();
    // As WebCrypto has it: r and s one after the other.
    assert_eq!(key.verify("text\n", &fixed), Err(BadSignature));
    let mut long_form = vec![0x30, 0x81];
    long_form.extend_from_slice(&signature[1..]);
    assert_eq!(key.verify("text\n", &long_form), Err(BadSignature));
    for zero in ["3006020100020100", "3006020101020100", "3006020100020101", "3000", ""] {
        let bytes: Vec<u8> =
            (0..zero.len() / 2).map(|at| u8::from_str_radix(&zero[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert_eq!(key.verify("text\n", &bytes), Err(BadSignature), "{zero}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_vkey_or_refused_without_panic(
        text in ".*", near in prop_oneof![mutated(EXAMPLE), mutated(REKOR)],
        key in prop::collection::vec(any::<u8>(), 0..96),
    ) {
        for text in [text, near] {
            if let Ok(key) = VerifierKey::parse(&text) {
                prop_assert_eq!(key.to_string(), text);
            }
        }
        for kind in 0..8 {
            let _ = VerifierKey::parse(&format!("a+00000000+{}", to_base64([&[kind], key.as_slice()].concat())));
        }
    }

    #[test]
    fn any_bytes_are_refused_as_a_signature_without_panic(
        text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..96),
    ) {
        for signer in all() {
            prop_assert_eq!(signer.key("a").verify(&text, &bytes), Err(BadSignature));
        }
    }
}

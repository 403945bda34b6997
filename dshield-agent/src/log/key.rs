//! The key that signs a boot's entries.
//!
//! Randomness of the system flows in; signatures and the public key flow out. The private key is made when the
//! agent starts, lives in this process's memory only, and is gone with it.
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// DER of a `SubjectPublicKeyInfo` up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 },
/// BIT STRING { 65 bytes … } } (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A P-256 key pair made for one boot.
pub(super) struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public_pem: String,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate() -> Result<Self, Unspecified> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
            .map_err(|_| Unspecified)?;
        let public_pem = pem(pair.public_key().as_ref());
        Ok(Self { pair, random, public_pem })
    }

    /// ECDSA with SHA-256 over `message`, in ASN.1 DER: at most 72 bytes.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Result<impl AsRef<[u8]> + use<>, Unspecified> {
        self.pair.sign(&self.random, message)
    }

    /// The public key as PEM `SubjectPublicKeyInfo`.
    pub(super) fn public_pem(&self) -> &str {
        &self.public_pem
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

/// A fresh boot id: 32 hexadecimal digits.
///
/// # Errors
/// When the system gives no randomness.
pub(super) fn boot_id() -> Result<String, Unspecified> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn pem(point: &[u8]) -> String {
    let text = STANDARD.encode([&SPKI_P256, point].concat());
    let (first, second) = text.split_at(64.min(text.len()));
    format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dshield_verify::log::LogKey;

    use super::*;

    #[test]
    fn the_public_key_is_the_pem_that_a_verifier_writes() {
        let key = SigningKey::generate().unwrap();
        assert_eq!(LogKey::from_pem(key.public_pem()).unwrap().to_pem(), key.public_pem());
    }

    #[test]
    fn debug_output_shows_the_public_key_only() {
        let key = SigningKey::generate().unwrap();
        let expected = format!("SigningKey {{ public_pem: {:?}, .. }}", key.public_pem());
        assert_eq!(format!("{key:?}"), expected);
    }
}

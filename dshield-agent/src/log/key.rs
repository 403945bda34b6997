//! The key that signs a boot's entries.
//!
//! Randomness of the system flows in; signatures and the public key flow out. The private key is made when the
//! agent starts, lives in this process's memory only ([`crate::secret`]), and is gone with it.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};

use crate::secret::P256Key;

/// DER of a `SubjectPublicKeyInfo` up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 },
/// BIT STRING { 65 bytes … } } (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A P-256 key pair made for one boot.
#[derive(Debug)]
pub(super) struct SigningKey {
    key: P256Key,
    public_pem: String,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate() -> Result<Self, Unspecified> {
        let key = P256Key::generate()?;
        let public_pem = pem(key.public_point());
        Ok(Self { key, public_pem })
    }

    /// ECDSA with SHA-256 over `message`, in ASN.1 DER: at most 72 bytes.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Result<impl AsRef<[u8]> + use<>, Unspecified> {
        self.key.sign(message)
    }

    /// The public key as PEM `SubjectPublicKeyInfo`.
    pub(super) fn public_pem(&self) -> &str {
        &self.public_pem
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
}

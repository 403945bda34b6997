//! The keys that sign a boot's entries and checkpoints.
//!
//! Randomness of the system flows in; signatures and public keys flow out. The private keys are made when the
//! agent starts, live in this process's memory only ([`crate::secret`]), and are gone with it.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};

use crate::secret::{Ed25519Key, P256Key};

/// DER of a `SubjectPublicKeyInfo` up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 },
/// BIT STRING { 65 bytes … } } (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key pairs of one boot: P-256 for entries and checkpoints, Ed25519 for checkpoints.
#[derive(Debug)]
pub(super) struct SigningKey {
    key: P256Key,
    ed25519: Ed25519Key,
    public_pem: String,
}

impl SigningKey {
    /// New keys; that for Ed25519 only where there is none that outlives boots.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn generate(ed25519: Option<Ed25519Key>) -> Result<Self, Unspecified> {
        let ed25519 = ed25519.map_or_else(Ed25519Key::generate, Ok)?;
        let key = P256Key::generate()?;
        let public_pem = pem(key.public_point());
        Ok(Self { key, ed25519, public_pem })
    }

    /// ECDSA with SHA-256 over `message`, in ASN.1 DER: at most 72 bytes.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Result<impl AsRef<[u8]> + use<>, Unspecified> {
        self.key.sign(message)
    }

    /// Ed25519 (RFC 8032) over `message`: 64 bytes.
    pub(super) fn sign_ed25519(&self, message: &[u8]) -> Vec<u8> {
        self.ed25519.sign(message)
    }

    /// The Ed25519 public key.
    pub(super) fn ed25519_public(&self) -> &[u8; 32] {
        self.ed25519.public()
    }

    /// The P-256 public key as DER `SubjectPublicKeyInfo`.
    pub(super) fn public_spki(&self) -> Vec<u8> {
        [&SPKI_P256, self.key.public_point()].concat()
    }

    /// The P-256 public key as PEM `SubjectPublicKeyInfo`.
    pub(super) fn public_pem(&self) -> &str {
        &self.public_pem
    }
}

/// A fresh name for a boot or a log: 32 hexadecimal digits.
///
/// # Errors
/// When the system gives no randomness.
pub(super) fn random_id() -> Result<String, Unspecified> {
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
        let key = SigningKey::generate(None).unwrap();
        assert_eq!(LogKey::from_pem(key.public_pem()).unwrap().to_pem(), key.public_pem());
    }
}

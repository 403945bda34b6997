//! P-256 keys that follow from one secret, and sign the same thing the same way each time (RFC 6979).
use p256::SecretKey;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

/// A P-256 key pair.
#[derive(Clone)]
pub(crate) struct Key {
    secret: SecretKey,
    signing: SigningKey,
    /// `04 ‖ x ‖ y`.
    point: [u8; 65],
}

impl Key {
    pub(crate) fn new(secret: SecretKey) -> Self {
        let signing = SigningKey::from(&secret);
        let point = signing.verifying_key().to_encoded_point(false);
        let point = point.as_bytes().try_into().expect("an uncompressed point of P-256 has 65 bytes");
        Self { secret, signing, point }
    }

    /// The key that belongs to this one under `name`.
    pub(crate) fn derive(&self, name: &str) -> Self {
        let secret = self.secret.to_bytes();
        // One hash in 2^32 is no scalar of the curve.
        let mut hashes = (0u8..).map(|attempt| {
            let mut hash = Sha256::new();
            hash.update(b"dshield-development-key-v1:");
            hash.update(secret);
            hash.update([attempt]);
            hash.update(name.as_bytes());
            hash.finalize()
        });
        let secret = hashes.find_map(|hash| SecretKey::from_bytes(&hash).ok());
        Self::new(secret.expect("not all of 256 hashes are above the curve's order"))
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// `x ‖ y`.
    pub(crate) fn coordinates(&self) -> &[u8] {
        &self.point[1..]
    }

    /// ECDSA with SHA-256: `r ‖ s`.
    pub(crate) fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature = self.signing.sign(message);
        signature.to_bytes().into()
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.signing.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_derived_key_follows_from_the_secret_and_the_name() {
        let key = |byte| Key::new(SecretKey::from_slice(&[byte; 32]).unwrap());
        let (one, other) = (key(1), key(2));
        assert_eq!(one.derive("a").coordinates(), key(1).derive("a").coordinates());
        assert_ne!(one.derive("a").coordinates(), one.derive("b").coordinates());
        assert_ne!(one.derive("a").coordinates(), other.derive("a").coordinates());
        assert_ne!(one.derive("a").coordinates(), one.coordinates());
    }
}

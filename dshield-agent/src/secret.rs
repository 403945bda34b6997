//! Private keys: made here, for one boot, and kept in memory only.
//!
//! Randomness of the system flows in; [`P256Key`]s flow out, which sign and do not tell. The bytes that a key is
//! made from are overwritten before anything else happens. What stays is the number inside ring's own type, which
//! ring does not overwrite when it is dropped: that is why the whole process is locked into memory and shows itself to
//! nobody ([`crate::harden`]).
use std::fmt;

use ring::error::Unspecified;
use ring::pkcs8::Document;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroize;

/// More than ring uses of the stack for making a key.
const STACK: usize = 32 << 10;

/// A P-256 key pair that signs with ECDSA and SHA-256.
pub struct P256Key {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl P256Key {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, Unspecified> {
        with_new_pkcs8(Self::from_pkcs8)?
    }

    /// The key in a PKCS#8 document.
    ///
    /// # Errors
    /// When it is not one for P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Unspecified> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random);
        Ok(Self { pair: pair.map_err(|_| Unspecified)?, random })
    }

    /// A signature over `message`, in ASN.1 DER: at most 72 bytes.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<ring::signature::Signature, Unspecified> {
        self.pair.sign(&self.random, message)
    }

    /// The public point, uncompressed: 65 bytes.
    #[must_use]
    pub fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }
}

/// The public half only.
impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("P256Key").field("public", self.pair.public_key()).finish_non_exhaustive()
    }
}

impl rcgen::PublicKeyData for P256Key {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for P256Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.sign(message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Makes a P-256 key, shows its PKCS#8 document to `read`, and overwrites the document.
///
/// # Errors
/// When the system gives no randomness.
pub fn with_new_pkcs8<T>(read: impl FnOnce(&[u8]) -> T) -> Result<T, Unspecified> {
    let made = read_and_wipe(read);
    wipe_stack();
    made
}

#[inline(never)]
fn read_and_wipe<T>(read: impl FnOnce(&[u8]) -> T) -> Result<T, Unspecified> {
    // Nothing to free that overwriting would lose.
    const { assert!(!std::mem::needs_drop::<Document>()) };
    let mut document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
    let made = read(document.as_ref());
    // SAFETY: an array of bytes and its length (ring 0.17, src/pkcs8.rs): all zeros are a valid value, and it owns
    // nothing.
    unsafe { zeroize::zeroize_flat_type(&raw mut document) };
    Ok(made)
}

/// Overwrites what the functions called before have left on the stack, copies of the document among it.
#[inline(never)]
fn wipe_stack() {
    let mut left = [0xff_u8; STACK];
    left.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_the_public_key_only() {
        let key = P256Key::generate().unwrap();
        let hex: String = key.public_point().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("{key:?}"), format!("P256Key {{ public: PublicKey(\"{hex}\"), .. }}"));
    }
}

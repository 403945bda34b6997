//! Private keys: made here, for one boot, and kept in memory only.
//!
//! Randomness of the system flows in; [`P256Key`]s flow out, which sign and do not tell. The bytes that a key is
//! made from are overwritten before anything else happens. What stays is the number inside ring's own type, which
//! ring does not overwrite when it is dropped: that is why the whole process is locked into memory and shows itself to
//! nobody ([`crate::harden`]).
use std::fmt;

use ring::error::Unspecified;
use ring::pkcs8::Document;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
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

/// An Ed25519 key pair (RFC 8032).
pub struct Ed25519Key {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Ed25519Key {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, Unspecified> {
        let made = Self::from_new_seed();
        wipe_stack();
        made
    }

    /// The key with this seed (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// When it is not one of 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Result<Self, Unspecified> {
        let made = Self::with_seed(seed);
        wipe_stack();
        made
    }

    #[inline(never)]
    fn from_new_seed() -> Result<Self, Unspecified> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed)?;
        let made = Self::with_seed(&seed);
        seed.zeroize();
        made
    }

    #[inline(never)]
    fn with_seed(seed: &[u8]) -> Result<Self, Unspecified> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        let pair = pair.map_err(|_| Unspecified)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| Unspecified)?;
        Ok(Self { pair, public })
    }

    /// A signature over `message`: 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

/// The public half only.
impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Key").field("public", self.pair.public_key()).finish_non_exhaustive()
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
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;

    /// The stack as the kernel shows it, so that reading what nobody owns any more is no undefined behaviour.
    #[test]
    fn what_a_key_is_made_from_is_not_left_on_the_stack() {
        let on_stack = |bytes: &[u8]| {
            let here = (&raw const bytes).addr();
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            let ranges = maps.lines().filter_map(|line| {
                let (start, end) = line.split(' ').next()?.split_once('-')?;
                Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
            });
            let stack = ranges.into_iter().find(|range| range.contains(&here)).unwrap();
            let mut content = vec![0; stack.len()];
            File::open("/proc/self/mem").unwrap().read_exact_at(&mut content, stack.start as u64).unwrap();
            content.windows(bytes.len()).filter(|window| *window == bytes).count()
        };
        let mut private = Vec::new();
        with_new_pkcs8(|pkcs8| {
            // Where the 32 bytes stand in ring's document.
            private.extend_from_slice(&pkcs8[36..68]);
            assert!(on_stack(&private) > 0, "now it is there");
            P256Key::from_pkcs8(pkcs8).unwrap()
        })
        .unwrap();
        assert_eq!(on_stack(&private), 0);
    }

    #[test]
    fn debug_output_shows_the_public_key_only() {
        let key = P256Key::generate().unwrap();
        let hex: String = key.public_point().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("{key:?}"), format!("P256Key {{ public: PublicKey(\"{hex}\"), .. }}"));
    }
}

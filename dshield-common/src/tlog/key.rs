//! The keys that verify notes, and their text form, the vkey (C2SP signed-note, "Verifier keys" and "Signature types").
//!
//! A vkey or a name and a public key flow in; a [`VerifierKey`] flows out, which says yes or no to a text and its
//! signature. Verifying only: who signs has a key ID from here and keeps its private key to itself.
use std::fmt;
use std::str::FromStr;

use ed25519_dalek as ed25519;
use p256::ecdsa;
use p256::ecdsa::signature::Verifier;
use p256::pkcs8::{DecodePublicKey, EncodePublicKey};
use sha2::{Digest, Sha256};

use super::cosignature::Cosignature;
use super::text::{from_base64, to_base64};

/// The name of a key: not empty, without spaces, control characters and plus signs. A log's is its origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        let is_bad = |c: char| c == '+' || c < ' ' || c.is_whitespace();
        if name.is_empty() || name.contains(is_bad) { Err(KeyError::Name) } else { Ok(Self(name.to_owned())) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The four bytes that, together with the name, tell which key signed. Shown as 8 lower-case hexadecimal digits.
///
/// Not a fingerprint: anybody can make a key with a given ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u32);

impl KeyId {
    /// The ID with this big-endian number.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// The big-endian number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    fn of(parts: &[&[u8]]) -> Self {
        let digest = Sha256::digest(parts.concat());
        Self(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// How a key signs: the number is the signature type identifier byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum SignatureType {
    /// Ed25519 over the text.
    Ed25519 = 0x01,
    /// ECDSA on P-256 with SHA-256 over the text, in ASN.1 DER.
    EcdsaP256 = 0x02,
    /// A witness's timestamped Ed25519 cosignature of a checkpoint.
    CosignatureV1 = 0x04,
}

/// A public key that verifies notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: KeyName,
    id: KeyId,
    key: PublicKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PublicKey {
    Ed25519(ed25519::VerifyingKey),
    EcdsaP256 { key: ecdsa::VerifyingKey, spki: Vec<u8> },
    CosignatureV1(ed25519::VerifyingKey),
}

impl VerifierKey {
    /// An Ed25519 key (type 0x01). Its ID is that of `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ key)`.
    ///
    /// # Errors
    /// When the bytes are no point of the curve, or one of the few that verify signatures of anybody.
    pub fn ed25519(name: KeyName, key: &[u8; 32]) -> Result<Self, KeyError> {
        let id = KeyId::of(&[name.0.as_bytes(), b"\n", &[SignatureType::Ed25519 as u8], key]);
        Ok(Self { name, id, key: PublicKey::Ed25519(ed25519_key(key)?) })
    }

    /// A witness's Ed25519 key (type 0x04). Its ID is that of `SHA-256(name ‖ 0x0A ‖ 0x04 ‖ key)`.
    ///
    /// # Errors
    /// As for [`Self::ed25519`].
    pub fn cosignature_v1(name: KeyName, key: &[u8; 32]) -> Result<Self, KeyError> {
        let id = KeyId::of(&[name.0.as_bytes(), b"\n", &[SignatureType::CosignatureV1 as u8], key]);
        Ok(Self { name, id, key: PublicKey::CosignatureV1(ed25519_key(key)?) })
    }

    /// An ECDSA key on P-256 (type 0x02) by its SubjectPublicKeyInfo in DER. Its ID is that of `SHA-256(spki)`, in
    /// which the name does not take part: logs that share a key differ by name only.
    ///
    /// # Errors
    /// When it is not such a key, or not in the usual encoding (the point uncompressed).
    pub fn ecdsa_p256(name: KeyName, spki: &[u8]) -> Result<Self, KeyError> {
        let key = ecdsa::VerifyingKey::from_public_key_der(spki).map_err(|_| KeyError::EcdsaKey)?;
        let usual = key.to_public_key_der().map_err(|_| KeyError::EcdsaKey)?;
        if usual.as_bytes() != spki {
            return Err(KeyError::EcdsaKey);
        }
        Ok(Self { name, id: KeyId::of(&[spki]), key: PublicKey::EcdsaP256 { key, spki: spki.to_owned() } })
    }

    /// Reads a vkey: `<name>+<key ID in hex>+<base64(type ‖ public key)>`.
    ///
    /// # Errors
    /// When it is none, its ID is not that of its key, or its type is none that this build verifies.
    pub fn parse(vkey: &str) -> Result<Self, KeyError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Form);
        };
        let name: KeyName = name.parse()?;
        let bytes = from_base64(key).ok_or(KeyError::Base64)?;
        let (kind, public) = bytes.split_first().ok_or(KeyError::Base64)?;
        let ed25519 = || public.try_into().map_err(|_| KeyError::Ed25519Key);
        let key = match kind {
            0x01 => Self::ed25519(name, ed25519()?),
            0x02 => Self::ecdsa_p256(name, public),
            0x04 => Self::cosignature_v1(name, ed25519()?),
            other => Err(KeyError::Type(*other)),
        }?;
        if key.id.to_string() == id { Ok(key) } else { Err(KeyError::Id { computed: key.id }) }
    }

    /// The name under which it signs.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The ID under which it signs.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// How it signs.
    #[must_use]
    pub fn signature_type(&self) -> SignatureType {
        match self.key {
            PublicKey::Ed25519(_) => SignatureType::Ed25519,
            PublicKey::EcdsaP256 { .. } => SignatureType::EcdsaP256,
            PublicKey::CosignatureV1(_) => SignatureType::CosignatureV1,
        }
    }

    /// The public key as a vkey holds it: 32 bytes of Ed25519, or the SubjectPublicKeyInfo of ECDSA.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.key {
            PublicKey::Ed25519(key) | PublicKey::CosignatureV1(key) => key.as_bytes(),
            PublicKey::EcdsaP256 { spki, .. } => spki,
        }
    }

    /// Checks a signature over a note's text: the bytes that stand after the key ID. Gives the time at which a witness
    /// signed, in seconds since 1970; the other types tell none.
    ///
    /// # Errors
    /// When the signature is not by this key over this text.
    pub fn verify(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, BadSignature> {
        match &self.key {
            PublicKey::Ed25519(key) => {
                let signature = ed25519::Signature::from_slice(signature).map_err(|_| BadSignature)?;
                key.verify_strict(text.as_bytes(), &signature).map_err(|_| BadSignature)?;
                Ok(None)
            }
            PublicKey::EcdsaP256 { key, .. } => {
                let signature = ecdsa::Signature::from_der(signature).map_err(|_| BadSignature)?;
                key.verify(text.as_bytes(), &signature).map_err(|_| BadSignature)?;
                Ok(None)
            }
            PublicKey::CosignatureV1(key) => {
                let cosignature = Cosignature::from_bytes(signature).map_err(|_| BadSignature)?;
                cosignature.is_by(key, text).then_some(Some(cosignature.timestamp())).ok_or(BadSignature)
            }
        }
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(vkey: &str) -> Result<Self, KeyError> {
        Self::parse(vkey)
    }
}

/// The vkey.
impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[self.signature_type() as u8], self.public_key()].concat();
        write!(f, "{}+{}+{}", self.name, self.id, to_base64(key))
    }
}

fn ed25519_key(bytes: &[u8; 32]) -> Result<ed25519::VerifyingKey, KeyError> {
    let key = ed25519::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Ed25519Key)?;
    if key.is_weak() { Err(KeyError::Ed25519Key) } else { Ok(key) }
}

/// A signature is not by the key under whose name and ID it stands, or not over this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not by this key over this text")]
pub struct BadSignature;

/// Why a text is not a key's name or a vkey, or bytes are no key. The fault is that of whoever configured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not three parts with plus signs between them.
    #[error("a verifier key has the form <name>+<key ID>+<base64>")]
    Form,
    /// Not a name.
    #[error("a key's name is not empty and has no spaces, control characters or plus signs")]
    Name,
    /// Not base64, or nothing in it.
    #[error("a verifier key ends in the padded base64 of its type and key")]
    Base64,
    /// Not an identifier that this build knows.
    #[error("keys of type {0:#04x} are not supported: use Ed25519 (0x01), ECDSA P-256 (0x02) or cosignatures (0x04)")]
    Type(u8),
    /// Not an Ed25519 key.
    #[error("not an Ed25519 public key: 32 bytes that are a point of large order")]
    Ed25519Key,
    /// Not an ECDSA key.
    #[error("not an ECDSA public key on P-256: SubjectPublicKeyInfo in DER with an uncompressed point")]
    EcdsaKey,
    /// The ID is another one: the key or its name was changed, or a digit is wrong.
    #[error("the verifier key's ID is not that of its name and key, {computed}")]
    Id {
        /// The ID that this name and key have.
        computed: KeyId,
    },
}

#[cfg(test)]
mod tests;

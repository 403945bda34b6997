//! The public key that an upstream must have, as RFC 7469 (section 2.4) names one.
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::canonical::Sha256Digest;

/// The SHA-256 of a certificate's SubjectPublicKeyInfo (DER): `sha256/<base64>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpkiPin([u8; 32]);

impl SpkiPin {
    /// The pin of this SubjectPublicKeyInfo (DER).
    #[must_use]
    pub fn of(spki: &[u8]) -> Self {
        Self(*Sha256Digest::of(spki).as_bytes())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for SpkiPin {
    fn from(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

impl FromStr for SpkiPin {
    type Err = SpkiPinError;

    fn from_str(text: &str) -> Result<Self, SpkiPinError> {
        let base64 = text.strip_prefix("sha256/").ok_or(SpkiPinError)?;
        let bytes = STANDARD.decode(base64).map_err(|_| SpkiPinError)?;
        bytes.try_into().map(Self).map_err(|_| SpkiPinError)
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

/// A text is not an [`SpkiPin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write sha256/ and the base64 of the 32 bytes of the key's SHA-256")]
pub struct SpkiPinError;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_32_bytes_in_one_spelling() {
        let text = format!("sha256/{}=", "A".repeat(43));
        assert_eq!(text.parse::<SpkiPin>().unwrap(), SpkiPin::from([0; 32]));
        assert_eq!(SpkiPin::from([0; 32]).to_string(), text);
        for bad in
            ["", "sha256/", "sha256/AAAA", &text[7..], text.trim_end_matches('='), &text.replace("sha256", "sha1")]
        {
            assert_eq!(bad.parse::<SpkiPin>(), Err(SpkiPinError), "{bad}");
        }
        // The last character's spare bits must be zero, or one key had four spellings.
        assert!(format!("sha256/{}B=", "A".repeat(42)).parse::<SpkiPin>().is_err());
    }
}

//! Signed notes (C2SP signed-note): a text, and below it lines of signatures.
//!
//! A note's bytes flow in, its text and signatures flow out, and back. Whoever signs takes the bytes to sign from
//! [`bytes_to_sign`] and assembles the note with [`Note::new`]; whoever reads asks [`Note::verified_by`] first.
use std::fmt;
use std::str::FromStr;

use super::key::{KeyId, KeyName, VerifierKey};
use super::text::{from_base64, is_note_text, to_base64};

/// The most signatures that a note may have. The specification asks for at least 16.
pub const MAX_SIGNATURES: usize = 100;

const DASH: &str = "\u{2014} ";

/// A text and its signatures. That it parsed says nothing about who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One line of signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key that is said to have signed.
    pub name: KeyName,
    /// Its ID.
    pub id: KeyId,
    /// What its type of signature consists of; never empty in a note.
    pub signature: Vec<u8>,
}

/// A key whose signature under a note was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'k> {
    /// The key.
    pub key: &'k VerifierKey,
    /// When a witness signed, in seconds since 1970, by its own clock; nothing for other types of signatures.
    pub timestamp: Option<u64>,
}

impl Note {
    /// Assembles a note from the text that [`bytes_to_sign`] took and what was signed.
    ///
    /// # Errors
    /// When the text cannot be that of a note, there are no or too many signatures, or one is empty.
    pub fn new(
        text: impl Into<String>,
        signatures: impl IntoIterator<Item = NoteSignature>,
    ) -> Result<Self, NoteError> {
        let (text, signatures) = (text.into(), signatures.into_iter().collect::<Vec<_>>());
        bytes_to_sign(&text)?;
        if signatures.is_empty() {
            return Err(NoteError::Unsigned);
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        if let Some(line) = signatures.iter().position(|line| line.signature.is_empty()) {
            return Err(NoteError::Signature { line: line + 1 });
        }
        Ok(Self { text, signatures })
    }

    /// Reads a note.
    ///
    /// # Errors
    /// When the bytes are not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        std::str::from_utf8(bytes).map_err(|_| NoteError::Utf8)?.parse()
    }

    /// All that is signed: up to its last newline, without the empty line before the signatures.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in the order of their lines.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The note with one more signature below the others, such as a witness's.
    ///
    /// # Errors
    /// When it is empty or one too many.
    pub fn with_signature(self, signature: NoteSignature) -> Result<Self, NoteError> {
        Self::new(self.text, self.signatures.into_iter().chain([signature]))
    }

    /// Checks the signatures of `keys`, and gives those that signed, each once, in the order of the note's lines.
    ///
    /// Lines with a name and ID that are not among `keys` are ignored.
    ///
    /// # Errors
    /// When none of the keys signed, or a line with the name and ID of one does not verify, whatever the others say.
    pub fn verified_by<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Result<Vec<Verified<'k>>, VerifyError> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut verified: Vec<Verified<'k>> = Vec::new();
        for line in &self.signatures {
            let mut known = keys.iter().filter(|key| *key.name() == line.name && key.id() == line.id);
            let Some(key) = known.next() else { continue };
            let of_line = |error: fn(KeyName, KeyId) -> VerifyError| error(line.name.clone(), line.id);
            if known.any(|other| other != key) {
                return Err(of_line(|name, id| VerifyError::Ambiguous { name, id }));
            }
            let timestamp = key
                .verify(&self.text, &line.signature)
                .map_err(|_| of_line(|name, id| VerifyError::BadSignature { name, id }))?;
            if !verified.iter().any(|known| known.key == *key) {
                verified.push(Verified { key, timestamp });
            }
        }
        if verified.is_empty() { Err(VerifyError::Unverified) } else { Ok(verified) }
    }
}

/// The bytes over which keys of the types 0x01 and 0x02 sign a note with this text: all of it. Witnesses sign
/// [`cosignature::message`](super::cosignature::message) instead.
///
/// # Errors
/// When the text cannot be that of a note: it does not end in a newline or holds other control characters.
pub fn bytes_to_sign(text: &str) -> Result<&[u8], NoteError> {
    if !text.ends_with('\n') {
        return Err(NoteError::TextEnd);
    }
    if !is_note_text(text) {
        return Err(NoteError::ControlCharacter);
    }
    Ok(text.as_bytes())
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        if !is_note_text(note) {
            return Err(NoteError::ControlCharacter);
        }
        let (start, lines) = note.rsplit_once("\n\n").ok_or(NoteError::NoEmptyLine)?;
        let text = &note[..=start.len()];
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Unsigned)?;
        // One line too many is enough to know that there are.
        let numbered = lines.split('\n').zip(1..).take(MAX_SIGNATURES + 1);
        let signatures = numbered.map(|(text, line)| text.parse().map_err(|_| NoteError::Signature { line }));
        Self::new(text, signatures.collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

/// One line of a note or of a witness's answer, without its line end. An error calls it line 1.
impl FromStr for NoteSignature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        let parts = line.strip_prefix(DASH).and_then(|rest| rest.split_once(' '));
        let parsed = parts.and_then(|(name, base64)| Some((name.parse().ok()?, from_base64(base64)?)));
        let (name, bytes) = parsed.ok_or(NoteError::Signature { line: 1 })?;
        match bytes.split_first_chunk() {
            Some((id, signature @ [_, ..])) => {
                Ok(Self { name, id: KeyId::new(u32::from_be_bytes(*id)), signature: signature.to_owned() })
            }
            _ => Err(NoteError::Signature { line: 1 }),
        }
    }
}

/// The line, without its line end.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.get().to_be_bytes().as_slice(), &self.signature].concat();
        write!(f, "{DASH}{} {}", self.name, to_base64(bytes))
    }
}

/// Why bytes are not a note. The fault is that of whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Not UTF-8.
    #[error("a note is UTF-8")]
    Utf8,
    /// A control character that is not a newline.
    #[error("a note has no control characters other than newlines")]
    ControlCharacter,
    /// Text and signatures are not told apart.
    #[error("a note has an empty line before its signatures")]
    NoEmptyLine,
    /// The text is not whole lines.
    #[error("the text of a note ends in a newline")]
    TextEnd,
    /// Nothing below the empty line, or the last line has no end.
    #[error("a note ends in at least one line of signature and its newline")]
    Unsigned,
    /// More than [`MAX_SIGNATURES`].
    #[error("a note has at most 100 signatures")]
    TooManySignatures,
    /// A line below the text that is not a signature.
    #[error("line {line} of the signatures is not \"— <key name> <base64(key ID ‖ signature)>\"")]
    Signature {
        /// Its number, from 1.
        line: usize,
    },
}

/// Why a note is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Nobody that the reader trusts signed it.
    #[error("none of the known keys signed the note")]
    Unverified,
    /// It was changed after it was signed, or somebody poses as the key.
    #[error("the signature of the known key {name} ({id}) does not verify")]
    BadSignature {
        /// The key's name.
        name: KeyName,
        /// Its ID.
        id: KeyId,
    },
    /// The reader's configuration has two different keys that sign alike; give it one of them.
    #[error("two different known keys have the name {name} and the ID {id}")]
    Ambiguous {
        /// Their name.
        name: KeyName,
        /// Their ID.
        id: KeyId,
    },
}

#[cfg(test)]
mod tests;

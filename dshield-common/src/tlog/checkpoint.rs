//! Checkpoints (C2SP tlog-checkpoint): a log's name, size and root, as the text of a signed note.
//!
//! A note's text flows in, a [`Checkpoint`] flows out, and back in its one spelling.
use std::fmt;
use std::str::FromStr;

use super::hash::Hash;
use super::note::Note;
use super::text::{is_note_text, plain_decimal};

/// What a log states by signing: "with so many entries, my tree has this root".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// The checkpoint of the log named `origin`, usually its URL without the scheme.
    ///
    /// # Errors
    /// When the origin is empty or not one line.
    pub fn new(origin: impl Into<String>, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        let origin = origin.into();
        if !is_line(&origin) {
            return Err(CheckpointError::Origin);
        }
        Ok(Self { origin, size, root, extensions: Vec::new() })
    }

    /// The checkpoint with these lines after the root. Nobody audits them, so the specification advises against any.
    ///
    /// # Errors
    /// When one is empty or not one line.
    pub fn with_extensions<T: Into<String>>(self, lines: impl IntoIterator<Item = T>) -> Result<Self, CheckpointError> {
        let extensions: Vec<String> = lines.into_iter().map(Into::into).collect();
        match extensions.iter().position(|line| !is_line(line)) {
            Some(line) => Err(CheckpointError::Extension { line: line + 4 }),
            None => Ok(Self { extensions, ..self }),
        }
    }

    /// The checkpoint that a note's text is. Says nothing about who signed it: ask [`Note::verified_by`] before.
    ///
    /// # Errors
    /// When the text is none.
    pub fn from_note(note: &Note) -> Result<Self, CheckpointError> {
        note.text().parse()
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root over them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.root
    }

    /// The lines after the root.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let text = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Lines);
        };
        let size = plain_decimal(size).ok_or(CheckpointError::Size)?;
        let root = root.parse().map_err(|_| CheckpointError::Root)?;
        Self::new(origin, size, root)?.with_extensions(lines)
    }
}

/// The text to sign, with its last newline.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root, extensions } = self;
        write!(f, "{origin}\n{size}\n{root}\n")?;
        extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains('\n') && is_note_text(text)
}

/// Why a text is not a checkpoint. The fault is that of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Fewer than three lines, or the last one has no end.
    #[error("a checkpoint is at least three lines, each with its newline")]
    Lines,
    /// The first line is empty or holds control characters.
    #[error("the origin, a checkpoint's first line, is not empty and has no control characters")]
    Origin,
    /// The second line is not a number in its one spelling.
    #[error("the size, a checkpoint's second line, is a decimal below 2^64 without leading zeros")]
    Size,
    /// The third line is not a hash.
    #[error("the root, a checkpoint's third line, is the padded base64 of 32 bytes")]
    Root,
    /// A further line is empty or holds control characters.
    #[error("line {line} of the checkpoint is empty or has control characters")]
    Extension {
        /// Its number, from 1.
        line: usize,
    },
}

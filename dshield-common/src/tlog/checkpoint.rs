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
        if !is_line(origin) {
            return Err(CheckpointError::Origin);
        }
        let size = plain_decimal(size).ok_or(CheckpointError::Size)?;
        let root = root.parse().map_err(|_| CheckpointError::Root)?;
        Self { origin: origin.to_owned(), size, root, extensions: Vec::new() }.with_extensions(lines)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::tlog::hash::empty_root;
    use crate::tlog::tests::{any_hash, mutated, number};

    /// The example of C2SP tlog-checkpoint.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        — example.com/behind-the-sofa \
        Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let note: Note = EXAMPLE.parse().unwrap();
        let checkpoint = Checkpoint::from_note(&note).unwrap();
        assert_eq!((checkpoint.origin(), checkpoint.size()), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.root().to_string(), "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=");
        assert!(checkpoint.extensions().is_empty());
        assert_eq!(checkpoint.to_string(), note.text());
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for (text, why) in [
            (String::new(), CheckpointError::Lines),
            ("\n".to_owned(), CheckpointError::Lines),
            ("log\n1\n".to_owned(), CheckpointError::Lines),
            (format!("log\n1\n{root}"), CheckpointError::Lines),
            (format!("\n1\n{root}\n"), CheckpointError::Origin),
            (format!("lo\tg\n1\n{root}\n"), CheckpointError::Origin),
            (format!("log\r\n1\n{root}\n"), CheckpointError::Origin),
            (format!("log\n\n{root}\n"), CheckpointError::Size),
            (format!("log\n01\n{root}\n"), CheckpointError::Size),
            (format!("log\n00\n{root}\n"), CheckpointError::Size),
            (format!("log\n+1\n{root}\n"), CheckpointError::Size),
            (format!("log\n-1\n{root}\n"), CheckpointError::Size),
            (format!("log\n 1\n{root}\n"), CheckpointError::Size),
            (format!("log\n1 \n{root}\n"), CheckpointError::Size),
            (format!("log\n1.0\n{root}\n"), CheckpointError::Size),
            (format!("log\n0x1\n{root}\n"), CheckpointError::Size),
            (format!("log\n18446744073709551616\n{root}\n"), CheckpointError::Size),
            ("log\n1\n\n".to_owned(), CheckpointError::Root),
            (format!("log\n1\n{}\n", &root[..43]), CheckpointError::Root),
            (format!("log\n1\n{root}=\n"), CheckpointError::Root),
            (format!("log\n1\n{}\n", root.replace("2I=", "2J=")), CheckpointError::Root),
            ("log\n1\nAAAA\n".to_owned(), CheckpointError::Root),
            (format!("log\n1\n{root}\n\n"), CheckpointError::Extension { line: 4 }),
            (format!("log\n1\n{root}\next\n\next\n"), CheckpointError::Extension { line: 5 }),
            (format!("log\n1\n{root}\next\r\n"), CheckpointError::Extension { line: 4 }),
        ] {
            assert_eq!(text.parse::<Checkpoint>(), Err(why), "{text:?}");
        }
        for size in ["0", "1", "18446744073709551615"] {
            let text = format!("log\n{size}\n{root}\n");
            assert_eq!(text.parse::<Checkpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn parts_that_are_not_lines_make_no_checkpoint() {
        for origin in ["", "a\nb", "a\n", "\u{1}"] {
            assert_eq!(Checkpoint::new(origin, 0, empty_root()), Err(CheckpointError::Origin), "{origin:?}");
        }
        let checkpoint = Checkpoint::new("a log with spaces+", 0, empty_root()).unwrap();
        let with = |lines: &[&str]| checkpoint.clone().with_extensions(lines.iter().copied());
        assert_eq!(with(&["a", ""]), Err(CheckpointError::Extension { line: 5 }));
        assert_eq!(with(&["a\nb"]), Err(CheckpointError::Extension { line: 4 }));
        let extended = with(&["a", "b"]).unwrap();
        assert_eq!(extended.to_string().parse(), Ok(extended));
    }

    proptest! {
        #[test]
        fn any_text_is_a_checkpoint_or_refused_without_panic(text in "(.|\n)*", near in mutated(EXAMPLE)) {
            let near = near.split_once("\n\n").map_or(near.clone(), |(text, _)| format!("{text}\n"));
            for text in [text, near] {
                if let Ok(checkpoint) = text.parse::<Checkpoint>() {
                    prop_assert_eq!(checkpoint.to_string(), text);
                }
            }
        }

        #[test]
        fn what_is_written_is_read_back_alike(
            origin in "[ -~é]{1,30}", size in number(), root in any_hash(),
            lines in prop::collection::vec("[ -~é]{1,9}", 0..4),
        ) {
            let checkpoint = Checkpoint::new(origin, size, root).unwrap().with_extensions(lines).unwrap();
            prop_assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
        }
    }
}

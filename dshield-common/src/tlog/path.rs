//! The paths of tiles and entry bundles below a log's prefix (C2SP tlog-tiles, "Merkle Tree" and "Log entries"):
//! `tile/<L>/<N>[.p/<W>]` and `tile/entries/<N>[.p/<W>]`.
//!
//! A request's path flows in, a [`Tile`] or a [`Bundle`] flows out, and the other way round. Each has exactly one path:
//! others are refused, so that caches and files never hold the same tile twice.
use std::fmt;
use std::str::FromStr;

use super::text::plain_decimal;
use super::tile::{Bundle, FULL_WIDTH, MAX_LEVEL, Tile};

/// What a path below the prefix names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TilePath {
    /// Hashes.
    Tile(Tile),
    /// Entries.
    Bundle(Bundle),
}

impl FromStr for TilePath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        let rest = path.strip_prefix("tile/").ok_or(PathError::Form)?;
        let (level, rest) = rest.split_once('/').ok_or(PathError::Form)?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, partial_width(width)?),
            None => (rest, FULL_WIDTH),
        };
        let index = parse_index(index)?;
        if level == "entries" {
            return Bundle::new(index, width).map(Self::Bundle).map_err(|_| PathError::Width);
        }
        let level = plain_decimal(level).and_then(|level| u8::try_from(level).ok());
        let level = level.filter(|level| *level <= MAX_LEVEL).ok_or(PathError::Level)?;
        Tile::new(level, index, width).map(Self::Tile).map_err(|_| PathError::Width)
    }
}

impl FromStr for Tile {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        match path.parse()? {
            TilePath::Tile(tile) => Ok(tile),
            TilePath::Bundle(_) => Err(PathError::Level),
        }
    }
}

impl FromStr for Bundle {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        match path.parse()? {
            TilePath::Bundle(bundle) => Ok(bundle),
            TilePath::Tile(_) => Err(PathError::Level),
        }
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tile(tile) => tile.fmt(f),
            Self::Bundle(bundle) => bundle.fmt(f),
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level())?;
        write_index_and_width(f, self.index(), self.width())
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_index_and_width(f, self.index(), self.width())
    }
}

fn write_index_and_width(f: &mut fmt::Formatter<'_>, index: u64, width: u16) -> fmt::Result {
    let mut divisor = 1;
    while index / divisor >= 1000 {
        divisor *= 1000;
    }
    while divisor > 1 {
        write!(f, "x{:03}/", index / divisor % 1000)?;
        divisor /= 1000;
    }
    write!(f, "{:03}", index % 1000)?;
    if width < FULL_WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
}

fn parse_index(text: &str) -> Result<u64, PathError> {
    let mut index: u64 = 0;
    let mut groups = text.split('/').peekable();
    let mut is_first = true;
    while let Some(group) = groups.next() {
        let is_last = groups.peek().is_none();
        let digits = if is_last { group } else { group.strip_prefix('x').ok_or(PathError::Index)? };
        let is_number = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zeros = is_first && !is_last && digits == "000";
        if !is_number || has_leading_zeros {
            return Err(PathError::Index);
        }
        let digits: u64 = digits.parse().map_err(|_| PathError::Index)?;
        index = index.checked_mul(1000).and_then(|index| index.checked_add(digits)).ok_or(PathError::Index)?;
        is_first = false;
    }
    Ok(index)
}

fn partial_width(text: &str) -> Result<u16, PathError> {
    let width = plain_decimal(text).and_then(|width| u16::try_from(width).ok());
    width.filter(|width| (1..FULL_WIDTH).contains(width)).ok_or(PathError::Width)
}

/// Why a path names no tile or bundle. The fault is that of whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Not `tile/`, a level and an index.
    #[error("the path does not have the form tile/<level>/<index>[.p/<width>] or tile/entries/<index>[.p/<width>]")]
    Form,
    /// Not a level, or of the other kind than the one asked for.
    #[error("the level is \"entries\" or a number from 0 to 63 without leading zeros")]
    Level,
    /// Not an index, or not in its one spelling.
    #[error(
        "the index is below 2^64, in groups of 3 digits, all but the last with an x before them, and no x000 first"
    )]
    Index,
    /// Not the width of a partial tile.
    #[error("the width of a partial tile or bundle is a number from 1 to 255 without leading zeros")]
    Width,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::tlog::tests::{mutated, number};

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, width| TilePath::Tile(Tile::new(level, index, width).unwrap());
        let bundle = |index, width| TilePath::Bundle(Bundle::new(index, width).unwrap());
        for (path, expected) in [
            ("tile/0/000", tile(0, 0, 256)),
            ("tile/0/x001/x234/067", tile(0, 1_234_067, 256)),
            ("tile/63/999.p/255", tile(63, 999, 255)),
            ("tile/1/x001/000.p/1", tile(1, 1000, 1)),
            ("tile/0/x018/x446/x744/x073/x709/x551/615", tile(0, u64::MAX, 256)),
            ("tile/entries/x273/112.p/112", bundle(273_112, 112)),
            ("tile/entries/000", bundle(0, 256)),
        ] {
            assert_eq!(path.parse(), Ok(expected));
            assert_eq!(expected.to_string(), path);
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for (path, why) in [
            ("", PathError::Form),
            ("/tile/0/000", PathError::Form),
            ("tile/0", PathError::Form),
            ("tile/000", PathError::Form),
            ("tiles/0/000", PathError::Form),
            ("tile//000", PathError::Level),
            ("tile/00/000", PathError::Level),
            ("tile/01/000", PathError::Level),
            ("tile/+1/000", PathError::Level),
            ("tile/64/000", PathError::Level),
            ("tile/256/000", PathError::Level),
            ("tile/Entries/000", PathError::Level),
            ("tile/data/000", PathError::Level),
            ("tile/0/", PathError::Index),
            ("tile/0/0", PathError::Index),
            ("tile/0/0000", PathError::Index),
            ("tile/0/x000", PathError::Index),
            ("tile/0/x000/001", PathError::Index),
            ("tile/0/x000/x001/001", PathError::Index),
            ("tile/0/001/001", PathError::Index),
            ("tile/0/x001/x001", PathError::Index),
            ("tile/0/X001/001", PathError::Index),
            ("tile/0/xx01/001", PathError::Index),
            ("tile/0/x001//001", PathError::Index),
            ("tile/0/000/", PathError::Index),
            ("tile/0/+01", PathError::Index),
            ("tile/0/００1", PathError::Index),
            ("tile/0/../000", PathError::Index),
            ("tile/0/x018/x446/x744/x073/x709/x551/616", PathError::Index),
            ("tile/0/x001/x000/x000/x000/x000/x000/x000/000", PathError::Index),
            ("tile/0/000.p", PathError::Index),
            ("tile/0/000.p/", PathError::Width),
            ("tile/0/000.p/0", PathError::Width),
            ("tile/0/000.p/01", PathError::Width),
            ("tile/0/000.p/256", PathError::Width),
            ("tile/0/000.p/-1", PathError::Width),
            ("tile/0/000.p/1/", PathError::Width),
            ("tile/0/000.p/1.p/1", PathError::Width),
            ("tile/entries/000.p/256", PathError::Width),
            ("tile/entries/0", PathError::Index),
        ] {
            assert_eq!(path.parse::<TilePath>(), Err(why), "{path}");
        }
        assert_eq!("tile/entries/000".parse::<Tile>(), Err(PathError::Level));
        assert_eq!("tile/0/000".parse::<Bundle>(), Err(PathError::Level));
    }

    proptest! {
        #[test]
        fn any_text_is_a_path_or_refused_without_panic(text in ".*", near in mutated("tile/1/x001/x234/067.p/12")) {
            for text in [text.as_str(), &near, &format!("tile/{text}"), &format!("tile/0/{text}")] {
                if let Ok(path) = text.parse::<TilePath>() {
                    prop_assert_eq!(path.to_string(), text);
                }
            }
        }

        #[test]
        fn every_tile_and_bundle_has_one_path(level in 0..=63u8, index in number(), width in 1..=256u16) {
            let tile = Tile::new(level, index, width).unwrap();
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
            let bundle = Bundle::new(index, width).unwrap();
            prop_assert_eq!(bundle.to_string().parse(), Ok(bundle));
        }
    }
}

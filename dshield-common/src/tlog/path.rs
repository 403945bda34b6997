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

//! Tiles: the hashes of a tree in files of up to 256, and the entries in bundles alike (C2SP tlog-tiles).
//!
//! A tree's size flows in; which tiles and bundles it has, how wide each is and which nodes it holds flow out.
//! [`path`](super::path) names them, [`bundle`](super::bundle) holds the entries' bytes.
use std::ops::Range;

use super::hash::Hash;
use super::range::NodeId;

/// The hashes in a full tile, and the entries in a full bundle.
pub const FULL_WIDTH: u16 = 256;
/// The levels of the tree between a tile's hashes and those of the tile above.
pub const TILE_HEIGHT: u8 = 8;
/// The highest level that a path may name. Those above 7 exist in no tree whose size fits into 64 bits.
pub const MAX_LEVEL: u8 = 63;

/// A tile: the consecutive nodes `index · 256 + 0 .. width` of the tree's level `8 · level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile with these coordinates; whether a tree has it, [`Self::exists_in`] says.
    ///
    /// # Errors
    /// When the level is above [`MAX_LEVEL`] or the width not between 1 and [`FULL_WIDTH`].
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, TileError> {
        if level > MAX_LEVEL {
            return Err(TileError::Level(level));
        }
        Ok(Self { level, index, width: checked_width(width)? })
    }

    /// The tile as a tree of `size` leaves has it, or nothing if that tree has none there.
    #[must_use]
    pub fn at(level: u8, index: u64, size: u64) -> Option<Self> {
        let width = width(level, index, size)?;
        Some(Self { level, index, width })
    }

    /// The tile in which a tree of `size` leaves keeps this node or what it is hashed from; nothing when the node is
    /// not complete in that tree.
    #[must_use]
    pub fn holding(node: NodeId, size: u64) -> Option<Self> {
        if !node.is_complete_in(size) {
            return None;
        }
        let (level, height) = (node.level / TILE_HEIGHT, node.level % TILE_HEIGHT);
        Self::at(level, node.index >> (TILE_HEIGHT - height), size)
    }

    /// Its level among the tiles: 0 holds leaf hashes.
    #[must_use]
    pub fn level(self) -> u8 {
        self.level
    }

    /// Its number within the level.
    #[must_use]
    pub fn index(self) -> u64 {
        self.index
    }

    /// Its number of hashes, 1 to [`FULL_WIDTH`].
    #[must_use]
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether more hashes will come.
    #[must_use]
    pub fn is_partial(self) -> bool {
        self.width < FULL_WIDTH
    }

    /// How wide the tile with this level and index is in a tree of `size` leaves; nothing if it has none there.
    #[must_use]
    pub fn width_at(self, size: u64) -> Option<u16> {
        width(self.level, self.index, size)
    }

    /// Whether a tree of `size` leaves, or an earlier state of it, has this tile in this width.
    #[must_use]
    pub fn exists_in(self, size: u64) -> bool {
        self.width_at(size).is_some_and(|width| width >= self.width)
    }

    /// The nodes whose hashes it consists of, in order. None when no tree of 64 bits has the tile.
    pub fn nodes(self) -> impl Iterator<Item = NodeId> {
        let first = self.index.checked_mul(FULL_WIDTH.into());
        let level = self.level.checked_mul(TILE_HEIGHT).filter(|level| *level < 64);
        let first = first.zip(level).into_iter();
        first.flat_map(move |(first, level)| {
            (0..u64::from(self.width)).map(move |offset| NodeId { level, index: first | offset })
        })
    }

    /// The tile's hashes, each read by its node.
    ///
    /// # Errors
    /// That of `read`.
    pub fn hashes<E>(self, read: impl FnMut(NodeId) -> Result<Hash, E>) -> Result<Vec<Hash>, E> {
        self.nodes().map(read).collect()
    }

    /// The hashes in a tile's bytes: those of this tile, or of the full one that later took its place.
    ///
    /// # Errors
    /// When the number of bytes is that of neither.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
        let (hashes, []) = bytes.as_chunks::<{ Hash::LEN }>() else {
            return Err(TileError::Bytes { expected: self.bytes(), found: bytes.len() });
        };
        let width = usize::from(self.width);
        if hashes.len() != width && hashes.len() != usize::from(FULL_WIDTH) {
            return Err(TileError::Bytes { expected: self.bytes(), found: bytes.len() });
        }
        Ok(hashes.iter().take(width).copied().map(Hash::new).collect())
    }

    fn bytes(self) -> usize {
        usize::from(self.width) * Hash::LEN
    }
}

/// A tile's bytes: its hashes one after the other.
#[must_use]
pub fn encode(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(Hash::as_bytes).copied().collect()
}

/// An entry bundle: the entries whose leaf hashes the tile of level 0 with the same index and width holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bundle {
    index: u64,
    width: u16,
}

impl Bundle {
    /// The bundle with this index and width; whether a tree has it, [`Self::exists_in`] says.
    ///
    /// # Errors
    /// When the width is not between 1 and [`FULL_WIDTH`].
    pub fn new(index: u64, width: u16) -> Result<Self, TileError> {
        Ok(Self { index, width: checked_width(width)? })
    }

    /// The bundle as a log of `size` entries has it, or nothing if it has none there.
    #[must_use]
    pub fn at(index: u64, size: u64) -> Option<Self> {
        let width = width(0, index, size)?;
        Some(Self { index, width })
    }

    /// Its number.
    #[must_use]
    pub fn index(self) -> u64 {
        self.index
    }

    /// Its number of entries, 1 to [`FULL_WIDTH`].
    #[must_use]
    pub fn width(self) -> u16 {
        self.width
    }

    /// Whether more entries will come.
    #[must_use]
    pub fn is_partial(self) -> bool {
        self.width < FULL_WIDTH
    }

    /// How many entries the bundle with this index has in a log of `size` entries; nothing if it has none there.
    #[must_use]
    pub fn width_at(self, size: u64) -> Option<u16> {
        width(0, self.index, size)
    }

    /// Whether a log of `size` entries, or an earlier state of it, has this bundle in this width.
    #[must_use]
    pub fn exists_in(self, size: u64) -> bool {
        self.width_at(size).is_some_and(|width| width >= self.width)
    }

    /// The indices of its entries in the log. Nothing when no log of 64 bits has the bundle.
    #[must_use]
    pub fn entries(self) -> Option<Range<u64>> {
        let first = self.index.checked_mul(FULL_WIDTH.into())?;
        Some(first..first.checked_add(self.width.into())?)
    }
}

/// The tiles that a tree of `size` leaves has: level by level, each from the left, the partial one last.
pub fn tiles(size: u64) -> impl Iterator<Item = Tile> {
    new_tiles(0, size)
}

/// The tiles that came or grew while a tree grew from `old` leaves to `new`, in the order of [`tiles`].
pub fn new_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    (0..TILE_HEIGHT).flat_map(move |level| {
        let nodes = |size: u64| size >> (level * TILE_HEIGHT);
        let (before, after) = (nodes(old), nodes(new));
        let grew = before < after;
        let first = before / u64::from(FULL_WIDTH);
        let end = if grew { after.div_ceil(FULL_WIDTH.into()) } else { first };
        (first..end).filter_map(move |index| Tile::at(level, index, new))
    })
}

/// The partial tiles of a tree of `size` leaves: at most one on each level, the lowest level first.
pub fn partial_tiles(size: u64) -> impl Iterator<Item = Tile> {
    (0..TILE_HEIGHT).filter_map(move |level| {
        let nodes = size >> (level * TILE_HEIGHT);
        Tile::at(level, nodes / u64::from(FULL_WIDTH), size)
    })
}

/// The bundles of a log of `size` entries, the partial one last.
pub fn bundles(size: u64) -> impl Iterator<Item = Bundle> {
    (0..size.div_ceil(FULL_WIDTH.into())).filter_map(move |index| Bundle::at(index, size))
}

/// The bundle of a log of `size` entries that is not full yet, if there is one.
#[must_use]
pub fn partial_bundle(size: u64) -> Option<Bundle> {
    Bundle::at(size / u64::from(FULL_WIDTH), size)
}

fn width(level: u8, index: u64, size: u64) -> Option<u16> {
    let nodes = size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0);
    let first = index.checked_mul(FULL_WIDTH.into())?;
    let width = nodes.checked_sub(first)?.min(FULL_WIDTH.into());
    u16::try_from(width).ok().filter(|width| *width > 0)
}

fn checked_width(width: u16) -> Result<u16, TileError> {
    if (1..=FULL_WIDTH).contains(&width) { Ok(width) } else { Err(TileError::Width(width)) }
}

/// Why there is no such tile or bundle, or why bytes are not its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// Above [`MAX_LEVEL`].
    #[error("the level of a tile is at most 63, not {0}")]
    Level(u8),
    /// Nothing in it, or more than fits.
    #[error("a tile or bundle holds 1 to 256 items, not {0}")]
    Width(u16),
    /// The server of the tile is at fault, or it was cut off on the way.
    #[error("the tile has {found} bytes instead of {expected}")]
    Bytes {
        /// 32 for each hash of the width.
        expected: usize,
        /// The number of bytes that came.
        found: usize,
    },
}

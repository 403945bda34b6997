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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tlog::tests::{Grown, number};

    #[test]
    fn a_tree_of_70_000_leaves_has_the_tiles_that_the_specification_counts() {
        let tiles: Vec<_> = tiles(70_000).collect();
        let full = |level| tiles.iter().filter(|tile| tile.level() == level && !tile.is_partial()).count();
        assert_eq!((full(0), full(1), full(2)), (273, 1, 0));
        let partial = |level, index, width| Tile { level, index, width };
        let expected = [partial(0, 273, 112), partial(1, 1, 17), partial(2, 0, 1)];
        assert_eq!(partial_tiles(70_000).collect::<Vec<_>>(), expected);
        assert_eq!(tiles.iter().copied().filter(|tile| tile.is_partial()).collect::<Vec<_>>(), expected);
        assert_eq!(tiles.len(), 273 + 1 + 1 + 1 + 1);
        assert_eq!(bundles(70_000).count(), 274);
        assert_eq!(partial_bundle(70_000), Some(Bundle { index: 273, width: 112 }));
        assert_eq!(partial_bundle(70_000).unwrap().entries(), Some(69_888..70_000));
    }

    #[test]
    fn a_tree_of_256_leaves_has_a_full_tile_and_one_hash_above() {
        let tile = |level, index, width| Tile { level, index, width };
        assert_eq!(tiles(256).collect::<Vec<_>>(), [tile(0, 0, 256), tile(1, 0, 1)]);
        assert_eq!(partial_tiles(256).collect::<Vec<_>>(), [tile(1, 0, 1)]);
        assert_eq!(partial_bundle(256), None);
        assert_eq!(tiles(0).count(), 0);
        assert_eq!(bundles(0).count(), 0);
        assert_eq!(tiles(255).collect::<Vec<_>>(), [tile(0, 0, 255)]);
        assert_eq!(tiles(257).collect::<Vec<_>>(), [tile(0, 0, 256), tile(0, 1, 1), tile(1, 0, 1)]);
    }

    #[test]
    fn a_tile_exists_from_the_size_that_fills_it() {
        let tile = Tile::new(1, 1, 17).unwrap();
        assert_eq!(tile.width_at(70_000), Some(17));
        assert_eq!(tile.width_at(65_536), None);
        assert_eq!(tile.width_at(65_536 + 256), Some(1));
        assert_eq!(tile.width_at(u64::MAX), Some(256));
        assert!(!tile.exists_in(69_887) && tile.exists_in(69_888) && tile.exists_in(u64::MAX));
        let bundle = Bundle::new(1, 3).unwrap();
        assert!(!bundle.exists_in(258) && bundle.exists_in(259));
        assert_eq!((bundle.width_at(256), bundle.width_at(300)), (None, Some(44)));
    }

    #[test]
    fn levels_and_widths_out_of_bounds_are_refused() {
        assert_eq!(Tile::new(64, 0, 1), Err(TileError::Level(64)));
        for width in [0, 257, u16::MAX] {
            assert_eq!(Tile::new(0, 0, width), Err(TileError::Width(width)));
            assert_eq!(Bundle::new(0, width), Err(TileError::Width(width)));
        }
    }

    #[test]
    fn a_tile_that_no_tree_can_have_has_no_nodes() {
        for (level, index) in [(8, 0), (63, 0), (63, u64::MAX), (0, u64::MAX), (0, 1 << 56)] {
            let tile = Tile::new(level, index, 256).unwrap();
            assert_eq!(tile.nodes().count(), 0);
            assert!(!tile.exists_in(u64::MAX));
        }
        let last = Tile::at(0, (1 << 56) - 1, u64::MAX).unwrap();
        assert_eq!((last.width(), last.nodes().last().unwrap().index), (255, u64::MAX - 1));
        assert_eq!(Bundle::new(u64::MAX, 1).unwrap().entries(), None);
        assert_eq!(Bundle::new((1 << 56) - 1, 256).unwrap().entries(), None);
        assert_eq!(Bundle::at((1 << 56) - 1, u64::MAX).unwrap().entries(), Some(u64::MAX - 255..u64::MAX));
    }

    #[test]
    fn a_tiles_hashes_are_those_of_its_nodes_and_survive_its_bytes() {
        let grown = Grown::to(700);
        for tile in tiles(700) {
            let hashes = tile.hashes(|node| grown.read(node)).unwrap();
            assert_eq!(hashes.len(), usize::from(tile.width()));
            let bytes = encode(&hashes);
            assert_eq!(tile.decode(&bytes), Ok(hashes));
        }
        // Each hash on level 1 is the root over the full tile below.
        let above = Tile::at(1, 0, 700).unwrap().hashes(|node| grown.read(node)).unwrap();
        assert_eq!(above[0], grown.root(256));
        assert_eq!(above.len(), 2);
    }

    #[test]
    fn bytes_of_another_length_are_no_tile_but_those_of_the_full_one_are() {
        let tile = Tile::new(0, 0, 3).unwrap();
        let full = vec![7; 8192];
        assert_eq!(tile.decode(&full), Ok(vec![Hash::new([7; 32]); 3]));
        for length in [0, 1, 32, 64, 95, 97, 128, 8191, 8193, 16_384] {
            let error = TileError::Bytes { expected: 96, found: length };
            assert_eq!(tile.decode(&vec![7; length]), Err(error));
        }
    }

    proptest! {
        #[test]
        fn new_tiles_are_those_that_another_size_did_not_have(old in 0..200_000u64, by in 0..70_000u64) {
            let new = old + by;
            let before: Vec<_> = tiles(old).collect();
            let expected: Vec<_> = tiles(new).filter(|tile| before.binary_search(tile).is_err()).collect();
            prop_assert_eq!(new_tiles(old, new).collect::<Vec<_>>(), expected);
            prop_assert_eq!(new_tiles(new, old).count(), 0);
        }

        #[test]
        fn any_numbers_are_answered_without_panic(
            level in 0..=63u8, index in number(), size in number(), width in 1..=256u16,
        ) {
            let tile = Tile::new(level, index, width).unwrap();
            prop_assert_eq!(tile.exists_in(size), Tile::at(level, index, size).is_some_and(|at| at.width() >= width));
            if tile.exists_in(size) {
                prop_assert!(tile.nodes().all(|node| node.is_complete_in(size)));
                prop_assert_eq!(tile.nodes().count(), usize::from(width));
            }
            for partial in partial_tiles(size) {
                prop_assert_eq!(partial.width_at(size), Some(partial.width()));
                prop_assert!(partial.is_partial());
            }
            let held = |node: NodeId| Tile::holding(node, size);
            prop_assert_eq!(held(NodeId { level, index }).is_some(), NodeId { level, index }.is_complete_in(size));
            prop_assert_eq!(held(NodeId { level: level | 64, index }), None);
            let _ = Bundle::new(index, width).map(|bundle| (bundle.entries(), bundle.exists_in(size)));
            let _ = tile.hashes(|node| Ok::<_, Infallible>(Hash::new([node.level; 32])));
            prop_assert!(tiles(size).take(3).chain(new_tiles(index, size).take(3)).all(|tile| tile.exists_in(size)));
        }
    }
}

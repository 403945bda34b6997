//! Nodes read from tiles, so that who has only a log's tiles can prove (C2SP tlog-tiles, "Merkle Tree").
//!
//! Nodes that a prover asks for flow in; tiles are fetched by a closure and kept; the nodes' hashes flow out.
//! Nothing is authenticated here: a proof made of wrong tiles does not verify.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::hash::{Hash, node_hash};
use super::range::NodeId;
use super::tile::{TILE_HEIGHT, Tile, TileError};

/// Reads the nodes of one tree from its tiles.
///
/// A client that cannot wait within the closure lets it fail with the missing tile, fetches that and proves again.
#[derive(Debug)]
pub struct TileReader<F> {
    size: u64,
    fetch: F,
    tiles: BTreeMap<Tile, Vec<Hash>>,
}

impl<F, B, E> TileReader<F>
where
    F: FnMut(Tile) -> Result<B, E>,
    B: AsRef<[u8]>,
{
    /// A reader for the tree of `size` leaves. `fetch` is asked for the bytes of each tile once, as wide as that tree
    /// has it, and may answer with the full tile.
    pub fn new(size: u64, fetch: F) -> Self {
        Self { size, fetch, tiles: BTreeMap::new() }
    }

    /// The hash of a complete subtree, as [`prove_inclusion`](super::proof::prove_inclusion) and
    /// [`prove_consistency`](super::proof::prove_consistency) ask for.
    ///
    /// # Errors
    /// When the tree does not have the subtree, or its tile cannot be had or has another length.
    pub fn read(&mut self, node: NodeId) -> Result<Hash, TileReadError<E>> {
        let tile = Tile::holding(node, self.size).ok_or(TileReadError::Incomplete { node, size: self.size })?;
        let hashes = match self.tiles.entry(tile) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let bytes = (self.fetch)(tile).map_err(TileReadError::Fetch)?;
                free.insert(tile.decode(bytes.as_ref()).map_err(TileReadError::Tile)?)
            }
        };
        node_in_tile(node, tile, hashes).ok_or(TileReadError::Incomplete { node, size: self.size })
    }
}

/// The hash of a node, computed from the hashes of its tile; nothing if they do not cover it.
#[must_use]
pub fn node_in_tile(node: NodeId, tile: Tile, hashes: &[Hash]) -> Option<Hash> {
    let height = node.level % TILE_HEIGHT;
    let first = node.index.checked_shl(height.into()).filter(|first| first >> height == node.index)?;
    if node.level / TILE_HEIGHT != tile.level() || first >> TILE_HEIGHT != tile.index() {
        return None;
    }
    // A tile has 2^8 hashes, so this is its offset in it.
    let offset = (first & 0xff) as usize;
    let mut row = hashes.get(offset..offset + (1 << height))?.to_vec();
    while let [_, _, ..] = row.as_slice() {
        row = row.as_chunks().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

/// Why a node cannot be read from tiles. `E` is the error of fetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileReadError<E> {
    /// The caller asked for a subtree that the tree does not have.
    #[error("a tree of {size} leaves has no complete subtree {} of level {}", node.index, node.level)]
    Incomplete {
        /// What was asked for.
        node: NodeId,
        /// The number of leaves.
        size: u64,
    },
    /// The tile could not be had.
    #[error("a tile could not be fetched: {0}")]
    Fetch(#[source] E),
    /// What came is not the tile.
    #[error(transparent)]
    Tile(TileError),
}

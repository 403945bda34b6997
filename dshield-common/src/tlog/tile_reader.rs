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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tlog::hash::leaf_hash;
    use crate::tlog::proof::{prove_consistency, prove_inclusion, verify_consistency, verify_inclusion};
    use crate::tlog::tests::{Grown, entry};
    use crate::tlog::tile;

    fn bytes_of(grown: &Grown, tile: Tile) -> Vec<u8> {
        tile::encode(&tile.hashes(|node| grown.read(node)).unwrap())
    }

    #[test]
    fn every_node_is_read_from_a_tile_of_its_tree() {
        let size = 1030;
        let grown = Grown::to(size);
        let mut fetched = Vec::new();
        let mut reader = TileReader::new(size, |tile| {
            assert_eq!(tile.width_at(size), Some(tile.width()));
            fetched.push(tile);
            Ok::<_, ()>(bytes_of(&grown, tile))
        });
        for (node, hash) in &grown.nodes {
            assert_eq!(reader.read(*node), Ok(*hash), "{node:?}");
        }
        // Each tile once.
        fetched.sort();
        assert_eq!(fetched, tile::tiles(size).collect::<Vec<_>>());
    }

    #[test]
    fn who_has_only_tiles_can_prove() {
        let size = 900;
        let grown = Grown::to(size);
        let mut reader = TileReader::new(size, |tile| Ok::<_, ()>(bytes_of(&grown, tile)));
        let root = grown.tree.root();
        for small in [1, 255, 256, 257, 511, 767, 768, 899] {
            let proof = prove_inclusion(small, size, |node| reader.read(node)).unwrap();
            assert_eq!(verify_inclusion(&leaf_hash(&entry(small)), small, size, &proof, &root), Ok(()));
            let proof = prove_consistency(small, size, |node| reader.read(node)).unwrap();
            assert_eq!(verify_consistency(small, &grown.root(small), size, &root, &proof), Ok(()));
        }
    }

    #[test]
    fn the_full_tile_serves_for_the_partial_one() {
        let grown = Grown::to(600);
        // The log has grown since: its partial tiles of size 300 are gone.
        let mut reader = TileReader::new(300, |tile| {
            Ok::<_, ()>(bytes_of(&grown, Tile::at(tile.level(), tile.index(), 512).unwrap()))
        });
        let proof = prove_inclusion(299, 300, |node| match reader.read(node) {
            // On level 1 there is no full tile yet.
            Err(TileReadError::Tile(TileError::Bytes { expected: 32, found: 64 })) => Ok(grown.nodes[&node]),
            other => other,
        });
        let proof = proof.unwrap();
        assert_eq!(verify_inclusion(&leaf_hash(&entry(299)), 299, 300, &proof, &grown.root(300)), Ok(()));
    }

    #[test]
    fn a_client_that_cannot_wait_learns_which_tile_is_missing() {
        let grown = Grown::to(600);
        let mut have: BTreeMap<Tile, Vec<u8>> = BTreeMap::new();
        let proof = loop {
            let mut reader = TileReader::new(600, |tile| have.get(&tile).ok_or(tile));
            match prove_inclusion(5, 600, |node| reader.read(node)) {
                Ok(proof) => break proof,
                Err(error) => {
                    let crate::tlog::proof::ProveError::Read(TileReadError::Fetch(tile)) = error else {
                        panic!("{error}");
                    };
                    assert_eq!(have.insert(tile, bytes_of(&grown, tile)), None);
                }
            }
        };
        assert_eq!(verify_inclusion(&leaf_hash(&entry(5)), 5, 600, &proof, &grown.tree.root()), Ok(()));
        // The leaf's tile, the partial one on the right, and the one above.
        assert_eq!(have.len(), 3);
    }

    #[test]
    fn what_is_no_tile_or_no_node_is_an_error() {
        let incomplete = |level, index| {
            let node = NodeId { level, index };
            assert_eq!(
                TileReader::new(300, |_| Ok::<_, ()>([])).read(node),
                Err(TileReadError::Incomplete { node, size: 300 })
            );
        };
        for (level, index) in [(0, 300), (1, 150), (8, 1), (9, 0), (63, 0), (64, 0), (255, 0), (0, u64::MAX)] {
            incomplete(level, index);
        }
        let node = NodeId { level: 8, index: 0 };
        let short = TileError::Bytes { expected: 32, found: 31 };
        assert_eq!(TileReader::new(300, |_| Ok::<_, ()>([0; 31])).read(node), Err(TileReadError::Tile(short)));
        assert_eq!(TileReader::new(300, |_| Err::<[u8; 0], _>("gone")).read(node), Err(TileReadError::Fetch("gone")));
        let tile = Tile::new(0, 0, 4).unwrap();
        let hashes = [Hash::new([0; 32]); 4];
        assert!(node_in_tile(NodeId { level: 2, index: 0 }, tile, &hashes).is_some());
        for (level, index) in [(3, 0), (2, 1), (0, 4), (8, 0), (2, u64::MAX), (2, 1 << 62), (255, 0)] {
            assert_eq!(node_in_tile(NodeId { level, index }, tile, &hashes), None);
        }
    }
}

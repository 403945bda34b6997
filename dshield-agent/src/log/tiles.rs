//! The Merkle tree over the log: what of it is kept, and how the rest is computed.
//!
//! Leaf hashes flow in, in the log's order; the tree's root, full tiles for the database and any hash inside the tree
//! flow out. Kept are the hashes on tile borders (C2SP tlog-tiles): level 0 has the leaf hashes, level n the roots of
//! the full tiles of level n−1, 256 to a tile. Tiles that are full never change and go to the database; the one at the
//! right edge of each level is here.
use std::collections::BTreeMap;
use std::sync::Arc;

use dshield_common::tlog::{Hash, NodeId, Tree, empty_root, node_hash};

/// Hashes in a full tile, and how many levels of the tree that is.
pub(super) const WIDTH: u64 = 256;
const HEIGHT: u8 = 8;

/// Names a tile: its level and its index on that level.
pub(super) type TileId = (u8, u64);

/// The hashes of a full tile.
pub(super) type Tile = Arc<[Hash]>;

/// How many leaves a tree has that fill the tile, as soon as it has them; none beyond 2⁶⁴.
pub(super) fn end((level, index): TileId) -> Option<u64> {
    let leaves = WIDTH.checked_pow(u32::from(level) + 1)?;
    index.checked_add(1)?.checked_mul(leaves)
}

/// The right edge of the tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Edge {
    tree: Tree,
    /// By level, the tile that is not full: fewer than 256 hashes.
    partial: Vec<Vec<Hash>>,
    /// Full tiles that the database does not have.
    full: BTreeMap<TileId, Tile>,
}

impl Edge {
    /// The edge of a tree of `size` leaves, from the `leaves` in its last tile and the full tiles, which `tile` reads.
    pub(super) fn load<E>(
        size: u64,
        leaves: Vec<Hash>,
        mut tile: impl FnMut(TileId) -> Result<Tile, E>,
    ) -> Result<Self, E> {
        let mut partial = vec![leaves];
        let mut count = size / WIDTH;
        for level in 0.. {
            if count == 0 {
                break;
            }
            let first = count - count % WIDTH;
            partial.push(
                (first..count).map(|index| tile((level, index)).map(|tile| root(&tile))).collect::<Result<_, _>>()?,
            );
            count /= WIDTH;
        }
        let peaks: Vec<Hash> = partial.iter().rev().flat_map(|hashes| peaks(hashes)).collect();
        // As many as the size has bits set, by construction.
        let tree = Tree::from_parts(size, peaks).unwrap_or_default();
        Ok(Self { tree, partial, full: BTreeMap::new() })
    }

    /// Takes up the next leaf.
    pub(super) fn push(&mut self, leaf: Hash) {
        self.tree.append(leaf);
        let mut hash = leaf;
        for level in 0.. {
            if self.partial.len() == level {
                self.partial.push(Vec::new());
            }
            let hashes = &mut self.partial[level];
            hashes.push(hash);
            if (hashes.len() as u64) < WIDTH {
                return;
            }
            let tile: Tile = std::mem::take(hashes).into();
            hash = root(&tile);
            // 8 levels of tiles hold 2⁶⁴ leaves.
            let id = (level as u8, (self.tree.size() >> (u32::from(HEIGHT) * (level as u32 + 1))) - 1);
            self.full.insert(id, tile);
        }
    }

    /// How many leaves there are.
    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The root over all of them.
    pub(super) fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Full tiles that the database does not have.
    pub(super) fn full(&self) -> &BTreeMap<TileId, Tile> {
        &self.full
    }

    /// Forgets full tiles that the database has now.
    pub(super) fn taken<'a>(&mut self, tiles: impl IntoIterator<Item = &'a TileId>) {
        for id in tiles {
            self.full.remove(id);
        }
    }

    /// The first `width` hashes of a tile, where they are here: whole, or as far as the tree goes.
    pub(super) fn tile(&self, (level, index): TileId) -> Option<&[Hash]> {
        if let Some(tile) = self.full.get(&(level, index)) {
            return Some(tile);
        }
        let full = self.size().checked_shr(u32::from(HEIGHT) * (u32::from(level) + 1)).unwrap_or_default();
        if index == full { self.partial.get(usize::from(level)).map(Vec::as_slice) } else { None }
    }
}

/// The hash of a node that has all of its leaves, from the tile that holds the hashes below it.
pub(super) fn node<E>(id: NodeId, tile: impl FnOnce(TileId) -> Result<Tile, E>) -> Result<Option<Hash>, E> {
    let (level, height) = (id.level / HEIGHT, u32::from(id.level % HEIGHT));
    let Some(start) = id.index.checked_shl(height).filter(|start| start >> height == id.index) else { return Ok(None) };
    let hashes = tile((level, start / WIDTH))?;
    let offset = (start % WIDTH) as usize;
    Ok(hashes.get(offset..offset + (1 << height)).map(root))
}

/// The root of a full subtree: of 1, 2, 4, … or 256 hashes.
fn root(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    level.first().copied().unwrap_or_else(empty_root)
}

/// The largest full subtrees of a partial tile, from left to right.
fn peaks(hashes: &[Hash]) -> Vec<Hash> {
    let mut rest = hashes;
    let mut peaks = Vec::new();
    while !rest.is_empty() {
        let (peak, behind) = rest.split_at(1 << rest.len().ilog2());
        peaks.push(root(peak));
        rest = behind;
    }
    peaks
}

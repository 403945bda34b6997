//! A growing tree, of which only the frontier is kept (the compact range from leaf 0; RFC 6962, section 2.1).
//!
//! Leaf hashes flow in one after the other; the root flows out, and every node on its way, once it is complete.
//! The frontier is at most 64 hashes, so that a tree of any size is stored, loaded and hashed on in no time.
use super::hash::{Hash, empty_root, node_hash};

/// The largest size that [`Tree::from_parts`] takes: 2⁶³ − 1, as in the other implementations of these formats.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// A complete subtree: the one over the leaves from `index · 2^level` up to and without `(index + 1) · 2^level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// The height above the leaves: those are level 0.
    pub level: u8,
    /// The number within the level, from the left.
    pub index: u64,
}

impl NodeId {
    /// Whether a tree of `size` leaves has all the leaves of this subtree.
    #[must_use]
    pub fn is_complete_in(self, size: u64) -> bool {
        // The number of complete nodes on the level; a tree of 2^64 leaves cannot be counted.
        self.index < size.checked_shr(self.level.into()).unwrap_or(0)
    }
}

/// A tree's size and frontier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// One for each one bit of `size`, the largest subtree first.
    frontier: Vec<Hash>,
}

impl Tree {
    /// The tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree that was taken apart by [`Self::parts`].
    ///
    /// # Errors
    /// When the number of hashes is not that of the one bits of `size`, or `size` exceeds [`MAX_SIZE`]: what was
    /// stored is damaged. Whether they are the right hashes only a checkpoint's root can tell.
    pub fn from_parts(size: u64, hashes: impl Into<Vec<Hash>>) -> Result<Self, PartsError> {
        let frontier = hashes.into();
        let expected = size.count_ones();
        if size > MAX_SIZE {
            return Err(PartsError::Size(size));
        }
        if frontier.len() as u64 != u64::from(expected) {
            return Err(PartsError::Hashes { size, expected, found: frontier.len() });
        }
        Ok(Self { size, frontier })
    }

    /// The size, and the hashes of the complete subtrees it is made of, the largest first; [`frontier`] names them.
    #[must_use]
    pub fn parts(&self) -> (u64, &[Hash]) {
        (self.size, &self.frontier)
    }

    /// The number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The Merkle tree hash over all leaves.
    #[must_use]
    pub fn root(&self) -> Hash {
        let smallest_first = self.frontier.iter().rev().copied();
        smallest_first.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }

    /// Adds a leaf by its [`leaf_hash`](super::hash::leaf_hash) and returns its index.
    pub fn append(&mut self, leaf: Hash) -> u64 {
        self.append_with(leaf, |_, _| ())
    }

    /// [`Self::append`], telling `completed` of every subtree that the leaf completes: first of the leaf itself
    /// (level 0), then of each interior node above it whose last leaf it is. Over the life of a tree each complete
    /// subtree is told once, so that a store that keeps them can answer every question of
    /// [`prove_inclusion`](super::proof::prove_inclusion).
    pub fn append_with(&mut self, leaf: Hash, mut completed: impl FnMut(NodeId, &Hash)) -> u64 {
        let index = self.size;
        let mut hash = leaf;
        let mut node = NodeId { level: 0, index };
        completed(node, &hash);
        while node.index & 1 == 1 {
            let left = self.frontier.pop().expect("the frontier has a hash for each one bit of the size");
            hash = node_hash(&left, &hash);
            node = NodeId { level: node.level + 1, index: node.index >> 1 };
            completed(node, &hash);
        }
        self.frontier.push(hash);
        // Cannot overflow: `from_parts` takes at most MAX_SIZE, and nobody lives to append 2^63 more.
        self.size += 1;
        index
    }
}

/// The complete subtrees that a tree of `size` leaves is made of, the largest first: those whose hashes
/// [`Tree::parts`] gives.
pub fn frontier(size: u64) -> impl Iterator<Item = NodeId> {
    (0..64u8).rev().filter(move |level| size >> level & 1 == 1).map(move |level| {
        // The leaves to the left of the subtree are those of the higher bits, so the index is even.
        NodeId { level, index: (size >> level) - 1 }
    })
}

/// Why stored parts are not a tree. The fault is that of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// Larger than any log.
    #[error("a tree of {0} leaves is larger than 2^63 - 1; the stored size is damaged")]
    Size(u64),
    /// Too few hashes, or too many.
    #[error("a tree of {size} leaves has {expected} hashes in its frontier, not {found}; the stored tree is damaged")]
    Hashes {
        /// The size that was given.
        size: u64,
        /// Its number of one bits.
        expected: u32,
        /// The number of hashes that were given.
        found: usize,
    },
}

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::tlog::hash::leaf_hash;
    use crate::tlog::tests::{Grown, Uniform, number};

    /// The leaves of the certificate-transparency test vectors.
    const REFERENCE: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    #[test]
    fn the_reference_leaves_have_the_reference_roots() {
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::new();
        assert_eq!(tree.root(), empty_root());
        for (leaf, root) in REFERENCE.iter().zip(roots) {
            tree.append(leaf_hash(leaf));
            assert_eq!(format!("{:?}", tree.root()), root);
        }
        assert_eq!(tree.root().to_string(), "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=");
    }

    /// RFC 6962, section 2.1, word for word.
    fn merkle_tree_hash(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                let (left, right) = leaves.split_at(split);
                node_hash(&merkle_tree_hash(left), &merkle_tree_hash(right))
            }
        }
    }

    #[test]
    fn every_root_and_node_is_that_of_the_recursive_definition() {
        let grown = Grown::to(130);
        let leaves: Vec<_> = (0..130).map(|index| grown.read(NodeId { level: 0, index }).unwrap()).collect();
        for (size, root) in grown.roots.iter().enumerate() {
            assert_eq!(*root, merkle_tree_hash(&leaves[..size]), "{size}");
        }
        for (node, hash) in &grown.nodes {
            let start = usize::try_from(node.index << node.level).unwrap();
            assert_eq!(*hash, merkle_tree_hash(&leaves[start..start + (1 << node.level)]), "{node:?}");
        }
    }

    #[test]
    fn every_complete_node_is_told_once() {
        for size in [0, 1, 2, 3, 7, 8, 9, 64, 100] {
            let grown = Grown::to(size);
            let complete = (0..8).flat_map(|level| (0..=size).map(move |index| NodeId { level, index }));
            let complete: Vec<_> = complete.filter(|node| node.is_complete_in(size)).collect();
            // `Grown` fails on one that is told twice.
            assert!(grown.nodes.keys().all(|node| complete.contains(node)), "{size}");
            assert_eq!(grown.nodes.len(), complete.len(), "{size}");
            assert_eq!(complete.len() as u64, (2 * size) - u64::from(size.count_ones()));
        }
    }

    #[test]
    fn a_tree_that_was_stored_grows_on_alike() {
        let mut kept = Tree::new();
        for index in 0..200u64 {
            let (size, hashes) = kept.parts();
            let mut loaded = Tree::from_parts(size, hashes).unwrap();
            assert_eq!(loaded, kept);
            kept.append(leaf_hash(&index.to_be_bytes()));
            loaded.append(leaf_hash(&index.to_be_bytes()));
            assert_eq!((loaded.root(), loaded.size()), (kept.root(), index + 1));
        }
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let hash = empty_root();
        for (size, found) in [(0, 1), (1, 0), (1, 2), (2, 2), (3, 1), (255, 7), (255, 9), (MAX_SIZE, 62)] {
            let expected = size.count_ones();
            let error = PartsError::Hashes { size, expected, found };
            assert_eq!(Tree::from_parts(size, vec![hash; found]), Err(error));
        }
        assert_eq!(Tree::from_parts(MAX_SIZE + 1, [hash]), Err(PartsError::Size(MAX_SIZE + 1)));
        assert_eq!(Tree::from_parts(u64::MAX, [hash; 64]), Err(PartsError::Size(u64::MAX)));
        let mut largest = Tree::from_parts(MAX_SIZE, [hash; 63]).unwrap();
        assert_eq!(largest.append(hash), MAX_SIZE);
        assert_eq!(largest.append(hash), MAX_SIZE + 1);
    }

    proptest! {
        #[test]
        fn the_frontier_names_the_parts(size in number()) {
            let mut end = 0;
            for node in frontier(size) {
                prop_assert!(node.is_complete_in(size));
                prop_assert_eq!(node.index << node.level, end);
                end += 1 << node.level;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(frontier(size).count(), size.count_ones() as usize);
        }

        #[test]
        fn a_tree_of_any_size_is_loaded_and_grows(size in number()) {
            prop_assume!(size < MAX_SIZE);
            let uniform = Uniform::new();
            let hashes: Vec<_> = frontier(size).map(|node| uniform.read(node).unwrap()).collect();
            let mut tree = Tree::from_parts(size, hashes).unwrap();
            prop_assert_eq!(tree.root(), uniform.root(size));
            tree.append_with(uniform.leaf(), |node, hash| assert_eq!(Ok(*hash), uniform.read(node)));
            prop_assert_eq!(tree.root(), uniform.root(size + 1));
        }
    }

    #[test]
    fn no_node_is_complete_in_a_tree_that_cannot_be() {
        for level in 64..=u8::MAX {
            assert!(!NodeId { level, index: 0 }.is_complete_in(u64::MAX));
        }
        assert!(NodeId { level: 63, index: 0 }.is_complete_in(u64::MAX));
        assert!(!NodeId { level: 63, index: 1 }.is_complete_in(u64::MAX));
        assert!(!NodeId { level: 0, index: u64::MAX }.is_complete_in(u64::MAX));
    }
}

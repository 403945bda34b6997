//! Inclusion and consistency proofs (RFC 6962, sections 2.1.1 and 2.1.2; verification as in RFC 9162, 2.1.3 and 2.1.4).
//!
//! To prove: sizes and a reader of complete subtrees flow in, the proof's hashes flow out. To verify: sizes, roots
//! and a proof that anybody may have written flow in; a yes or the reason for the no flows out. All numbers of 64 bits
//! are answered, none overflows.
use super::hash::{Hash, empty_root, node_hash};
use super::range::NodeId;

/// Proves that leaf `index` is in the tree of `size` leaves: the hashes beside the way from the leaf to the root, the
/// leaf's sibling first. At most 64.
///
/// `read` is asked for at most 128 subtrees, all of them complete in that tree.
///
/// # Errors
/// When the tree has no such leaf, or `read` fails.
pub fn prove_inclusion<E>(
    index: u64,
    size: u64,
    mut read: impl FnMut(NodeId) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProveError<E>> {
    if index >= size {
        return Err(ProveError::IndexOutsideTree { index, size });
    }
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(subtree(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(subtree(start, middle, &mut read)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proves that the tree of `old` leaves is the beginning of the tree of `new` leaves. The proof is empty when `old`
/// is 0 or equals `new`; it has at most 65 hashes, and 64 up to a `new` of 2^63.
///
/// `read` is asked for at most 128 subtrees, all of them complete in the new tree.
///
/// # Errors
/// When `old` is larger than `new`, or `read` fails.
pub fn prove_consistency<E>(
    old: u64,
    new: u64,
    mut read: impl FnMut(NodeId) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProveError<E>> {
    if old > new {
        return Err(ProveError::Shrunk { old, new });
    }
    let mut proof = Vec::new();
    if old == 0 {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(subtree(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(subtree(start, middle, &mut read)?);
            start = middle;
        }
    }
    // From leaf 0 on, the subtree is the old tree itself, whose root the verifier has.
    if start > 0 {
        proof.push(subtree(start, end, &mut read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the leaf with this hash is leaf `index` of the tree with `size` leaves and this root.
///
/// # Errors
/// When it is not, or the proof does not show it: whoever made the proof or the root is at fault.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), InclusionError> {
    if index >= size {
        return Err(InclusionError::IndexOutsideTree { index, size });
    }
    let (inner, border) = steps(index, size);
    let expected = inner + border;
    if proof.len() as u64 != u64::from(expected) {
        return Err(InclusionError::ProofLength { expected, found: proof.len() });
    }
    let (inner, border) = proof.split_at(inner as usize);
    if climb_border(climb_inner(*leaf, index, inner), border) == *root { Ok(()) } else { Err(InclusionError::Root) }
}

/// Checks that the tree with `new_size` leaves and `new_root` begins with the one of `old_size` and `old_root`.
///
/// Every tree begins with the empty one: with an `old_size` of 0 nothing is learnt about `new_root`, only that
/// `old_root` is the root of the empty tree.
///
/// # Errors
/// When it does not, or the proof does not show it: whoever made the proof or one of the roots is at fault.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ConsistencyError> {
    if old_size > new_size {
        return Err(ConsistencyError::Shrunk { old: old_size, new: new_size });
    }
    let length = |expected: u32| {
        let right = proof.len() as u64 == u64::from(expected);
        right.then_some(()).ok_or(ConsistencyError::ProofLength { expected, found: proof.len() })
    };
    if old_size == 0 || old_size == new_size {
        length(0)?;
        if old_size == 0 && *old_root != empty_root() {
            return Err(ConsistencyError::OldRoot);
        }
        let same = old_size != new_size || old_root == new_root;
        return same.then_some(()).ok_or(ConsistencyError::NewRoot);
    }
    // The proof climbs from the last complete subtree of the old tree, the one that `old_size` ends with. It is not
    // in the proof when it is the whole old tree.
    let level = old_size.trailing_zeros();
    let (inner, border) = steps(old_size - 1, new_size);
    // No underflow: the last leaf of that subtree has only ones below `level`, so the ways part above it.
    let inner = inner - level;
    let is_whole = old_size.is_power_of_two();
    length(u32::from(!is_whole) + inner + border)?;
    let (seed, rest) = match proof.split_first() {
        Some((first, rest)) if !is_whole => (*first, rest),
        _ => (*old_root, proof),
    };
    let (inner, border) = rest.split_at(inner as usize);
    let index = (old_size - 1) >> level;
    if climb_border(climb_inner_left(seed, index, inner), border) != *old_root {
        return Err(ConsistencyError::OldRoot);
    }
    if climb_border(climb_inner(seed, index, inner), border) != *new_root {
        return Err(ConsistencyError::NewRoot);
    }
    Ok(())
}

/// The largest power of two below `leaves`, which is at least 2: where RFC 6962 splits a tree.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// The hash over the leaves from `start` up to and without `end`. `start` is a multiple of a power of two that is at
/// least `end - start`, as for every part that [`split`] leaves.
fn subtree<E>(start: u64, end: u64, read: &mut impl FnMut(NodeId) -> Result<Hash, E>) -> Result<Hash, ProveError<E>> {
    let leaves = end - start;
    let mut end = end;
    let mut hash: Option<Hash> = None;
    for level in (0..64u8).filter(|level| leaves >> level & 1 == 1) {
        let node = NodeId { level, index: (end >> level) - 1 };
        end -= 1 << level;
        let left = read(node).map_err(ProveError::Read)?;
        hash = Some(hash.map_or(left, |right| node_hash(&left, &right)));
    }
    Ok(hash.unwrap_or_else(empty_root))
}

/// How many hashes are beside the way from leaf `index` to the root: below the node where this way meets that of the
/// last leaf, and above it, where only left siblings remain.
fn steps(index: u64, size: u64) -> (u32, u32) {
    let inner = u64::BITS - (index ^ (size - 1)).leading_zeros();
    let border = index.checked_shr(inner).unwrap_or(0).count_ones();
    (inner, border)
}

fn climb_inner(from: Hash, index: u64, proof: &[Hash]) -> Hash {
    proof.iter().enumerate().fold(from, |hash, (level, sibling)| match index >> level & 1 {
        0 => node_hash(&hash, sibling),
        _ => node_hash(sibling, &hash),
    })
}

/// [`climb_inner`] in the tree that ends with `index`, which has no siblings on the right.
fn climb_inner_left(from: Hash, index: u64, proof: &[Hash]) -> Hash {
    let left = proof.iter().enumerate().filter(|(level, _)| index >> level & 1 == 1);
    left.fold(from, |hash, (_, sibling)| node_hash(sibling, &hash))
}

fn climb_border(from: Hash, proof: &[Hash]) -> Hash {
    proof.iter().fold(from, |hash, sibling| node_hash(sibling, &hash))
}

/// Why there is no proof. `E` is the reader's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError<E> {
    /// The caller asked for a leaf that the tree does not have; ask for a smaller index or a later tree.
    #[error("the tree has {size} leaves, so none with index {index}")]
    IndexOutsideTree {
        /// The leaf that was asked for.
        index: u64,
        /// The number of leaves.
        size: u64,
    },
    /// The caller gave the sizes in the wrong order.
    #[error("the old tree has {old} leaves, more than the {new} of the new one")]
    Shrunk {
        /// The size of the old tree.
        old: u64,
        /// The size of the new tree.
        new: u64,
    },
    /// A subtree could not be read.
    #[error("a hash of the tree could not be read: {0}")]
    Read(#[source] E),
}

/// Why an inclusion proof does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InclusionError {
    /// The tree has no such leaf.
    #[error("the tree has {size} leaves, so none with index {index}")]
    IndexOutsideTree {
        /// The leaf that is said to be included.
        index: u64,
        /// The number of leaves.
        size: u64,
    },
    /// Too few hashes, or too many.
    #[error("the inclusion proof has {found} hashes instead of {expected}")]
    ProofLength {
        /// The only number of hashes that fits the index and the size.
        expected: u32,
        /// The number of hashes in the proof.
        found: usize,
    },
    /// The hashes lead to another root: another leaf, index, size, proof or tree.
    #[error("the inclusion proof does not lead from this leaf to this root")]
    Root,
}

/// Why a consistency proof does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsistencyError {
    /// The log lost entries, or the two are in the wrong order.
    #[error("the old tree has {old} leaves, more than the {new} of the new one")]
    Shrunk {
        /// The size of the old tree.
        old: u64,
        /// The size of the new tree.
        new: u64,
    },
    /// Too few hashes, or too many.
    #[error("the consistency proof has {found} hashes instead of {expected}")]
    ProofLength {
        /// The only number of hashes that fits the two sizes.
        expected: u32,
        /// The number of hashes in the proof.
        found: usize,
    },
    /// The hashes do not lead to the old root.
    #[error("the consistency proof does not lead to the old root")]
    OldRoot,
    /// The hashes lead to the old root, yet not to the new one.
    #[error("the consistency proof does not lead to the new root")]
    NewRoot,
}

#[cfg(test)]
mod tests;

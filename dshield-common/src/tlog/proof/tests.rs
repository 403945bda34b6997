#![allow(clippy::unwrap_used)]
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::tlog::hash::leaf_hash;
use crate::tlog::tests::{Grown, Uniform, any_hash, entry, number};

#[test]
fn every_leaf_of_every_tree_is_proved() {
    let grown = Grown::to(48);
    for size in 1..=48 {
        for index in 0..size {
            let read = |node: NodeId| {
                assert!(node.is_complete_in(size), "{node:?} was asked for in a tree of {size}");
                grown.read(node)
            };
            let proof = prove_inclusion(index, size, read).unwrap();
            let leaf = leaf_hash(&entry(index));
            assert_eq!(verify_inclusion(&leaf, index, size, &proof, &grown.root(size)), Ok(()), "{index} in {size}");
        }
    }
}

#[test]
fn every_tree_is_proved_to_begin_with_every_smaller_one() {
    let grown = Grown::to(48);
    for new in 0..=48 {
        for old in 0..=new {
            let read = |node: NodeId| {
                assert!(node.is_complete_in(new), "{node:?} was asked for in a tree of {new}");
                grown.read(node)
            };
            let proof = prove_consistency(old, new, read).unwrap();
            let (old_root, new_root) = (grown.root(old), grown.root(new));
            assert_eq!(verify_consistency(old, &old_root, new, &new_root, &proof), Ok(()), "{old} in {new}");
            assert_eq!(proof.is_empty(), old == 0 || old == new);
        }
    }
}

/// RFC 6962, section 2.1.3, has these examples of a tree with 7 leaves.
#[test]
fn the_examples_of_rfc_6962_are_proved_by_the_nodes_it_names() {
    let grown = Grown::to(7);
    let node = |level, index| grown.read(NodeId { level, index }).unwrap();
    let inclusion = |index| prove_inclusion(index, 7, |node| grown.read(node)).unwrap();
    // The right half of the tree: leaves 4 to 6.
    let l = node_hash(&node(1, 2), &node(0, 6));
    assert_eq!(inclusion(0), [node(0, 1), node(1, 1), l]);
    assert_eq!(inclusion(3), [node(0, 2), node(1, 0), l]);
    assert_eq!(inclusion(4), [node(0, 5), node(0, 6), node(2, 0)]);
    assert_eq!(inclusion(6), [node(1, 2), node(2, 0)]);
    let consistency = |old| prove_consistency(old, 7, |node| grown.read(node)).unwrap();
    assert_eq!(consistency(3), [node(0, 2), node(0, 3), node(1, 0), l]);
    assert_eq!(consistency(4), [l]);
    assert_eq!(consistency(6), [node(1, 2), node(0, 6), node(2, 0)]);
}

#[test]
fn what_is_not_in_the_tree_is_not_proved() {
    let read = |node| Err::<Hash, NodeId>(node);
    let outside = |index, size| Err(ProveError::IndexOutsideTree { index, size });
    assert_eq!(prove_inclusion(0, 0, read), outside(0, 0));
    assert_eq!(prove_inclusion(7, 7, read), outside(7, 7));
    assert_eq!(prove_inclusion(u64::MAX, u64::MAX, read), outside(u64::MAX, u64::MAX));
    assert_eq!(prove_consistency(8, 7, read), Err(ProveError::Shrunk { old: 8, new: 7 }));
    // The last leaf has no sibling below the node over all the others.
    assert_eq!(prove_inclusion(2, 3, read), Err(ProveError::Read(NodeId { level: 1, index: 0 })));
    assert_eq!(prove_inclusion(0, 1, read), Ok(vec![]));
    assert_eq!(prove_consistency(0, 7, read), Ok(vec![]));
    assert_eq!(prove_consistency(7, 7, read), Ok(vec![]));
}

#[test]
fn a_proof_for_another_index_size_leaf_or_root_does_not_verify() {
    let grown = Grown::to(40);
    for (index, size) in [(0, 1), (0, 2), (5, 8), (6, 7), (17, 33), (32, 33), (39, 40)] {
        let leaf = leaf_hash(&entry(index));
        let root = grown.root(size);
        let proof = prove_inclusion(index, size, |node| grown.read(node)).unwrap();
        let verify = |leaf: &Hash, index, size, root: &Hash| verify_inclusion(leaf, index, size, &proof, root);
        assert_eq!(verify(&leaf, index, size, &root), Ok(()));
        for other in (0..40).filter(|other| *other != index) {
            assert!(verify(&leaf, other, size, &root).is_err(), "{other} instead of {index} in {size}");
            assert_eq!(verify(&leaf_hash(&entry(other)), index, size, &root), Err(InclusionError::Root));
        }
        // Of another size the proof may have the right form, but then the root is that of another tree.
        for other in (0..=40).filter(|other| *other != size) {
            assert!(verify(&leaf, index, other, &grown.root(other)).is_err(), "size {other} instead of {size}");
        }
        assert_eq!(verify(&leaf, index, size, &empty_root()), Err(InclusionError::Root));
        assert_eq!(verify(&leaf, size, size, &root), Err(InclusionError::IndexOutsideTree { index: size, size }));
    }
}

/// Families of damage, as of the certificate-transparency test vectors.
fn damaged(proof: &[Hash], garbage: Hash) -> Vec<Vec<Hash>> {
    let mut all = vec![[proof, &[garbage]].concat(), [&[garbage], proof].concat(), [proof, proof].concat()];
    for at in 0..proof.len() {
        let edit = |change: &dyn Fn(&mut Vec<Hash>)| {
            let mut proof = proof.to_vec();
            change(&mut proof);
            proof
        };
        all.push(edit(&|proof| {
            proof.remove(at);
        }));
        all.push(edit(&|proof| proof.insert(at, garbage)));
        all.push(edit(&|proof| proof.insert(at, proof[at])));
        all.push(edit(&|proof| proof[at] = empty_root()));
        all.push(edit(&|proof| {
            let mut bytes = *proof[at].as_bytes();
            bytes[at % 32] ^= 1 << (at % 8);
            proof[at] = Hash::new(bytes);
        }));
        all.push(edit(&|proof| proof.rotate_left(at)));
        all.push(edit(&|proof| proof.swap(at, 0)));
        all.push(proof[..at].to_vec());
        all.push(proof[at + 1..].to_vec());
    }
    // Rotating and swapping by nothing leaves the proof alone, and so does doubling an empty one.
    all.retain(|damaged| damaged != proof);
    all
}

#[test]
fn a_damaged_inclusion_proof_does_not_verify() {
    let grown = Grown::to(33);
    for (index, size) in [(0, 1), (0, 2), (3, 7), (6, 7), (17, 33), (32, 33), (31, 32)] {
        let leaf = leaf_hash(&entry(index));
        let root = grown.root(size);
        let proof = prove_inclusion(index, size, |node| grown.read(node)).unwrap();
        for damaged in damaged(&proof, root) {
            let why = verify_inclusion(&leaf, index, size, &damaged, &root).unwrap_err();
            let is_longer_or_shorter = damaged.len() != proof.len();
            assert_eq!(matches!(why, InclusionError::ProofLength { .. }), is_longer_or_shorter, "{index} in {size}");
        }
    }
}

#[test]
fn a_damaged_consistency_proof_does_not_verify() {
    let grown = Grown::to(33);
    for (old, new) in [(0, 5), (1, 2), (3, 7), (4, 7), (6, 7), (7, 7), (17, 33), (31, 32), (32, 33), (21, 30)] {
        let (old_root, new_root) = (grown.root(old), grown.root(new));
        let proof = prove_consistency(old, new, |node| grown.read(node)).unwrap();
        for damaged in damaged(&proof, new_root) {
            let why = verify_consistency(old, &old_root, new, &new_root, &damaged).unwrap_err();
            let is_longer_or_shorter = damaged.len() != proof.len();
            assert_eq!(matches!(why, ConsistencyError::ProofLength { .. }), is_longer_or_shorter, "{old} in {new}");
        }
        let other = leaf_hash(b"another root");
        let verify = |old_root: &Hash, new_root: &Hash| verify_consistency(old, old_root, new, new_root, &proof);
        if old > 0 {
            assert!(verify(&old_root, &other).is_err(), "{old} in {new}");
        }
        assert!(verify(&other, &new_root).is_err(), "{old} in {new}");
        assert_eq!(verify(&new_root, &old_root).is_ok(), old == new);
        for size in (0..=33).filter(|size| *size != old) {
            assert!(verify_consistency(size, &old_root, new, &new_root, &proof).is_err(), "{size} for {old} in {new}");
        }
    }
}

#[test]
fn the_reason_says_which_root_is_wrong() {
    let grown = Grown::to(7);
    let (old, new) = (grown.root(3), grown.root(7));
    let proof = prove_consistency(3, 7, |node| grown.read(node)).unwrap();
    assert_eq!(verify_consistency(3, &empty_root(), 7, &new, &proof), Err(ConsistencyError::OldRoot));
    assert_eq!(verify_consistency(3, &old, 7, &empty_root(), &proof), Err(ConsistencyError::NewRoot));
    assert_eq!(verify_consistency(7, &new, 3, &old, &proof), Err(ConsistencyError::Shrunk { old: 7, new: 3 }));
    assert_eq!(verify_consistency(7, &new, 7, &old, &[]), Err(ConsistencyError::NewRoot));
    // Whatever the new tree is, the empty one has one root only.
    assert_eq!(verify_consistency(0, &old, 7, &new, &[]), Err(ConsistencyError::OldRoot));
    assert_eq!(verify_consistency(0, &empty_root(), 7, &new, &[]), Ok(()));
    assert_eq!(verify_consistency(0, &new, 0, &new, &[]), Err(ConsistencyError::OldRoot));
    let too_long = ConsistencyError::ProofLength { expected: 0, found: 1 };
    assert_eq!(verify_consistency(0, &empty_root(), 7, &new, &[old]), Err(too_long));
}

proptest! {
    #[test]
    fn trees_of_any_size_are_proved(a in number(), b in number()) {
        let uniform = Uniform::new();
        let read = |node: NodeId, size| {
            assert!(node.is_complete_in(size), "{node:?} was asked for in a tree of {size}");
            uniform.read(node)
        };
        let (small, size) = (a.min(b), a.max(b));
        let root = uniform.root(size);
        if small < size {
            let proof = prove_inclusion(small, size, |node| read(node, size)).unwrap();
            prop_assert!(proof.len() <= 64);
            prop_assert_eq!(verify_inclusion(&uniform.leaf(), small, size, &proof, &root), Ok(()));
        }
        let proof = prove_consistency(small, size, |node| read(node, size)).unwrap();
        prop_assert!(proof.len() <= 64 + usize::from(size > 1 << 63));
        prop_assert_eq!(verify_consistency(small, &uniform.root(small), size, &root, &proof), Ok(()));
    }

    #[test]
    fn any_numbers_and_hashes_are_refused_without_panic(
        (a, b) in (number(), number()),
        (one, other) in (any_hash(), any_hash()),
        proof in prop::collection::vec(any_hash(), 0..70),
    ) {
        prop_assert!(verify_inclusion(&one, a, b, &proof, &other).is_err());
        let consistent = verify_consistency(a, &one, b, &other, &proof);
        prop_assert!(consistent.is_err());
        // No random hash is the right one, so whatever is accepted was not looked at.
        let read = |_| Ok::<_, Infallible>(one);
        let _ = (prove_inclusion(a, b, read), prove_consistency(a, b, read));
    }
}

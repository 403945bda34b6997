//! Trees and proofs, compared with those of `ct-merkle`.
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};

use super::*;

type Oracle = MemoryBackedTree<sha2_11::Sha256, Vec<u8>>;

fn oracle(size: u64) -> Oracle {
    let mut tree = Oracle::new();
    (0..size).for_each(|index| tree.push(entry(index)));
    tree
}

fn bytes(proof: &[Hash]) -> Vec<u8> {
    tile::encode(proof)
}

fn root(hash: Hash, size: u64) -> RootHash<sha2_11::Sha256> {
    RootHash::new((*hash.as_bytes()).into(), size)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn roots_and_inclusion_proofs_are_those_of_ct_merkle(
        (size, index) in (1..300u64).prop_flat_map(|size| (Just(size), 0..size)),
    ) {
        let (grown, theirs) = (Grown::to(size), oracle(size));
        prop_assert!(theirs.root() == root(grown.tree.root(), size));
        let proof = prove_inclusion(index, size, |node| grown.read(node)).unwrap();
        let their_proof = theirs.prove_inclusion(usize::try_from(index).unwrap());
        prop_assert_eq!(&bytes(&proof), their_proof.as_bytes());
        prop_assert!(theirs.root().verify_inclusion(&entry(index), index, &their_proof).is_ok());
    }

    #[test]
    fn consistency_proofs_are_those_of_ct_merkle((new, old) in (2..300u64).prop_flat_map(|new| (Just(new), 1..new))) {
        let (grown, theirs) = (Grown::to(new), oracle(new));
        let proof = prove_consistency(old, new, |node| grown.read(node)).unwrap();
        let their_proof = theirs.prove_consistency(usize::try_from(new - old).unwrap());
        prop_assert_eq!(&bytes(&proof), their_proof.as_bytes());
        prop_assert!(theirs.root().verify_consistency(&root(grown.root(old), old), &their_proof).is_ok());
    }

    #[test]
    fn a_damaged_proof_is_judged_alike(
        (size, small) in (1..200u64).prop_flat_map(|size| (Just(size), 0..size)),
        (at, size_by, small_by) in (any::<prop::sample::Index>(), -1..=1i64, -1..=1i64),
        damage in prop_oneof![Just("none"), Just("flip"), Just("drop"), Just("double"), Just("rotate")],
    ) {
        let grown = Grown::to(size);
        let (said_size, said_small) = (size.saturating_add_signed(size_by), small.saturating_add_signed(small_by));
        let damage = |mut proof: Vec<Hash>| {
            if !proof.is_empty() {
                let at = at.index(proof.len());
                match damage {
                    "flip" => proof[at] = leaf_hash(proof[at].as_ref()),
                    "drop" => drop(proof.remove(at)),
                    "double" => proof.insert(at, proof[at]),
                    "rotate" => proof.rotate_left(at),
                    _ => {}
                }
            }
            proof
        };

        let proof = damage(prove_inclusion(small, size, |node| grown.read(node)).unwrap());
        let ours = verify_inclusion(&leaf_hash(&entry(small)), said_small, said_size, &proof, &grown.tree.root());
        let their_proof = InclusionProof::from_bytes(bytes(&proof));
        let theirs = root(grown.tree.root(), said_size).verify_inclusion(&entry(small), said_small, &their_proof);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "inclusion: {:?} and {:?}", ours, theirs);

        // The oracle has no opinion about empty trees.
        prop_assume!(said_small > 0);
        let proof = damage(prove_consistency(small, size, |node| grown.read(node)).unwrap());
        let (old_root, new_root) = (grown.root(small), grown.tree.root());
        let ours = verify_consistency(said_small, &old_root, said_size, &new_root, &proof);
        let their_proof = ConsistencyProof::try_from_bytes(bytes(&proof)).unwrap();
        let theirs = root(new_root, said_size).verify_consistency(&root(old_root, said_small), &their_proof);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "consistency: {:?} and {:?}", ours, theirs);
    }
}

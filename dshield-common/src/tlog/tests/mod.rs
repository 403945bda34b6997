//! What the tests of this module share, and those against other people's implementations.
//!
//! Trees, keys and mutations flow out. An oracle is another implementation of the same specification: both have to say
//! the same about every random input.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::convert::Infallible;

use ed25519_dalek::Signer as _;
use p256::pkcs8::EncodePublicKey as _;
use proptest::prelude::*;

use super::*;

mod against_ct_merkle;
mod against_signed_note;
mod against_sigsum;
mod against_tlog_tiles;

/// The leaf that [`Grown`] and the oracles have at this index.
pub(super) fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

/// A tree with all its complete nodes, and its root at each size.
pub(super) struct Grown {
    pub(super) tree: Tree,
    pub(super) nodes: BTreeMap<NodeId, Hash>,
    pub(super) roots: Vec<Hash>,
}

impl Grown {
    pub(super) fn to(size: u64) -> Self {
        let mut tree = Tree::new();
        let mut nodes = BTreeMap::new();
        let mut roots = vec![tree.root()];
        for index in 0..size {
            let completed = |node, hash: &Hash| assert_eq!(nodes.insert(node, *hash), None, "{node:?} twice");
            assert_eq!(tree.append_with(leaf_hash(&entry(index)), completed), index);
            roots.push(tree.root());
        }
        Self { tree, nodes, roots }
    }

    pub(super) fn read(&self, node: NodeId) -> Result<Hash, NodeId> {
        self.nodes.get(&node).copied().ok_or(node)
    }

    pub(super) fn root(&self, size: u64) -> Hash {
        self.roots[usize::try_from(size).unwrap()]
    }
}

/// A tree whose leaves are all alike, so that it can have any size: all complete nodes of a level are alike too.
pub(super) struct Uniform([Hash; 64]);

impl Uniform {
    pub(super) fn new() -> Self {
        let mut next = leaf_hash(b"alike");
        Self(std::array::from_fn(|_| {
            let hash = next;
            next = node_hash(&hash, &hash);
            hash
        }))
    }

    pub(super) fn leaf(&self) -> Hash {
        self.0[0]
    }

    pub(super) fn read(&self, node: NodeId) -> Result<Hash, Infallible> {
        Ok(self.0[usize::from(node.level)])
    }

    /// By definition: the frontier, hashed from the smallest subtree on.
    pub(super) fn root(&self, size: u64) -> Hash {
        let parts = (0..64).filter(|level| size >> level & 1 == 1).map(|level| self.0[level]);
        parts.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }
}

/// Sizes and indices of all magnitudes, not only huge ones, and those beside powers of two.
pub(super) fn number() -> impl Strategy<Value = u64> {
    let any = (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift);
    let beside = (0..64u32, -1..=1i64).prop_map(|(shift, by)| (1u64 << shift).wrapping_add_signed(by));
    prop_oneof![4 => any, 2 => beside, 1 => Just(u64::MAX)]
}

pub(super) fn any_hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash::new)
}

/// Texts near a good one: a piece of it is taken away, doubled or replaced.
pub(super) fn mutated(text: &str) -> impl Strategy<Value = String> + use<> {
    let chars: Vec<char> = text.chars().collect();
    let pieces = "[ -~\n]|\n\n|[0-9]|—|é|\u{a0}|\u{1}|\t|\r|=|\\+";
    let length = chars.len();
    (0..=length, 0..4usize, pieces, any::<bool>()).prop_map(move |(at, remove, piece, doubled)| {
        let end = (at + remove).min(length);
        let inserted: String = if doubled { chars[at..end].iter().collect::<String>().repeat(2) } else { piece };
        chars[..at].iter().copied().chain(inserted.chars()).chain(chars[end..].iter().copied()).collect()
    })
}

/// A signer of each type, made of a seed.
pub(super) enum TestSigner {
    Ed25519(ed25519_dalek::SigningKey),
    EcdsaP256(p256::ecdsa::SigningKey),
    CosignatureV1(ed25519_dalek::SigningKey),
}

impl TestSigner {
    pub(super) fn ed25519(seed: u8) -> Self {
        Self::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    pub(super) fn ecdsa_p256(seed: u8) -> Self {
        Self::EcdsaP256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    pub(super) fn witness(seed: u8) -> Self {
        Self::CosignatureV1(ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    pub(super) fn key(&self, name: &str) -> VerifierKey {
        let name = name.parse().unwrap();
        match self {
            Self::Ed25519(key) => VerifierKey::ed25519(name, key.verifying_key().as_bytes()),
            Self::CosignatureV1(key) => VerifierKey::cosignature_v1(name, key.verifying_key().as_bytes()),
            Self::EcdsaP256(key) => {
                VerifierKey::ecdsa_p256(name, key.verifying_key().to_public_key_der().unwrap().as_bytes())
            }
        }
        .unwrap()
    }

    /// The line for `text`; witnesses say that it was at `timestamp`.
    pub(super) fn sign_at(&self, name: &str, text: &str, timestamp: u64) -> NoteSignature {
        let bytes = note::bytes_to_sign(text).unwrap();
        let signature = match self {
            Self::Ed25519(key) => key.sign(bytes).to_vec(),
            Self::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(bytes);
                signature.to_der().as_bytes().to_vec()
            }
            Self::CosignatureV1(key) => {
                let signature = key.sign(&cosignature::message(timestamp, text)).to_bytes();
                cosignature::Cosignature::new(timestamp, signature).unwrap().to_bytes()
            }
        };
        let key = self.key(name);
        NoteSignature { name: key.name().clone(), id: key.id(), signature }
    }

    pub(super) fn sign(&self, name: &str, text: &str) -> NoteSignature {
        self.sign_at(name, text, 1_700_000_000)
    }
}

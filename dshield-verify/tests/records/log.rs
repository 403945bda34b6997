//! A log as an agent keeps it, in memory: signed entries, the tree over them, heads and proofs out of it.
use std::collections::BTreeMap;

use dshield_common::log::entry::{Boot, Entry, Event, Previous, Record};
use dshield_common::log::line::SignedEntry;
use dshield_common::tlog::cosignature::{Cosignature, message};
use dshield_common::tlog::{
    Checkpoint, Hash, NodeId, Note, NoteSignature, Receipt, Tree, VerifierKey, leaf_hash, note, prove_consistency,
    prove_inclusion,
};
use dshield_verify::log::LogKey;
use ed25519_dalek::Signer as _;
use p256::pkcs8::EncodePublicKey as _;

pub const ORIGIN: &str = "log.example/x";

/// The keys of a boot, made of its number.
#[derive(Clone)]
pub struct Keys {
    pub ecdsa: p256::ecdsa::SigningKey,
    pub ed25519: ed25519_dalek::SigningKey,
}

impl Keys {
    pub fn new(number: u8) -> Self {
        Self {
            ecdsa: p256::ecdsa::SigningKey::from_slice(&[number; 32]).unwrap(),
            ed25519: ed25519_dalek::SigningKey::from_bytes(&[number; 32]),
        }
    }

    pub fn spki(&self) -> Vec<u8> {
        self.ecdsa.verifying_key().to_public_key_der().unwrap().into_vec()
    }

    pub fn pem(&self) -> String {
        LogKey::from_spki(&self.spki()).unwrap().to_pem()
    }

    /// P-256, then Ed25519.
    pub fn verifiers(&self, origin: &str) -> [VerifierKey; 2] {
        let name = || origin.parse().unwrap();
        [
            VerifierKey::ecdsa_p256(name(), &self.spki()).unwrap(),
            VerifierKey::ed25519(name(), self.ed25519.verifying_key().as_bytes()).unwrap(),
        ]
    }

    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature: p256::ecdsa::Signature = self.ecdsa.sign(bytes);
        signature.to_der().as_bytes().to_vec()
    }

    /// Signatures of a checkpoint by the keys with these places: 0 is P-256, 1 is Ed25519.
    pub fn signatures(&self, origin: &str, text: &str, places: &[usize]) -> Vec<NoteSignature> {
        let bytes = note::bytes_to_sign(text).unwrap();
        let keys = self.verifiers(origin);
        let made = [self.sign(bytes), self.ed25519.sign(bytes).to_bytes().to_vec()];
        places
            .iter()
            .map(|at| NoteSignature {
                name: keys[*at].name().clone(),
                id: keys[*at].id(),
                signature: made[*at].clone(),
            })
            .collect()
    }

    /// A checkpoint by both keys.
    pub fn note(&self, origin: &str, size: u64, root: Hash) -> Note {
        let text = Checkpoint::new(origin, size, root).unwrap().to_string();
        let signatures = self.signatures(origin, &text, &[0, 1]);
        Note::new(text, signatures).unwrap()
    }
}

/// A witness, made of its number.
pub fn witness(number: u8) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[number; 32])
}

pub fn witness_key(number: u8) -> VerifierKey {
    let name = format!("w{number}.example").parse().unwrap();
    VerifierKey::cosignature_v1(name, witness(number).verifying_key().as_bytes()).unwrap()
}

/// `note` with the signatures of these witnesses, each at the second that is its number.
pub fn cosigned(mut note: Note, witnesses: &[u8]) -> Note {
    for number in witnesses {
        let signature = witness(*number).sign(&message(u64::from(*number), note.text())).to_bytes();
        let key = witness_key(*number);
        let signature = Cosignature::new(u64::from(*number), signature).unwrap().to_bytes();
        note = note.with_signature(NoteSignature { name: key.name().clone(), id: key.id(), signature }).unwrap();
    }
    note
}

/// A log, while a boot writes it.
#[derive(Clone)]
pub struct TestLog {
    pub keys: Keys,
    pub boot_id: String,
    pub entries: Vec<SignedEntry>,
    tree: Tree,
    nodes: BTreeMap<NodeId, Hash>,
    roots: Vec<Hash>,
}

impl TestLog {
    pub fn empty() -> Self {
        let tree = Tree::new();
        let roots = vec![tree.root()];
        Self { keys: Keys::new(1), boot_id: String::new(), entries: Vec::new(), tree, nodes: BTreeMap::new(), roots }
    }

    /// Entries 0 to 3 of boot 1, 4 to 12 of boot 2.
    pub fn new() -> Self {
        let mut log = Self::empty();
        log.boot(1);
        log.grow(3);
        log.boot(2);
        log.grow(8);
        log
    }

    pub fn boot(&mut self, number: u8) {
        self.boot_listing(number, &Keys::new(number).pem());
    }

    /// A boot whose entry lists `pem` as its key.
    pub fn boot_listing(&mut self, number: u8, pem: &str) {
        self.keys = Keys::new(number);
        self.boot_id = format!("{number:032x}");
        let previous = self.entries.last().map(|last| Previous {
            seq: last.seq,
            leaf_hash: leaf_hash(last.entry.as_bytes()).to_hex(),
            root: Some(self.tree.root().to_hex()),
            closed: Some(true),
        });
        self.push(Event::Boot(Boot {
            version: "0".to_owned(),
            key: pem.to_owned(),
            sha256: BTreeMap::new(),
            isolation: None,
            memory_only: false,
            log_id: None,
            checkpoint_keys: Vec::new(),
            tpm_boots: None,
            previous,
        }));
    }

    pub fn grow(&mut self, count: u64) {
        (0..count).for_each(|count| self.push(Event::Lost { count, source: "test".to_owned() }));
    }

    pub fn push(&mut self, event: Event) {
        let entry = Entry {
            seq: self.size(),
            time: "2026-01-02T03:04:05.000006Z".to_owned(),
            boot_id: self.boot_id.clone(),
            mode: None,
            record: Record::agent(event),
        };
        let entry = entry.canonical().unwrap();
        let signature = self.keys.sign(entry.as_bytes());
        self.push_signed(entry, signature);
    }

    /// Takes anything for the next entry, as a key that somebody else has would let him.
    pub fn push_signed(&mut self, entry: String, signature: Vec<u8>) {
        self.tree.append_with(leaf_hash(entry.as_bytes()), |node, hash| {
            self.nodes.insert(node, *hash);
        });
        self.roots.push(self.tree.root());
        self.entries.push(SignedEntry { seq: self.entries.len() as u64, entry, signature });
    }

    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn root(&self, size: u64) -> Hash {
        self.roots[size as usize]
    }

    pub fn line(&self, seq: u64) -> String {
        self.entries[seq as usize].to_line()
    }

    pub fn lines(&self, size: u64) -> Vec<String> {
        (0..size).map(|seq| self.line(seq)).collect()
    }

    /// The checkpoint over the first `size` entries, by the keys of the present boot.
    pub fn note(&self, size: u64) -> Note {
        self.keys.note(ORIGIN, size, self.root(size))
    }

    pub fn receipt(&self, seq: u64, size: u64) -> String {
        self.receipt_in(seq, size, self.note(size))
    }

    pub fn receipt_in(&self, seq: u64, size: u64, note: Note) -> String {
        let proof = prove_inclusion(seq, size, |node| self.nodes.get(&node).copied().ok_or(node)).unwrap();
        Receipt::new(seq, proof, note).unwrap().to_string()
    }

    pub fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        prove_consistency(old, new, |node| self.nodes.get(&node).copied().ok_or(node)).unwrap()
    }
}

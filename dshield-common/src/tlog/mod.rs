//! A transparency log's formats: what the C2SP specifications and RFC 6962 define, as types.
//!
//! Each layer knows only those above it in this list:
//!
//! * [`hash`]: entries and pairs of hashes flow in; leaf, node and root hashes flow out.
//! * [`range`]: leaf hashes flow in one by one; the root and every completed node flow out.
//! * [`proof`]: a reader of nodes flows in, inclusion and consistency proofs flow out; and their verification.
//! * [`tile`], [`path`], [`bundle`], [`tile_reader`]: the tree and its entries as files, and nodes read from them.
//! * [`cosignature`], [`key`], [`note`]: who signed a text, and when.
//! * [`checkpoint`]: the text that a log signs.
//! * [`policy`]: whose signatures under a checkpoint are enough.
//! * [`receipt`]: an inclusion proof and its checkpoint, in one text.
//!
//! Nothing here does I/O, has a clock or makes random numbers, and nothing signs: the same code runs in the agent, in
//! the verifier and in a browser. Whatever parses has one spelling, and anything else is refused with a reason.
pub mod bundle;
pub mod checkpoint;
pub mod cosignature;
pub mod hash;
pub mod key;
pub mod note;
pub mod path;
pub mod policy;
pub mod proof;
pub mod range;
pub mod receipt;
mod text;
pub mod tile;
pub mod tile_reader;

pub use checkpoint::Checkpoint;
pub use hash::{Hash, empty_root, leaf_hash, node_hash};
pub use key::{KeyId, KeyName, VerifierKey};
pub use note::{Note, NoteSignature};
pub use path::TilePath;
pub use policy::TrustPolicy;
pub use proof::{prove_consistency, prove_inclusion, verify_consistency, verify_inclusion};
pub use range::{NodeId, Tree};
pub use receipt::Receipt;
pub use tile::{Bundle, Tile};
pub use tile_reader::TileReader;

#[cfg(test)]
mod tests;

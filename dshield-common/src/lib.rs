//! What both sides of a boundary share.
//!
//! * [`abi`]: the types that the kernel programs and the agent exchange (`no_std`).
//! * [`name`], [`address`], [`destination`]: who is spoken to.
//! * [`policy`]: the whitelist, parsed once into types that cannot be wrong.
//! * [`canonical`], [`hex`], [`log`]: canonical JSON (RFC 8785), hexadecimal, and the log's entry format.
//! * [`attestation`]: what the hardware vouches for, and the document that carries its quote.
//! * [`tlog`]: the formats of transparency logs: tree, proofs, tiles, signed notes.
//!
//! Text and bytes flow in, typed values and hashes flow out. Nothing here opens a file, a socket or
//! asks for the time, so the same code judges in the agent, in the verifier and in a browser.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
#[cfg(feature = "std")]
pub mod address;
#[cfg(feature = "std")]
pub mod attestation;
#[cfg(feature = "std")]
pub mod canonical;
#[cfg(feature = "std")]
pub mod destination;
#[cfg(feature = "std")]
pub mod hex;
#[cfg(feature = "std")]
pub mod log;
#[cfg(feature = "std")]
pub mod name;
#[cfg(feature = "std")]
pub mod policy;
#[cfg(feature = "std")]
pub mod tlog;

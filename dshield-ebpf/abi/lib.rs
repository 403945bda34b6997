//! [`dshield-common`](../../dshield-common)'s `abi` as a crate of this workspace: the same file, so the two sides
//! cannot differ, in a place that lets the objects be built anywhere with the same result.
#![no_std]

#[path = "../../dshield-common/src/abi.rs"]
pub mod abi;

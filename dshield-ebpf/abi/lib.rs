#![no_std]
#[path = "../../dshield-common/src/abi.rs"]
pub mod abi;

//! A TDX machine that is not one: it proves nothing, and looks in every format as if it did.
//!
//! The secret of a test PKI flows in, with what the machine is to be like and what a quote is to say. Out flow quotes (TDX,
//! version 4) and the collateral to them, which a real verifier accepts in full as soon as it is told to trust the PKI's
//! root, and rejects as long as it trusts Intel's. So all of attestation runs on a laptop, and a test can break any one
//! part of it.
//!
//! * [`Pki`]: the keys, and certificates like those of Intel's SGX PKI
//! * [`Platform`]: what Intel would say about the hardware: TCB status, revocation, validity
//! * [`Machine`]: both together; makes quotes over a [`TdReport`], and collateral
//! * [`boot`]: an event log like dstack's, and the registers that follow from it
//!
//! Nothing here opens a file or a socket or asks for the time: times are seconds since 1970, in UTC. Only
//! [`Pki::generate`] takes randomness from the system; all else follows from its arguments.
//!
//! The layouts are those of Intel's "TDX DCAP: Quote Generation Library and Quote Verification Library" (quotes), "SGX PCK
//! Certificate and Certificate Revocation List Profile Specification" (certificates) and "API for PCK certificates, TCB
//! info and identities, version 4" (collateral).
#![forbid(unsafe_code)]

pub mod boot;
mod collateral;
mod key;
mod machine;
mod pki;
mod platform;
mod quote;

pub use self::machine::Machine;
pub use self::pki::{Issued, Pki, PkiError};
pub use self::platform::{Lifetimes, Platform, TcbStatus};
pub use self::quote::{DEBUG, SEPT_VE_DISABLE, TdReport};

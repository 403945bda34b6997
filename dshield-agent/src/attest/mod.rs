//! Proof of what runs here: hashes, statements, and quotes over them by hardware.
//!
//! In: the bytes that are loaded, what is deployed, a nonce. Out: [`Measurements`], and evidence from an [`Attester`], which
//! asks a [`Quoter`] of this machine.
//!
//! * `measure`: hashes of what runs; `facts`: the one place that forms a statement
//! * `attester`: from a nonce to evidence; `turns`: who is next
//! * `quoter`: what each provider of quotes does; [`choose`]: which one this machine has
//! * [`configfs_tsm`], [`dstack`]: TDX quotes from Linux itself, and from dstack's guest agent
//! * [`development`]: quotes that prove nothing
//! * `ratls`: the TLS key of this boot, and its certificate with evidence inside
//! * `tpm`: a TPM 2.0, where the feature `tpm` is on
//! * [`rtmr`]: extending RTMR3 where nobody else does
//! * [`tdx`]: what is looked at in a TDX quote before it is handed on
mod attester;
pub mod choose;
pub mod configfs_tsm;
pub mod development;
pub mod dstack;
mod facts;
mod measure;
mod quoter;
mod ratls;
pub mod rtmr;
pub mod tdx;
#[cfg(feature = "tpm")]
mod tpm;
mod turns;

pub use self::attester::{Asker, AttestError, Attester, NowInForce};
pub use self::facts::{Facts, InForce};
pub use self::measure::Measurements;
pub use self::quoter::{QuoteError, Quoted, Quoter};
pub use self::ratls::{RatlsCertificate, RatlsError};
#[cfg(feature = "tpm")]
pub use self::tpm::{DEFAULT_TCTI, Tpm};

//! Proof of what runs here: hashes, and quotes over them by hardware.
//!
//! In: the bytes that are loaded, and 64 bytes of report data. Out: [`Measurements`], and what a [`Quoter`] of this machine
//! says about the report data.
//!
//! * `measure`: hashes of what runs
//! * `quoter`: what each provider of quotes does
//! * `tpm`: a TPM 2.0, where the feature `tpm` is on
mod measure;
mod quoter;
#[cfg(feature = "tpm")]
mod tpm;

pub use self::measure::Measurements;
pub use self::quoter::{QuoteError, Quoted, Quoter};
#[cfg(feature = "tpm")]
pub use self::tpm::{DEFAULT_TCTI, Tpm};

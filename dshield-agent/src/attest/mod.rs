//! Proof of what runs here: hashes, and quotes over them by hardware.
//!
//! In: the bytes that are loaded, and 64 bytes of report data. Out: [`Measurements`], and what a [`Quoter`] of this machine
//! says about the report data.
//!
//! * `measure`: hashes of what runs
//! * `quoter`: what each provider of quotes does
//! * `ratls`: the TLS key of this boot, and its certificate with evidence inside
mod measure;
mod quoter;
mod ratls;

pub use self::measure::Measurements;
pub use self::quoter::{QuoteError, Quoted, Quoter};
pub use self::ratls::{RatlsCertificate, RatlsError};

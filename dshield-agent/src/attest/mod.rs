//! Proof of what runs here: hashes, statements, and quotes over them by hardware.
//!
//! In: the bytes that are loaded, what is deployed, a nonce. Out: [`Measurements`], and evidence from an [`Attester`], which
//! asks a [`Quoter`] of this machine.
//!
//! * `measure`: hashes of what runs; `facts`: the one place that forms a statement
//! * `attester`: from a nonce to evidence; `turns`: who is next
//! * `quoter`: what each provider of quotes does; `development`: one that proves nothing
mod attester;
pub mod development;
mod facts;
mod measure;
mod quoter;
mod turns;

pub use self::attester::{Asker, AttestError, Attester, NowInForce};
pub use self::facts::{Facts, InForce};
pub use self::measure::Measurements;
pub use self::quoter::{QuoteError, Quoted, Quoter};

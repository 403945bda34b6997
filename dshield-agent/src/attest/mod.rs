//! Proof of what runs here: hashes, and quotes over them by hardware.
//!
//! In: the bytes that are loaded, and 64 bytes of report data. Out: [`Measurements`], and what a [`Quoter`] of this machine
//! says about the report data.
//!
//! * `measure`: hashes of what runs
//! * `quoter`: what each provider of quotes does
//! * [`choose`]: which provider this machine has
//! * [`configfs_tsm`], [`dstack`]: TDX quotes from Linux itself, and from dstack's guest agent
//! * [`rtmr`]: extending RTMR3 where nobody else does
//! * [`tdx`]: what is looked at in a TDX quote before it is handed on
pub mod choose;
pub mod configfs_tsm;
pub mod dstack;
mod hex;
mod measure;
mod quoter;
pub mod rtmr;
pub mod tdx;

pub use self::measure::Measurements;
pub use self::quoter::{QuoteError, Quoted, Quoter};

//! What the hardware vouches for, and what travels with its quote.
//!
//! An agent's facts flow in as a [`Statement`]; out flow its one text, the [`ReportData`] that the hardware signs, and the
//! [`Evidence`] that a verifier is given. How each is checked is the verifier's concern (`dshield-verify`).
//!
//! * [`statement`]: what is said, and the 64 bytes that stand for it
//! * [`evidence`]: the document with everything that proving it takes
//! * [`event`]: run-time events that extend RTMR3, and their digests
//! * [`code`]: one hash for a function's code folder
//! * [`ratls`]: evidence inside a TLS certificate
pub mod code;
pub mod event;
pub mod evidence;
pub mod ratls;
pub mod statement;

pub use self::evidence::{Collateral, Evidence, Provider, TpmQuote};
pub use self::statement::{Nonce, ReportData, Statement};

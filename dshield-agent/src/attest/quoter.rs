//! What makes quotes: one device or service of this machine, asked for one quote at a time.
use std::fmt;
use std::io;
use std::path::PathBuf;

use dshield_common::attestation::{Collateral, Provider, ReportData, TpmQuote};

/// Makes quotes over report data. Calls block: for about a second on real hardware.
pub trait Quoter: Send + fmt::Debug {
    /// Which kind it is, as evidence names it.
    fn provider(&self) -> Provider;

    /// A quote over `report_data`, which was made for this call and for no other.
    ///
    /// # Errors
    /// The machine gives none; [`QuoteError::is_transient`] says whether asking again may help.
    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError>;
}

/// What a provider gives: those members of evidence that are its own, as there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    /// The TDX quote.
    pub quote: Option<Vec<u8>>,
    /// Events that extended the RTMRs: JSON as text.
    pub event_log: Option<String>,
    /// dstack's description of the virtual machine: JSON as text.
    pub vm_config: Option<String>,
    /// dstack's `app-compose.json`, byte for byte.
    pub app_compose: Option<String>,
    /// A TPM's quote.
    pub tpm: Option<TpmQuote>,
    /// Where the provider brings its own.
    pub collateral: Option<Collateral>,
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The machine's: a file of the kernel's interface cannot be used.
    #[error("{}: {source}{}", path.display(), hint(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Somebody else used the kernel's interface at the same time, again and again.
    #[error("{} was written to by somebody else while a quote was made", path.display())]
    Disturbed {
        /// The report's folder.
        path: PathBuf,
    },
    /// The service that makes quotes refused.
    #[error("{service} refused: {message}")]
    Refused {
        /// Which.
        service: String,
        /// What it said.
        message: String,
    },
    /// The service that makes quotes was not reached, or does not speak its protocol.
    #[error("{service}: {message}")]
    Unreachable {
        /// Which.
        service: String,
        /// The cause, in words.
        message: String,
    },
    /// What came back is not about what was asked: never handed on.
    #[error("the quote is over other report data than was asked for")]
    OtherReportData,
    /// The quote is too short, or of a kind that is not TDX.
    #[error("what the machine gave is no TDX quote: {0}")]
    NotAQuote(String),
}

impl QuoteError {
    /// Whether the same question may get an answer a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::File { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EBUSY | libc::EINTR | libc::ETIMEDOUT | libc::EAGAIN | libc::EIO)
            ),
            Self::Disturbed { .. } | Self::Unreachable { .. } => true,
            _ => false,
        }
    }
}

/// What the kernel means by an error here (Documentation/ABI/testing/configfs-tsm-report).
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENXIO) => " (no TSM provider: is the tdx_guest module loaded?)",
        Some(libc::EINVAL) => " (the kernel did not take the 64 bytes of report data)",
        Some(libc::EBUSY) => " (another quote is under way, or was abandoned)",
        Some(libc::ETIMEDOUT) => " (the host's quoting service did not answer in time)",
        Some(libc::EIO) => " (the host's quoting service failed)",
        Some(libc::EFBIG) => " (the quote is larger than the kernel's buffer)",
        Some(libc::ENOENT) => " (this machine offers no quotes there)",
        Some(libc::EACCES | libc::EPERM) => " (is the agent root, and may its container write there?)",
        _ => "",
    }
}

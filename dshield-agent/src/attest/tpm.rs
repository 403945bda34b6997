//! Quotes of a TPM 2.0: hashes of what runs flow in once and extend a PCR, report data flows in for each quote, and what
//! the TPM signed flows out. How it is checked is `dshield_verify::tpm`'s.
//!
//! * `device`: the commands to the TPM
//!
//! **A virtual TPM that the host runs is no defence against the host.** It is a program of the host's with files of the
//! host's: the host can read its keys, sign what it likes, and put an older copy back, with its counter. What it says
//! shows accidents, not attacks. Use this where the TPM is a chip, or is run by a paravisor inside the confidential
//! machine (as on Azure). And a TPM signs for whoever may open its device: a quote proves what the machine's boot allowed
//! to run, which the other quoted PCRs tell, and no more.
mod device;
#[cfg(test)]
mod swtpm;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use dshield_common::attestation::{Provider, ReportData, TpmQuote};
use dshield_verify::tpm::{TpmFault, boots_digest, qualifying_data, verify};

use self::device::Device;
use super::quoter::{QuoteError, Quoted, Quoter};

/// The TPM of this machine, behind the kernel's resource manager, which lets others use it too.
pub const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

/// How often a quote is made again because a PCR changed between reading and quoting it.
const ATTEMPTS: u32 = 5;

/// A TPM whose PCR says what this process measured. Every call blocks, for up to some seconds on slow chips; where the TPM
/// hangs, for good.
///
/// No connection is held between calls: where there is no resource manager, a TPM serves one at a time.
#[derive(Debug)]
pub struct Tpm {
    tcti: String,
    extended: Vec<[u8; 32]>,
    boots: Option<u64>,
}

impl Tpm {
    /// Adds one to the monotonic counter and extends [`dshield_verify::tpm::AGENT_PCR`]: with the counter's hash, then with
    /// `measured`, which are names and SHA-256 hashes. Call it once in a process: nothing takes an extension back before
    /// the machine starts again.
    ///
    /// `tcti` says where the TPM is, as all programs on tpm2-tss have it: [`DEFAULT_TCTI`], or
    /// `swtpm:host=127.0.0.1,port=2321`.
    ///
    /// A TPM that keeps no counter, such as one whose owner has a password, is used without one: a warning says so, and
    /// [`Tpm::boots`] is `None`.
    ///
    /// # Errors
    /// There is no TPM, or it refuses; a sentence says which.
    pub fn open(tcti: &str, measured: &[(&str, [u8; 32])]) -> Result<Self, QuoteError> {
        let mut device = Device::connect(tcti)?;
        let boots = device.count().inspect_err(|error| {
            tracing::warn!(%error, "the TPM keeps no monotonic counter for this agent; a rollback will not show in it");
        });
        let mut tpm = Self { tcti: tcti.to_owned(), extended: Vec::new(), boots: boots.ok() };
        for digest in tpm.boots.map(boots_digest).into_iter().chain(measured.iter().map(|(_, sha256)| *sha256)) {
            device.extend(digest)?;
            tpm.extended.push(digest);
        }
        for (name, sha256) in measured {
            tracing::debug!(name, sha256 = hex(sha256), "extended the TPM's PCR");
        }
        Ok(tpm)
    }

    /// The monotonic counter, one more with each [`Tpm::open`], for the boot entry; where the TPM keeps one.
    #[must_use]
    pub fn boots(&self) -> Option<u64> {
        self.boots
    }

    fn ask(&self, report_data: &ReportData) -> Result<TpmQuote, QuoteError> {
        let quote = Device::connect(&self.tcti)?.quote(qualifying_data(report_data))?;
        Ok(TpmQuote {
            attest: hex(&quote.attest),
            signature: hex(&quote.signature),
            ak_spki: hex(&quote.ak_spki),
            pcrs: quote.pcrs.iter().map(|(pcr, value)| (*pcr, hex(value))).collect(),
            extended: self.extended.iter().map(|digest| hex(digest)).collect(),
            boots: self.boots,
        })
    }
}

impl Quoter for Tpm {
    fn provider(&self) -> Provider {
        Provider::Tpm
    }

    fn quote(&mut self, report_data: &ReportData) -> Result<Quoted, QuoteError> {
        let mut attempt = 1;
        loop {
            let quote = self.ask(report_data)?;
            // What does not verify here verifies nowhere.
            match verify(&quote, report_data) {
                Ok(_) => return Ok(Quoted { tpm: Some(quote), ..Quoted::default() }),
                Err(TpmFault::PcrValues) if attempt < ATTEMPTS => attempt += 1,
                Err(TpmFault::OtherReportData) => return Err(QuoteError::OtherReportData),
                Err(fault) => {
                    let message = format!("it made a quote that does not hold: {fault}");
                    return Err(QuoteError::Unreachable { service: device::name(&self.tcti), message });
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! `TPMS_ATTEST` of a quote, as bytes (TPM 2.0 Library, part 2, 10.12): what a TPM signs flows in, and its members, or
//! what does not belong there, flow out.
//!
//! Strict: one selection of PCRs in the SHA-256 bank, and not one byte too many. Every number is big-endian.

/// `TPM_GENERATED_VALUE`: "\xffTCG". A restricted key signs nothing from outside that begins so.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const QUOTE: u16 = 0x8018;
/// `TPM_ALG_SHA256`.
const SHA256: u16 = 0x000b;
/// The longest name: an algorithm and a digest of SHA-512.
const LONGEST_NAME: usize = 2 + 64;
/// The longest `TPM2B_DATA`: what a digest with its algorithm takes.
const LONGEST_DATA: usize = 2 + 64;
/// The most bytes that a selection has: 32 PCRs (`TPM2_PCR_SELECT_MAX`).
const LONGEST_SELECT: usize = 4;

/// What a TPM signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attest<'a> {
    /// `extraData`: what the asker chose.
    pub(super) extra_data: &'a [u8],
    /// `clockInfo`.
    pub(super) clock: Clock,
    /// `firmwareVersion`: the maker's own number.
    pub(super) firmware_version: u64,
    /// The PCRs, in ascending order.
    pub(super) pcrs: Vec<u8>,
    /// SHA-256 over their values, in that order.
    pub(super) pcr_digest: [u8; 32],
}

/// `TPMS_CLOCK_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// `resetCount`.
    pub(super) resets: u32,
    /// `restartCount`.
    pub(super) restarts: u32,
}

/// Why bytes are no `TPMS_ATTEST` of such a quote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// They end inside a member.
    #[error("it ends inside {0}")]
    Short(&'static str),
    /// They go on after the last member.
    #[error("it goes on for {0} bytes after its end")]
    Long(usize),
    /// They are not what a TPM makes.
    #[error("it begins with {0:#010x}, not with the value that a TPM puts before what it makes")]
    Magic(u32),
    /// They attest to something else.
    #[error("it is of type {0:#06x}, and a quote is of type 0x8018")]
    Kind(u16),
    /// A member has a value that it cannot have.
    #[error("its {0} has a value that it cannot have")]
    Value(&'static str),
    /// PCRs of other banks, or of several.
    #[error("it is not over PCRs of the SHA-256 bank alone")]
    Bank,
}

impl<'a> Attest<'a> {
    /// Reads the whole of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, AttestError> {
        let mut rest = Bytes(bytes);
        let magic = u32::from_be_bytes(rest.array("the magic value")?);
        if magic != GENERATED {
            return Err(AttestError::Magic(magic));
        }
        let kind = u16::from_be_bytes(rest.array("the type")?);
        if kind != QUOTE {
            return Err(AttestError::Kind(kind));
        }
        // Whose key it was: the signature says that, and better.
        rest.sized("qualifiedSigner", LONGEST_NAME)?;
        let extra_data = rest.sized("extraData", LONGEST_DATA)?;
        let _milliseconds: [u8; 8] = rest.array("clock")?;
        let clock = Clock {
            resets: u32::from_be_bytes(rest.array("resetCount")?),
            restarts: u32::from_be_bytes(rest.array("restartCount")?),
        };
        let [safe] = rest.array("safe")?;
        if safe > 1 {
            return Err(AttestError::Value("safe"));
        }
        let firmware_version = u64::from_be_bytes(rest.array("firmwareVersion")?);
        let pcrs = selection(&mut rest)?;
        let pcr_digest = rest.sized("pcrDigest", 32)?.try_into().map_err(|_| AttestError::Value("pcrDigest"))?;
        match rest.0.len() {
            0 => Ok(Self { extra_data, clock, firmware_version, pcrs, pcr_digest }),
            more => Err(AttestError::Long(more)),
        }
    }
}

/// `TPML_PCR_SELECTION`: bit n of byte m selects PCR 8m + n.
fn selection(rest: &mut Bytes<'_>) -> Result<Vec<u8>, AttestError> {
    let count = u32::from_be_bytes(rest.array("pcrSelect")?);
    let bank = u16::from_be_bytes(rest.array("pcrSelect")?);
    if (count, bank) != (1, SHA256) {
        return Err(AttestError::Bank);
    }
    let [length] = rest.array("pcrSelect")?;
    if !(1..=LONGEST_SELECT).contains(&length.into()) {
        return Err(AttestError::Value("pcrSelect"));
    }
    let bits = rest.take("pcrSelect", length.into())?;
    let selected = |pcr: &u8| bits.get(usize::from(pcr / 8)).is_some_and(|byte| byte & (1 << (pcr % 8)) != 0);
    Ok((0..length * 8).filter(selected).collect())
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], AttestError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(AttestError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], AttestError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(AttestError::Short(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A `TPM2B`: its length in two bytes, then itself.
    fn sized(&mut self, what: &'static str, longest: usize) -> Result<&'a [u8], AttestError> {
        let length = usize::from(u16::from_be_bytes(self.array(what)?));
        if length > longest {
            return Err(AttestError::Value(what));
        }
        self.take(what, length)
    }
}

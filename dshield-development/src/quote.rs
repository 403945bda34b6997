//! The quote's layout: what the TDX module reports, and the chain of signatures from it to the root.
//!
//! All numbers are little-endian. The TD's report is that of TDX 1.0, as in quotes of version 4.
use dshield_common::attestation::ReportData;
use sha2::{Digest, Sha256, Sha384};

use crate::key::Key;
use crate::platform::CPU_SVN;

/// A bit of [`TdReport::td_attributes`]: the host may read and change the TD. No verifier accepts it.
pub const DEBUG: u64 = 1;
/// A bit of [`TdReport::td_attributes`]: the host cannot feed the TD pages it did not accept. Verifiers demand it.
pub const SEPT_VE_DISABLE: u64 = 1 << 28;

/// Intel's, for its quoting enclaves.
const QE_VENDOR: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
/// The version of the TDX module (major 1) that the default report is of.
pub(crate) const MODULE_SVN: u8 = 6;
pub(crate) const MODULE_MAJOR: u8 = 1;
pub(crate) const QE_ATTRIBUTES: [u8; 16] = [0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
pub(crate) const QE_PRODUCT: u16 = 2;
pub(crate) const QE_SVN: u16 = 6;

/// What the TDX module reports about a TD (`TDREPORT` of TDX 1.0): what a quote is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// Security versions: the TDX module's own, its major version, that of microcode.
    pub tee_tcb_svn: [u8; 16],
    /// The TDX module.
    pub mr_seam: [u8; 48],
    /// Who signed the TDX module: zero for Intel.
    pub mr_signer_seam: [u8; 48],
    /// Of the TDX module.
    pub seam_attributes: [u8; 8],
    /// Of the TD: [`SEPT_VE_DISABLE`] alone is as it should be.
    pub td_attributes: u64,
    /// Which extended features of the processor the TD may use.
    pub xfam: u64,
    /// The TD as it was built: its firmware.
    pub mr_td: [u8; 48],
    /// Chosen by the host.
    pub mr_config_id: [u8; 48],
    /// Chosen by the host.
    pub mr_owner: [u8; 48],
    /// Chosen by the host.
    pub mr_owner_config: [u8; 48],
    /// The registers that the TD extended since.
    pub rtmr: [[u8; 48]; 4],
    /// Chosen by the TD.
    pub report_data: [u8; 64],
}

impl TdReport {
    /// That of a TD which nothing extended a register of. Its measurements are the SHA-384 of `D-Shield development MRTD`
    /// and `D-Shield development MRSEAM`, so that nobody takes them for others.
    #[must_use]
    pub fn new(report_data: &ReportData) -> Self {
        Self {
            tee_tcb_svn: [MODULE_SVN, MODULE_MAJOR, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            mr_seam: Sha384::digest("D-Shield development MRSEAM").into(),
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: SEPT_VE_DISABLE,
            xfam: 0x0006_02e7,
            mr_td: Sha384::digest("D-Shield development MRTD").into(),
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr: [[0; 48]; 4],
            report_data: *report_data.as_bytes(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [
            &self.tee_tcb_svn[..],
            &self.mr_seam,
            &self.mr_signer_seam,
            &self.seam_attributes,
            &self.td_attributes.to_le_bytes(),
            &self.xfam.to_le_bytes(),
            &self.mr_td,
            &self.mr_config_id,
            &self.mr_owner,
            &self.mr_owner_config,
            self.rtmr.as_flattened(),
            &self.report_data,
        ]
        .concat()
    }
}

/// The measurement of who signed the quoting enclave.
pub(crate) fn qe_signer() -> [u8; 32] {
    Sha256::digest("D-Shield development QE signer").into()
}

/// A quote over `report`: signed with `attestation`, which the quoting enclave vouches for, which `pck` vouches for, which
/// the certificates in `chain` (PEM, leaf first) vouch for.
pub(crate) fn quote(report: &TdReport, attestation: &Key, pck: &Key, chain: &str) -> Vec<u8> {
    let mut quote = Vec::with_capacity(5 << 10);
    // Version 4; ECDSA with P-256; TDX.
    quote.extend_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
    quote.extend_from_slice(&QE_VENDOR);
    // The quoting enclave's to choose.
    quote.extend_from_slice(b"D-Shield DEVELOPMENT");
    quote.extend_from_slice(&report.bytes());
    let signature = attestation.sign_raw(&quote);

    let qe_data: [u8; 32] = Sha256::digest("D-Shield development QE data").into();
    let qe_report = qe_report(attestation, &qe_data);
    let mut vouching = Vec::new();
    vouching.extend_from_slice(&qe_report);
    vouching.extend_from_slice(&pck.sign_raw(&qe_report));
    vouching.extend_from_slice(&32u16.to_le_bytes());
    vouching.extend_from_slice(&qe_data);
    certification(&mut vouching, 5, chain.as_bytes());

    let mut signed = Vec::new();
    signed.extend_from_slice(&signature);
    signed.extend_from_slice(attestation.coordinates());
    certification(&mut signed, 6, &vouching);
    quote.extend_from_slice(&length(&signed));
    quote.extend_from_slice(&signed);
    quote
}

/// "Certification data": 5 is a chain of PCK certificates, 6 the quoting enclave's report with what vouches for it.
fn certification(into: &mut Vec<u8>, kind: u16, data: &[u8]) {
    into.extend_from_slice(&kind.to_le_bytes());
    into.extend_from_slice(&length(data));
    into.extend_from_slice(data);
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).expect("a chain of three certificates is short").to_le_bytes()
}

/// The `REPORT` of an SGX enclave which made the key `attestation`.
fn qe_report(attestation: &Key, qe_data: &[u8; 32]) -> [u8; 384] {
    let key_and_data = [attestation.coordinates(), qe_data].concat();
    let mut report = [0; 384];
    for (offset, field) in [
        (0, &CPU_SVN[..]),
        (48, &QE_ATTRIBUTES),
        (64, &Sha256::digest("D-Shield development QE")),
        (128, &qe_signer()),
        (256, &QE_PRODUCT.to_le_bytes()),
        (258, &QE_SVN.to_le_bytes()),
        (320, &Sha256::digest(key_and_data)),
    ] {
        report[offset..offset + field.len()].copy_from_slice(field);
    }
    report
}

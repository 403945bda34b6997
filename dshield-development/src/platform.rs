//! What Intel would say about the hardware, and what its certificate says of itself.
use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSeq};

use crate::pki::Issued;

/// From 2020 to the end of 2049.
pub(crate) const CERTIFICATES_VALID: Range<u64> = 1_577_836_800..2_524_607_999;
/// The security versions of the platform's parts, in their order (`CPUSVN`).
pub(crate) const CPU_SVN: [u8; 16] = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
/// That of the provisioning certification enclave.
pub(crate) const PCE_SVN: u16 = 13;
/// Intel's arc for SGX in certificates (PCK certificate profile, section 1.3.5).
const SGX: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];

/// The hardware. The default is a platform with all updates, as Intel describes real ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The kind of hardware (family, model, stepping, platform, customised SKU), which `tcb_info` is about.
    pub fmspc: [u8; 6],
    /// Whether further packages can join the platform; true of all servers.
    pub dynamic_platform: bool,
    /// Whether Intel's registration service keeps the platform's root keys; true of all servers.
    pub cached_keys: bool,
    /// Whether hyper-threading is on; true of nearly all servers.
    pub smt_enabled: bool,
    /// Of hardware and microcode.
    pub tcb_status: TcbStatus,
    /// Of the quoting enclave.
    pub qe_status: TcbStatus,
    /// The advisories that apply to the hardware, as `INTEL-SA-00001`.
    pub advisory_ids: Vec<String>,
    /// Counts Intel's recoveries; in both `tcb_info` and `qe_identity`.
    pub tcb_evaluation_data_number: u32,
    /// The date of the TCB levels that the platform has.
    pub tcb_date: u64,
    /// When the certificates below the root are valid. That of the root is from 2020 to 2049.
    pub certificates_valid: Range<u64>,
    /// How long collateral is valid from when it is made.
    pub lifetimes: Lifetimes,
    /// What the CRLs revoke.
    pub revoked: Vec<Issued>,
}

/// How long each part of the collateral is valid, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of `tcb_info`.
    pub tcb_info: u64,
    /// Of `qe_identity`.
    pub qe_identity: u64,
    /// Of `root_ca_crl`.
    pub root_crl: u64,
    /// Of `pck_crl`.
    pub pck_crl: u64,
}

impl Lifetimes {
    /// The same for each part.
    #[must_use]
    pub const fn all(seconds: u64) -> Self {
        Self { tcb_info: seconds, qe_identity: seconds, root_crl: seconds, pck_crl: seconds }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            fmspc: *b"DEVTDX",
            dynamic_platform: true,
            cached_keys: true,
            smt_enabled: true,
            tcb_status: TcbStatus::UpToDate,
            qe_status: TcbStatus::UpToDate,
            advisory_ids: Vec::new(),
            tcb_evaluation_data_number: 20,
            // 2025-08-13.
            tcb_date: 1_755_043_200,
            certificates_valid: CERTIFICATES_VALID,
            // As Intel's.
            lifetimes: Lifetimes::all(30 * 24 * 60 * 60),
            revoked: Vec::new(),
        }
    }
}

/// What Intel says about a TCB level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcbStatus {
    /// Nothing is missing.
    UpToDate,
    /// Software in the enclave or TD has to mitigate.
    SWHardeningNeeded,
    /// The platform's configuration has to change.
    ConfigurationNeeded,
    /// Both of these.
    ConfigurationAndSWHardeningNeeded,
    /// An update is missing.
    OutOfDate,
    /// An update is missing, and the configuration has to change.
    OutOfDateConfigurationNeeded,
    /// The platform's keys are not to be trusted.
    Revoked,
}

impl TcbStatus {
    /// As in collateral.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TcbStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Platform {
    pub(crate) const SGX_EXTENSION: &[u64] = &SGX;

    /// What its PCK certificate says of the platform, whose name is `identity`: a sequence of pairs of an OID and a value.
    pub(crate) fn sgx_extension(&self, identity: &[u8; 32]) -> Vec<u8> {
        let (ppid, instance) = identity.split_at(16);
        yasna::construct_der(|der| {
            der.write_sequence(|fields| {
                field(fields, &[1], |value| value.write_bytes(ppid));
                field(fields, &[2], |value| value.write_sequence(tcb));
                // PCEID.
                field(fields, &[3], |value| value.write_bytes(&[0, 0]));
                field(fields, &[4], |value| value.write_bytes(&self.fmspc));
                // Scalable, as all hardware with TDX.
                field(fields, &[5], |value| value.write_enum(1));
                field(fields, &[6], |value| value.write_bytes(instance));
                field(fields, &[7], |value| {
                    value.write_sequence(|fields| {
                        field(fields, &[7, 1], |value| value.write_bool(self.dynamic_platform));
                        field(fields, &[7, 2], |value| value.write_bool(self.cached_keys));
                        field(fields, &[7, 3], |value| value.write_bool(self.smt_enabled));
                    });
                });
            });
        })
    }
}

fn tcb(fields: &mut DERWriterSeq<'_>) {
    for (number, svn) in (1..).zip(CPU_SVN) {
        field(fields, &[2, number], |value| value.write_u8(svn));
    }
    field(fields, &[2, 17], |value| value.write_u16(PCE_SVN));
    field(fields, &[2, 18], |value| value.write_bytes(&CPU_SVN));
}

fn field(fields: &mut DERWriterSeq<'_>, below_sgx: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    fields.next().write_sequence(|pair| {
        pair.next().write_oid(&ObjectIdentifier::new([&SGX[..], below_sgx].concat()));
        value(pair.next());
    });
}

//! What Intel's provisioning certification service would answer: `tcb_info` and `qe_identity`, whose exact texts are
//! signed.
use serde::Serialize;
use time::OffsetDateTime;

use crate::pki::date;
use crate::platform::{CPU_SVN, PCE_SVN, Platform, TcbStatus};
use crate::quote::{MODULE_MAJOR, MODULE_SVN, QE_ATTRIBUTES, QE_PRODUCT, QE_SVN, qe_signer};

/// Members are written in the order of Intel's documents.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo<'a> {
    id: &'static str,
    version: u8,
    issue_date: String,
    next_update: String,
    fmspc: String,
    pce_id: &'static str,
    tcb_type: u8,
    tcb_evaluation_data_number: u32,
    tdx_module: ModuleIdentity<'a>,
    tdx_module_identities: [ModuleIdentity<'a>; 1],
    tcb_levels: Vec<Level<'a, PlatformTcb>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleIdentity<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcb_levels: Option<[Level<'a, EnclaveTcb>; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Level<'a, T> {
    tcb: T,
    tcb_date: String,
    tcb_status: TcbStatus,
    #[serde(rename = "advisoryIDs", skip_serializing_if = "<[_]>::is_empty")]
    advisory_ids: &'a [String],
}

#[derive(Serialize)]
struct PlatformTcb {
    sgxtcbcomponents: [Component; 16],
    pcesvn: u16,
    tdxtcbcomponents: [Component; 16],
}

#[derive(Serialize)]
struct Component {
    svn: u8,
}

#[derive(Serialize)]
struct EnclaveTcb {
    isvsvn: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QeIdentity<'a> {
    id: &'static str,
    version: u8,
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    miscselect: &'static str,
    miscselect_mask: &'static str,
    attributes: String,
    attributes_mask: &'static str,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: [Level<'a, EnclaveTcb>; 1],
}

/// The text of `tcb_info`, valid from `issued` until `next`.
pub(crate) fn tcb_info(platform: &Platform, issued: u64, next: u64) -> String {
    let module = |id, tcb_levels| ModuleIdentity {
        id,
        mrsigner: hex(&[0; 48]),
        attributes: hex(&[0; 8]),
        attributes_mask: hex(&[0xff; 8]),
        tcb_levels,
    };
    let module_level = Level {
        tcb: EnclaveTcb { isvsvn: u16::from(MODULE_SVN) },
        tcb_date: text(platform.tcb_date),
        tcb_status: TcbStatus::UpToDate,
        advisory_ids: &[],
    };
    let level = |microcode: u8, date: u64, tcb_status, advisory_ids| {
        let mut sgx = CPU_SVN;
        sgx[0] += microcode;
        let mut tdx = [0; 16];
        tdx[2] = 3;
        Level {
            tcb: PlatformTcb {
                sgxtcbcomponents: sgx.map(|svn| Component { svn }),
                pcesvn: PCE_SVN,
                tdxtcbcomponents: tdx.map(|svn| Component { svn }),
            },
            tcb_date: text(date),
            tcb_status,
            advisory_ids,
        }
    };
    let mut tcb_levels = Vec::new();
    if matches!(platform.tcb_status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded) {
        // The update that is missing, which came a day later.
        tcb_levels.push(level(1, platform.tcb_date.saturating_add(24 * 60 * 60), TcbStatus::UpToDate, &[][..]));
    }
    tcb_levels.push(level(0, platform.tcb_date, platform.tcb_status, &platform.advisory_ids));
    json(&TcbInfo {
        id: "TDX",
        version: 3,
        issue_date: text(issued),
        next_update: text(next),
        fmspc: hex(&platform.fmspc),
        pce_id: "0000",
        tcb_type: 0,
        tcb_evaluation_data_number: platform.tcb_evaluation_data_number,
        tdx_module: module(None, None),
        tdx_module_identities: [module(Some(format!("TDX_{MODULE_MAJOR:02X}")), Some([module_level]))],
        tcb_levels,
    })
}

/// The text of `qe_identity`, valid from `issued` until `next`.
pub(crate) fn qe_identity(platform: &Platform, issued: u64, next: u64) -> String {
    json(&QeIdentity {
        id: "TD_QE",
        version: 2,
        issue_date: text(issued),
        next_update: text(next),
        tcb_evaluation_data_number: platform.tcb_evaluation_data_number,
        miscselect: "00000000",
        miscselect_mask: "FFFFFFFF",
        attributes: hex(&QE_ATTRIBUTES),
        attributes_mask: "FBFFFFFFFFFFFFFF0000000000000000",
        mrsigner: hex(&qe_signer()),
        isvprodid: QE_PRODUCT,
        tcb_levels: [Level {
            tcb: EnclaveTcb { isvsvn: QE_SVN },
            tcb_date: text(platform.tcb_date),
            tcb_status: platform.qe_status,
            advisory_ids: &[],
        }],
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it has no maps")
}

/// In upper case, as Intel writes it.
fn hex(bytes: &[u8]) -> String {
    dshield_common::hex::encode(bytes).to_ascii_uppercase()
}

/// RFC 3339, in UTC.
fn text(seconds: u64) -> String {
    let at: OffsetDateTime = date(seconds);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_intel_writes_it() {
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_750_332_747), "2025-06-19T11:32:27Z");
        assert_eq!(text(u64::MAX), "9999-12-31T23:59:59Z");
    }
}

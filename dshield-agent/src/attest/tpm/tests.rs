//! Against swtpm, an emulated TPM with the reference implementation's commands.
#![allow(clippy::unwrap_used)]
use std::error::Error as _;
use std::str::FromStr as _;

use dshield_verify::tpm::{AGENT_PCR, TpmClaims};
use tss_esapi::Context;
use tss_esapi::handles::{AuthHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Auth;
use tss_esapi::tcti_ldr::TctiNameConf;

use super::swtpm::Swtpm;
use super::*;

const MEASURED: [(&str, [u8; 32]); 3] = [("ebpf", [1; 32]), ("policy", [2; 32]), ("agent", [3; 32])];

fn open(swtpm: &Swtpm) -> Tpm {
    Tpm::open(&swtpm.tcti(), &MEASURED).unwrap()
}

fn claims(tpm: &mut Tpm) -> TpmClaims {
    let report_data = ReportData::of("a statement");
    let quote = tpm.quote(&report_data).unwrap().tpm.unwrap();
    verify(&quote, &report_data).unwrap()
}

/// A connection as the machine's owner has it.
fn as_owner<T>(swtpm: &Swtpm, act: impl FnOnce(&mut Context) -> Result<T, tss_esapi::Error>) -> T {
    let mut context = Context::new(TctiNameConf::from_str(&swtpm.tcti()).unwrap()).unwrap();
    context.execute_with_session(Some(AuthSession::Password), act).unwrap()
}

#[test]
fn a_quote_holds_over_its_report_data_and_over_no_other() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = open(&swtpm);
    assert_eq!(tpm.provider(), Provider::Tpm);
    let report_data = ReportData::of("a statement");
    let quoted = tpm.quote(&report_data).unwrap();
    let quote = quoted.tpm.clone().unwrap();
    assert_eq!(quoted, Quoted { tpm: Some(quote.clone()), ..Quoted::default() });

    let claims = verify(&quote, &report_data).unwrap();
    assert_eq!(claims.measured, MEASURED.map(|(_, sha256)| sha256));
    assert_eq!(claims.boots, Some(1));
    assert!(claims.pcrs.keys().eq(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15]), "{:?}", claims.pcrs);
    assert_eq!(verify(&quote, &ReportData::of("another statement")), Err(TpmFault::OtherReportData));
}

#[test]
fn the_pcr_is_explained_until_another_agent_extends_it_and_again_after_a_reset() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut first = open(&swtpm);
    let before = claims(&mut first);
    assert!(before.explained);
    assert_eq!(before.reset_count, 1, "a new TPM was reset once, and says so plainly");
    // A quote extends nothing.
    assert_eq!(claims(&mut first).pcrs, before.pcrs);

    let mut second = open(&swtpm);
    let with_both = claims(&mut second);
    assert!(!with_both.explained);
    assert!(!claims(&mut first).explained);
    assert_eq!(with_both.reset_count, before.reset_count);

    swtpm.restart();
    let mut third = open(&swtpm);
    let after = claims(&mut third);
    assert!(after.explained);
    assert_eq!(after.reset_count, before.reset_count + 1, "each start of the machine shows");
    assert_eq!(after.ak_sha256, before.ak_sha256, "the key can be pinned");
}

#[test]
fn the_counter_goes_up_by_one_with_each_opening_and_survives_a_restart() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    for boots in 1..=3 {
        assert_eq!(open(&swtpm).boots(), Some(boots));
    }
    swtpm.restart();
    let mut tpm = open(&swtpm);
    assert_eq!(tpm.boots(), Some(4));
    assert_eq!(claims(&mut tpm).boots, Some(4));
}

#[test]
fn deleting_the_counter_does_not_put_it_back() {
    let Some(swtpm) = Swtpm::start() else { return };
    open(&swtpm);
    assert_eq!(open(&swtpm).boots(), Some(2));
    as_owner(&swtpm, |context| {
        let index = TpmHandle::NvIndex(NvIndexTpmHandle::new(device::COUNTER)?);
        let counter = context.execute_without_session(|context| context.tr_from_tpm_public(index))?;
        context.nv_undefine_space(Provision::Owner, counter.into())
    });
    assert_eq!(open(&swtpm).boots(), Some(3));
}

#[test]
fn a_tpm_whose_owner_has_a_password_quotes_without_a_counter() {
    let Some(swtpm) = Swtpm::start() else { return };
    as_owner(&swtpm, |context| context.hierarchy_change_auth(AuthHandle::Owner, Auth::try_from(b"secret".as_slice())?));
    let refused = Device::connect(&swtpm.tcti()).unwrap().count().unwrap_err();
    assert!(refused.to_string().contains("is there a password on this hierarchy?"), "{refused}");
    let mut tpm = open(&swtpm);
    assert_eq!(tpm.boots(), None);
    let claims = claims(&mut tpm);
    assert!(claims.explained);
    assert_eq!((claims.boots, claims.measured), (None, MEASURED.map(|(_, sha256)| sha256).to_vec()));
}

#[test]
fn a_tpm_that_went_away_may_come_back_but_not_with_what_it_had_been_extended_with() {
    let Some(mut swtpm) = Swtpm::start() else { return };
    let mut tpm = open(&swtpm);
    assert!(claims(&mut tpm).explained);
    swtpm.stop();
    let error = tpm.quote(&ReportData::of("a statement")).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");

    swtpm.power_on();
    tpm.tcti = swtpm.tcti();
    let claims = claims(&mut tpm);
    assert!(!claims.explained);
    assert_eq!(claims.pcrs[&AGENT_PCR], [0; 32]);
}

#[test]
fn a_tpm_that_is_not_there_is_a_sentence_that_says_what_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("tpmrm0");
    let absent = Tpm::open(&format!("device:{}", device.display()), &MEASURED).unwrap_err();
    assert!(absent.to_string().contains("this machine offers no quotes there"), "{absent}");
    assert_eq!(absent.source().map(ToString::to_string).as_deref(), Some("No such file or directory (os error 2)"));
    assert!(!absent.is_transient());

    let unreachable = Tpm::open("swtpm:host=127.0.0.1,port=1", &MEASURED).unwrap_err();
    let sentence = unreachable.to_string();
    assert!(sentence.starts_with("the TPM at swtpm:host=127.0.0.1,port=1: it cannot be reached"), "{sentence}");
    assert!(sentence.contains("libtss2-tcti-swtpm0"), "{sentence}");

    let nonsense = Tpm::open("/dev/tpmrm0", &MEASURED).unwrap_err();
    assert!(nonsense.to_string().contains("write device:/dev/tpmrm0"), "{nonsense}");
    assert!(!nonsense.is_transient());
}

//! A real verifier of TDX quotes judges what the machine makes: whole, and with one thing broken at a time.
#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};

use dcap_qvl::quote::TDReport10;
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy, TcbStatus as QvlStatus};
use dshield_common::attestation::{Collateral, ReportData};
use dshield_common::canonical::sha256_hex;
use dshield_development::boot::{boot_log, mr_config_id};
use dshield_development::{DEBUG, Issued, Lifetimes, Machine, Pki, Platform, SEPT_VE_DISABLE, TcbStatus, TdReport};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 60 * 60;

fn machine(platform: Platform) -> Machine {
    Machine::new(Pki::generate().unwrap(), platform)
}

fn report() -> TdReport {
    TdReport::new(&ReportData::of("a statement"))
}

/// As it travels: in JSON.
fn qvl(collateral: &Collateral) -> QuoteCollateralV3 {
    serde_json::from_str(&serde_json::to_string(collateral).unwrap()).unwrap()
}

/// All causes in one text.
fn text<T>(result: Result<T, impl std::fmt::Debug>) -> Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}

fn verify_at(machine: &Machine, quote: &[u8], made: u64, now: u64) -> Result<VerifiedReport, String> {
    let verifier = QuoteVerifier::new(machine.pki().root_der().to_vec());
    text(verifier.verify(quote, &qvl(&machine.collateral(made)), now))
}

fn verify(machine: &Machine, report: &TdReport) -> Result<VerifiedReport, String> {
    verify_at(machine, &machine.quote(report), NOW, NOW)
}

fn claims(machine: &Machine, policy: &QuotePolicy) -> Result<QuoteClaims, String> {
    let verifier = QuoteVerifier::new(machine.pki().root_der().to_vec());
    let collateral = qvl(&machine.collateral(NOW));
    text(verifier.verify_with_policy(&machine.quote(&report()), collateral, NOW, policy))
}

fn assert_rejected<T: std::fmt::Debug>(result: Result<T, String>, why: &str) {
    let error = result.expect_err(why);
    assert!(error.contains(why), "{error}: {why}");
}

#[test]
fn a_quote_verifies_and_says_what_was_put_in() {
    let app_compose = "{\"name\":\"x\"}";
    let (_, rtmr) = boot_log(app_compose);
    let report = TdReport {
        rtmr,
        mr_config_id: mr_config_id(app_compose),
        mr_owner: [1; 48],
        mr_owner_config: [2; 48],
        ..report()
    };
    let verified = verify(&machine(Platform::default()), &report).unwrap();
    assert_eq!(verified.status, "UpToDate");
    assert!(verified.advisory_ids.is_empty());
    let said: &TDReport10 = verified.report.as_td10().unwrap();
    assert_eq!(said.tee_tcb_svn, report.tee_tcb_svn);
    assert_eq!(said.mr_seam, report.mr_seam);
    assert_eq!(said.mr_signer_seam, report.mr_signer_seam);
    assert_eq!(said.seam_attributes, report.seam_attributes);
    assert_eq!(said.td_attributes, report.td_attributes.to_le_bytes());
    assert_eq!(said.xfam, report.xfam.to_le_bytes());
    assert_eq!(said.mr_td, report.mr_td);
    assert_eq!(said.mr_config_id, report.mr_config_id);
    assert_eq!(said.mr_owner, report.mr_owner);
    assert_eq!(said.mr_owner_config, report.mr_owner_config);
    assert_eq!([said.rt_mr0, said.rt_mr1, said.rt_mr2, said.rt_mr3], rtmr);
    assert_eq!(&said.report_data, ReportData::of("a statement").as_bytes());
}

#[test]
fn a_quote_does_not_verify_under_intels_root_or_anothers() {
    let machine = machine(Platform::default());
    let (quote, collateral) = (machine.quote(&report()), qvl(&machine.collateral(NOW)));
    assert!(verify(&machine, &report()).is_ok());
    assert_rejected(text(QuoteVerifier::new_prod().verify(&quote, &collateral, NOW)), "root CA CRL");
    let other = Pki::generate().unwrap();
    let verifier = QuoteVerifier::new(other.root_der().to_vec());
    assert_rejected(text(verifier.verify(&quote, &collateral, NOW)), "root CA CRL");
    // Whose collateral is the right one, but whose quote is not.
    let collateral = qvl(&Machine::new(other, Platform::default()).collateral(NOW));
    assert_rejected(text(verifier.verify(&quote, &collateral, NOW)), "certificate chain");
}

#[test]
fn a_flipped_bit_anywhere_in_a_quote_is_found() {
    let machine = machine(Platform::default());
    let quote = machine.quote(&report());
    let verifier = QuoteVerifier::new(machine.pki().root_der().to_vec());
    let collateral = qvl(&machine.collateral(NOW));
    assert!(verifier.verify(&quote, &collateral, NOW).is_ok());
    // Header, body and signature; the key, and the quoting enclave's report with its signature and data.
    const CHAIN: usize = 48 + 584 + 4 + 64 + 64 + 6 + 384 + 64 + 2 + 32 + 6;
    assert!(quote[CHAIN..].starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    let end = |count: usize| {
        let ends = quote.windows(27).enumerate().filter(|(_, at)| at.starts_with(b"-----END CERTIFICATE-----"));
        ends.map(|(at, _)| at).nth(count).unwrap()
    };
    // The kind of the certification data and the lowest bytes of the chain's length are framing that nothing signs and this
    // verifier does without. The root at the chain's end is not what is trusted, so what it says does not matter.
    let framing = |at: &usize| !matches!(at, 764 | 765 | 1254 | 1255);
    let chain = (CHAIN + 28..end(1)).filter(|at| quote[*at].is_ascii_alphanumeric());
    for at in (0..CHAIN).filter(framing).step_by(3).chain(chain.step_by(29)) {
        let mut flipped = quote.clone();
        flipped[at] ^= 1;
        assert!(verifier.verify(&flipped, &collateral, NOW).is_err(), "byte {at}");
    }
}

#[test]
fn changed_collateral_is_found() {
    let machine = machine(Platform { tcb_status: TcbStatus::OutOfDate, ..Platform::default() });
    let verifier = QuoteVerifier::new(machine.pki().root_der().to_vec());
    let with = |change: fn(&mut Collateral)| {
        let mut collateral = machine.collateral(NOW);
        change(&mut collateral);
        text(verifier.verify(&machine.quote(&report()), &qvl(&collateral), NOW))
    };
    assert!(with(|_| ()).is_ok());
    assert_rejected(with(|it| it.tcb_info = it.tcb_info.replace("OutOfDate", "UpToDate")), "invalid for tcb_info");
    let isvsvn = |it: &mut Collateral| it.qe_identity = it.qe_identity.replace("\"isvsvn\":6", "\"isvsvn\":5");
    assert_rejected(with(isvsvn), "invalid for qe_identity");
    // The lists are each signed by whom they are from.
    assert_rejected(with(|it| it.root_ca_crl = it.pck_crl.clone()), "root CA CRL");
    assert_rejected(with(|it| it.pck_crl = it.root_ca_crl.clone()), "UnknownRevocationStatus");
}

#[test]
fn a_verifier_sees_the_status_that_the_platform_is_given() {
    let advisory = "INTEL-SA-00001".to_owned();
    for status in [
        TcbStatus::UpToDate,
        TcbStatus::SWHardeningNeeded,
        TcbStatus::ConfigurationNeeded,
        TcbStatus::ConfigurationAndSWHardeningNeeded,
        TcbStatus::OutOfDate,
        TcbStatus::OutOfDateConfigurationNeeded,
    ] {
        let advisory_ids = vec![advisory.clone()];
        let machine = machine(Platform { tcb_status: status, advisory_ids, ..Platform::default() });
        let verified = verify(&machine, &report()).unwrap();
        assert_eq!(verified.status, status.as_str());
        assert_eq!(verified.advisory_ids, [advisory.as_str()]);
    }
    let qe_status = TcbStatus::OutOfDate;
    let verified = verify(&machine(Platform { qe_status, ..Platform::default() }), &report()).unwrap();
    assert_eq!(verified.status, "OutOfDate");
    assert_eq!(verified.qe_status.status, QvlStatus::OutOfDate);
    assert_eq!(verified.platform_status.status, QvlStatus::UpToDate);
}

#[test]
fn a_revoked_platform_or_certificate_is_rejected() {
    let revoked = TcbStatus::Revoked;
    let platform = Platform { tcb_status: revoked, ..Platform::default() };
    assert_rejected(verify(&machine(platform), &report()), "TCB status is invalid: Revoked");
    let platform = Platform { qe_status: revoked, ..Platform::default() };
    assert_rejected(verify(&machine(platform), &report()), "TCB status is invalid: Revoked");
    for issued in [Issued::Pck, Issued::PlatformCa, Issued::TcbSigning] {
        let platform = Platform { revoked: vec![issued], ..Platform::default() };
        assert_rejected(verify(&machine(platform), &report()), "CertRevoked");
    }
}

#[test]
fn a_td_that_is_not_as_it_should_be_is_rejected() {
    let machine = machine(Platform::default());
    let with = |change: fn(&mut TdReport)| {
        let mut report = report();
        change(&mut report);
        verify(&machine, &report)
    };
    assert_rejected(with(|it| it.td_attributes |= DEBUG), "Debug mode is enabled");
    assert_rejected(with(|it| it.td_attributes &= !SEPT_VE_DISABLE), "SEPT_VE_DISABLE is not enabled");
    assert_rejected(with(|it| it.mr_signer_seam = [1; 48]), "MRSIGNER mismatch");
    assert_rejected(with(|it| it.seam_attributes[0] = 1), "SEAMATTRIBUTES mismatch");
    assert_rejected(with(|it| it.tee_tcb_svn[0] -= 1), "below minimum required");
    assert_rejected(with(|it| it.tee_tcb_svn[1] = 9), "No TDX module identity");
    assert_rejected(with(|it| it.tee_tcb_svn[2] -= 1), "No matching TCB level");
}

#[test]
fn another_kind_of_hardware_is_rejected() {
    let pki = Pki::generate().unwrap();
    let one = Machine::new(pki.clone(), Platform::default());
    let other = Machine::new(pki, Platform { fmspc: [1; 6], ..Platform::default() });
    assert!(verify_at(&one, &one.quote(&report()), NOW, NOW).is_ok());
    assert_rejected(verify_at(&one, &other.quote(&report()), NOW, NOW), "Fmspc mismatch");
}

#[test]
fn collateral_is_valid_from_a_little_before_it_is_made_and_for_as_long_as_said() {
    let machine = machine(Platform::default());
    let quote = machine.quote(&report());
    for (now, why) in [
        (NOW - 3_600, None),
        (NOW - 3_601, Some("in the future")),
        (NOW + 30 * DAY - 1, None),
        (NOW + 30 * DAY + 1, Some("Expired")),
    ] {
        match why {
            None => assert!(verify_at(&machine, &quote, NOW, now).is_ok(), "{now}"),
            Some(why) => assert_rejected(verify_at(&machine, &quote, NOW, now), why),
        }
    }
}

#[test]
fn each_part_of_the_collateral_expires_on_its_own() {
    type Lifetime = fn(&mut Lifetimes) -> &mut u64;
    type Text = fn(&mut Collateral) -> &mut String;
    let parts: [(Lifetime, &str, &[Text]); 4] = [
        (|it| &mut it.tcb_info, "TCBInfo expired", &[|it| &mut it.tcb_info, |it| &mut it.tcb_info_signature]),
        (
            |it| &mut it.qe_identity,
            "QE Identity expired",
            &[|it| &mut it.qe_identity, |it| &mut it.qe_identity_signature],
        ),
        (|it| &mut it.root_crl, "CrlExpired", &[|it| &mut it.root_ca_crl]),
        (|it| &mut it.pck_crl, "CrlExpired", &[|it| &mut it.pck_crl]),
    ];
    let pki = Pki::generate().unwrap();
    let verifier = QuoteVerifier::new(pki.root_der().to_vec());
    for (lifetime, why, texts) in parts {
        let mut lifetimes = Lifetimes::all(9 * DAY);
        let long = Machine::new(pki.clone(), Platform { lifetimes, ..Platform::default() });
        *lifetime(&mut lifetimes) = DAY;
        let short = Machine::new(pki.clone(), Platform { lifetimes, ..Platform::default() });
        let quote = short.quote(&report());
        let mut collateral = short.collateral(NOW);
        assert!(verifier.verify(&quote, &qvl(&collateral), NOW + DAY - 1).is_ok(), "{why}");
        assert_rejected(text(verifier.verify(&quote, &qvl(&collateral), NOW + 2 * DAY)), why);
        for text in texts {
            *text(&mut collateral) = text(&mut long.collateral(NOW)).clone();
        }
        assert!(verifier.verify(&quote, &qvl(&collateral), NOW + 2 * DAY).is_ok(), "{why}");
    }
}

#[test]
fn a_certificate_counts_within_its_time_only() {
    for (certificates_valid, why) in [(0..NOW - 1, "CertExpired"), (NOW + 1..NOW + DAY, "CertNotValidYet")] {
        let machine = machine(Platform { certificates_valid, ..Platform::default() });
        assert_rejected(verify(&machine, &report()), why);
    }
}

#[test]
fn no_time_is_too_early_or_too_late() {
    let lifetimes = Lifetimes::all(60);
    let machine = machine(Platform { lifetimes, certificates_valid: 0..u64::MAX, ..Platform::default() });
    let quote = machine.quote(&report());
    for now in [0, 1, 253_402_300_000] {
        assert!(verify_at(&machine, &quote, now, now).is_ok(), "{now}");
    }
    // The year 9999 is the last there is; a list that ends as it begins is none (RFC 5280, section 5.1.2.5).
    let platform = Platform { lifetimes: Lifetimes::all(0), tcb_date: u64::MAX, ..Platform::default() };
    let last = Machine::new(machine.pki().clone(), platform);
    assert!(last.collateral(0).tcb_info.contains("\"nextUpdate\":\"1970-01-01T00:00:00Z\""));
    assert!(last.collateral(u64::MAX).tcb_info.contains("\"nextUpdate\":\"9999-12-31T23:59:59Z\""));
}

#[test]
fn a_policy_sees_what_the_platform_is_like() {
    let platform = Platform { tcb_evaluation_data_number: 17, tcb_date: NOW - 9 * DAY, ..Platform::default() };
    let real = |policy: QuotePolicy| policy.allow_dynamic_platform(true).allow_cached_keys(true).allow_smt(true);
    let strict = QuotePolicy::strict(NOW);
    let machine = machine(platform.clone());
    let said = claims(&machine, &real(strict.clone())).unwrap();
    assert_eq!(said.platform.pck.fmspc, *b"DEVTDX");
    assert_eq!(said.tcb.eval_data_number, 17);
    assert_eq!(said.platform.tcb_date_tag, NOW - 9 * DAY);
    assert_eq!(said.earliest_expiration_date, NOW + 30 * DAY);
    assert_rejected(claims(&machine, &strict), "ynamic");
    assert_rejected(claims(&machine, &real(strict.clone()).min_tcb_eval_data_number(18)), "18");
    let plain = Platform { dynamic_platform: false, cached_keys: false, smt_enabled: false, ..platform };
    assert!(claims(&Machine::new(machine.pki().clone(), plain), &strict).is_ok());
}

#[test]
fn a_pki_read_back_from_its_file_is_the_same() {
    let pki = Pki::generate().unwrap();
    let file = pki.to_pem();
    assert!(file.starts_with("-----BEGIN PRIVATE KEY-----\n"), "not a key");
    let again = Pki::from_pem(&file).unwrap();
    assert_eq!(pki.root_der(), again.root_der());
    let (first, second) = (Machine::new(pki, Platform::default()), Machine::new(again, Platform::default()));
    let quote = second.quote(&report());
    assert_eq!(verify_at(&first, &quote, NOW, NOW).unwrap().status, "UpToDate");
    assert_eq!(first.quote(&report()), quote);
    assert_eq!(first.collateral(NOW), second.collateral(NOW));
    assert_ne!(Pki::generate().unwrap().root_der(), first.pki().root_der());
    for bad in ["", "x", &first.pki().root_pem(), &file.replace("\nM", "\nN")] {
        let error = Pki::from_pem(bad).unwrap_err().to_string();
        assert!(error.contains("remove the file"), "{error}");
    }
}

#[test]
fn what_reads_a_certificate_is_told_that_it_proves_nothing() {
    let machine = machine(Platform::default());
    let contains = |der: &[u8], text: &[u8]| der.windows(text.len()).any(|window| window == text);
    assert!(contains(machine.pki().root_der(), b"D-Shield DEVELOPMENT root, proves nothing"));
    let quote = machine.quote(&report());
    let chain = dcap_qvl::intel::extract_cert_chain(&dcap_qvl::quote::Quote::parse(&quote).unwrap()).unwrap();
    assert_eq!(chain.len(), 3);
    assert!(chain.iter().all(|certificate| contains(certificate, b"D-Shield DEVELOPMENT")));
    assert_eq!(chain[2], machine.pki().root_der());
    assert!(contains(&quote, b"D-Shield DEVELOPMENT"));
}

#[test]
fn a_pki_shows_which_root_it_is_and_no_more() {
    let pki = Pki::generate().unwrap();
    let root = sha256_hex(pki.root_der());
    assert_eq!(format!("{pki:?}"), format!("Pki {{ root_sha256: \"{root}\", .. }}"));
}

#[test]
fn evidence_is_small_and_soon_made() {
    let made = (0..5).map(|_| {
        let start = Instant::now();
        let machine = machine(Platform::default());
        let quote = machine.quote(&report());
        (start.elapsed(), machine, quote)
    });
    let (took, machine, quote) = made.min_by_key(|(took, ..)| *took).unwrap();
    // The least of five, as other tests want the processor too.
    assert!(took < Duration::from_millis(50), "{took:?}");
    let collateral = serde_json::to_string(&machine.collateral(NOW)).unwrap();
    let events = serde_json::to_string(&boot_log("{}").0).unwrap();
    let sizes = [2 * quote.len(), collateral.len(), events.len()];
    assert!(sizes.iter().sum::<usize>() < 40 << 10, "{sizes:?}");
}

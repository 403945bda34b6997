//! Against a file system that follows the kernel's rules (`dshield_tests::tsm`).
#![allow(clippy::unwrap_used)]
use dshield_common::attestation::event::Event;
use dshield_tests::tsm::{QuoteShape, Step, Tsm, quote};

use super::*;

fn asked() -> ReportData {
    ReportData::of("a statement")
}

/// Eight attempts as in earnest, without the time.
fn impatient(tsm: &Tsm) -> ConfigfsTsm {
    let patience = Patience { pause: Duration::from_micros(10), ..PATIENCE };
    ConfigfsTsm { patience, ..ConfigfsTsm::new(&tsm.report()).unwrap() }
}

#[test]
fn a_quote_is_over_what_was_asked_and_leaves_no_folder() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    let other = ReportData::of("another statement");
    for (shape, asked) in [(QuoteShape::V4, asked()), (QuoteShape::V5Td15, other), (QuoteShape::V5Td15Ex, asked())] {
        tsm.make_with(move |report_data, rtmr3| quote(shape, report_data, rtmr3));
        let quoted = quoter.quote(&asked).unwrap();
        let want = Quoted { quote: Some(quote(shape, asked.as_bytes(), &[0; 48])), ..Quoted::default() };
        assert_eq!(quoted, want, "{shape:?}");
        assert!(tsm.reports().is_empty());
    }
    assert_eq!(quoter.provider(), Provider::ConfigfsTsm);
}

#[test]
fn a_quote_longer_than_one_read_is_had_whole() {
    let Some(tsm) = Tsm::mount() else { return };
    let padded = |report_data: &[u8; 64], rtmr3: &[u8; 48]| {
        let mut quote = quote(QuoteShape::V4, report_data, rtmr3);
        quote.resize(300_000, 0x11);
        quote
    };
    tsm.make_with(padded);
    let quoted = impatient(&tsm).quote(&asked()).unwrap();
    assert_eq!(quoted.quote.unwrap(), padded(asked().as_bytes(), &[0; 48]));
}

#[test]
fn errors_that_may_pass_are_tried_through_and_leave_no_folder() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    for errno in [libc::EBUSY, libc::EINTR, libc::ETIMEDOUT, libc::EIO, libc::ENOMEM, libc::EWOULDBLOCK] {
        for step in [Step::Create, Step::Provider, Step::Generation, Step::Write, Step::Read] {
            tsm.fail(step, errno, 3);
            let quoted = quoter.quote(&asked()).unwrap_or_else(|error| panic!("{step:?} {errno}: {error}"));
            assert!(quoted.quote.is_some());
            assert_eq!(tsm.failures_left(step), 0, "{step:?} {errno}");
            assert!(tsm.reports().is_empty(), "{step:?} {errno}");
        }
    }
}

#[test]
fn an_error_that_stays_ends_after_some_attempts() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    for errno in [libc::EBUSY, libc::EINTR, libc::ETIMEDOUT, libc::ENOMEM] {
        tsm.fail(Step::Read, errno, 100);
        let error = quoter.quote(&asked()).unwrap_err();
        assert!(matches!(&error, QuoteError::File { source, .. } if source.raw_os_error() == Some(errno)), "{error}");
        assert_eq!(tsm.failures_left(Step::Read), 100 - PATIENCE.attempts);
        assert!(tsm.reports().is_empty());
    }
    tsm.fail(Step::Read, 0, 0);
    quoter.patience.total = Duration::ZERO;
    tsm.fail(Step::Read, libc::EBUSY, 100);
    assert!(quoter.quote(&asked()).is_err());
    assert_eq!(tsm.failures_left(Step::Read), 99, "no attempt begins after the deadline");
}

#[test]
fn an_error_that_will_stay_is_not_tried_again() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    for (step, errno, why) in [
        (Step::Create, libc::ENXIO, "is the tdx_guest module loaded?"),
        (Step::Create, libc::EACCES, "is the agent root"),
        (Step::Read, libc::ENXIO, "is the tdx_guest module loaded?"),
        (Step::Read, libc::EINVAL, "did not take the 64 bytes"),
        (Step::Read, libc::EFBIG, "larger than the kernel's buffer"),
    ] {
        tsm.fail(step, errno, 10);
        let error = quoter.quote(&asked()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(!error.is_transient(), "{error}");
        assert_eq!(tsm.failures_left(step), 9, "{error}");
        assert!(tsm.reports().is_empty(), "{error}");
        tsm.fail(step, errno, 0);
    }
}

/// configfs gives `inblob` to the driver when the file is closed, and tells nobody of its error.
#[test]
fn report_data_that_the_kernel_did_not_take_are_found_out() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    tsm.fail(Step::Commit, libc::EBUSY, 1);
    let error = quoter.quote(&asked()).unwrap_err();
    assert!(error.to_string().contains("did not take the 64 bytes"), "{error}");
    assert!(quoter.quote(&asked()).is_ok());
}

#[test]
fn what_somebody_else_wrote_into_the_folder_is_not_quoted() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    tsm.disturb(2);
    let quoted = quoter.quote(&asked()).unwrap();
    assert_eq!(quoted.quote.unwrap(), quote(QuoteShape::V4, asked().as_bytes(), &[0; 48]));
    tsm.disturb(100);
    let error = quoter.quote(&asked()).unwrap_err();
    assert!(matches!(error, QuoteError::Disturbed { .. }), "{error}");
    assert!(error.is_transient());
    assert!(tsm.reports().is_empty());
}

#[test]
fn quotes_that_are_none_or_over_something_else_are_kept_back() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    tsm.make_with(|_, rtmr3| quote(QuoteShape::V4, &[9; 64], rtmr3));
    assert!(matches!(quoter.quote(&asked()), Err(QuoteError::OtherReportData)));
    tsm.make_with(|_, _| b"sev-snp".to_vec());
    assert!(matches!(quoter.quote(&asked()), Err(QuoteError::NotAQuote(_))));
    tsm.make_with(|_, _| Vec::new());
    assert!(matches!(quoter.quote(&asked()), Err(QuoteError::NotAQuote(_))));
    tsm.make_with(|_, _| vec![4; usize::try_from(LONGEST_QUOTE).unwrap() + 1]);
    let error = quoter.quote(&asked()).unwrap_err();
    assert!(error.to_string().contains("larger than the kernel's buffer"), "{error}");
    assert!(tsm.reports().is_empty());
}

#[test]
fn a_machine_that_stops_being_tdx_gives_no_quotes() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    tsm.set_provider("sev_guest");
    let error = quoter.quote(&asked()).unwrap_err();
    assert!(error.to_string().contains("provider is \"sev_guest\", not \"tdx_guest\""), "{error}");
    assert!(ConfigfsTsm::new(&tsm.report()).is_err());
    assert!(tsm.reports().is_empty());
}

#[test]
fn what_an_agent_left_is_removed_and_what_others_use_is_not() {
    let Some(tsm) = Tsm::mount() else { return };
    let left = tsm.report().join(format!("{PREFIX}left"));
    let used = tsm.report().join(format!("{PREFIX}used"));
    let others = tsm.report().join("report0");
    for folder in [&left, &used, &others] {
        fs::create_dir(folder).unwrap();
    }
    let agent = File::open(&used).unwrap();
    agent.try_lock().unwrap();
    let _quoter = impatient(&tsm);
    let mut there = tsm.reports();
    there.sort();
    assert_eq!(there, ["dshield-used", "report0"]);
    // As when its holder is killed.
    drop(agent);
    let _quoter = impatient(&tsm);
    assert_eq!(tsm.reports(), ["report0"]);
}

#[test]
fn an_agent_that_starts_leaves_the_folder_of_one_at_work() {
    let Some(tsm) = Tsm::mount() else { return };
    let report = Report::create(&tsm.report()).unwrap();
    sweep(&tsm.report());
    assert!(report.path.is_dir());
    report.write("inblob", asked().as_bytes()).unwrap();
    assert!(report.read("outblob", LONGEST_QUOTE).is_ok());
    drop(report);
    assert!(tsm.reports().is_empty());
}

/// Each removes what is not locked, also in the moment between making a folder and locking it.
#[test]
fn agents_that_start_do_not_keep_others_from_their_quotes() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoters = [impatient(&tsm), impatient(&tsm)];
    thread::scope(|scope| {
        for quoter in &mut quoters {
            scope.spawn(|| (0..50).for_each(|_| drop(quoter.quote(&asked()).unwrap())));
        }
        (0..200).for_each(|_| sweep(&tsm.report()));
    });
    assert!(tsm.reports().is_empty());
}

#[test]
fn a_folder_that_another_agent_took_away_is_made_again() {
    let Some(tsm) = Tsm::mount() else { return };
    let report = Report::create(&tsm.report()).unwrap();
    fs::remove_dir(&report.path).unwrap();
    let error = report.write("inblob", asked().as_bytes()).unwrap_err();
    assert!(matches!(error, QuoteError::Disturbed { .. }), "{error}");
    assert!(worth_another(&error));
}

#[test]
fn a_folder_that_cannot_be_removed_does_not_keep_the_quote_back() {
    let Some(tsm) = Tsm::mount() else { return };
    let mut quoter = impatient(&tsm);
    tsm.fail(Step::Remove, libc::EBUSY, 1);
    assert!(quoter.quote(&asked()).is_ok());
    assert_eq!(tsm.reports().len(), 1);
    // By the next agent.
    let _quoter = impatient(&tsm);
    assert!(tsm.reports().is_empty());
}

#[test]
fn a_machine_without_the_interface_is_told_from_one_that_fails() {
    let folder = tempfile::tempdir().unwrap();
    let error = ConfigfsTsm::new(&folder.path().join("report")).unwrap_err();
    assert!(error.to_string().contains("this machine offers no quotes there"), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn a_quote_comes_with_the_events_of_rtmr3_as_long_as_they_explain_it() {
    let Some(tsm) = Tsm::mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut rtmr3 = Rtmr3::open(&tsm.measurements(), &folder.path().join("rtmr3.log")).unwrap().unwrap();
    let event = Event::runtime("dshield-agent", &[7; 32]);
    rtmr3.extend(&event).unwrap();
    let mut quoter = impatient(&tsm).with_rtmr3(rtmr3);
    let quoted = quoter.quote(&asked()).unwrap();
    let events: Vec<Event> = serde_json::from_str(&quoted.event_log.unwrap()).unwrap();
    assert_eq!(events, [event]);
    tsm.set_rtmr3([3; 48]);
    let quoted = quoter.quote(&asked()).unwrap();
    assert!(quoted.quote.is_some());
    assert_eq!(quoted.event_log, None, "a log that leads elsewhere explains nothing");
}

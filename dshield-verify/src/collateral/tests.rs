#![allow(clippy::unwrap_used)]
use dshield_common::attestation::ReportData;
use dshield_development::{Issued, Lifetimes, Machine, Pki, Platform, TcbStatus, TdReport};
use proptest::prelude::*;

use super::*;
use crate::quote::{QuoteError, Root, VerifiedQuote};
use crate::test_vectors;

const NOW: u64 = 1_800_000_000;
const CHAINS: [&str; 3] = ["SGX-PCK-CRL-Issuer-Chain", "TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain"];

fn machine(platform: Platform) -> (Machine, Vec<u8>) {
    let machine = Machine::new(Pki::generate().unwrap(), platform);
    let quote = machine.quote(&TdReport::new(&ReportData::of("x")));
    (machine, quote)
}

/// What a PCCS answers from such collateral.
struct Served {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Served {
    fn of(collateral: &Collateral, part: Part) -> Self {
        let signed = |name: &str, text: &str, signature: &str| {
            format!("{{\"{name}\":{text},\"signature\":\"{signature}\"}}").into_bytes()
        };
        let (header, chain, body) = match part {
            Part::PckCrl => (CHAINS[0], &collateral.pck_crl_issuer_chain, hex::decode(&collateral.pck_crl).unwrap()),
            // As Intel's PCCS serves it.
            Part::RootCrl => ("", &String::new(), collateral.root_ca_crl.to_ascii_uppercase().into_bytes()),
            Part::TcbInfo => (
                CHAINS[1],
                &collateral.tcb_info_issuer_chain,
                signed("tcbInfo", &collateral.tcb_info, &collateral.tcb_info_signature.to_ascii_uppercase()),
            ),
            Part::QeIdentity => (
                CHAINS[2],
                &collateral.qe_identity_issuer_chain,
                signed("enclaveIdentity", &collateral.qe_identity, &collateral.qe_identity_signature),
            ),
        };
        let headers = vec![(header.to_owned(), urlencoding::encode(chain).into_owned())];
        Self { status: 200, headers, body }
    }

    fn give(&self, requests: &mut Requests, part: Part) -> Result<(), CollateralError> {
        let header = |name: &str| {
            let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        requests.answer(part, &Answer { status: self.status, header: &header, body: &self.body })
    }
}

/// Asks for all of it, of a PCCS that has `collateral` and changes each answer with `change`.
fn fetch(
    quote: &[u8],
    collateral: &Collateral,
    mut change: impl FnMut(Part, &mut Served),
) -> Result<(Collateral, Vec<String>), CollateralError> {
    let mut requests = Requests::for_quote(quote)?;
    let mut paths = Vec::new();
    while let Some(Request { part, path }) = requests.next_request() {
        paths.push(path);
        let mut served = Served::of(collateral, part);
        change(part, &mut served);
        served.give(&mut requests, part)?;
    }
    Ok((requests.finish()?, paths))
}

#[test]
fn what_a_pccs_answers_about_a_quote_becomes_collateral_that_verifies_it() {
    let (machine, quote) = machine(Platform::default());
    let collateral = machine.collateral(NOW);
    let (assembled, paths) = fetch(&quote, &collateral, |_, _| ()).unwrap();
    assert_eq!(assembled, collateral);
    let root = Root::Other(machine.pki().root_der().to_vec());
    VerifiedQuote::verify(&hex::encode(&quote), &assembled, &root, NOW).unwrap();
    // "DEVTDX".
    assert_eq!(
        paths,
        [
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "/sgx/certification/v4/rootcacrl",
            "/tdx/certification/v4/tcb?fmspc=444556544458&update=standard",
            "/tdx/certification/v4/qe/identity?update=standard",
        ]
    );
}

#[test]
fn every_path_is_one_that_the_policy_lets_the_agent_ask_for() {
    let (machine, quote) = machine(Platform::default());
    let (_, paths) = fetch(&quote, &machine.collateral(NOW), |_, _| ()).unwrap();
    let mut paths: Vec<_> = paths.iter().map(|path| path.split('?').next().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, dshield_common::policy::Pccs::PATHS);
}

#[test]
fn signed_texts_are_kept_byte_for_byte_however_they_are_spaced_and_ordered() {
    let (machine, quote) = machine(Platform::default());
    let mut collateral = machine.collateral(NOW);
    collateral.tcb_info = "{ \"z\":1.0,\n\t\"a\" : \"\\u00e9/\\/\" , \"z\":2e0 }".to_owned();
    collateral.qe_identity = "{}".to_owned();
    let text = collateral.tcb_info.clone();
    let body = format!(" {{\"signature\" : \"{}\",\r\n\"tcbInfo\" :  {text}  ,\"x\":[]}}\n", "ab".repeat(64));
    let (assembled, _) = fetch(&quote, &collateral, |part, served| {
        if part == Part::TcbInfo {
            served.body = body.clone().into_bytes();
        }
    })
    .unwrap();
    assert_eq!((assembled.tcb_info, assembled.qe_identity.as_str()), (text, "{}"));
}

#[test]
fn crls_come_in_der_or_in_hexadecimal_and_issuers_under_either_name() {
    let (machine, quote) = machine(Platform::default());
    let collateral = machine.collateral(NOW);
    let (assembled, _) = fetch(&quote, &collateral, |part, served| match part {
        Part::PckCrl => served.body = format!("{}\n", collateral.pck_crl).into_bytes(),
        Part::RootCrl => served.body = hex::decode(&collateral.root_ca_crl).unwrap(),
        Part::TcbInfo => "SGX-TCB-Info-Issuer-Chain".clone_into(&mut served.headers[0].0),
        Part::QeIdentity => served.headers[0].0.make_ascii_lowercase(),
    })
    .unwrap();
    assert_eq!(assembled, collateral);
}

#[test]
fn an_answer_that_is_something_else_is_said_to_be() {
    let (machine, quote) = machine(Platform::default());
    let collateral = machine.collateral(NOW);
    type Change = fn(&mut Served);
    let cases: [(Part, Change, &str); 15] = [
        (Part::TcbInfo, |served| served.status = 404, "it answered 404 where the TCB info was asked for"),
        (Part::RootCrl, |served| served.status = 302, "it answered 302 where the root's CRL"),
        (Part::PckCrl, |served| served.headers.clear(), "header SGX-PCK-CRL-Issuer-Chain); is it a PCCS"),
        (Part::TcbInfo, |served| served.headers.clear(), "(header TCB-Info-Issuer-Chain)"),
        (Part::QeIdentity, |served| served.headers[0].1 = "%ff".to_owned(), "has no certificates"),
        (Part::QeIdentity, |served| served.headers[0].1 = "x".to_owned(), "has no certificates"),
        (Part::QeIdentity, |served| served.headers[0].1 = "x".repeat(MOST_CHAIN + 1), "is too long"),
        (Part::PckCrl, |served| served.body = b"<html>".to_vec(), "is not the CRL for PCK certificates: "),
        (Part::PckCrl, |served| served.body.push(0), "is not the CRL for PCK certificates: "),
        (Part::RootCrl, |served| served.body.clear(), "is not the root's CRL: "),
        (
            Part::RootCrl,
            |served| served.body = vec![b'0'; MOST_BODY + 1],
            "the root's CRL that it answered is too long",
        ),
        (Part::TcbInfo, |served| served.body = b"{\"tcbInfo\":{}}".to_vec(), "missing field `signature`"),
        (Part::TcbInfo, |served| served.body = b"{\"tcbInfo\":{},\"signature\":\"00\"}".to_vec(), "is not 64 bytes"),
        (
            Part::QeIdentity,
            |served| served.body = b"{\"tcbInfo\":{},\"signature\":\"\"}".to_vec(),
            "missing field `enc",
        ),
        (Part::TcbInfo, |served| served.body.truncate(100), "what it answered is not the TCB info: "),
    ];
    for (broken, change, said) in cases {
        let error = fetch(&quote, &collateral, |part, served| {
            if part == broken {
                change(served);
            }
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains(said), "{said:?} is missing in {error:?}");
    }
    assert_eq!(Requests::for_quote(&quote).unwrap().finish().unwrap_err(), CollateralError::Missing(Part::PckCrl));
}

#[test]
fn what_holds_no_platform_certificate_is_told_apart() {
    let (_, mut quote) = machine(Platform::default());
    assert!(matches!(Requests::for_quote(b""), Err(CollateralError::Quote(_))));
    assert!(matches!(Requests::for_quote(&quote[..700]), Err(CollateralError::Quote(_))));
    // The type of the innermost certification data stands before their length and the chain.
    let chain = quote.windows(27).position(|window| window == b"-----BEGIN CERTIFICATE-----").unwrap();
    assert_eq!(quote[chain - 6..chain - 4], [5, 0]);
    quote[chain - 6] = 3;
    assert_eq!(Requests::for_quote(&quote).unwrap_err(), CollateralError::NoChain(3));
    quote[chain - 6] = 5;
    quote[chain + 40] ^= 1;
    assert!(matches!(Requests::for_quote(&quote), Err(CollateralError::Certificate(_))));
}

#[test]
fn that_something_is_revoked_is_told_from_what_only_says_so() {
    let revoked = |platform: Platform| {
        let (machine, quote) = machine(platform);
        let root = Root::Other(machine.pki().root_der().to_vec());
        VerifiedQuote::verify(&hex::encode(&quote), &machine.collateral(NOW), &root, NOW).unwrap_err()
    };
    for issued in [Issued::Pck, Issued::PlatformCa, Issued::TcbSigning] {
        let error = revoked(Platform { revoked: vec![issued], ..Platform::default() });
        assert!(matches!(error, QuoteError::Revoked(_)), "{error}");
    }
    let error = revoked(Platform { tcb_status: TcbStatus::Revoked, ..Platform::default() });
    assert!(matches!(error, QuoteError::Revoked(_)), "{error}");
    let (machine, quote) = machine(Platform::default());
    let root = Root::Other(machine.pki().root_der().to_vec());
    for unsigned in ["Revoked", "TCB status is invalid: Revoked", "CertRevoked"] {
        let mut collateral = machine.collateral(NOW);
        collateral.tcb_info = collateral.tcb_info.replace("UpToDate", unsigned);
        let error = VerifiedQuote::verify(&hex::encode(&quote), &collateral, &root, NOW).unwrap_err();
        assert!(matches!(error, QuoteError::Invalid(_)), "{error}");
    }
}

#[test]
fn the_part_that_ends_first_says_when_to_ask_again() {
    let day = 24 * 60 * 60;
    let lifetimes = |index: usize| {
        let mut days = [30, 31, 32, 33];
        days[index] = 7;
        let [tcb_info, qe_identity, root_crl, pck_crl] = days.map(|days| days * day);
        Lifetimes { tcb_info, qe_identity, root_crl, pck_crl }
    };
    for index in 0..4 {
        let (machine, _) = machine(Platform { lifetimes: lifetimes(index), ..Platform::default() });
        assert_eq!(next_update(&machine.collateral(NOW)), Some(NOW + 7 * day), "{index}");
    }
    let (machine, _) = machine(Platform::default());
    for broken in [
        |collateral: &mut Collateral| collateral.tcb_info = "{}".to_owned(),
        |collateral: &mut Collateral| collateral.qe_identity = "{\"nextUpdate\":\"soon\"}".to_owned(),
        |collateral: &mut Collateral| collateral.pck_crl = "00".to_owned(),
        |collateral: &mut Collateral| collateral.root_ca_crl = "no".to_owned(),
    ] {
        let mut collateral = machine.collateral(NOW);
        broken(&mut collateral);
        assert_eq!(next_update(&collateral), None);
    }
}

#[test]
fn a_real_quote_verifies_with_what_is_put_together_from_real_answers() {
    for (name, at, next) in [
        // Of the CRL for PCK certificates (`openssl crl -nextupdate`).
        ("tdx_quote", 1_750_332_747, "2025-07-19T10:00:35Z"),
        // Of the quoting enclave's identity.
        ("tdx_quote_td15ex", 1_791_421_786, "2026-11-06T23:45:11Z"),
    ] {
        let Some(quote) = test_vectors::read(name) else { return };
        let Some(real) = test_vectors::read(&format!("{name}_collateral.json")) else { return };
        let mut real: Collateral = serde_json::from_slice(&real).unwrap();
        let (assembled, paths) = fetch(&quote, &real, |_, _| ()).unwrap();
        assert!(
            paths.contains(&"/tdx/certification/v4/tcb?fmspc=B0C06F000000&update=standard".to_owned()),
            "{paths:?}"
        );
        assert!(paths[0].contains("ca=platform"), "{paths:?}");
        real.pck_certificate_chain = None;
        assert_eq!(assembled, real);
        let quote = hex::encode(&quote);
        let verified = VerifiedQuote::verify(&quote, &assembled, &Root::Intel, at).unwrap();
        assert_eq!(verified.claims().tcb.status.to_string(), "UpToDate");
        assert_eq!(next_update(&assembled).map(time::rfc3339).as_deref(), Some(next), "{name}");
        let mut spaced = assembled;
        spaced.tcb_info = spaced.tcb_info.replacen(':', ": ", 1);
        let error = VerifiedQuote::verify(&quote, &spaced, &Root::Intel, at).unwrap_err();
        assert!(matches!(error, QuoteError::Invalid(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn no_quote_breaks_it(at in 0usize..8000, byte: u8, cut in 0usize..8000) {
        let (_, mut quote) = machine(Platform::default());
        let (at, cut) = (at % quote.len(), cut % quote.len());
        let _ = Requests::for_quote(&quote[..cut]);
        quote[at] = byte;
        let _ = Requests::for_quote(&quote);
    }

    #[test]
    fn no_answer_breaks_it(status in prop_oneof![Just(200u16), any::<u16>()], value in "[ -~]{0,40}", body in prop_oneof![
        any::<Vec<u8>>(),
        "(\\{|\\}|\"tcbInfo\"|\"enclaveIdentity\"|\"signature\"|:|,|\"[0-9a-f]{0,130}\"|\\[|1e9|é){0,12}".prop_map(String::into_bytes),
        "30[0-9a-f]{0,60}".prop_map(String::into_bytes),
    ]) {
        let mut requests = requests();
        let header = |_: &str| Some(value.as_str());
        for part in [Part::PckCrl, Part::RootCrl, Part::TcbInfo, Part::QeIdentity] {
            let _ = requests.answer(part, &Answer { status, header: &header, body: &body });
        }
    }

    #[test]
    fn no_collateral_breaks_the_time_of_the_next(text in any::<String>(), der in "(30)?([0-9a-f]{2}){0,40}") {
        let (machine, _) = machine(Platform::default());
        let mut collateral = machine.collateral(NOW);
        collateral.pck_crl = der;
        let _ = next_update(&collateral);
        collateral.tcb_info = text;
        let _ = next_update(&collateral);
    }
}

fn requests() -> Requests {
    Requests::for_quote(&machine(Platform::default()).1).unwrap()
}

//! Real quotes of Intel's platforms, which are not part of the repository: they hold at their times, and in no other way.
#![allow(clippy::unwrap_used)]
use dshield_common::attestation::{Collateral, Evidence, Provider, evidence};
use dshield_common::hex;
use dshield_development::{Machine, Pki, Platform};
use dshield_verify::expect::Expect;
use dshield_verify::quote::{QuoteError, Registers, Root, VerifiedQuote, top_certificate};
use dshield_verify::verdict::{StepId, StepResult, Verdict};
use dshield_verify::{Channel, Options, Presented, judge, time};

#[path = "../src/test_vectors.rs"]
mod test_vectors;

/// A quote, its collateral, and a moment at which both hold.
struct Vector {
    quote: Vec<u8>,
    collateral: Collateral,
    at: u64,
    /// The first and the last second at which the collateral holds.
    valid: [u64; 2],
    /// What signatures cover of the quote, and the signatures: header and report, then from the report's signature to the
    /// end of the quoting enclave's data.
    signed: [std::ops::Range<usize>; 2],
}

/// The quote of version 4, and that of version 5.
fn vectors() -> Option<[Vector; 2]> {
    let at = |text| time::parse(text).unwrap();
    let collateral = |name| serde_json::from_slice(&test_vectors::read(name)?).ok();
    Some([
        Vector {
            quote: test_vectors::read("tdx_quote")?,
            collateral: collateral("tdx_quote_collateral.json")?,
            at: 1_750_332_747,
            // The quoting enclave's identity begins, and the CRL for PCK certificates is to be replaced.
            valid: [at("2025-06-19T10:32:27Z"), at("2025-07-19T10:00:34Z")],
            signed: [0..632, 636..1252],
        },
        Vector {
            quote: test_vectors::read("tdx_quote_td15ex")?,
            collateral: collateral("tdx_quote_td15ex_collateral.json")?,
            at: 1_791_421_786,
            // The TCB information begins, and the quoting enclave's identity ends.
            valid: [at("2026-10-08T00:09:46Z"), at("2026-11-06T23:45:11Z")],
            signed: [0..939, 943..1559],
        },
    ])
}

impl Vector {
    fn verify(&self) -> Result<VerifiedQuote, QuoteError> {
        self.verify_at(&Root::Intel, self.at)
    }

    fn verify_at(&self, root: &Root, at: u64) -> Result<VerifiedQuote, QuoteError> {
        VerifiedQuote::verify(&hex::encode(&self.quote), &self.collateral, root, at)
    }

    fn refused(&self, root: &Root, at: u64, says: &str) {
        let error = self.verify_at(root, at).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn real_quotes_verify_at_their_times() {
    let Some(vectors) = vectors() else { return };
    for (vector, version) in vectors.iter().zip([4, 5]) {
        let verified = vector.verify().unwrap();
        assert_eq!(verified.claims().tcb.status.to_string(), "UpToDate");
        assert_eq!(verified.claims().header.version, version);
        assert_eq!(verified.registers(), Registers::unverified(&hex::encode(&vector.quote)).unwrap());
        assert_ne!(verified.registers().mrtd, [0; 48]);
    }
}

#[test]
fn real_quotes_lead_to_intels_root_and_to_no_other() {
    let Some(vectors) = vectors() else { return };
    for vector in &vectors {
        let other = Root::Other(Pki::generate().unwrap().root_der().to_vec());
        vector.refused(&other, vector.at, "does not verify");
        let top = top_certificate(&hex::encode(&vector.quote)).unwrap();
        let name = b"Intel SGX Root CA";
        assert!(top.windows(name.len()).any(|window| window == name));
        vector.verify_at(&Root::Other(top), vector.at).unwrap();
        vector.refused(&Root::Other(Vec::new()), vector.at, "does not verify");
    }
}

#[test]
fn real_quotes_verify_neither_before_nor_after_their_collateral_holds() {
    let Some(vectors) = vectors() else { return };
    for vector in &vectors {
        let [from, until] = vector.valid;
        vector.verify_at(&Root::Intel, from).unwrap();
        vector.verify_at(&Root::Intel, until).unwrap();
        for before in [0, from - 3600, from - 1] {
            vector.refused(&Root::Intel, before, "from after the moment");
        }
        for after in [until + 1, until + 86_400, 1 << 40, u64::MAX] {
            vector.refused(&Root::Intel, after, "expired");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_real_quote() {
    let Some(vectors) = vectors() else { return };
    for vector in vectors {
        let signed = vector.signed.clone();
        // So near to each other that each field is hit.
        for (at, bit) in signed.into_iter().flatten().step_by(17).zip((0..8).cycle()) {
            let mut quote = vector.quote.clone();
            quote[at] ^= 1 << bit;
            let flipped = VerifiedQuote::verify(&hex::encode(&quote), &vector.collateral, &Root::Intel, vector.at);
            assert!(flipped.is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_real_quote_that_was_cut() {
    let Some(vectors) = vectors() else { return };
    for vector in vectors {
        // Behind it there may be zeros.
        let end = vector.quote.len() - vector.quote.iter().rev().take_while(|byte| **byte == 0).count();
        for cut in (0..end).step_by(101) {
            let quote = hex::encode(&vector.quote[..cut]);
            assert!(VerifiedQuote::verify(&quote, &vector.collateral, &Root::Intel, vector.at).is_err(), "{cut}");
        }
    }
}

#[test]
fn a_changed_character_in_the_collateral_of_a_real_quote() {
    let Some(vectors) = vectors() else { return };
    for vector in &vectors {
        let text = serde_json::to_value(&vector.collateral).unwrap();
        for name in ["root_ca_crl", "pck_crl", "tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature"]
        {
            let whole = text[name].as_str().unwrap();
            for at in [whole.len() / 3, whole.len() / 2, whole.len() - 40] {
                let mut changed = whole.as_bytes().to_vec();
                changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
                let mut collateral = text.clone();
                collateral[name] = String::from_utf8(changed).unwrap().into();
                let collateral: Collateral = serde_json::from_value(collateral).unwrap();
                let verified = VerifiedQuote::verify(&hex::encode(&vector.quote), &collateral, &Root::Intel, vector.at);
                assert!(verified.is_err(), "character {at} of {name}");
            }
        }
    }
}

#[test]
fn a_real_quote_with_the_collateral_of_another() {
    let Some([old, new]) = vectors() else { return };
    let refused = |quote: &Vector, collateral: &Collateral, at: u64, says: &str| {
        let verified = VerifiedQuote::verify(&hex::encode(&quote.quote), collateral, &Root::Intel, at);
        let error = verified.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&old, &new.collateral, old.at, "from after the moment");
    refused(&new, &old.collateral, new.at, "expired");
    // That one names the key of its platform, which did not sign this quote.
    refused(&old, &new.collateral, new.at, "Signature is invalid");
    let machine = Machine::new(Pki::generate().unwrap(), Platform::default());
    refused(&old, &machine.collateral(old.at), old.at, "does not verify");
}

fn judged(quote: String, collateral: Option<Collateral>, options: &Options) -> Verdict {
    let evidence = Evidence {
        format: evidence::FORMAT.to_owned(),
        provider: Provider::Dstack,
        statement: String::new(),
        policy: String::new(),
        quote: Some(quote),
        collateral,
        event_log: None,
        vm_config: None,
        app_compose: None,
        tpm: None,
    };
    let text = evidence.to_json();
    let presented = Presented { evidence: &text, nonce: None, channel: Channel::File };
    judge(&presented, &Expect::default(), options).verdict
}

#[test]
fn a_real_quote_is_genuine_and_vouches_for_its_own_statement_only() {
    let Some(vectors) = vectors() else { return };
    for vector in &vectors {
        let quote = hex::encode(&vector.quote);
        let options = Options { now: vector.at, ..Options::default() };
        let verdict = judged(quote.clone(), Some(vector.collateral.clone()), &options);
        for step in [StepId::Quote, StepId::Tcb, StepId::Attributes] {
            let step = verdict.step(step).unwrap();
            assert_eq!(step.result, StepResult::Pass, "{}: {}", step.step, step.says);
        }
        assert!(!verdict.development);
        let step = verdict.step(StepId::ReportData).unwrap();
        assert!(step.says.contains("not about this statement"), "{}", step.says);
        for step in [StepId::Nonce, StepId::Policy, StepId::Code] {
            assert_eq!(verdict.step(step).unwrap().result, StepResult::NotChecked);
        }
        assert_ne!(verdict.outcome.exit_code(), 0);
        assert_eq!(verdict.saw, None);

        let late = Options { now: vector.valid[1] + 1, ..Options::default() };
        let verdict = judged(quote, Some(vector.collateral.clone()), &late);
        assert_eq!(verdict.step(StepId::Quote).unwrap().result, StepResult::Fail);
        assert_eq!(verdict.step(StepId::Tcb).unwrap().result, StepResult::NotChecked);
    }
}

#[test]
fn a_real_quote_of_dstack_is_read_and_judged_by_nobody_without_collateral() {
    let Some(report) = test_vectors::read("quote-report.json") else { return };
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let quote = report["quote"].as_str().unwrap().to_owned();
    let registers = Registers::unverified(&quote).unwrap();
    assert_eq!(hex::encode(&registers.report_data), report["report_data"].as_str().unwrap());
    let verdict = judged(quote, None, &Options { now: 1_795_848_000, ..Options::default() });
    let step = verdict.step(StepId::Quote).unwrap();
    assert_eq!(step.result, StepResult::NotChecked);
    assert!(step.says.contains("no collateral"), "{}", step.says);
}
